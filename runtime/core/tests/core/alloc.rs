//! Once tables have their size, nothing is taken from the heap between the arrival of a request and its reply: neither by
//! the scheduler nor by the timing emulator.

use tandem_core::device::{Device, DeviceSpec};
use tandem_core::rng::Rng;
use tandem_core::scheduler::{Action, Arrival, Event, Setup};
use tandem_core::sim::synthetic;
use tandem_core::{EmulatedDevice, EmulationOptions, Scheduler};
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

use crate::counting::{Count, by_this_thread};
use crate::stage::{MS, Tenant, at_once, ms, route, setup};

/// Requests at random moments, some with little patience, some with much, some taken back.
struct World {
    scheduler: Scheduler,
    device: EmulatedDevice,
    rng: Rng,
    now: Time,
    next: Time,
    gap: u64,
    groups: u64,
    /// Numbers of requests that are free.
    free: Vec<u32>,
    replies: u64,
    refused: u64,
}

/// Requests that may be unanswered at once.
const NUMBERS: u32 = 4096;

impl World {
    fn new(setup: &Setup, gap: Nanos) -> Self {
        let spec = DeviceSpec {
            name: "emulated".into(),
            kind: DeviceKind::Gpu,
            lanes: setup.queues().map(|q| q.name.clone()).collect(),
            memory: Bytes(u64::MAX),
            engine: "timing emulator".into(),
        };
        let options = EmulationOptions { jitter_permille: 100, seed: 1, faults: vec![] };
        Self {
            scheduler: Scheduler::new(setup, Time::ZERO).expect("a sound setup"),
            device: EmulatedDevice::new(spec, options),
            rng: Rng::new(7),
            now: Time::ZERO,
            next: Time::ZERO,
            gap: gap.0,
            groups: setup.groups.len() as u64,
            free: (0..NUMBERS).collect(),
            replies: 0,
            refused: 0,
        }
    }

    /// Goes on until so many requests have arrived.
    fn run(&mut self, arrivals: u32) {
        let mut left = arrivals;
        while left > 0 {
            let timeout = self.scheduler.poll_timeout();
            let known = [self.device.next_wakeup(), timeout, Some(self.next)];
            self.now = known.into_iter().flatten().min().expect("the next arrival").max(self.now);
            while let Some(completion) = self.device.poll(self.now) {
                self.handle(Event::Ended(completion));
            }
            if self.next <= self.now {
                self.arrive();
                left -= 1;
            }
            if self.scheduler.poll_timeout().is_some_and(|at| at <= self.now) {
                self.handle(Event::Tick);
            }
        }
    }

    fn arrive(&mut self) {
        self.next = self.now + Nanos(self.rng.below(2 * self.gap));
        let request = self.free.pop().expect("as many numbers as may be unanswered");
        let timeout = match self.rng.below(4) {
            0 => None,
            1 => Some(Nanos(self.rng.below(20) * MS)),
            _ => Some(ms(86_400_000)),
        };
        let group = self.rng.below(self.groups) as usize;
        self.handle(Event::Arrive(Arrival { request, group, rows: 1, timeout }));
        if self.rng.below(20) == 0 {
            let somebody = self.rng.below(u64::from(NUMBERS)) as u32;
            self.handle(Event::Cancel(somebody));
        }
    }

    fn handle(&mut self, event: Event) {
        self.scheduler.handle(self.now, event);
        while let Some(action) = self.scheduler.poll_action() {
            match action {
                Action::Submit(command) => self.device.submit(self.now, command).expect("the device has all queues"),
                Action::Reply { request, .. } => {
                    self.replies += 1;
                    self.free.push(request);
                }
                Action::Refuse { request, .. } => {
                    self.refused += 1;
                    self.free.push(request);
                }
                Action::Form(ticket) => assert!(self.scheduler.members(ticket).count() > 0),
                Action::Retire(_) => {}
            }
        }
    }
}

fn tenants() -> Setup {
    let lane = |lane, n| synthetic::chain("t", n, &[("cpu>gpu0", Nanos(60_000 * n)), (lane, Nanos(500_000 * n))]);
    let shared = |batch: u64| Route { share_permille: u64::from(batch == 8) * 1000, ..lane("gpu0", batch) };
    let both =
        |batch: u64| route("both", batch, &[("cpu", 1), ("cpu>gpu0", 1), ("gpu0", 2), ("gpu0>cpu", 1), ("cpu", 2)]);
    let host = |batch: u64| Route { lanes: 2, ..route("host", batch, &[("cpu", 3)]) };
    let several = [1, 2, 4, 8].map(shared).to_vec();
    let tenants = vec![
        Tenant::new("a", Policy::AdtFlow, several.clone()).slo(50),
        Tenant::new("b", Policy::AdtSlide, several.clone()),
        Tenant::new("c", Policy::AdtSerial, several).slo(100),
        Tenant::new("d", at_once(), vec![both(4)]),
        Tenant::new("e", at_once(), vec![host(2)]),
    ];
    setup(4, tenants.into_iter().map(|t| t.queue_max(500)).collect())
}

#[test]
fn nothing_is_allocated_between_arrival_and_reply() {
    // At leisure, about as much as it carries, and more than that.
    for gap in [4_000_000, 700_000, 200_000] {
        let mut world = World::new(&tenants(), Nanos(gap));
        world.run(50_000);
        let (replies, refused) = (world.replies, world.refused);
        let ((), count) = by_this_thread(|| world.run(50_000));
        assert_eq!(count, Count::default(), "with {gap} ns between requests");
        assert!(
            world.replies - replies > 20_000 && (gap > 500_000 || world.refused > refused),
            "{gap} {}",
            world.refused
        );
    }
}
