//! Memories, for one batch in flight: where the values of a route are.
//!
//! A value gets onto a device by a copy or by a run there, and by nothing else. The host hands values around without
//! copying a byte; an emulated device copies every byte that comes or goes, and so does an accelerator.
//!
//! A space does what it is told at once and returns when it is done. Where more is to be had, for an accelerator does
//! things by itself, it is had from [`Space::resident`].

use std::sync::{Mutex, MutexGuard};

use tandem_onnx::value::Value;

use crate::device::accelerator::Stream;
use crate::device::cuda::values::Values;
use crate::device::emulated::{BufferId, EmulatedMemory};
use crate::engine::{EngineError, Session};

/// The memory of one device. Values are named by their position in the route.
pub(super) trait Space: Send + Sync {
    /// Name of the device.
    fn device(&self) -> &str;
    /// Brings a value here from the host.
    fn put(&self, tensor: usize, value: Value) -> Result<(), EngineError>;
    /// Brings a value to the host.
    fn get(&self, tensor: usize) -> Result<Value, EngineError>;
    /// Runs a segment on values that are here; its outputs are here afterwards.
    fn run(&self, session: &dyn Session, inputs: &[usize], outputs: &[usize]) -> Result<(), EngineError>;
    /// Forgets a value.
    fn free(&self, tensor: usize);
    /// Forgets all values.
    fn clear(&self);
    /// The values, where they are in an accelerator's memory.
    fn resident(&self) -> Option<&Values> {
        None
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Slots hold whole values; a panic elsewhere leaves none half written.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The host's memory.
pub(super) struct HostSpace {
    device: String,
    names: Vec<String>,
    slots: Vec<Mutex<Option<Value>>>,
}

impl HostSpace {
    /// Room for values of these names.
    pub(super) fn new(device: String, names: Vec<String>) -> Self {
        let slots = names.iter().map(|_| Mutex::default()).collect();
        Self { device, names, slots }
    }
}

impl Space for HostSpace {
    fn device(&self) -> &str {
        &self.device
    }

    fn put(&self, tensor: usize, value: Value) -> Result<(), EngineError> {
        *locked(&self.slots[tensor]) = Some(value);
        Ok(())
    }

    fn get(&self, tensor: usize) -> Result<Value, EngineError> {
        locked(&self.slots[tensor]).clone().ok_or_else(|| absent(&self.device, &self.names[tensor]))
    }

    fn run(&self, session: &dyn Session, inputs: &[usize], outputs: &[usize]) -> Result<(), EngineError> {
        let inputs: Vec<Value> = inputs.iter().map(|t| self.get(*t)).collect::<Result<_, _>>()?;
        let made = session.run(&inputs)?;
        if made.len() != outputs.len() {
            let why = format!("expected {} outputs, found {}", outputs.len(), made.len());
            return Err(EngineError::Failed { engine: self.device.clone(), why });
        }
        made.into_iter().zip(outputs).try_for_each(|(value, tensor)| self.put(*tensor, value))
    }

    fn free(&self, tensor: usize) {
        *locked(&self.slots[tensor]) = None;
    }

    fn clear(&self) {
        (0..self.slots.len()).for_each(|tensor| self.free(tensor));
    }
}

fn absent(device: &str, name: &str) -> EngineError {
    let why = format!("value \"{name}\" is read on device {device}, where nothing has brought it");
    EngineError::Failed { engine: "driver".into(), why }
}

/// An emulated device's memory. A buffer is reserved when something is about to be written to it.
pub(super) struct EmulatedSpace {
    device: String,
    names: Vec<String>,
    memory: EmulatedMemory,
    buffers: Vec<Mutex<Option<BufferId>>>,
}

impl EmulatedSpace {
    /// Room for values of these names.
    pub(super) fn new(device: String, names: Vec<String>) -> Self {
        let buffers = names.iter().map(|_| Mutex::default()).collect();
        Self { memory: EmulatedMemory::new(device.clone()), device, names, buffers }
    }

    fn buffer(&self, tensor: usize) -> Result<BufferId, EngineError> {
        locked(&self.buffers[tensor]).ok_or_else(|| absent(&self.device, &self.names[tensor]))
    }

    fn reserve(&self, tensor: usize) -> BufferId {
        *locked(&self.buffers[tensor]).get_or_insert_with(|| self.memory.reserve())
    }
}

impl Space for EmulatedSpace {
    fn device(&self) -> &str {
        &self.device
    }

    fn put(&self, tensor: usize, value: Value) -> Result<(), EngineError> {
        self.memory.copy_in(self.reserve(tensor), &value)
    }

    fn get(&self, tensor: usize) -> Result<Value, EngineError> {
        self.memory.copy_out(self.buffer(tensor)?)
    }

    fn run(&self, session: &dyn Session, inputs: &[usize], outputs: &[usize]) -> Result<(), EngineError> {
        let inputs: Vec<BufferId> = inputs.iter().map(|t| self.buffer(*t)).collect::<Result<_, _>>()?;
        let outputs: Vec<BufferId> = outputs.iter().map(|t| self.reserve(*t)).collect();
        self.memory.run(session, &inputs, &outputs)
    }

    fn free(&self, tensor: usize) {
        if let Some(buffer) = locked(&self.buffers[tensor]).take() {
            self.memory.free(buffer);
        }
    }

    fn clear(&self) {
        (0..self.buffers.len()).for_each(|tensor| self.free(tensor));
    }
}

/// An accelerator's memory.
pub(super) struct ResidentSpace(pub(super) Values);

impl ResidentSpace {
    /// Waits for what was begun, and also where it failed half-way: what is on the stream uses the values' memory.
    fn done<T>(&self, stream: Stream, begun: Result<T, EngineError>) -> Result<T, EngineError> {
        let waited = self.0.wait(stream);
        begun.and_then(|begun| waited.map(|()| begun))
    }
}

impl Space for ResidentSpace {
    fn device(&self) -> &str {
        self.0.device()
    }

    fn put(&self, tensor: usize, value: Value) -> Result<(), EngineError> {
        self.done(Stream::Upload, self.0.begin_put(tensor, &value))
    }

    fn get(&self, tensor: usize) -> Result<Value, EngineError> {
        self.0.get(tensor)
    }

    fn run(&self, session: &dyn Session, inputs: &[usize], outputs: &[usize]) -> Result<(), EngineError> {
        self.done(self.0.compute(), self.0.begin_run(session, inputs, outputs))
    }

    fn free(&self, tensor: usize) {
        self.0.free(tensor);
    }

    fn clear(&self) {
        self.0.clear();
    }

    fn resident(&self) -> Option<&Values> {
        Some(&self.0)
    }
}
