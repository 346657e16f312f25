use tandem_ir::plan::{MemoryUse, Prediction, RouteTensor, Segment, Step};
use tandem_ir::{Bytes, DType, Nanos};

use super::*;
use crate::device::cuda::testing::HostAccelerator;

const HOST: usize = 0;
const X: usize = 0;
const Y: usize = 1;
/// Its shape is known only after the run.
const Z: usize = 2;

/// x goes to the device, where y and z are made of it, which both go back.
fn route() -> Route {
    let tensor = |name: &str, dims: Option<Vec<u64>>| {
        let bytes = Bytes(dims.as_ref().map_or(1000, |d| 4 * d.iter().product::<u64>()));
        RouteTensor { name: name.into(), dtype: Some(DType::F32), dims, bytes }
    };
    let step = |lane, action, after: &[usize], frees: &[(usize, usize)]| Step {
        lane,
        action,
        after: after.to_vec(),
        duration: Nanos(1),
        frees: frees.to_vec(),
    };
    let copy = |tensor, from, to| Action::Copy { tensor, from, to };
    let segment = Segment {
        device: 1,
        part: 0,
        nodes: vec![],
        inputs: vec![X],
        outputs: vec![Y, Z],
        weight_bytes: Bytes(0),
        workspace_bytes: Bytes(0),
    };
    Route {
        tenant: "t".into(),
        batch: 1,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors: vec![tensor("x", Some(vec![2, 5])), tensor("y", Some(vec![3])), tensor("z", None)],
        inputs: vec![X],
        outputs: vec![Y, Z],
        segments: vec![segment],
        lane_names: vec!["cpu>gpu0".into(), "gpu0".into(), "gpu0>cpu".into()],
        steps: vec![
            step(0, copy(X, 0, 1), &[], &[]),
            step(1, Action::Run(0), &[0], &[(X, 1)]),
            step(2, copy(Y, 1, 0), &[1], &[(Y, 1)]),
            step(2, copy(Z, 1, 0), &[1], &[(Z, 1)]),
        ],
        memory: vec![MemoryUse::default(); 2],
        work: vec![],
        prediction: Prediction::default(),
    }
}

fn values(accelerator: &Arc<HostAccelerator>) -> Values {
    let slots = Slots::of(&route(), 1).expect("it can be laid out");
    let names: Arc<[String]> = ["x", "y", "z"].map(str::to_owned).into();
    Values::new("gpu0", names, &slots, accelerator.clone(), Stream::Compute(0)).expect("memory")
}

fn tensor(dims: &[u64], first: f32) -> Value {
    let count = dims.iter().product::<u64>();
    let bytes: Vec<u8> = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
    Value::Tensor(TensorValue::new(DType::F32, dims.to_vec(), bytes))
}

/// There and back.
fn round(values: &Values, tensor: usize, value: &Value) -> Value {
    values.begin_put(tensor, value).expect("it is put");
    values.wait(Stream::Upload).expect("it arrives");
    values.begin_get(tensor, HOST).expect("it is there");
    values.wait(Stream::Download).expect("it arrives");
    values.end_get(tensor, HOST).expect("it is back")
}

#[test]
fn values_of_known_shape_have_slots_and_pinned_memory() {
    let slots = Slots::of(&route(), 1).expect("it can be laid out");
    // 40 bytes and 12, alive at once while the segment runs, at multiples of a cache line.
    assert_eq!(slots.arena_bytes, 128);
    let offsets: Vec<Option<u64>> = slots.slots.iter().map(|s| s.as_ref().map(|s| s.offset)).collect();
    assert!(offsets[Z].is_none() && offsets[X] != offsets[Y], "{offsets:?}");
    assert_eq!((&slots.coming[..], &slots.going[..]), (&[(X, 40)][..], &[(Y, 12)][..]));
    let host = Slots::of(&route(), 0).expect("it can be laid out");
    assert_eq!((&host.coming[..], &host.going[..]), (&[(Y, 12)][..], &[(X, 40)][..]));
}

#[test]
fn values_go_there_and_come_back() {
    let values = values(&HostAccelerator::new(0, 1));
    for turn in 0..5 {
        let x = tensor(&[2, 5], turn as f32);
        assert_eq!(round(&values, X, &x), x);
        // As large as they happen to be.
        let z = tensor(&[turn, 7], 1.0);
        assert_eq!(round(&values, Z, &z), z);
        values.clear();
    }
}

#[test]
fn values_of_other_shapes_than_planned_have_blocks_of_their_own() {
    let values = values(&HostAccelerator::new(0, 1));
    for dims in [&[5, 2][..], &[2, 500], &[2, 5], &[0], &[2, 500]] {
        let x = tensor(dims, 1.0);
        assert_eq!(round(&values, X, &x), x);
    }
}

/// Makes as many ones as it reads zeros, which nobody can know before.
struct Zeros(Arc<HostAccelerator>, Mutex<Vec<bool>>);

impl Session for Zeros {
    fn run(&self, _: &[Value]) -> Result<Vec<Value>, EngineError> {
        Ok(vec![])
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Resident for Zeros {
    fn bind(&self, inputs: &[Place], outputs: &[Option<Place>]) -> Result<Box<dyn Bound>, EngineError> {
        self.1.lock().unwrap().push(outputs[0].is_some());
        let host: Arc<dyn Accelerator> = self.0.clone();
        let mut copy = Values::new("x", ["x".to_owned()].into(), &Slots::default(), host, Stream::Compute(0))?;
        copy.held[0].get_mut().unwrap().here = Some(inputs[0].clone());
        Ok(Box::new(CountZeros { of: copy, to: outputs[0].clone() }))
    }
}

struct CountZeros {
    of: Values,
    to: Option<Place>,
}

impl Bound for CountZeros {
    fn enqueue(&mut self) -> Result<Vec<(usize, Place)>, EngineError> {
        let Value::Tensor(read) = self.of.get(0)? else { panic!("a tensor") };
        let zeros = read.bytes().chunks(4).filter(|c| **c == [0; 4]).count() as u64;
        match &self.to {
            Some(place) if **place.dims() == [zeros] => Ok(vec![]),
            Some(_) => Err(EngineError::Failed { engine: "zeros".into(), why: "another shape".into() }),
            None => {
                self.of.free(0);
                self.of.begin_put(0, &tensor(&[zeros], 1.0))?;
                self.of.wait(Stream::Upload)?;
                Ok(vec![(0, self.of.here(&self.of.held(0), 0)?)])
            }
        }
    }
}

#[test]
fn a_run_that_makes_another_shape_than_planned_is_run_again_without_places() {
    let accelerator = HostAccelerator::new(0, 1);
    let values = values(&accelerator);
    let session = Zeros(accelerator, Mutex::default());
    let of = |zeros: usize| {
        let elements = (0..10).flat_map(|i| f32::from(u8::from(i >= zeros)).to_le_bytes()).collect::<Vec<_>>();
        Value::Tensor(TensorValue::new(DType::F32, vec![2, 5], elements))
    };
    // Planned are three; from the first batch on that has another number, places are found each time.
    for (zeros, bound) in [(3, &[true][..]), (3, &[]), (7, &[false]), (3, &[false])] {
        values.begin_put(X, &of(zeros)).expect("it fits");
        values.wait(Stream::Upload).expect("it arrives");
        values.begin_run(&session, &[X], &[Y]).expect("it runs");
        let made = values.here(&values.held(Y), Y).expect("it is made");
        assert_eq!(**made.dims(), [zeros as u64]);
        assert_eq!(std::mem::take(&mut *session.1.lock().unwrap()), bound);
        values.clear();
    }
}

#[test]
fn what_was_handed_out_stays_as_it_was() {
    let accelerator = HostAccelerator::new(0, 1);
    let values = values(&accelerator);
    let count = PINNED_COPIES_MAX + 3;
    let kept: Vec<Value> = (0..count).map(|i| round(&values, Y, &tensor(&[3], i as f32))).collect();
    for (i, value) in kept.iter().enumerate() {
        assert_eq!(*value, tensor(&[3], i as f32));
    }
    // No more memory is pinned, however many are held.
    accelerator.leave(0);
    let more: Vec<Value> = (0..count).map(|i| round(&values, Y, &tensor(&[3], 10.0 + i as f32))).collect();
    drop(kept);
    assert_eq!(more[count - 1], tensor(&[3], 10.0 + (count - 1) as f32));
    let again = round(&values, Y, &tensor(&[3], 99.0));
    assert_eq!((again, &more[0]), (tensor(&[3], 99.0), &tensor(&[3], 10.0)));
}

#[test]
fn copies_of_one_value_for_several_devices_leave_each_other_alone() {
    let accelerator = HostAccelerator::new(0, 1);
    let values = values(&accelerator);
    // While all that may be handed on is held, too.
    let kept: Vec<Value> = (0..=PINNED_COPIES_MAX).map(|i| round(&values, Y, &tensor(&[3], i as f32))).collect();
    let y = tensor(&[3], 50.0);
    values.begin_put(Y, &y).expect("it is put");
    values.wait(Stream::Upload).expect("it arrives");
    let held_up = accelerator.hold(Stream::Download);
    [HOST, 2, 3].iter().for_each(|to| values.begin_get(Y, *to).expect("it is there"));
    let going: Vec<usize> = values.held(Y).going.iter().map(|(_, going)| going.to.address().as_ptr().addr()).collect();
    assert!(going[0] != going[1] && going[1] != going[2] && going[2] != going[0], "each is written elsewhere");
    drop(held_up);
    // And one beside them that is waited for at once.
    assert_eq!(values.get(Y).expect("it is back"), y);
    for to in [3, HOST, 2] {
        assert_eq!(values.end_get(Y, to).expect("it is back"), y);
        assert!(values.end_get(Y, to).is_err(), "it is handed over once");
    }
    assert_eq!(kept[0], tensor(&[3], 0.0));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let values = values(&HostAccelerator::new(0, 1));
    let said = |value: &Value| values.begin_put(X, value).expect_err("it does not fit").to_string();
    let nothing = said(&Value::Optional(None));
    assert!(nothing.contains("\"x\" on device gpu0 is no dense tensor"), "{nothing}");
    let absent = values.begin_get(Y, HOST).expect_err("nothing made it").to_string();
    assert!(absent.contains("\"y\" on device gpu0") && absent.contains("nothing has brought it"), "{absent}");
    assert!(values.end_get(Y, HOST).is_err(), "no copy was begun");
    values.begin_put(X, &tensor(&[2, 5], 0.0)).expect("it fits");
    values.wait(Stream::Upload).expect("it arrives");
    values.free(X);
    assert!(values.begin_get(X, HOST).is_err(), "it is freed");
}

#[test]
fn memory_that_runs_out_is_said_as_such() {
    let accelerator = HostAccelerator::new(0, 1);
    let values = values(&accelerator);
    accelerator.leave(10);
    let refused = values.begin_put(Z, &tensor(&[100], 0.0));
    assert!(matches!(refused, Err(EngineError::OutOfMemory { needed: Bytes(400), .. })), "{refused:?}");
    values.begin_put(X, &tensor(&[2, 5], 1.0)).expect("it has its memory already");
    accelerator.leave(1000);
    let x = tensor(&[2, 5], 3.0);
    assert_eq!(round(&values, X, &x), x);
}
