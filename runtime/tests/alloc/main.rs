//! What the driver allocates, counted for the whole process: so nothing may run beside it, and there is no test harness.

#[path = "../../core/tests/support/counting.rs"]
mod counting;
#[allow(dead_code)]
#[path = "../driver/emulated.rs"]
mod emulated;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use emulated::{row, setup, start};
use tandem_ir::plan::Policy;
use tandem_runtime::device::timed::{Timed, TimedRows};
use tandem_runtime::driver::drive::{Answer, Ask, Driver};

/// Asks prepared requests one after the other, each once the one before is answered.
fn one_by_one(driver: &Driver<Timed>, asks: &mut Vec<Ask<Timed>>, answered: &AtomicUsize) {
    while let Some(ask) = asks.pop() {
        let before = answered.load(Ordering::Acquire);
        driver.ask(ask);
        while answered.load(Ordering::Acquire) == before {
            std::hint::spin_loop();
        }
    }
}

fn main() {
    nothing_is_allocated_between_a_request_and_its_answer();
    println!("nothing is allocated between a request and its answer: ok");
}

fn nothing_is_allocated_between_a_request_and_its_answer() {
    let (driver, _) = start(&setup(Policy::AdtFlow));
    let answered = Arc::new(AtomicUsize::new(0));
    let prepare = |count: u64| -> Vec<Ask<Timed>> {
        let one = |request: u64| {
            let answered = answered.clone();
            let answer = Box::new(move |answer: Answer<TimedRows>| {
                assert!(matches!(answer, Answer::Done(..)));
                answered.fetch_add(1, Ordering::AcqRel);
            });
            Ask { tenant: 0, rows: 1, timeout: None, inputs: row(request), answer }
        };
        (0..count).map(one).collect()
    };
    one_by_one(&driver, &mut prepare(500), &answered);
    let mut asks = prepare(2_000);
    let ((), counted) = counting::by_the_process(|| one_by_one(&driver, &mut asks, &answered));
    assert_eq!(counted.blocks, 0, "{counted:?}");
}
