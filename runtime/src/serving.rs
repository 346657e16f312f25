//! A plan, served: what the server asks of whoever executes requests, answered by the driver.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use tandem_core::scheduler::{Event, Refusal as Why, Served, Setup, SetupError};
use tandem_ir::plan::{BoundDim, Plan, Policy, Tenant};
use tandem_ir::{Dim, Graph, Kind, Nanos};
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};

use crate::device::threaded::Clock;
use crate::driver::devices::devices;
use crate::driver::drive::{Answer, Ask, Asked, Driver, DriverError};
use crate::driver::works::{RowAxis, Rows, Works, output_axes};
use crate::driver::{RunError, RunnerOptions};
use crate::engine::Engine;
use crate::limits::WARM_UP_RUNS;
use crate::server::{
    Backend, BatchStats, Cancels, Counted, Failure, FailureKind, Permit, Phases, Places, Refusal, RefusalReason, Reply,
    ReplyTo, Request, RequestHandle, TenantSpec, TenantStats, TensorSpec,
};

/// A plan cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServingError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("{place}: {source}")]
    Load { place: String, source: Box<RunError> },
    #[error("the first run of tenant \"{tenant}\" at batch {batch}: {place}: {why}")]
    WarmUp { tenant: String, batch: u64, place: String, why: String },
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("tenant \"{tenant}\": {which} \"{name}\" is no tensor of a known element type, which a server needs")]
    NoTensor { tenant: String, which: &'static str, name: String },
}

/// A served plan. It answers at once, and is ready once [`Serving::load`] has returned.
pub struct Serving {
    setup: Setup,
    tenants: Vec<TenantSpec>,
    driver: OnceLock<Arc<Driver<Works>>>,
    places: Arc<Held>,
    stats: Vec<Arc<Mutex<Stats>>>,
    draining: AtomicBool,
}

/// Places that were given and not used yet, by tenant.
struct Held(Vec<AtomicUsize>);

impl Places for Held {
    fn free(&self, tenant: usize) {
        self.0[tenant].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Cancels requests of a driver.
struct Canceller(Arc<Driver<Works>>);

impl Cancels for Canceller {
    fn cancel(&self, request: u64) {
        if self.0.is_sound() {
            self.0.cancel(Asked::of_number(request));
        }
    }
}

/// What a tenant's requests and batches came to.
#[derive(Default)]
struct Stats {
    told: TenantStats,
}

fn add(counted: &mut Counted, took: Nanos) {
    counted.count += 1;
    counted.ns = counted.ns.saturating_add(took.0);
}

impl Stats {
    fn served(&mut self, served: &Served, rows: u32, first_of_batch: bool) {
        let told = &mut self.told;
        add(&mut told.success, served.queued + served.executed);
        add(&mut told.queue, served.queued);
        let [up, calc, down] = served.phases;
        add(&mut told.upload, up);
        add(&mut told.compute, calc);
        add(&mut told.download, down);
        told.inference_count += u64::from(rows);
        if !first_of_batch {
            return;
        }
        told.execution_count += 1;
        let batch = u64::from(served.batch_rows);
        let place = told.batches.binary_search_by_key(&batch, |b| b.batch).unwrap_or_else(|place| {
            told.batches.insert(place, BatchStats { batch, ..BatchStats::default() });
            place
        });
        let of = &mut told.batches[place];
        add(&mut of.upload, up);
        add(&mut of.compute, calc);
        add(&mut of.download, down);
    }
}

impl Serving {
    /// What a plan's tenants look like to clients; models are the tenants' in their order. Nothing is loaded yet.
    ///
    /// # Errors
    /// More of something than the core allows, a tenant without routes, inputs or outputs that are no tensors.
    pub fn new(plan: &Plan, models: &[&Model]) -> Result<Self, ServingError> {
        let setup = Setup::of(plan)?;
        let tenants = plan.authored.tenants().zip(models).enumerate();
        let policy = &plan.authored.serving.policy;
        let tenants = tenants.map(|(t, (tenant, model))| tenant_spec(&setup, t, tenant, &model.graph, policy));
        let tenants = tenants.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            places: Arc::new(Held(tenants.iter().map(|_| AtomicUsize::new(0)).collect())),
            stats: tenants.iter().map(|_| Arc::default()).collect(),
            driver: OnceLock::new(),
            draining: AtomicBool::new(false),
            setup,
            tenants,
        })
    }

    /// Loads and warms every route, then starts. `told` hears of each route that is ready.
    ///
    /// # Errors
    /// A route that cannot be loaded or run, with its tenant and batch; a thread that cannot be started.
    pub fn load(
        &self,
        plan: &Plan,
        models: &[&Model],
        engines: &[Arc<dyn Engine>],
        options: &RunnerOptions,
        mut told: impl FnMut(&str),
    ) -> Result<(), ServingError> {
        let works = Works::load(plan, &self.setup, models, engines, options, |route, notes| {
            told(&format!("loaded {} at batch {}", route.tenant, route.batch));
            notes.iter().for_each(|note| told(&format!("note: {note}")));
        });
        let works = Arc::new(works.map_err(|(place, source)| ServingError::Load { place, source })?);
        let of_tenant: Vec<&str> = plan.authored.tenants().map(|t| t.name.as_str()).collect();
        let mut measured = vec![];
        for (r, route) in self.setup.routes.iter().enumerate() {
            let model = models[of_tenant.iter().position(|t| *t == route.tenant).unwrap_or(0)];
            let mut took = vec![];
            for run in 0..WARM_UP_RUNS {
                let ran = works.warm_up(r, &model.graph, run);
                took = ran.map_err(|(place, why)| {
                    let (tenant, batch) = (route.tenant.clone(), route.batch);
                    ServingError::WarmUp { tenant, batch, place, why }
                })?;
            }
            told(&format!("warm: {} at batch {}", route.tenant, route.batch));
            measured.push(took);
        }
        let clock = Clock::start();
        let devices = devices(&self.setup, &plan.derived.machine, &works, clock).map_err(DriverError::Thread)?;
        let driver = Driver::start(&self.setup, works, devices, clock)?;
        measured.iter().enumerate().for_each(|(route, took)| driver.observe(route, took));
        let _ = self.driver.set(Arc::new(driver));
        Ok(())
    }

    /// The driver, once it is loaded.
    pub fn driver(&self) -> Option<&Arc<Driver<Works>>> {
        self.driver.get()
    }

    /// The driver, while it works.
    fn sound(&self) -> Option<&Arc<Driver<Works>>> {
        self.driver().filter(|driver| driver.is_sound())
    }

    fn stats_of(&self, tenant: usize) -> MutexGuard<'_, Stats> {
        locked(&self.stats[tenant])
    }
}

fn locked(stats: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn tenant_spec(
    setup: &Setup,
    position: usize,
    tenant: &Tenant,
    graph: &Graph,
    policy: &Policy,
) -> Result<TenantSpec, ServingError> {
    let routes: Vec<_> = setup.groups[position].routes.iter().map(|r| setup.routes[*r].as_ref()).collect();
    let no_tensor =
        |which, name: &str| ServingError::NoTensor { tenant: tenant.name.clone(), which, name: name.to_owned() };
    let mut inputs = vec![];
    for id in &graph.inputs {
        let of = graph.tensor(*id);
        let dtype = of.fact.dtype.filter(|_| of.fact.kind == Kind::Tensor);
        let dims = match tenant.shapes.get(&of.name) {
            Some(bound) => bound.iter().map(bound_dim).collect(),
            None => of.fact.shape.clone().unwrap_or_else(|| vec![Dim::Unknown]),
        };
        let dtype = dtype.ok_or_else(|| no_tensor("input", &of.name))?;
        inputs.push(TensorSpec { name: of.name.clone(), dtype, dims });
    }
    let mut outputs = vec![];
    for (id, axis) in graph.outputs.iter().zip(output_axes(&routes, graph)) {
        let of = graph.tensor(*id);
        let stated = routes.iter().find_map(|r| r.tensors.iter().find(|t| t.name == of.name).map(|t| (r.batch, t)));
        let dtype = of.fact.dtype.or(stated.and_then(|(_, t)| t.dtype)).filter(|_| of.fact.kind == Kind::Tensor);
        let dtype = dtype.ok_or_else(|| no_tensor("output", &of.name))?;
        let at = stated.and_then(|(_, t)| t.dims.clone()).or_else(|| of.fact.dims_at(1));
        let size = |(i, n): (usize, u64)| match axis {
            Some(RowAxis { axis, per_item }) if axis == i => Dim::Batch { per_item },
            _ => Dim::Known(n),
        };
        let dims = at.map_or_else(|| vec![Dim::Unknown], |dims| dims.into_iter().enumerate().map(size).collect());
        outputs.push(TensorSpec { name: of.name.clone(), dtype, dims });
    }
    let largest = routes.iter().map(|r| r.batch).max().unwrap_or(1);
    let has_rows = inputs.iter().any(|i| i.dims.iter().any(|d| matches!(d, Dim::Batch { .. })));
    let (preferred, delay) = match policy {
        Policy::Fixed { preferred, queue_delay } => (preferred.clone(), *queue_delay),
        Policy::AdtSerial | Policy::AdtSlide | Policy::AdtFlow => (vec![], Nanos::ZERO),
    };
    Ok(TenantSpec {
        name: tenant.name.clone(),
        inputs,
        outputs,
        rows_max: if has_rows { largest } else { 1 },
        preferred,
        queue_delay: Duration::from_nanos(delay.0),
    })
}

fn bound_dim(dim: &BoundDim) -> Dim {
    match dim {
        BoundDim::Fixed(n) => Dim::Known(*n),
        BoundDim::Batch(per_item) => Dim::Batch { per_item: *per_item },
    }
}

impl Backend for Serving {
    fn tenants(&self) -> &[TenantSpec] {
        &self.tenants
    }

    fn is_live(&self) -> bool {
        self.driver().is_none_or(|driver| driver.is_sound())
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.sound().is_some_and(|d| d.is_whole())
    }

    fn is_tenant_ready(&self, tenant: usize) -> bool {
        !self.draining.load(Ordering::Acquire) && self.sound().is_some_and(|d| d.stand(tenant).is_usable)
    }

    fn admit(&self, tenant: usize) -> Result<Permit, Refusal> {
        let refused = |reason| Err(Refusal { reason, retry_after: None });
        let Some(driver) = self.sound() else { return refused(RefusalReason::Unavailable) };
        let held = self.places.0[tenant].fetch_add(1, Ordering::SeqCst) + 1;
        // From here on the place is given back whatever comes.
        let permit = Permit::new(tenant, self.places.clone());
        // Only now: whoever drains looks for places after it has said so.
        if self.draining.load(Ordering::SeqCst) {
            return refused(RefusalReason::Draining);
        }
        match driver.refusal(tenant, 1).and_then(reason) {
            Some(reason) => refused(reason),
            None => {
                let full = driver.stand(tenant).waiting + held > self.setup.groups[tenant].queue_max;
                if full { refused(RefusalReason::Full) } else { Ok(permit) }
            }
        }
    }

    fn submit(&self, permit: Permit, request: Request, reply: ReplyTo) -> RequestHandle {
        let tenant = permit.tenant();
        let driver = self.driver().expect("a permit is given only once there is a driver");
        let stats = self.stats[tenant].clone();
        locked(&stats).told.last_inference = Some(SystemTime::now());
        let rows = request.rows as u32;
        let answer = move |answer: Answer<Rows>| reply(told(answer, rows, &stats));
        let ask = Ask {
            tenant,
            rows,
            timeout: request.timeout.map(|t| Nanos(u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))),
            inputs: Arc::new(request.inputs.into_iter().map(Value::Tensor).collect()),
            answer: Box::new(answer),
        };
        let asked = driver.ask(ask);
        drop(permit);
        RequestHandle::new(asked.number(), Arc::new(Canceller(driver.clone())))
    }

    fn stats(&self, tenant: usize) -> TenantStats {
        self.stats_of(tenant).told.clone()
    }

    fn drain(&self) {
        // Permits that are out are honoured: the scheduler refuses nothing yet.
        self.draining.store(true, Ordering::SeqCst);
    }

    fn is_drained(&self) -> bool {
        let none_out = self.places.0.iter().all(|held| held.load(Ordering::SeqCst) == 0);
        if none_out && let Some(driver) = self.sound() {
            driver.tell(Event::Drain);
            return driver.is_idle();
        }
        none_out
    }
}

/// Why a request is refused, as clients are told; `None` where the request itself is wrong.
fn reason(why: Why) -> Option<RefusalReason> {
    match why {
        Why::Full => Some(RefusalReason::Full),
        Why::Late => Some(RefusalReason::Late),
        Why::Draining => Some(RefusalReason::Draining),
        Why::Unavailable => Some(RefusalReason::Unavailable),
        Why::Rows => None,
    }
}

/// The reply that an answer makes, counted.
fn told(answer: Answer<Rows>, rows: u32, stats: &Mutex<Stats>) -> Reply {
    let fail = |kind, message: String| Err(Failure { kind, message });
    let mut phases = Phases::default();
    let mut latency = Nanos::ZERO;
    let result = match answer {
        Answer::Done(of, served) => {
            let duration = |n: Nanos| Duration::from_nanos(n.0);
            let [upload, compute, download] = served.phases.map(duration);
            phases = Phases { queue: duration(served.queued), upload, compute, download };
            latency = served.queued + served.executed;
            match of.values().and_then(tensors) {
                Ok(tensors) => {
                    locked(stats).served(&served, rows, of.is_first());
                    Ok(tensors)
                }
                Err(why) => fail(FailureKind::Failed, why),
            }
        }
        Answer::Refused(why) => match reason(why) {
            Some(reason) => fail(FailureKind::Refused(reason), reason.to_string()),
            None => fail(FailureKind::Invalid, "it has no rows, or more than the largest batch".into()),
        },
        Answer::Failed(error) => fail(FailureKind::Failed, error.to_string()),
        Answer::Cancelled => fail(FailureKind::Cancelled, "cancelled".into()),
        Answer::Expired => fail(FailureKind::Expired, "it waited for longer than its timeout".into()),
        Answer::Unavailable => fail(FailureKind::Unavailable, "no device is left to run it".into()),
    };
    if result.is_err() {
        add(&mut locked(stats).told.fail, latency);
    }
    Reply { result, phases }
}

fn tensors(values: Vec<Value>) -> Result<Vec<TensorValue>, String> {
    let tensor = |value: Value| match value {
        Value::Tensor(tensor) => Ok(tensor),
        _ => Err("an output is no tensor".to_owned()),
    };
    values.into_iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_late_is_told_what_it_would_have_been_before() {
        for (why, kind) in [
            (Why::Full, FailureKind::Refused(RefusalReason::Full)),
            (Why::Late, FailureKind::Refused(RefusalReason::Late)),
            (Why::Draining, FailureKind::Refused(RefusalReason::Draining)),
            (Why::Unavailable, FailureKind::Refused(RefusalReason::Unavailable)),
            (Why::Rows, FailureKind::Invalid),
        ] {
            let stats = Mutex::default();
            let failure = told(Answer::Refused(why), 1, &stats).result.expect_err("it is refused");
            assert_eq!((failure.kind, locked(&stats).told.fail.count), (kind, 1));
        }
    }
}
