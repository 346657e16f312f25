//! The driver on the timing emulator in wall time: whose rows are whose, and one answer each, whatever goes wrong.

mod emulated;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use emulated::{Moment, lane_of, row, setup, setup_up_to, spec, start, start_on};
use tandem_core::Ticket;
use tandem_core::scheduler::{Event, Served};
use tandem_core::sim::synthetic;
use tandem_ir::Nanos;
use tandem_ir::plan::Policy;
use tandem_runtime::device::threaded::{Clock, Threaded};
use tandem_runtime::device::timed::{Timed, TimedRows};
use tandem_runtime::driver::drive::{Answer, Ask, Driver, Store};

type Told = (u64, Answer<TimedRows>);

fn ask(driver: &Driver<Timed>, tenant: usize, request: u64, inputs: Arc<Vec<u8>>, tell: &Sender<Told>) {
    let tell = tell.clone();
    let answer = Box::new(move |answer| tell.send((request, answer)).expect("the test listens"));
    driver.ask(Ask { tenant, rows: 1, timeout: None, inputs, answer });
}

/// Checks that each of these requests has exactly one answer, with its own row; returns how many were served by a batch.
fn check_all(answers: &Receiver<Told>, requests: u64) {
    let mut seen = vec![false; requests as usize];
    for _ in 0..requests {
        let (request, answer) = answers.recv().expect("the driver answers");
        assert!(!std::mem::replace(&mut seen[request as usize], true), "request {request} is answered twice");
        let Answer::Done(rows, _) = answer else { panic!("request {request}: {answer:?}") };
        assert_eq!(rows.bytes(), row(request).as_slice(), "request {request} got another's row");
    }
}

#[test]
fn every_request_gets_its_own_row_once() {
    for policy in [
        Policy::AdtSerial,
        Policy::AdtSlide,
        Policy::AdtFlow,
        Policy::Fixed { preferred: vec![4], queue_delay: Nanos(200_000) },
    ] {
        let (driver, _) = start(&setup(policy));
        let (tell, answers) = channel();
        for request in 0..2_000 {
            ask(&driver, 0, request, row(request), &tell);
        }
        check_all(&answers, 2_000);
        driver.tell(Event::Drain);
        assert!(driver.is_idle());
    }
}

#[test]
fn who_waits_gets_its_own_row_too() {
    for policy in [Policy::AdtFlow, Policy::Fixed { preferred: vec![4], queue_delay: Nanos(200_000) }] {
        let (driver, _) = start(&setup(policy));
        let (tell, answers) = channel();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let driver = &driver;
                scope.spawn(move || {
                    for request in (thread..2_000).step_by(4) {
                        let Answer::Done(rows, _) = driver.run(0, 1, row(request)) else { panic!("request {request}") };
                        assert_eq!(rows.bytes(), row(request).as_slice());
                    }
                });
            }
            // And beside them, requests that nobody waits with.
            (0..1_000).for_each(|request| ask(&driver, 0, request, row(request), &tell));
        });
        check_all(&answers, 1_000);
        driver.tell(Event::Drain);
        assert!(driver.is_idle());
        assert_eq!(driver.stand(0).counters.done, 3_000);
    }
}

#[test]
fn a_device_lost_in_the_middle_loses_and_doubles_nothing() {
    // Two ways: over the accelerator, and on the host alone.
    let mut setup = setup(Policy::AdtFlow);
    let mut host = synthetic::chain("synthetic", 8, &[("cpu", Nanos(5_000))]);
    host.share_permille = 100;
    setup.routes.push(Arc::new(host));
    setup.groups[0].routes.push(setup.routes.len() - 1);
    let (driver, away) = start(&setup);
    let (tell, answers) = channel();
    let requests = 10_000;
    let mut returned = 0;
    for request in 0..requests {
        match request {
            3_000 | 6_000 => away.is_away.store(true, Ordering::SeqCst),
            4_500 | 7_500 => {
                // A device is back once nothing of before is on its lanes.
                while driver.is_whole() || !away.is_empty() {
                    std::thread::yield_now();
                }
                away.is_away.store(false, Ordering::SeqCst);
                driver.tell(Event::DeviceBack(1));
            }
            _ => {}
        }
        ask(&driver, 0, request, row(request), &tell);
        returned = driver.stand(0).counters.returned;
    }
    check_all(&answers, requests);
    assert!(returned > 0, "nothing was on the device when it was lost");
    assert_eq!(driver.stand(0).counters.done, requests);
    assert!(driver.is_idle());
}

#[test]
fn cancelled_requests_are_answered_once_too() {
    let (driver, _) = start(&setup(Policy::AdtFlow));
    let (tell, answers) = channel();
    let mut asked = vec![];
    for request in 0..3_000u64 {
        let tell = tell.clone();
        let answer = Box::new(move |answer| tell.send((request, answer)).expect("the test listens"));
        asked.push(driver.ask(Ask { tenant: 0, rows: 1, timeout: None, inputs: row(request), answer }));
        if request % 3 == 0 {
            driver.cancel(asked[request as usize / 2]);
        }
    }
    let mut seen = vec![false; 3_000];
    for _ in 0..3_000 {
        let (request, answer) = answers.recv().expect("the driver answers");
        assert!(!std::mem::replace(&mut seen[request as usize], true), "request {request} is answered twice");
        match answer {
            Answer::Done(rows, _) => assert_eq!(rows.bytes(), row(request).as_slice()),
            Answer::Cancelled => {}
            other => panic!("request {request}: {other:?}"),
        }
    }
}

#[test]
fn what_is_left_when_the_driver_goes_is_answered() {
    let (driver, _) = start(&setup(Policy::Fixed { preferred: vec![], queue_delay: Nanos(u64::MAX) }));
    let (tell, answers) = channel();
    (0..3).for_each(|request| ask(&driver, 0, request, row(request), &tell));
    drop(driver);
    let all: Vec<Told> = answers.try_iter().collect();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(_, answer)| matches!(answer, Answer::Unavailable)), "{all:?}");
}

#[test]
fn who_only_looks_keeps_no_news_to_itself() {
    let (driver, _) = start(&setup(Policy::AdtFlow));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = (driver.is_whole(), driver.stand(0), driver.refusal(0, 1), driver.is_idle());
                }
            });
        }
        // One at a time: nothing else happens that could make up for a completion that nobody has taken in.
        for request in 0..5_000 {
            let Answer::Done(rows, _) = driver.run(0, 1, row(request)) else { panic!("request {request}") };
            assert_eq!(rows.bytes(), row(request).as_slice());
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn who_helps_on_one_device_holds_up_no_other() {
    let setup = setup_up_to(1, Policy::AdtFlow);
    for accelerator in [0, 1] {
        let computes = Arc::new(Moment::default());
        let (tell, uploaded, first) = (computes.clone(), Moment::default(), AtomicU64::new(u64::MAX));
        let driver = start_on(
            &setup,
            2,
            |lane| if lane == "gpu0" { accelerator } else { 1 - accelerator },
            Box::new(move |command| {
                // The first batch computes until another one was uploaded.
                let (batch, of) = (command.ticket.batch, first.load(Ordering::SeqCst));
                match lane_of(command) {
                    "gpu0" if of == u64::MAX => {
                        first.store(batch, Ordering::SeqCst);
                        tell.tell();
                        uploaded.wait();
                    }
                    "cpu>gpu0" if of != u64::MAX => uploaded.tell(),
                    _ => {}
                }
                Ok(())
            }),
        );
        let (tell, answers) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(driver.run(0, 1, row(0)), Answer::Done(..))));
            computes.wait();
            ask(&driver, 0, 0, row(0), &tell);
        });
        check_all(&answers, 1);
    }
}

#[test]
fn who_answers_holds_up_no_other_command() {
    let mut setup = setup_up_to(1, Policy::AdtFlow);
    setup.routes = vec![Arc::new(synthetic::chain("synthetic", 1, &[("cpu", Nanos(1_000))]))];
    let (driver, _) = start(&setup);
    let (answering, (tell, answers)) = (Arc::new(Moment::default()), channel());
    let begun = answering.clone();
    // Longer than an answer should take: until another request has its own.
    let answer = Box::new(move |_| {
        begun.tell();
        check_all(&answers, 1);
    });
    driver.ask(Ask { tenant: 0, rows: 1, timeout: None, inputs: row(7), answer });
    answering.wait();
    ask(&driver, 0, 0, row(0), &tell);
    while !driver.is_idle() {
        std::thread::yield_now();
    }
}

/// Panics where the driver has its state.
struct Broken(Arc<Timed>);

impl Store for Broken {
    type Inputs = Arc<Vec<u8>>;
    type Outputs = TimedRows;

    fn form<'a>(&self, _: Ticket, _: impl Iterator<Item = (u32, u32, &'a Self::Inputs)>) {
        // Without a message on stderr, which would look like a failure.
        resume_unwind(Box::new("as told"))
    }

    fn outputs(&self, served: &Served, rows: u32, inputs: Self::Inputs) -> TimedRows {
        self.0.outputs(served, rows, inputs)
    }

    fn retire(&self, _: Ticket) {}
}

#[test]
fn a_driver_whose_state_is_broken_says_so_and_answers_at_its_end() {
    let (setup, clock) = (setup(Policy::AdtFlow), Clock::start());
    let timed = Arc::new(Timed::new(&setup, clock));
    let lanes = setup.queues().map(|queue| queue.name.clone()).collect();
    let device = Threaded::start(spec(lanes), timed.clone(), clock, 1).expect("a thread starts");
    let driver = Driver::start(&setup, Arc::new(Broken(timed)), vec![Box::new(device)], clock).expect("it starts");
    assert!(driver.is_sound());
    let (tell, answers) = channel();
    let answer = Box::new(move |answer| tell.send(answer).expect("the test listens"));
    let asked = AssertUnwindSafe(|| driver.ask(Ask { tenant: 0, rows: 1, timeout: None, inputs: row(0), answer }));
    assert!(catch_unwind(asked).is_err());
    assert!(!driver.is_sound());
    drop(driver);
    let all: Vec<Answer<TimedRows>> = answers.iter().collect();
    assert!(matches!(all[..], [Answer::Unavailable]), "{all:?}");
}
