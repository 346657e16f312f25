//! The values of a served plan: every route loaded and warm, requests gathered into batches and batches split again.

mod streamed;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tandem_core::scheduler::{Served, Setup};
use tandem_core::{Command, DeviceError, Ticket};
use tandem_ir::plan::{BoundDim, Plan, Route, Tenant};
use tandem_ir::{Graph, Nanos, Time};
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;

use super::drive::Store;
use super::feed::{self, Gatherer, Part};
use super::work::{Source, Work};
use super::{RunError, RunnerOptions};
use crate::device::cuda::streamed::{Fault, device_error};
use crate::device::threaded::Execute;
use crate::engine::{Engine, EngineError};
use crate::rows::RowsError;
use crate::sample;

/// A request's inputs, in the order of the graph's.
pub type Inputs = Arc<Vec<Value>>;

/// Where the batch is in a tenant's values: the axis, and rows of it an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAxis {
    /// Position of the axis.
    pub axis: usize,
    /// Its size for one item.
    pub per_item: u64,
}

/// The values of all batches in flight.
pub struct Works {
    routes: Vec<Arc<Loaded>>,
    /// Bytes copied on the host to gather and to split.
    copied: Arc<AtomicU64>,
}

/// A loaded route, as served.
struct Loaded {
    work: Work,
    /// By input of the graph.
    input_axes: Vec<Option<RowAxis>>,
    /// By output of the graph.
    output_axes: Vec<Option<RowAxis>>,
    rings: Vec<Mutex<Ring>>,
    copied: Arc<AtomicU64>,
}

/// What a set of buffers holds beside the values that steps make.
#[derive(Default)]
struct Ring {
    /// Requests of the batch in the order of their rows, until those were gathered: items, inputs.
    members: Vec<(u32, Inputs)>,
    gathered: bool,
    gatherers: Vec<Gatherer>,
    /// The batch's outputs, once a request asked for them.
    outputs: Option<Arc<Outputs>>,
}

/// What a batch made.
type Outputs = Result<Vec<Value>, String>;

/// The outputs of one request, split off its batch when they are read.
pub struct Rows {
    batch: Arc<Outputs>,
    of: Arc<Loaded>,
    inputs: Inputs,
    first: u64,
    count: u64,
    is_first: bool,
}

impl Rows {
    /// Whether no other request of the batch was answered before.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// The graph's outputs in its order, of this request's rows.
    ///
    /// # Errors
    /// What a batch made has not the shape that its route states.
    pub fn values(&self) -> Result<Vec<Value>, String> {
        let batch = self.batch.as_ref().as_ref().map_err(Clone::clone)?;
        let value = |(i, made): (usize, &Value)| match (self.of.work.source(i), self.of.output_axes[i]) {
            (Source::Input(place), _) => Ok(self.inputs[*place].clone()),
            (Source::Constant(_), _) | (Source::Made(_), None) => Ok(made.clone()),
            (Source::Made(_), Some(RowAxis { axis, per_item })) => {
                let split = feed::split(made, axis, self.first * per_item, self.count * per_item);
                let (value, copied) = split.map_err(|e: RowsError| format!("output {i}: {e}"))?;
                self.of.copied.fetch_add(copied, Ordering::Relaxed);
                Ok(value)
            }
        };
        batch.iter().enumerate().map(value).collect()
    }
}

impl Loaded {
    fn ring(&self, ring: usize) -> MutexGuard<'_, Ring> {
        self.rings[ring].lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Puts the batch's inputs where its steps read them, once.
    fn gather(&self, ring: usize) -> Result<(), Fault> {
        self.gather_inputs(ring).map_err(|error| {
            let source = EngineError::Failed { engine: "driver".into(), why: error.to_string() };
            ("the batch's inputs".to_owned(), source)
        })
    }

    fn gather_inputs(&self, ring: usize) -> Result<(), RunError> {
        let mut state = self.ring(ring);
        if state.gathered {
            return Ok(());
        }
        state.gathered = true;
        let Ring { members, gatherers, .. } = &mut *state;
        let batch = self.work.route.batch;
        for place in 0..self.input_axes.len() {
            if !self.work.reads(place) {
                continue;
            }
            let value = match self.input_axes[place] {
                // The same for all: requests that could differ in it never share a batch.
                None => members[0].1[place].clone(),
                Some(RowAxis { axis, per_item }) => {
                    let expected = |items: u32| u64::from(items) * per_item;
                    let parts: Vec<Part<'_>> = members.iter().map(|(n, of)| (expected(*n), &of[place])).collect();
                    let gathered = gatherers[place].gather(&parts, axis, batch * per_item);
                    let (value, copied) = gathered.map_err(|e| self.work.input_error(place, &e.to_string()))?;
                    self.copied.fetch_add(copied, Ordering::Relaxed);
                    value
                }
            };
            self.work.put_input(ring, place, value)?;
        }
        Ok(())
    }
}

impl Works {
    /// Loads every route of a setup that was made of this plan, with as many sets of memories as it may have batches in
    /// flight; models are the tenants' in their order.
    ///
    /// # Errors
    /// As [`super::RouteRunner::prepare`]; with the tenant and batch it is about.
    pub fn load(
        plan: &Plan,
        setup: &Setup,
        models: &[&Model],
        engines: &[Arc<dyn Engine>],
        options: &RunnerOptions,
        mut loaded: impl FnMut(&Route, &[String]),
    ) -> Result<Self, (String, Box<RunError>)> {
        let copied = Arc::new(AtomicU64::new(0));
        let tenants: Vec<&Tenant> = plan.authored.tenants().collect();
        let mut routes = vec![];
        for route in &setup.routes {
            let about = |error| (format!("tenant \"{}\" at batch {}", route.tenant, route.batch), Box::new(error));
            let of = tenants.iter().position(|t| t.name == route.tenant).unwrap_or(0);
            let rings = setup.rings(route);
            let work = Work::load(route.clone(), models[of], &plan.derived.machine, engines, options, rings);
            let work = work.map_err(about)?;
            loaded(route, &work.notes);
            let graph = &models[of].graph;
            let others: Vec<&Route> =
                setup.routes.iter().filter(|r| r.tenant == route.tenant).map(Arc::as_ref).collect();
            let inputs = graph.inputs.len();
            let ring = || {
                Mutex::new(Ring {
                    gatherers: (0..inputs).map(|_| Gatherer::default()).collect(),
                    members: Vec::with_capacity(route.batch as usize),
                    ..Ring::default()
                })
            };
            routes.push(Arc::new(Loaded {
                input_axes: input_axes(tenants[of], graph),
                output_axes: output_axes(&others, graph),
                rings: (0..rings).map(|_| ring()).collect(),
                copied: copied.clone(),
                work,
            }));
        }
        Ok(Self { routes, copied })
    }

    /// What computes on each device of the machine for a route, by position.
    pub fn devices(&self, route: usize) -> &[String] {
        &self.routes[route].work.devices
    }

    /// Bytes copied so far: to gather requests into batches and to split batches, and by copy steps between memories. What
    /// engines copy themselves is not among them.
    pub fn bytes_copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed) + self.routes.iter().map(|r| r.work.bytes_copied()).sum::<u64>()
    }

    /// Where the batch is in each input and each output of a route's tenant.
    pub fn axes(&self, route: usize) -> (&[Option<RowAxis>], &[Option<RowAxis>]) {
        (&self.routes[route].input_axes, &self.routes[route].output_axes)
    }

    /// Runs a route once on made-up inputs, its steps one after another on this thread, and says how long each took.
    /// Engines put off much until their first run.
    ///
    /// # Errors
    /// Inputs that cannot be made up; what the first step that failed says.
    pub fn warm_up(&self, route: usize, graph: &Graph, seed: u64) -> Result<Vec<Nanos>, (String, String)> {
        let Loaded { work, .. } = self.routes[route].as_ref();
        let shape = |t: &tandem_ir::TensorId| {
            let tensor = graph.tensor(*t);
            Some((tensor.name.clone(), tensor.fact.dims_at(work.route.batch)?))
        };
        let dims: BTreeMap<_, _> = graph.inputs.iter().filter_map(shape).collect();
        let inputs = sample::random_inputs(graph, &dims, seed).map_err(|e| ("made-up inputs".into(), e.to_string()))?;
        work.put_inputs(0, &inputs).map_err(|e| ("inputs".to_owned(), e.to_string()))?;
        let mut took = vec![];
        for step in 0..work.route.steps.len() {
            let begin = Instant::now();
            work.execute(0, step).map_err(|(place, error)| (place, error.to_string()))?;
            took.push(Nanos(begin.elapsed().as_nanos() as u64));
        }
        work.clear(0);
        Ok(took)
    }
}

/// The axes that the tenant's author gave the batch.
fn input_axes(tenant: &Tenant, graph: &Graph) -> Vec<Option<RowAxis>> {
    let axis = |id: &tandem_ir::TensorId| {
        let dims = tenant.shapes.get(&graph.tensor(*id).name)?;
        dims.iter().enumerate().find_map(|(axis, dim)| match dim {
            BoundDim::Batch(per_item) => Some(RowAxis { axis, per_item: *per_item }),
            BoundDim::Fixed(_) => None,
        })
    };
    graph.inputs.iter().map(axis).collect()
}

/// The axes of outputs that grow with the batch: as the graph says, else as routes at different batches show. Of one
/// route alone, the first axis where it is a multiple of the batch.
pub(crate) fn output_axes(routes: &[&Route], graph: &Graph) -> Vec<Option<RowAxis>> {
    let axis = |id: &tandem_ir::TensorId| {
        let tensor = graph.tensor(*id);
        if let Some(axis) = tensor.fact.batch_axis() {
            let per_item = tensor.fact.dims_at(1)?[axis];
            return Some(RowAxis { axis, per_item });
        }
        let stated = |r: &&Route| {
            let value = r.tensors.iter().find(|t| t.name == tensor.name)?;
            Some((r.batch, value.dims.clone()?))
        };
        let shapes: Vec<(u64, Vec<u64>)> = routes.iter().filter_map(stated).collect();
        let (batch, dims) = shapes.iter().max_by_key(|(batch, _)| *batch).filter(|(batch, _)| *batch > 1)?;
        let grows =
            |axis: &usize| shapes.iter().all(|(b, d)| d.get(*axis).is_some_and(|n| n * batch == dims[*axis] * b));
        let axis = (0..dims.len()).find(grows)?;
        (dims[axis] % batch == 0).then(|| RowAxis { axis, per_item: dims[axis] / batch })
    };
    graph.outputs.iter().map(axis).collect()
}

impl Store for Works {
    type Inputs = Inputs;
    type Outputs = Rows;

    fn form<'a>(&self, ticket: Ticket, members: impl Iterator<Item = (u32, u32, &'a Inputs)>) {
        let mut ring = self.routes[ticket.route as usize].ring(ticket.ring as usize);
        ring.members.clear();
        ring.members.extend(members.map(|(_, rows, inputs)| (rows, inputs.clone())));
        ring.gathered = false;
    }

    fn outputs(&self, served: &Served, rows: u32, inputs: Inputs) -> Rows {
        let of = &self.routes[served.ticket.route as usize];
        let mut ring = of.ring(served.ticket.ring as usize);
        let is_first = ring.outputs.is_none();
        let batch = ring.outputs.get_or_insert_with(|| {
            Arc::new(of.work.outputs(served.ticket.ring as usize, &inputs).map_err(|e| e.to_string()))
        });
        let batch = batch.clone();
        Rows { batch, of: of.clone(), inputs, first: u64::from(served.row), count: u64::from(rows), is_first }
    }

    fn retire(&self, ticket: Ticket) {
        let of = &self.routes[ticket.route as usize];
        let mut ring = of.ring(ticket.ring as usize);
        ring.outputs = None;
        ring.members.clear();
        of.work.clear(ticket.ring as usize);
    }
}

impl Execute for Works {
    fn execute(&self, command: &Command, _ready: Time) -> Result<(), DeviceError> {
        let Ticket { route, ring, step, .. } = command.ticket;
        let (of, ring) = (&self.routes[route as usize], ring as usize);
        let failed = |fault| device_error(of.work.device_of(step as usize), fault);
        of.gather(ring).map_err(failed)?;
        of.work.execute(ring, step as usize).map_err(failed)
    }
}
