//! The contract of devices, for every device there is. What is absent is said to be skipped.

#[path = "../device/common.rs"]
#[allow(dead_code)]
mod common;

use std::sync::Arc;

use tandem_core::{
    Command, Completion, Device, DeviceError, DeviceSpec, EmulatedDevice, EmulationOptions, Help, Ticket,
};
use tandem_ir::{DType, Time};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::value::Value;
use tandem_onnx_proto::NodeProto;
use tandem_runtime::device::accelerator::{Place, Stream};
use tandem_runtime::device::conformance::{self, Does, OnStreams, OnThreads, Script, Subject};
use tandem_runtime::device::cuda::testing::{HostAccelerator, HostEngine};
use tandem_runtime::device::emulated::EmulatedMemory;
use tandem_runtime::device::ort::cuda::{CudaEngine, CudaOptions};
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::discover;
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};

use common::{f32s, image, ort, read_f32s, tensor};

fn check(subject: &dyn Subject) {
    let broken: Vec<String> = conformance::run(subject)
        .into_iter()
        .filter_map(|(name, verdict)| verdict.err().map(|why| format!("{name}: {why}")))
        .collect();
    assert!(broken.is_empty(), "{}:\n{}", subject.name(), broken.join("\n"));
}

/// One operator over three numbers.
fn negation() -> SegmentImage {
    let node =
        NodeProto { op_type: "Neg".into(), input: vec!["x".into()], output: vec!["y".into()], ..NodeProto::default() };
    image(vec![node], &[("x", tensor(DType::F32, &[3]))], &[("y", tensor(DType::F32, &[3]))])
}

fn input() -> Value {
    f32s(&[3], &[1.0, 2.0, 3.0])
}

fn session(engine: &dyn Engine) -> Arc<dyn Session> {
    engine.load(&negation(), &SessionOptions::default()).expect("it loads")
}

fn wrong(found: &Value) -> Result<(), EngineError> {
    match read_f32s(found).as_slice() {
        [-1.0, -2.0, -3.0] => Ok(()),
        other => Err(EngineError::Failed { engine: "test".into(), why: format!("found {other:?}") }),
    }
}

/// Threads around an engine.
fn on_threads(engine: &dyn Engine) -> OnThreads {
    let session = session(engine);
    let work = move || wrong(&session.run(&[input()])?[0]);
    OnThreads { name: format!("threads around {}", engine.name()), work: Arc::new(work) }
}

#[test]
fn threads_around_tract() {
    check(&on_threads(&TractEngine));
}

#[test]
fn threads_around_onnx_runtime() {
    if let Some(engine) = ort("the conformance of threads") {
        check(&on_threads(&engine));
    }
}

#[test]
fn threads_around_the_numeric_emulator() {
    let session = session(&TractEngine);
    let memory = EmulatedMemory::new("gpu0");
    let work = move || {
        let (x, y) = (memory.reserve(), memory.reserve());
        memory.copy_in(x, &input())?;
        memory.run(session.as_ref(), &[x], &[y])?;
        memory.free(x);
        let found = memory.copy_out(y)?;
        memory.free(y);
        wrong(&found)
    };
    check(&OnThreads { name: "threads around the numeric emulator".into(), work: Arc::new(work) });
}

/// The timing emulator, by its own clock.
struct Played;

impl Subject for Played {
    fn name(&self) -> String {
        "the timing emulator".into()
    }

    fn make(&self, spec: DeviceSpec, script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String> {
        let failing = script.steps().iter().enumerate().filter(|(_, does)| **does == Does::Fail);
        let faults = failing.flat_map(|(step, _)| (0..100).map(move |batch| (batch, step))).collect();
        Ok(Box::new(EmulatedDevice::new(spec, EmulationOptions { faults, ..EmulationOptions::default() })))
    }

    fn is_played(&self) -> bool {
        true
    }
}

#[test]
fn the_timing_emulator() {
    check(&Played);
}

/// Queues that feed the streams of an engine's accelerator.
fn on_streams(name: &str, engine: &dyn Engine) -> OnStreams {
    let (accelerator, compute) = engine.runs_on().expect("it has an accelerator");
    let place = || {
        let block = accelerator.clone().allocate(12).expect("memory");
        Place::new(block, 0, DType::F32, [3].into()).expect("it fits")
    };
    let session = session(engine);
    let work = {
        let (x, y) = (place(), place());
        move || {
            let resident = session.resident().expect("it runs on the accelerator");
            resident.bind(std::slice::from_ref(&x), &[Some(y.clone())])?.enqueue().map(drop)
        }
    };
    OnStreams { name: name.into(), accelerator, compute, work: Arc::new(work), hold: None }
}

#[test]
fn queues_over_streams_that_are_made_up() {
    let accelerator = HostAccelerator::new(0, 1);
    let engine = HostEngine::new("ort-cuda", Arc::new(TractEngine), (accelerator.clone(), Stream::Compute(0)));
    let held_on_the_host = on_streams("queues over made-up streams, held up on the host", &engine);
    check(&held_on_the_host);
    let of = accelerator.clone();
    let hold = Arc::new(move |stream| Box::new(of.hold(stream)) as Box<dyn std::any::Any + Send>);
    check(&OnStreams { name: "queues over made-up streams".into(), hold: Some(hold), ..held_on_the_host });
    assert_eq!(accelerator.marks_held(), 0, "every mark is forgotten");
}

#[test]
fn cuda() {
    let found = discover::gpus().and_then(|gpus| if gpus.is_empty() { Err("no GPU".into()) } else { Ok(()) });
    if let Err(why) = found {
        return eprintln!("skipped: conformance of CUDA: {why}");
    }
    if ort("the conformance of CUDA").is_none() {
        return;
    }
    match CudaEngine::open(0, &CudaOptions::default()) {
        Ok(engine) => check(&on_streams("queues over CUDA's streams", &engine)),
        Err(why) => eprintln!("skipped: conformance of CUDA: {why}"),
    }
}

/// The suite itself: it finds what is wrong.
struct Canary;

impl Subject for Canary {
    fn name(&self) -> String {
        "a device that breaks promises".into()
    }

    fn make(&self, spec: DeviceSpec, _script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String> {
        // Its commands do not do what they are told to.
        Ok(Box::new(EmulatedDevice::new(spec, EmulationOptions::default())))
    }

    fn is_played(&self) -> bool {
        true
    }
}

#[test]
fn a_device_that_breaks_a_promise_is_found_out() {
    let broken: Vec<&str> =
        conformance::run(&Canary).into_iter().filter(|(_, verdict)| verdict.is_err()).map(|(name, _)| name).collect();
    assert_eq!(broken, ["after a failure the batch's later commands on the lane are skipped, and nobody else's are"]);
}

/// A device whose help never does anything.
struct Idle(OnThreads);

struct IdleDevice(Box<dyn Device + Send>);

struct NoHelp;

impl Subject for Idle {
    fn name(&self) -> String {
        "a device that cannot be helped".into()
    }

    fn make(&self, spec: DeviceSpec, script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String> {
        Ok(Box::new(IdleDevice(self.0.make(spec, script)?)))
    }
}

impl Device for IdleDevice {
    fn spec(&self) -> &DeviceSpec {
        self.0.spec()
    }

    fn submit(&mut self, now: Time, command: Command) -> Result<(), DeviceError> {
        self.0.submit(now, command)
    }

    fn poll(&mut self, now: Time) -> Option<Completion> {
        self.0.poll(now)
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.0.set_waker(waker);
    }

    fn help(&self) -> Option<Arc<dyn Help>> {
        Some(Arc::new(NoHelp))
    }
}

impl Help for NoHelp {
    fn come(&self) {}

    fn help(&self, _: &dyn Fn(&Ticket) -> bool) -> bool {
        false
    }

    fn leave(&self) {}
}

#[test]
fn a_device_that_is_never_helped_is_found_out() {
    let idle = Idle(OnThreads { name: "threads".into(), work: Arc::new(|| Ok(())) });
    let broken = conformance::run(&idle).into_iter().filter_map(|(_, verdict)| verdict.err());
    assert_eq!(broken.collect::<Vec<_>>(), ["it found nothing to do, and there was something"]);
}
