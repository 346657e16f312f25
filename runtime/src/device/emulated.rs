//! The *numeric* emulator: an accelerator whose arithmetic a CPU engine does, behind a memory of its own.
//!
//! What it emulates is the separation: a value is on the device only once a copy to it or a run on it has completed.
//! Buffers are handles; reading one that was never written, was freed, or belongs to another device is an error, so
//! that a plan with a copy missing fails here as it would on an accelerator. Copies copy every byte.
//!
//! What it does not emulate is time: see the timing emulator of `tandem-core` for that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tandem_onnx::value::{Data, TensorValue, Value};

use crate::engine::{EngineError, Session};

/// The name that outputs and errors show.
pub const NAME: &str = "emulated";

/// A handle of a buffer on one emulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId {
    memory: u64,
    number: u64,
}

/// The memory of one emulated device.
#[derive(Debug)]
pub struct EmulatedMemory {
    device: String,
    /// Tells memories apart, so that a handle of another device is noticed.
    id: u64,
    next: AtomicU64,
    /// `None` while nothing was written.
    buffers: Mutex<HashMap<u64, Option<Value>>>,
}

static MEMORIES: AtomicU64 = AtomicU64::new(0);

impl EmulatedMemory {
    /// An empty memory of the device of this name.
    pub fn new(device: impl Into<String>) -> Self {
        let id = MEMORIES.fetch_add(1, Ordering::Relaxed);
        Self { device: device.into(), id, next: AtomicU64::new(0), buffers: Mutex::default() }
    }

    /// A buffer, poisoned: nothing may read it until a copy or run has written it.
    pub fn reserve(&self) -> BufferId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.locked().insert(number, None);
        BufferId { memory: self.id, number }
    }

    /// Copies a value from the host into a buffer.
    ///
    /// # Errors
    /// The buffer is another device's, or was freed.
    pub fn copy_in(&self, to: BufferId, value: &Value) -> Result<(), EngineError> {
        self.check(&self.locked(), to)?;
        // Copied outside the lock, as a copy engine works beside the processor.
        let copy = deep_copy(value);
        self.write(to, copy)
    }

    /// Copies a buffer to the host.
    ///
    /// # Errors
    /// The buffer is another device's, was freed, or was never written.
    pub fn copy_out(&self, from: BufferId) -> Result<Value, EngineError> {
        self.read(from).map(|value| deep_copy(&value))
    }

    /// Runs a session on buffers of this device. The outputs are written once the run has completed.
    ///
    /// # Errors
    /// A buffer is another device's, was freed, or, for inputs, was never written; what the engine says.
    pub fn run(&self, session: &dyn Session, inputs: &[BufferId], outputs: &[BufferId]) -> Result<(), EngineError> {
        let inputs: Vec<Value> = inputs.iter().map(|b| self.read(*b)).collect::<Result<_, _>>()?;
        outputs.iter().try_for_each(|b| self.check(&self.locked(), *b))?;
        let made = session.run(&inputs)?;
        if made.len() != outputs.len() {
            return Err(self.error(format!("expected {} outputs, found {}", outputs.len(), made.len())));
        }
        made.into_iter().zip(outputs).try_for_each(|(value, to)| self.write(*to, value))
    }

    /// Gives a buffer back. Whoever reads it from now on gets an error.
    pub fn free(&self, buffer: BufferId) {
        if buffer.memory == self.id {
            self.locked().remove(&buffer.number);
        }
    }

    /// Buffers that are reserved and not freed.
    pub fn held(&self) -> usize {
        self.locked().len()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Option<Value>>> {
        self.buffers.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn error(&self, why: String) -> EngineError {
        EngineError::Failed { engine: NAME.into(), why: format!("device {}: {why}", self.device) }
    }

    fn check(&self, held: &HashMap<u64, Option<Value>>, buffer: BufferId) -> Result<(), EngineError> {
        if buffer.memory != self.id {
            return Err(self.error("a buffer of another device is used without a copy".into()));
        }
        match held.contains_key(&buffer.number) {
            true => Ok(()),
            false => Err(self.error(format!("buffer {} is used after it was freed", buffer.number))),
        }
    }

    fn read(&self, buffer: BufferId) -> Result<Value, EngineError> {
        let held = self.locked();
        self.check(&held, buffer)?;
        let value = held.get(&buffer.number).cloned().flatten();
        value.ok_or_else(|| self.error(format!("buffer {} is read before anything was written to it", buffer.number)))
    }

    fn write(&self, buffer: BufferId, value: Value) -> Result<(), EngineError> {
        let mut held = self.locked();
        self.check(&held, buffer)?;
        held.insert(buffer.number, Some(value));
        Ok(())
    }
}

/// The same value in memory of its own.
fn deep_copy(value: &Value) -> Value {
    match value {
        Value::Tensor(tensor) => {
            let data = match &tensor.data {
                Data::Bytes(bytes) => Data::Bytes(bytes.to_vec().into()),
                Data::Strings(strings) => Data::Strings(Arc::new(strings.to_vec())),
            };
            Value::Tensor(TensorValue { dtype: tensor.dtype, dims: tensor.dims.clone(), data })
        }
        Value::Sequence(items) => Value::Sequence(items.iter().map(deep_copy).collect()),
        Value::Optional(held) => Value::Optional(held.as_ref().map(|held| Box::new(deep_copy(held)))),
        Value::Map(pairs) => Value::Map(pairs.iter().map(|(k, v)| (deep_copy(k), deep_copy(v))).collect()),
    }
}
