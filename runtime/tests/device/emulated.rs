//! The numeric emulator's memory is a memory of its own.

use tandem_runtime::device::emulated::EmulatedMemory;

use crate::common::f32s;

#[test]
fn what_was_not_written_cannot_be_read() {
    let memory = EmulatedMemory::new("gpu0");
    let buffer = memory.reserve();
    assert!(memory.copy_out(buffer).expect_err("poisoned").to_string().contains("before anything was written"));
    memory.copy_in(buffer, &f32s(&[1], &[2.0])).expect("written");
    assert_eq!(memory.copy_out(buffer).expect("there"), f32s(&[1], &[2.0]));
}

#[test]
fn another_devices_buffer_is_refused() {
    let (a, b) = (EmulatedMemory::new("gpu0"), EmulatedMemory::new("gpu1"));
    let buffer = a.reserve();
    a.copy_in(buffer, &f32s(&[1], &[2.0])).expect("written");
    assert!(b.copy_out(buffer).expect_err("foreign").to_string().contains("another device"));
    assert!(b.copy_in(buffer, &f32s(&[1], &[2.0])).is_err());
}

#[test]
fn a_freed_buffer_is_gone() {
    let memory = EmulatedMemory::new("gpu0");
    let buffer = memory.reserve();
    memory.copy_in(buffer, &f32s(&[1], &[2.0])).expect("written");
    memory.free(buffer);
    assert!(memory.copy_out(buffer).expect_err("freed").to_string().contains("after it was freed"));
    assert_eq!(memory.held(), 0);
}

#[test]
fn copies_are_copies() {
    let memory = EmulatedMemory::new("gpu0");
    let value = f32s(&[2], &[1.0, 2.0]);
    let buffer = memory.reserve();
    memory.copy_in(buffer, &value).expect("written");
    let back = memory.copy_out(buffer).expect("there");
    let place = |v: &tandem_onnx::value::Value| match v {
        tandem_onnx::value::Value::Tensor(t) => t.bytes().as_ptr(),
        _ => std::ptr::null(),
    };
    assert_eq!(back, value);
    assert_ne!(place(&back), place(&value));
}
