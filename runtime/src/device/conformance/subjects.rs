//! Devices that do what a script says: threads around something that blocks, and queues that feed streams.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::Arc;

use tandem_core::{Command, Device, DeviceError, DeviceSpec};
use tandem_ir::{Bytes, Time};

use super::{Does, Script, Subject};
use crate::device::accelerator::{Accelerator, Stream};
use crate::device::cuda::streamed::{Enqueue, Fault, Streamed, device_error};
use crate::device::threaded::{Clock, Execute, Threaded};
use crate::engine::EngineError;

/// What a command does: on threads, until it is done; on streams, by putting it on the stream for segments.
pub type Work = Arc<dyn Fn() -> Result<(), EngineError> + Send + Sync>;

/// Holds a stream up until what it returns is dropped.
pub type Hold = Arc<dyn Fn(Stream) -> Box<dyn Any + Send> + Send + Sync>;

/// Threads around something that blocks, one fewer than lanes.
pub struct OnThreads {
    /// What it is.
    pub name: String,
    /// What commands do.
    pub work: Work,
}

impl Subject for OnThreads {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn make(&self, spec: DeviceSpec, script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String> {
        let threads = spec.lanes.len() - 1;
        let acts = Acts { script: script.clone(), work: self.work.clone() };
        let device = Threaded::start(spec, acts, Clock::start(), threads).map_err(|e| e.to_string())?;
        Ok(Box::new(device))
    }
}

struct Acts {
    script: Arc<Script>,
    work: Work,
}

impl Execute for Acts {
    fn execute(&self, command: &Command, _ready: Time) -> Result<(), DeviceError> {
        let device = || "device".to_owned();
        match self.script.does(command) {
            Does::Work => {}
            Does::Wait(gate) => self.script.wait(*gate),
            Does::Fail => {
                return Err(DeviceError::Failed { device: device(), engine: "script".into(), why: "as told".into() });
            }
            Does::Exhaust => {
                return Err(DeviceError::OutOfMemory { device: device(), value: "x".into(), needed: Bytes(1) });
            }
            // Without a message on stderr, which would look like a failure.
            Does::Panic => resume_unwind(Box::new("as told")),
        }
        (self.work)().map_err(|error| device_error(&device(), ("a command".into(), error)))?;
        self.script.free(command);
        Ok(())
    }
}

/// Queues that feed an accelerator's streams: the first lane those for segments, the others those for copies.
pub struct OnStreams {
    /// What it is.
    pub name: String,
    /// Whose streams.
    pub accelerator: Arc<dyn Accelerator>,
    /// The stream that segments run on.
    pub compute: Stream,
    /// What commands of the first lane put there.
    pub work: Work,
    /// How a stream is held up; `None`: its commands are held up on the host.
    pub hold: Option<Hold>,
}

impl Subject for OnStreams {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn make(&self, spec: DeviceSpec, script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String> {
        let feeds =
            Feeds { script: script.clone(), work: self.work.clone(), hold: self.hold.clone(), compute: self.compute };
        let device = Streamed::start(spec, self.accelerator.clone(), feeds, Clock::start());
        Ok(Box::new(device.map_err(|e| e.to_string())?))
    }
}

struct Feeds {
    script: Arc<Script>,
    work: Work,
    hold: Option<Hold>,
    compute: Stream,
}

impl Enqueue for Feeds {
    fn stream(&self, command: &Command) -> Stream {
        [self.compute, Stream::Upload, Stream::Download][command.step().lane]
    }

    fn begin(&self, command: &Command) -> Result<(), Fault> {
        let engine = || "script".to_owned();
        let fault = |error| Err(("a command".to_owned(), error));
        match (self.script.does(command), &self.hold) {
            (Does::Work, _) => {}
            (Does::Wait(gate), Some(hold)) => self.script.keep(*gate, hold(self.stream(command))),
            (Does::Wait(gate), None) => self.script.wait(*gate),
            (Does::Fail, _) => return fault(EngineError::Failed { engine: engine(), why: "as told".into() }),
            (Does::Exhaust, _) => {
                return fault(EngineError::OutOfMemory { needed: Bytes(1), why: "as told".into() });
            }
            (Does::Panic, _) => resume_unwind(Box::new("as told")),
        }
        if self.stream(command) == self.compute {
            (self.work)().or_else(fault)?;
        }
        Ok(())
    }

    fn end(&self, command: &Command) -> Result<(), Fault> {
        self.script.free(command);
        Ok(())
    }
}
