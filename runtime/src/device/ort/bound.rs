//! Runs on values where they lie in a device's memory, through ONNX Runtime's binding of inputs and outputs.
//!
//! An input that the session reads on the host (a shape, commonly) is copied there when it is bound, not when the
//! session runs; so such inputs are bound anew before each run, and what makes them is waited for. Nothing else waits.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use tandem_onnx::value::Value;

use super::raw::{self, Owned, api, check, failed, sys, unsupported};
use super::{Inner, OrtSession, values};
use crate::device::accelerator::{Accelerator, Block, Bound, Place, Resident, Stream};
use crate::engine::{EngineError, Session};

/// Where a session's values lie, and what orders its runs.
pub(super) struct Memory {
    /// The device's memory as ONNX Runtime describes it.
    pub(super) described: Owned<sys::OrtMemoryInfo>,
    /// The accelerator and the stream that the session computes on.
    pub(super) on: (Arc<dyn Accelerator>, Stream),
}

/// A session that runs on values of a device.
pub(super) struct BoundSession {
    session: OrtSession,
    memory: Arc<Memory>,
    /// By input: whether it is read where the values lie.
    reads_there: Vec<bool>,
    /// Numbers for captured graphs, one a binding; `None`: nothing is captured.
    graphs: Option<AtomicI32>,
    /// What an error of the engine means.
    told: fn(EngineError) -> EngineError,
}

impl BoundSession {
    pub(super) fn new(
        session: OrtSession,
        memory: Arc<Memory>,
        captures: bool,
        told: fn(EngineError) -> EngineError,
    ) -> Result<Self, EngineError> {
        let reads_there = reads_there(&session.inner, &memory.described)?;
        // Zero is what sessions take that are not told a number.
        let graphs = captures.then(|| AtomicI32::new(1));
        Ok(Self { session, memory, reads_there, graphs, told })
    }

    /// Options of a run that returns once it is on its stream.
    fn run_options(&self, fixed: bool) -> Result<Owned<sys::OrtRunOptions>, EngineError> {
        let mut made = null_mut();
        // SAFETY: the pointer is written by the call.
        check(unsafe { (api().CreateRunOptions)(&mut made) })?;
        let made = Owned::new(made, api().ReleaseRunOptions)?;
        set(&made, c"disable_synchronize_execution_providers", c"1")?;
        if let Some(graphs) = &self.graphs {
            let number = if fixed { graphs.fetch_add(1, Ordering::Relaxed) } else { -1 };
            set(&made, c"gpu_graph_id", &raw::c_text(&number.to_string())?)?;
        }
        Ok(made)
    }
}

fn set(options: &Owned<sys::OrtRunOptions>, key: &CStr, value: &CStr) -> Result<(), EngineError> {
    // SAFETY: both strings end in NUL and outlive the call, which copies them.
    check(unsafe { (api().AddRunConfigEntry)(options.ptr(), key.as_ptr(), value.as_ptr()) })
}

/// By input, in the order of the session's ports: whether it is read in the described memory.
fn reads_there(inner: &Inner, memory: &Owned<sys::OrtMemoryInfo>) -> Result<Vec<bool>, EngineError> {
    let (session, mut count) = (inner.session.ptr(), 0);
    // SAFETY (and below): the session lives, the index is below the count, arrays have the stated lengths, results are
    // written by the calls; descriptions are the session's own.
    check(unsafe { (api().SessionGetInputCount)(session, &mut count) })?;
    let mut of_inputs = vec![std::ptr::null(); count];
    check(unsafe { (api().SessionGetMemoryInfoForInputs)(session, of_inputs.as_mut_ptr(), count) })?;
    let ours = described(memory.ptr())?;
    let mut there = HashMap::with_capacity(count);
    for (i, of) in of_inputs.into_iter().enumerate() {
        let mut name = null_mut();
        check(unsafe { (api().SessionGetInputName)(session, i, raw::allocator()?, &mut name) })?;
        there.insert(raw::c_string(name)?, !of.is_null() && described(of)? == ours);
    }
    let of_port = |name: &CString| there.get(name.to_string_lossy().as_ref()).copied().unwrap_or(false);
    Ok(inner.inputs.iter().map(|port| of_port(&port.name)).collect())
}

/// A memory's name and number.
fn described(memory: *const sys::OrtMemoryInfo) -> Result<(CString, i32), EngineError> {
    let (mut name, mut number) = (std::ptr::null(), 0);
    // SAFETY: the description lives; its name is its own and ends in NUL.
    unsafe {
        check((api().MemoryInfoGetName)(memory, &mut name))?;
        check((api().MemoryInfoGetId)(memory, &mut number))?;
        Ok((CStr::from_ptr(name).to_owned(), number))
    }
}

impl Session for BoundSession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        if self.graphs.is_some() {
            return Err(unsupported("a session that captures graphs runs on the device's values only"));
        }
        self.session.run(inputs).map_err(self.told)
    }

    fn output_types(&self) -> Vec<Option<tandem_ir::DType>> {
        self.session.output_types()
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Resident for BoundSession {
    fn bind(&self, inputs: &[Place], outputs: &[Option<Place>]) -> Result<Box<dyn Bound>, EngineError> {
        let inner = &self.session.inner;
        if (inputs.len(), outputs.len()) != (inner.inputs.len(), inner.outputs.len()) {
            let (expected, found) = ((inner.inputs.len(), inner.outputs.len()), (inputs.len(), outputs.len()));
            return Err(failed(format!("expected {expected:?} inputs and outputs, found {found:?}")));
        }
        let mut made = null_mut();
        // SAFETY: the session lives, the pointer is written by the call.
        check(unsafe { (api().CreateIoBinding)(inner.session.ptr(), &mut made) })?;
        let binding = Owned::new(made, api().ReleaseIoBinding)?;
        let runs = Runs {
            options: self.run_options(outputs.iter().all(Option::is_some))?,
            binding,
            inner: inner.clone(),
            memory: self.memory.clone(),
            copied: (0..inputs.len()).filter(|i| !self.reads_there[*i]).collect(),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            told: self.told,
        };
        for i in 0..inputs.len() {
            if self.reads_there[i] {
                runs.bind_input(i)?;
            }
        }
        runs.bind_outputs(Option::is_some)?;
        Ok(Box::new(runs))
    }
}

/// A session with its inputs and outputs bound.
struct Runs {
    binding: Owned<sys::OrtIoBinding>,
    options: Owned<sys::OrtRunOptions>,
    inner: Arc<Inner>,
    memory: Arc<Memory>,
    /// Inputs that are copied to the host when they are bound.
    copied: Vec<usize>,
    inputs: Vec<Place>,
    outputs: Vec<Option<Place>>,
    told: fn(EngineError) -> EngineError,
}

impl Runs {
    fn bind_input(&self, input: usize) -> Result<(), EngineError> {
        let name = &self.inner.inputs[input].name;
        let value = self.value(&self.inputs[input], name)?;
        // SAFETY: the binding and the name live; it takes its own reference to the value, whose memory `self` holds.
        check(unsafe { (api().BindInput)(self.binding.ptr(), name.as_ptr(), value.ptr()) })
    }

    /// Binds the outputs that (do not) have a place.
    fn bind_outputs(&self, which: fn(&Option<Place>) -> bool) -> Result<(), EngineError> {
        let chosen = self.outputs.iter().zip(&self.inner.outputs).filter(|(place, _)| which(place));
        for (place, port) in chosen {
            let (binding, name) = (self.binding.ptr(), port.name.as_ptr());
            // SAFETY: as above.
            check(unsafe {
                match place {
                    Some(place) => (api().BindOutput)(binding, name, self.value(place, &port.name)?.ptr()),
                    None => (api().BindOutputToDevice)(binding, name, self.memory.described.ptr()),
                }
            })?;
        }
        Ok(())
    }

    /// A tensor over a place.
    fn value(&self, place: &Place, name: &CStr) -> Result<Owned<sys::OrtValue>, EngineError> {
        let about = |e| raw::about(e, &name.to_string_lossy());
        let dims = values::signed(place.dims()).map_err(about)?;
        let data = std::ptr::without_provenance_mut(place.address() as usize);
        let mut made = null_mut();
        // SAFETY: the place has as many bytes as its shape says, in the memory that is described, and `self` holds it as
        // long as the binding does.
        check(unsafe {
            (api().CreateTensorWithDataAsOrtValue)(
                self.memory.described.ptr(),
                data,
                place.bytes() as usize,
                dims.as_ptr(),
                dims.len(),
                values::code_of(place.dtype()),
                &mut made,
            )
        })
        .map_err(about)?;
        Owned::new(made, api().ReleaseValue)
    }

    /// Waits until what is on the session's stream is there to be copied to the host.
    fn wait(&self) -> Result<(), EngineError> {
        let (accelerator, stream) = &self.memory.on;
        let mark = accelerator.mark(*stream)?;
        let reached = accelerator.wait(mark);
        accelerator.forget(mark);
        reached
    }

    fn run(&self) -> Result<Vec<(usize, Place)>, EngineError> {
        if !self.copied.is_empty() {
            self.wait()?;
            self.copied.iter().try_for_each(|i| self.bind_input(*i))?;
        }
        // What the last run made is still bound, and would be written over.
        self.bind_outputs(Option::is_none)?;
        let session = self.inner.session.ptr();
        // SAFETY: session, options and binding live; the session's stream orders what is enqueued.
        check(unsafe { (api().RunWithBinding)(session, self.options.ptr(), self.binding.ptr()) })?;
        if self.outputs.iter().all(Option::is_some) {
            return Ok(vec![]);
        }
        self.made()
    }

    /// Where the outputs without a place are.
    fn made(&self) -> Result<Vec<(usize, Place)>, EngineError> {
        let (mut list, mut count) = (null_mut(), 0);
        // SAFETY: the call makes a list of so many values, which is the caller's to release, each value and the list.
        let owned: Vec<_> = unsafe {
            check((api().GetBoundOutputValues)(self.binding.ptr(), raw::allocator()?, &mut list, &mut count))?;
            let values = if count == 0 { &[][..] } else { std::slice::from_raw_parts(list, count) };
            let owned = values.iter().map(|v| Owned::new(*v, api().ReleaseValue)).collect();
            check((api().AllocatorFree)(raw::allocator()?, list.cast()))?;
            owned
        };
        let names = self.bound_names()?;
        let mut made = vec![];
        for (value, name) in owned.into_iter().zip(names) {
            let at = self.inner.outputs.iter().position(|port| port.name == name);
            let at = at.ok_or_else(|| failed(format!("an output {name:?} that nobody bound")))?;
            if self.outputs[at].is_none() {
                let place = self.place(value?).map_err(|e| raw::about(e, &name.to_string_lossy()))?;
                made.push((at, place));
            }
        }
        Ok(made)
    }

    /// Names of the bound outputs, in the order of their values.
    fn bound_names(&self) -> Result<Vec<CString>, EngineError> {
        let (mut text, mut lengths, mut count) = (null_mut(), null_mut(), 0);
        // SAFETY: the call makes one text of all names behind each other, and a list of their lengths, both the caller's
        // to release.
        unsafe {
            let allocator = raw::allocator()?;
            let got = (api().GetBoundOutputNames)(self.binding.ptr(), allocator, &mut text, &mut lengths, &mut count);
            check(got)?;
            let lengths_read = if count == 0 { &[][..] } else { std::slice::from_raw_parts(lengths, count) };
            let mut at = text.cast::<u8>();
            let mut names = Vec::with_capacity(count);
            for length in lengths_read {
                names.push(std::slice::from_raw_parts(at, *length).to_vec());
                at = at.add(*length);
            }
            check((api().AllocatorFree)(allocator, text.cast()))?;
            check((api().AllocatorFree)(allocator, lengths.cast()))?;
            names.into_iter().map(|n| CString::new(n).map_err(|_| failed("a name holds a NUL"))).collect()
        }
    }

    /// Where a value that the engine made is; the place owns it.
    fn place(&self, value: Owned<sys::OrtValue>) -> Result<Place, EngineError> {
        let (dtype, dims) = values::shape(&value)?;
        let mut data = null_mut();
        // SAFETY: the value lives and is a tensor of fixed-size elements; its address is not read here.
        check(unsafe { (api().GetTensorMutableData)(value.ptr(), &mut data) })?;
        let bytes = crate::device::accelerator::dense_bytes(dtype, &dims);
        let bytes = bytes.ok_or_else(|| unsupported("strings on a device"))?;
        let address = data.addr() as u64;
        // SAFETY: the value has as many bytes there as its shape says, as long as it lives; it holds its session, and
        // the accelerator whose memory that is.
        let owner = (value, self.inner.clone(), self.memory.clone());
        let block = unsafe { Block::new(address, bytes, Box::new(owner)) };
        let place = Place::new(Arc::new(block), 0, dtype, dims.into());
        place.ok_or_else(|| failed("a value without a size"))
    }
}

impl Bound for Runs {
    fn enqueue(&mut self) -> Result<Vec<(usize, Place)>, EngineError> {
        crate::device::guarded(super::NAME, || self.run()).map_err(self.told)
    }
}

#[cfg(test)]
mod tests;
