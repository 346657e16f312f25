//! The driver on the timing emulator in wall time: whose rows are whose, and one answer each, whatever goes wrong.

mod emulated;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use emulated::{row, setup, start};
use tandem_core::scheduler::Event;
use tandem_core::sim::synthetic;
use tandem_ir::Nanos;
use tandem_ir::plan::Policy;
use tandem_runtime::device::timed::{Timed, TimedRows};
use tandem_runtime::driver::drive::{Answer, Ask, Driver};

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
            3_000 | 6_000 => *away.is_away.lock().expect("nobody panics with it") = true,
            4_500 | 7_500 => {
                *away.is_away.lock().expect("nobody panics with it") = false;
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
