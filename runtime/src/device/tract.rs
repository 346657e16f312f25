//! tract: the engine that is always there, pure Rust, nothing to install.
//!
//! A segment is analysed at concrete input shapes, when the first run brings them (or at load, where the model declares
//! them all); plans for the last few shapes are kept. tract needs every size while it plans: where a size comes in as a
//! value (a shape computed by another segment), the plan is made for the values of the small integer inputs, and again
//! for others. A model whose sizes depend on data inside it may be refused.
//!
//! Threads: one run uses one thread, whatever the options say. tract can spread its matrix products over a thread pool,
//! but only with a feature of its linear-algebra crate that this workspace does not enable; lanes are what uses more
//! cores.
//!
//! Values: tensors of booleans, integers of 8 to 64 bits, f16, f32, f64 and UTF-8 strings. Inputs are copied in (tract
//! owns its tensors); outputs are handed out where they lie.
//!
//! A panic inside tract is an error of the session, which stays usable.

#[cfg(feature = "tract-cuda")]
pub mod cuda;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tandem_ir::DType;
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::value::{Buffer, Data, TensorValue, Value};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::EvalContext;
use tract_onnx::tract_core::ops::OpState;
use tract_onnx::tract_core::plan::{SimpleState, eval};
use tract_onnx::tract_hir::infer::Factoid as _;

use crate::device::guarded;
use crate::engine::{Engine, EngineError, EngineProfile, NodeTiming, OptimizedNode, Session, SessionOptions};

/// The engine's name.
pub const NAME: &str = "tract";

/// Plans kept a session, one a combination of input shapes. A plan holds packed weights, so more would multiply memory;
/// a route runs at one shape point.
const PLANS_MAX: usize = 4;

/// The engine. It has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct TractEngine;

impl Engine for TractEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        guarded(NAME, || {
            Ok(Arc::new(TractSession::load(image, options, |model| model.into_runnable())?) as Arc<dyn Session>)
        })
    }
}

/// tract states no version at run time; this is the one the workspace is built with.
const VERSION: &str = "0.23";

/// Element types and sizes of the inputs a plan was made for.
type Shapes = Vec<(DType, Vec<u64>)>;
type Plan = Arc<TypedRunnableModel>;
type Make = fn(TypedModel) -> TractResult<Plan>;
/// Contents of the small integer inputs, `None` for all others.
type Sizes = Vec<Option<Arc<Tensor>>>;

/// Elements of an integer input that may hold sizes: shapes, pads and slices have a few numbers an axis.
const SIZES_MAX: usize = 64;

/// A plan and what it was made for.
struct Made {
    shapes: Shapes,
    /// `None` where it holds for any contents.
    sizes: Option<Sizes>,
    plan: Plan,
}

struct TractSession {
    model: InferenceModel,
    /// Makes the plan of a model that is analysed.
    make: Make,
    options: SessionOptions,
    outputs: usize,
    /// The most recently used last.
    plans: Mutex<Vec<Made>>,
    profile: Mutex<Profile>,
}

#[derive(Default)]
struct Profile {
    place: HashMap<usize, usize>,
    collected: EngineProfile,
    /// Shapes of the profiled runs: node numbers are those of one plan.
    shapes: Option<Shapes>,
    ended: bool,
}

fn unsupported(why: impl Into<String>) -> EngineError {
    EngineError::Unsupported { engine: NAME.into(), why: why.into() }
}

fn failed(why: impl Into<String>) -> EngineError {
    EngineError::Failed { engine: NAME.into(), why: why.into() }
}

/// tract's chain of reasons on one line.
fn words(error: &TractError) -> String {
    format!("{error:#}")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held left a plan out at worst.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl TractSession {
    fn load(image: &SegmentImage, options: &SessionOptions, make: Make) -> Result<Self, EngineError> {
        let refuse = |e: TractError| unsupported(words(&e));
        // Declared facts of inner values can be wrong, and tract believes them.
        let framework = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
        let proto = framework.proto_model_for_read(&mut &*image.inline()).map_err(refuse)?;
        let model = framework.model_for_proto_model(&proto).map_err(refuse)?;
        if let Some(node) = model.nodes().iter().find(|n| n.op.name().starts_with("Unimplemented")) {
            return Err(unsupported(format!("node {}: {}", node.name, node.op.name())));
        }
        let session = Self {
            model,
            make,
            options: options.clone(),
            outputs: image.outputs.len(),
            plans: Mutex::default(),
            profile: Mutex::default(),
        };
        if let Some(shapes) = session.declared_shapes()? {
            let integers = shapes.iter().any(|(dtype, _)| matches!(dtype, DType::I32 | DType::I64));
            match session.plan(&shapes, &[]) {
                // What these inputs hold may be what is missing.
                Err(_) if integers => {}
                made => drop(made?),
            }
        }
        Ok(session)
    }

    /// Types and sizes of all inputs, if the model declares every one.
    fn declared_shapes(&self) -> Result<Option<Shapes>, EngineError> {
        let mut shapes = vec![];
        for outlet in self.model.input_outlets().map_err(|e| unsupported(words(&e)))? {
            let fact = self.model.outlet_fact(*outlet).map_err(|e| unsupported(words(&e)))?;
            let dtype = fact.datum_type.concretize().and_then(dtype_of);
            let dims: Option<Vec<u64>> =
                fact.shape.concretize().and_then(|s| s.iter().map(|d| d.to_i64().ok().map(|d| d as u64)).collect());
            match (dtype, dims) {
                (Some(dtype), Some(dims)) => shapes.push((dtype, dims)),
                _ => return Ok(None),
            }
        }
        Ok(Some(shapes))
    }

    /// The plan for these inputs, made if it is not kept, and whether it is for the contents of the small integer ones.
    fn plan(&self, shapes: &Shapes, inputs: &[TValue]) -> Result<(Plan, bool), EngineError> {
        let mut plans = locked(&self.plans);
        let fits = |made: &Made| made.shapes == *shapes && made.sizes.as_ref().is_none_or(|s| same_sizes(s, inputs));
        if let Some(place) = plans.iter().position(fits) {
            let found = plans.remove(place);
            let known = (found.plan.clone(), found.sizes.is_some());
            plans.push(found);
            return Ok(known);
        }
        let sizes = sizes_in(inputs);
        let needed = plans.iter().any(|made| made.shapes == *shapes && made.sizes.is_some());
        let any = if needed { None } else { Some(self.analyse(shapes, &vec![None; shapes.len()])) };
        let (sizes, plan) = match any {
            Some(Ok(plan)) => (None, plan),
            Some(Err(error)) if sizes.iter().all(Option::is_none) => return Err(unsupported(words(&error))),
            _ => {
                let plan = self.analyse(shapes, &sizes).map_err(|e| unsupported(words(&e)))?;
                (Some(sizes), plan)
            }
        };
        let known = (plan.clone(), sizes.is_some());
        keep(&mut plans, Made { shapes: shapes.clone(), sizes, plan });
        Ok(known)
    }

    /// The plan for the contents of the small integer inputs, instead of one for any contents that did not run; `None`
    /// where there are no such inputs.
    fn plan_for_sizes(&self, shapes: &Shapes, inputs: &[TValue]) -> Option<Plan> {
        let sizes = sizes_in(inputs);
        if sizes.iter().all(Option::is_none) {
            return None;
        }
        let plan = self.analyse(shapes, &sizes).ok()?;
        let mut plans = locked(&self.plans);
        plans.retain(|made| made.shapes != *shapes || made.sizes.is_some());
        keep(&mut plans, Made { shapes: shapes.clone(), sizes: Some(sizes), plan: plan.clone() });
        Some(plan)
    }

    fn analyse(&self, shapes: &Shapes, sizes: &Sizes) -> TractResult<Plan> {
        let mut model = self.model.clone();
        for (i, (dtype, dims)) in shapes.iter().enumerate() {
            let Some(datum) = datum_of(*dtype) else { continue };
            let dims: TVec<TDim> = dims.iter().map(|d| (*d as usize).to_dim()).collect();
            let fact = match &sizes[i] {
                Some(known) => InferenceFact::try_from(known)?,
                None => InferenceFact::dt_shape(datum, dims),
            };
            model = model.with_input_fact(i, fact)?;
        }
        let typed = model.into_typed()?;
        let typed = if self.options.optimize { typed.into_optimized()? } else { typed };
        (self.make)(typed)
    }

    fn run_plain(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        let expected = self.model.inputs.len();
        if inputs.len() != expected {
            return Err(failed(format!("expected {expected} inputs, found {}", inputs.len())));
        }
        let mut shapes = Vec::with_capacity(inputs.len());
        let mut tensors: TVec<TValue> = TVec::with_capacity(inputs.len());
        for value in inputs {
            let Value::Tensor(tensor) = value else { return Err(unsupported("values other than tensors")) };
            shapes.push((tensor.dtype, tensor.dims.clone()));
            tensors.push(to_tract(tensor)?.into_tvalue());
        }
        let (plan, for_sizes) = self.plan(&shapes, &tensors)?;
        let outputs = match self.execute(&plan, &shapes, tensors.clone()) {
            Err(error) if !for_sizes => match self.plan_for_sizes(&shapes, &tensors) {
                Some(plan) => self.execute(&plan, &shapes, tensors)?,
                None => return Err(error),
            },
            executed => executed?,
        };
        if outputs.len() != self.outputs {
            return Err(failed(format!("expected {} outputs, found {}", self.outputs, outputs.len())));
        }
        outputs.into_iter().map(from_tract).collect()
    }

    fn execute(&self, plan: &Plan, shapes: &Shapes, inputs: TVec<TValue>) -> Result<TVec<TValue>, EngineError> {
        match self.options.profile {
            false => plan.run(inputs).map_err(|e| failed(words(&e))),
            true => self.run_timed(plan, shapes, inputs),
        }
    }

    fn run_timed(&self, plan: &Plan, shapes: &Shapes, inputs: TVec<TValue>) -> Result<TVec<TValue>, EngineError> {
        let mut state = SimpleState::new(plan).map_err(|e| failed(words(&e)))?;
        let mut times: Vec<(usize, u64)> = Vec::with_capacity(plan.model().nodes().len());
        let begin = Instant::now();
        let timed = |context: &EvalContext<'_>, op: Option<&mut (dyn OpState + 'static)>, node: &TypedNode, values| {
            let begin = Instant::now();
            let made = eval(context, op, node, values);
            times.push((node.id, begin.elapsed().as_nanos() as u64));
            made
        };
        let outputs = state.run_plan_with_eval(inputs, timed).map_err(|e| failed(words(&e)))?;
        let whole = begin.elapsed().as_nanos() as u64;
        let mut profile = locked(&self.profile);
        if profile.shapes.get_or_insert_with(|| shapes.clone()) != shapes {
            return Err(failed("a profiled session runs at one shape"));
        }
        profile.collected.whole_ns.push(whole);
        for (id, ns) in times {
            profile.add(plan.model(), id, ns);
        }
        if profile.collected.graph.is_empty() {
            profile.collected.graph = graph_of(plan.model());
        }
        Ok(outputs)
    }
}

/// Keeps a plan, the oldest one's in its place.
fn keep(plans: &mut Vec<Made>, made: Made) {
    if plans.len() == PLANS_MAX {
        plans.remove(0);
    }
    plans.push(made);
}

fn sizes_in(inputs: &[TValue]) -> Sizes {
    let integer = |t: &TValue| matches!(t.datum_type(), DatumType::I32 | DatumType::I64) && t.len() <= SIZES_MAX;
    inputs.iter().map(|t| integer(t).then(|| t.clone().into_arc_tensor())).collect()
}

fn same_sizes(sizes: &Sizes, inputs: &[TValue]) -> bool {
    let same = |(known, input): (&Option<Arc<Tensor>>, &TValue)| known.as_ref().is_none_or(|k| **k == **input);
    sizes.len() == inputs.len() && sizes.iter().zip(inputs).all(same)
}

impl Profile {
    fn add(&mut self, model: &TypedModel, id: usize, ns: u64) {
        let nodes = &mut self.collected.nodes;
        let place = *self.place.entry(id).or_insert_with(|| {
            let node = model.node(id);
            nodes.push(NodeTiming { name: node.name.clone(), op: node.op.name().into_owned(), runs_ns: vec![] });
            nodes.len() - 1
        });
        nodes[place].runs_ns.push(ns);
    }
}

/// The graph as it runs. A node made from the ONNX node `n3_Conv` is called that, or that with a suffix after a dot; a
/// value is called after its ONNX name where tract kept it, else after its node and position.
fn graph_of(model: &TypedModel) -> Vec<OptimizedNode> {
    let name_of = |outlet: OutletId| match model.outlet_label(outlet) {
        Some(label) => label.to_owned(),
        None => format!("{}:{}", model.node(outlet.node).name, outlet.slot),
    };
    let plain = |node: &TypedNode| OptimizedNode {
        name: node.name.clone(),
        op: node.op.name().into_owned(),
        inputs: node.inputs.iter().map(|i| name_of(*i)).collect(),
        outputs: (0..node.outputs.len()).map(|slot| name_of(OutletId::new(node.id, slot))).collect(),
    };
    let order = model.eval_order().unwrap_or_default();
    order.into_iter().map(|id| plain(model.node(id))).collect()
}

impl Session for TractSession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        guarded(NAME, || self.run_plain(inputs))
    }

    fn end_profile(&self) -> Result<Option<EngineProfile>, EngineError> {
        let mut profile = locked(&self.profile);
        if !self.options.profile || profile.ended {
            return Ok(None);
        }
        profile.ended = true;
        Ok(Some(std::mem::take(&mut profile.collected)))
    }
}

fn to_tract(value: &TensorValue) -> Result<Tensor, EngineError> {
    let datum = datum_of(value.dtype).ok_or_else(|| unsupported(format!("element type {}", value.dtype)))?;
    let dims: Vec<usize> = value.dims.iter().map(|d| *d as usize).collect();
    let bytes = match &value.data {
        Data::Bytes(bytes) => bytes,
        Data::Strings(strings) => {
            let text =
                |s: &Vec<u8>| String::from_utf8(s.clone()).map_err(|_| unsupported("strings that are not UTF-8"));
            let texts: Vec<String> = strings.iter().map(text).collect::<Result<_, _>>()?;
            let array = tract_ndarray::ArrayD::from_shape_vec(dims, texts).map_err(|e| failed(e.to_string()))?;
            return Ok(array.into_tensor());
        }
    };
    let mut tensor = Tensor::zero_dt(datum, &dims).map_err(|e| failed(words(&e)))?;
    let room = tensor.as_bytes_mut();
    if room.len() != bytes.len() {
        return Err(failed(format!("{} bytes for a {} tensor of {:?}", bytes.len(), value.dtype, value.dims)));
    }
    if value.dtype == DType::Bool {
        // Any other byte is no boolean to Rust.
        room.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = u8::from(*from != 0));
    } else {
        room.copy_from_slice(bytes);
    }
    Ok(tensor)
}

/// An output's memory.
struct Held(Arc<Tensor>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn from_tract(value: TValue) -> Result<Value, EngineError> {
    let mut tensor = value.into_arc_tensor();
    // Sizes computed inside the model are tract's own type.
    if tensor.datum_type() == TDim::datum_type() {
        tensor = tensor.cast_to::<i64>().map_err(|e| failed(words(&e)))?.into_owned().into_arc_tensor();
    }
    let datum = tensor.datum_type().unquantized();
    let dtype = dtype_of(datum).ok_or_else(|| unsupported(format!("element type {datum:?}")))?;
    if !tensor.is_plain_ram() {
        return Err(unsupported("an output in a layout of tract's own"));
    }
    let dims = tensor.shape().iter().map(|d| *d as u64).collect();
    let data = if dtype == DType::String {
        let view = tensor.to_plain_array_view::<String>().map_err(|e| failed(words(&e)))?;
        Data::Strings(Arc::new(view.iter().map(|s| s.clone().into_bytes()).collect()))
    } else {
        Data::Bytes(Buffer::shared(Arc::new(Held(tensor))))
    };
    Ok(Value::Tensor(TensorValue { dtype, dims, data }))
}

fn datum_of(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::Bool => DatumType::Bool,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::F16 => DatumType::F16,
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::String => DatumType::String,
        _ => return None,
    })
}

fn dtype_of(datum: DatumType) -> Option<DType> {
    DType::ALL.iter().copied().find(|d| datum_of(*d) == Some(datum))
}
