//! The driver: the scheduler, in real time, on real devices.
//!
//! There is no thread of its own that everything has to pass through. Whoever has news (a request, an ended command, a
//! moment that has come) takes the state, lets the scheduler decide, and carries out what it decided; who finds it taken
//! leaves a note, and the one who has it looks again before it is done. So a command that ends is followed by the next
//! one without a hand-over between threads. Replies go out after the state was given back. Who waits for its request
//! ([`Driver::run`]) executes its commands on its own thread.
//!
//! The driver moves numbers, not tensors: what a batch's values are and where they lie is its [`Store`]'s business.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;

use tandem_core::limits::REQUESTS_MAX;
use tandem_core::scheduler::{Action, Arrival, Event, Outcome, Refusal, Scheduler, Served, Setup, SetupError, Stand};
use tandem_core::{Device, DeviceError, Help, Ticket};
use tandem_ir::{Nanos, Time};

use crate::device::threaded::Clock;

/// Holds the values of requests and of batches in flight, in sets of buffers that tickets name.
pub trait Store: Send + Sync + 'static {
    /// A request's inputs, kept until it is answered. Cheap to clone.
    type Inputs: Clone + Send;
    /// A request's outputs.
    type Outputs: Send;

    /// A batch was formed from these requests: their first rows, their numbers of rows, their inputs. Called under the
    /// driver's lock: gathering is for whoever executes the batch's first command.
    fn form<'a>(&self, ticket: Ticket, members: impl Iterator<Item = (u32, u32, &'a Self::Inputs)>);

    /// The outputs of one request of a batch that is over. Called under the driver's lock: splitting is for whoever reads
    /// them.
    fn outputs(&self, served: &Served, rows: u32, inputs: Self::Inputs) -> Self::Outputs;

    /// The batch's buffers are free.
    fn retire(&self, ticket: Ticket);
}

/// How a request went.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<O> {
    /// Its outputs, and what it took.
    Done(O, Served),
    /// Not let in.
    Refused(Refusal),
    /// It failed, for the last time.
    Failed(DeviceError),
    /// It was cancelled.
    Cancelled,
    /// It waited longer than its sender does.
    Expired,
    /// No route of its tenant had all its devices for too long.
    Unavailable,
}

/// Takes the answer, exactly once, on any thread. Must not block, nor call the driver.
pub type AnswerTo<O> = Box<dyn FnOnce(Answer<O>) + Send>;

/// A request on its way in.
pub struct Ask<S: Store> {
    /// Tenant, by position.
    pub tenant: usize,
    /// Items in it.
    pub rows: u32,
    /// How long its sender waits.
    pub timeout: Option<Nanos>,
    /// Its inputs.
    pub inputs: S::Inputs,
    /// Takes its answer.
    pub answer: AnswerTo<S::Outputs>,
}

/// Names a request that was asked, also after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    request: u32,
    use_of: u64,
}

impl Asked {
    /// As one number, which no other request of the driver has.
    pub fn number(&self) -> u64 {
        self.use_of << REQUEST_BITS | u64::from(self.request)
    }

    /// The request of a number.
    pub fn of_number(number: u64) -> Self {
        Self { request: (number & ((1 << REQUEST_BITS) - 1)) as u32, use_of: number >> REQUEST_BITS }
    }
}

/// Bits of a request's place; the core's bound of requests leaves the others to count uses.
const REQUEST_BITS: u32 = (REQUESTS_MAX as u64).ilog2() + 1;

/// A driver cannot be started.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DriverError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("no device has the lane \"{0}\"")]
    NoLane(String),
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Requests in, answers out.
pub struct Driver<S: Store> {
    shared: Arc<Shared<S>>,
    timer: Option<JoinHandle<()>>,
}

struct Shared<S: Store> {
    clock: Clock,
    store: Arc<S>,
    state: Mutex<State<S>>,
    /// Somebody has news for whoever has the state.
    news: AtomicBool,
    alarm: Mutex<Alarm>,
    rung: Condvar,
    ended: AtomicBool,
    /// By device: where its commands are executed by threads, how others may.
    helps: Vec<Option<Arc<dyn Help>>>,
    /// By route.
    tenant_of: Vec<usize>,
}

/// When the timer wakes.
struct Alarm {
    at: Time,
    stop: bool,
}

struct State<S: Store> {
    scheduler: Scheduler,
    devices: Vec<Box<dyn Device + Send>>,
    /// By queue of the setup: device and lane there.
    queue_to: Vec<(usize, usize)>,
    /// By device, by its lane: queue.
    queue_of: Vec<Vec<usize>>,
    requests: Vec<Option<Request<S>>>,
    free: Vec<u32>,
    uses: u64,
    outbox: Outbox<S>,
    /// Boxes to be used again.
    spare: Vec<Outbox<S>>,
    events: VecDeque<Event>,
}

type Outbox<S> = Vec<(AnswerTo<<S as Store>::Outputs>, Answer<<S as Store>::Outputs>)>;

struct Request<S: Store> {
    inputs: S::Inputs,
    rows: u32,
    answer: AnswerTo<S::Outputs>,
    use_of: u64,
}

impl<S: Store> Driver<S> {
    /// Starts on devices that have, together, a lane for each queue of the setup, by name.
    ///
    /// # Errors
    /// The setup is not sound, a lane is missing, a thread cannot be started.
    pub fn start(
        setup: &Setup,
        store: Arc<S>,
        devices: Vec<Box<dyn Device + Send>>,
        clock: Clock,
    ) -> Result<Self, DriverError> {
        let mut queue_of: Vec<Vec<usize>> = devices.iter().map(|d| vec![usize::MAX; d.spec().lanes.len()]).collect();
        let mut queue_to = vec![];
        for (queue, lane) in setup.queues().enumerate() {
            let named = devices.iter().enumerate().flat_map(|(d, device)| {
                device.spec().lanes.iter().enumerate().filter(|(_, name)| **name == lane.name).map(move |(l, _)| (d, l))
            });
            let free = named.into_iter().find(|(d, l)| queue_of[*d][*l] == usize::MAX);
            let (device, lane) = free.ok_or_else(|| DriverError::NoLane(lane.name.clone()))?;
            queue_of[device][lane] = queue;
            queue_to.push((device, lane));
        }
        let helps = devices.iter().map(|d| d.help()).collect();
        let state = State {
            scheduler: Scheduler::new(setup, clock.now())?,
            devices,
            queue_to,
            queue_of,
            requests: vec![],
            free: vec![],
            uses: 0,
            outbox: vec![],
            spare: vec![],
            events: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            clock,
            store,
            state: Mutex::new(state),
            news: AtomicBool::new(false),
            alarm: Mutex::new(Alarm { at: Time(u64::MAX), stop: false }),
            rung: Condvar::new(),
            ended: AtomicBool::new(false),
            helps,
            tenant_of: setup.group_of(),
        });
        // Weak: a device must not keep its driver alive.
        let weak = Arc::downgrade(&shared);
        for (at, device) in shared.locked().devices.iter_mut().enumerate() {
            let weak = weak.clone();
            device.set_waker(Arc::new(move || {
                if let Some(shared) = weak.upgrade() {
                    shared.turn(shared.helps[at].as_deref());
                }
            }));
        }
        let keeper = shared.clone();
        let timer = std::thread::Builder::new().name("timer".into()).spawn(move || keeper.keep_time())?;
        Ok(Self { shared, timer: Some(timer) })
    }

    /// Asks for a request to be run. Its answer may be there before this returns.
    pub fn ask(&self, ask: Ask<S>) -> Asked {
        self.shared.change(None, |state, now, store| state.enter(now, ask, store))
    }

    /// Runs a request: waits for its answer, however long that takes, and lends this thread to its tenant's commands
    /// meanwhile. So a request that nothing else runs beside goes from here to its answer on this thread.
    pub fn run(&self, tenant: usize, rows: u32, inputs: S::Inputs) -> Answer<S::Outputs>
    where
        S::Outputs: 'static,
    {
        let shared = &self.shared;
        let (tell, told) = sync_channel(1);
        let answer = Box::new(move |answer| {
            // It is waited for below, whatever happens.
            let _ = tell.send(answer);
        });
        // One device alone: others would count on a thread that executes something elsewhere.
        let help = shared.helps.iter().flatten().next().map(Arc::as_ref);
        help.inspect(|help| help.come());
        let ask = Ask { tenant, rows, timeout: None, inputs, answer };
        shared.change(help, |state, now, store| state.enter(now, ask, store));
        let mine = |ticket: &Ticket| shared.tenant_of[ticket.route as usize] == tenant;
        let early = loop {
            match told.try_recv() {
                Err(TryRecvError::Empty) if help.is_some_and(|help| help.help(&mine)) => {}
                early => break early,
            }
        };
        help.inspect(|help| help.leave());
        early.or_else(|_| told.recv()).unwrap_or(Answer::Unavailable)
    }

    /// Takes a request back; nothing happens where it has its answer.
    pub fn cancel(&self, asked: Asked) {
        self.shared.change(None, |state, now, store| {
            let current = state.requests.get(asked.request as usize).and_then(Option::as_ref);
            if current.is_some_and(|r| r.use_of == asked.use_of) {
                state.handle(now, Event::Cancel(asked.request), store);
            }
        });
    }

    /// Tells of something that happened outside: a device lost or back, the end of requests.
    pub fn tell(&self, event: Event) {
        self.shared.change(None, |state, now, store| state.handle(now, event, store));
    }

    /// Learns what the steps of a route took in a run outside: its first ones.
    pub fn observe(&self, route: usize, took: &[Nanos]) {
        self.shared.look(|state| state.scheduler.observe(route, took));
    }

    /// Why a request of so many items would be refused now.
    pub fn refusal(&self, tenant: usize, rows: u32) -> Option<Refusal> {
        self.shared.look(|state| state.scheduler.refusal(tenant, rows))
    }

    /// How a tenant stands.
    pub fn stand(&self, tenant: usize) -> Stand {
        self.shared.look(|state| state.scheduler.stand(tenant))
    }

    /// Whether every device is there and nothing hangs.
    pub fn is_whole(&self) -> bool {
        self.shared.look(|state| state.scheduler.is_whole())
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.shared.look(|state| state.scheduler.is_idle())
    }

    /// Whether it still works: no thread panicked while it had the state. Once one has, everything else here panics.
    pub fn is_sound(&self) -> bool {
        !self.shared.state.is_poisoned()
    }

    /// What holds the values.
    pub fn store(&self) -> &Arc<S> {
        &self.shared.store
    }
}

impl<S: Store> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.alarm().stop = true;
        self.shared.rung.notify_all();
        if let Some(timer) = self.timer.take() {
            // A thread that panicked has nothing to say any more.
            let _ = timer.join();
        }
        // Of a state that a thread panicked with, nothing but what is to be given up is used.
        let state = || self.shared.state.lock().unwrap_or_else(|poison| poison.into_inner());
        // Devices wait for their threads, which may be about to take the state.
        let devices = std::mem::take(&mut state().devices);
        drop(devices);
        let requests = std::mem::take(&mut state().requests);
        requests.into_iter().flatten().for_each(|r| (r.answer)(Answer::Unavailable));
    }
}

/// The scheduler panics only over contradictions, after which nothing can be relied on: the panic goes on.
const SOUND: &str = "no thread panicked while it had the driver's state";

impl<S: Store> Shared<S> {
    /// Whoever takes the state looks for news after it: who had some may have found it taken.
    fn locked(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().expect(SOUND)
    }

    /// Looks at the state.
    fn look<T>(&self, at: impl FnOnce(&mut State<S>) -> T) -> T {
        let seen = at(&mut self.locked());
        self.turn_if_news(None);
        seen
    }

    /// Takes in something, and carries out what follows. `helps`, here and below: what the calling thread helps.
    fn change<T>(&self, helps: Option<&dyn Help>, by: impl FnOnce(&mut State<S>, Time, &S) -> T) -> T {
        let mut state = self.locked();
        let changed = by(&mut state, self.clock.now(), &self.store);
        self.give_back(state, helps);
        self.turn_if_news(helps);
        changed
    }

    fn alarm(&self) -> MutexGuard<'_, Alarm> {
        self.alarm.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Takes in news and carries out what follows, unless somebody is at it, who then does.
    fn turn(&self, helps: Option<&dyn Help>) {
        self.news.store(true, Ordering::SeqCst);
        self.turn_if_news(helps);
    }

    fn turn_if_news(&self, helps: Option<&dyn Help>) {
        while self.news.load(Ordering::SeqCst) {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                // Who has the state looks for news after it has given it back.
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(_)) => panic!("{SOUND}"),
            };
            // Only now: whoever ends takes the devices, and what follows would be for them.
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            self.news.store(false, Ordering::SeqCst);
            state.take_in(&self.clock, &self.store);
            self.give_back(state, helps);
        }
    }

    /// Sets the alarm, gives the state back, and sends the answers. There may be news afterwards.
    fn give_back(&self, mut state: MutexGuard<'_, State<S>>, helps: Option<&dyn Help>) {
        if let Some(at) = state.scheduler.poll_timeout() {
            let mut alarm = self.alarm();
            if at < alarm.at {
                alarm.at = at;
                self.rung.notify_one();
            }
        }
        if state.outbox.is_empty() {
            return;
        }
        let empty = state.spare.pop().unwrap_or_default();
        let mut outbox = std::mem::replace(&mut state.outbox, empty);
        drop(state);
        // Nobody is to count on this thread for commands meanwhile.
        helps.inspect(|help| help.leave());
        outbox.drain(..).for_each(|(to, answer)| to(answer));
        helps.inspect(|help| help.come());
        self.locked().spare.push(outbox);
    }

    /// The timer: takes turns when the scheduler wants one though nothing happens.
    fn keep_time(&self) {
        let mut alarm = self.alarm();
        while !alarm.stop {
            let left = self.clock.until(alarm.at);
            if !left.is_zero() {
                alarm = match alarm.at {
                    Time(u64::MAX) => self.rung.wait(alarm).unwrap_or_else(|poison| poison.into_inner()),
                    _ => self.rung.wait_timeout(alarm, left).unwrap_or_else(|poison| poison.into_inner()).0,
                };
                continue;
            }
            alarm.at = Time(u64::MAX);
            drop(alarm);
            self.turn(None);
            alarm = self.alarm();
        }
    }
}

impl<S: Store> State<S> {
    fn enter(&mut self, now: Time, ask: Ask<S>, store: &S) -> Asked {
        let Ask { tenant, rows, timeout, inputs, answer } = ask;
        let request = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            (self.requests.len() - 1) as u32
        });
        self.uses += 1;
        let use_of = self.uses;
        self.requests[request as usize] = Some(Request { inputs, rows, answer, use_of });
        self.handle(now, Event::Arrive(Arrival { request, group: tenant, rows, timeout }), store);
        Asked { request, use_of }
    }

    /// Everything that has ended, and the time.
    fn take_in(&mut self, clock: &Clock, store: &S) {
        for device in 0..self.devices.len() {
            while let Some(mut completion) = self.devices[device].poll(clock.now()) {
                completion.lane = self.queue_of[device][completion.lane];
                self.handle(clock.now(), Event::Ended(completion), store);
            }
        }
        let now = clock.now();
        if self.scheduler.poll_timeout().is_some_and(|at| at <= now) {
            self.handle(now, Event::Tick, store);
        }
    }

    fn handle(&mut self, now: Time, event: Event, store: &S) {
        self.scheduler.handle(now, event);
        loop {
            while let Some(action) = self.scheduler.poll_action() {
                self.act(now, action, store);
            }
            // What a device did not accept has ended.
            let Some(event) = self.events.pop_front() else { break };
            self.scheduler.handle(now, event);
        }
    }

    fn act(&mut self, now: Time, action: Action, store: &S) {
        match action {
            Action::Form(ticket) => {
                let requests = &self.requests;
                let inputs = |request: u32| &requests[request as usize].as_ref().expect("it has no answer yet").inputs;
                store.form(ticket, self.scheduler.members(ticket).map(|(id, row, rows)| (row, rows, inputs(id))));
            }
            Action::Submit(mut command) => {
                let queue = command.lane;
                let (device, lane) = self.queue_to[queue];
                command.lane = lane;
                let ticket = command.ticket;
                if let Err(error) = self.devices[device].submit(now, command) {
                    let ended =
                        tandem_core::Completion { ticket, lane: queue, start: now, end: now, result: Err(error) };
                    self.events.push_back(Event::Ended(ended));
                }
            }
            Action::Reply { request, outcome } => {
                let of = self.leave(request);
                let answer = match outcome {
                    Outcome::Done(served) => Answer::Done(store.outputs(&served, of.rows, of.inputs), served),
                    Outcome::Failed(error) => Answer::Failed(error),
                    Outcome::Cancelled => Answer::Cancelled,
                    Outcome::Expired => Answer::Expired,
                    Outcome::Unavailable => Answer::Unavailable,
                };
                self.outbox.push((of.answer, answer));
            }
            Action::Refuse { request, why } => {
                let of = self.leave(request);
                self.outbox.push((of.answer, Answer::Refused(why)));
            }
            Action::Retire(ticket) => store.retire(ticket),
        }
    }

    fn leave(&mut self, request: u32) -> Request<S> {
        self.free.push(request);
        self.requests[request as usize].take().expect("a request is answered once")
    }
}
