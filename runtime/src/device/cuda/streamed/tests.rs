//! What the conformance suite does not ask: lanes that feed several streams, accelerators that are lost, ends that fail,
//! and the order of dropping.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use tandem_core::Ticket;
use tandem_ir::plan::{Action, Prediction, Route, Step};
use tandem_ir::{Bytes, DeviceKind};

use super::*;
use crate::device::cuda::testing::HostAccelerator;

/// Steps of one lane; each goes to the stream of its batch's number.
#[derive(Default)]
struct Batches {
    ended: Mutex<Vec<u64>>,
    /// Batches whose end fails.
    broken: Vec<u64>,
}

impl Enqueue for Batches {
    fn stream(&self, command: &Command) -> Stream {
        Stream::Compute(command.ticket.batch as usize % 2)
    }

    fn begin(&self, _: &Command) -> Result<(), Fault> {
        Ok(())
    }

    fn end(&self, command: &Command) -> Result<(), Fault> {
        let batch = command.ticket.batch;
        self.ended.lock().unwrap().push(batch);
        match self.broken.contains(&batch) {
            true => Err(("y".into(), EngineError::Failed { engine: "test".into(), why: "gone".into() })),
            false => Ok(()),
        }
    }
}

struct Rig {
    device: Streamed<HostAccelerator, Arc<Batches>>,
    accelerator: Arc<HostAccelerator>,
    work: Arc<Batches>,
    told: std::sync::mpsc::Receiver<()>,
    route: Arc<Route>,
}

impl Rig {
    fn new(broken: Vec<u64>) -> Self {
        let accelerator = HostAccelerator::new(0, 2);
        let work = Arc::new(Batches { broken, ..Batches::default() });
        let (spec, route) = world();
        let mut device =
            Streamed::start(spec, accelerator.clone(), work.clone(), Clock::start()).expect("threads start");
        let (tell, told) = channel();
        let tell: Mutex<Sender<()>> = Mutex::new(tell);
        device.set_waker(Arc::new(move || {
            // Nobody listens any more when a test is over.
            let _ = tell.lock().unwrap().send(());
        }));
        Self { device, accelerator, work, told, route }
    }

    fn submit(&mut self, batch: u64) {
        let ticket = Ticket { route: 0, batch, ring: 0, step: 0 };
        let command = Command { lane: 0, ticket, route: self.route.clone() };
        self.device.submit(Time::ZERO, command).expect("accepted");
    }

    fn next(&mut self) -> Completion {
        loop {
            if let Some(completion) = self.device.poll(Time::ZERO) {
                return completion;
            }
            self.told.recv().expect("the device lives");
        }
    }
}

fn world() -> (DeviceSpec, Arc<Route>) {
    let step = Step { lane: 0, action: Action::Barrier, after: vec![], duration: Nanos(1), frees: vec![] };
    let lanes = vec!["gpu0".to_owned()];
    let spec = DeviceSpec {
        name: "gpu0".into(),
        kind: DeviceKind::Gpu,
        lanes: lanes.clone(),
        memory: Bytes::ZERO,
        engine: "test".into(),
    };
    let route = Route {
        tenant: "t".into(),
        batch: 1,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors: vec![],
        inputs: vec![],
        outputs: vec![],
        segments: vec![],
        lane_names: lanes,
        steps: vec![step],
        memory: vec![],
        work: vec![],
        prediction: Prediction::default(),
    };
    (spec, Arc::new(route))
}

#[test]
fn a_lane_that_feeds_two_streams_is_still_one_queue() {
    let mut rig = Rig::new(vec![]);
    let held = rig.accelerator.hold(Stream::Compute(0));
    // Batch 1 goes to a stream that nothing holds up, but comes after batch 0.
    (0..6).for_each(|batch| rig.submit(batch));
    assert_eq!(rig.device.poll(Time::ZERO), None);
    drop(held);
    let mut free = Time::ZERO;
    for batch in 0..6 {
        let Completion { ticket, start, end, result, .. } = rig.next();
        assert_eq!((ticket.batch, result), (batch, Ok(())));
        assert!(start >= free && end >= start);
        free = end;
    }
}

#[test]
fn all_that_is_on_a_lost_accelerator_is_lost() {
    let mut rig = Rig::new(vec![]);
    let held = rig.accelerator.hold(Stream::Compute(0));
    (0..3).for_each(|batch| rig.submit(batch));
    rig.accelerator.lose();
    // And what comes later: the process cannot use it any more.
    rig.submit(7);
    for batch in [0, 1, 2, 7] {
        let Completion { ticket, result, .. } = rig.next();
        assert_eq!(ticket.batch, batch);
        assert!(matches!(&result, Err(DeviceError::Lost { device, .. }) if device == "gpu0"), "{result:?}");
    }
    assert!(rig.work.ended.lock().unwrap().is_empty(), "nothing was handed over");
    drop(held);
}

#[test]
fn an_end_that_fails_is_a_failure_of_its_batch() {
    let mut rig = Rig::new(vec![2]);
    for batch in [1, 2, 2, 4] {
        rig.submit(batch);
    }
    let results: Vec<_> = (0..4).map(|_| rig.next().result).collect();
    assert!(matches!(&results[1], Err(DeviceError::Failed { why, .. }) if why == "y: gone"), "{results:?}");
    assert_eq!((&results[0], &results[2], &results[3]), (&Ok(()), &Err(DeviceError::Skipped), &Ok(())));
    assert_eq!(*rig.work.ended.lock().unwrap(), [1, 2, 4], "what is skipped hands nothing over");
}

#[test]
fn a_device_is_gone_only_when_its_streams_are_done() {
    let mut rig = Rig::new(vec![]);
    let held = rig.accelerator.hold(Stream::Compute(0));
    rig.submit(0);
    while rig.accelerator.marks_held() < 2 {
        std::thread::yield_now();
    }
    let Rig { device, accelerator, work, .. } = rig;
    let dropped = std::thread::spawn(move || drop(device));
    assert!(work.ended.lock().unwrap().is_empty());
    drop(held);
    dropped.join().expect("it ends");
    assert_eq!((work.ended.lock().unwrap().as_slice(), accelerator.marks_held()), (&[0][..], 0));
}
