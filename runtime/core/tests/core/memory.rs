use tandem_core::memory::{MemoryError, Span, excess, peak};
use tandem_core::{EmulationOptions, emulate};
use tandem_ir::plan::{Action, Route};
use tandem_ir::{Bytes, Time};

use crate::routes::{self, segment, step, tensor};

fn span(start: u64, end: u64) -> Span {
    Span { start: Time(start), end: Time(end) }
}

/// The peak when the steps run one at a time in the order of the list: a floor of what steps side by side may need.
pub fn peak_in_order(route: &Route) -> Result<Vec<Bytes>, MemoryError> {
    let spans: Vec<Span> = (0..route.steps.len() as u64).map(|n| span(2 * n, 2 * n + 1)).collect();
    peak(route, &spans)
}

#[test]
fn a_chain_holds_what_it_must() {
    let route = routes::there_and_back();
    // Host: input + mid + workspace while the first segment runs. GPU: mid + out + workspace.
    assert_eq!(peak_in_order(&route).unwrap(), [Bytes(100 + 40 + 1000), Bytes(40 + 7 + 5)]);
}

#[test]
fn steps_side_by_side_need_more_than_one_by_one() {
    let segments = vec![segment(0, &[], &[0], 10), segment(0, &[], &[1], 20)];
    let steps = vec![step(0, Action::Run(0), 5, &[], &[(0, 0)]), step(1, Action::Run(1), 5, &[], &[])];
    let route = routes::route(2, vec![tensor("a", 1), tensor("b", 2)], segments, steps);
    assert_eq!(peak_in_order(&route).unwrap()[0], Bytes(22));
    assert_eq!(peak(&route, &[span(0, 5), span(0, 5)]).unwrap()[0], Bytes(33));
    assert_eq!(peak(&route, &[span(0, 5), span(5, 9)]).unwrap()[0], Bytes(22), "what ends makes room for what starts");
    let e = emulate(&route, &EmulationOptions::default()).unwrap();
    assert_eq!(e.peak[0], Bytes(33));
    assert_eq!(e.excess.len(), 1);
    assert_eq!((e.excess[0].device, e.excess[0].planned, e.excess[0].found), (0, Bytes(0), Bytes(33)));
    assert_eq!(e.excess[0].to_string(), "device 0: at most 0 bytes alive as planned, 33 found");
    assert_eq!(excess(&route, &[Bytes(0), Bytes(0)]), []);
}

#[test]
fn wrong_uses_are_named() {
    let spans = [span(0, 50), span(50, 70), span(70, 100), span(100, 110)];
    let mut early = spans;
    early[1] = span(40, 60);
    let route = routes::there_and_back();
    let error = peak(&route, &early).unwrap_err().to_string();
    assert_eq!(error, "step 1 reads value \"mid\" on device 0, while it is being written");

    let mut route = routes::there_and_back();
    route.steps[0].frees = vec![(1, 0)];
    assert_eq!(
        peak(&route, &spans).unwrap_err().to_string(),
        "step 1 reads value \"mid\" on device 0, where it is not"
    );
    route.steps[1].frees = vec![(2, 1)];
    route.steps[0].frees = vec![];
    assert_eq!(
        peak(&route, &spans).unwrap_err().to_string(),
        "step 1 frees value \"out\" on device 1, where it is not"
    );

    let mut route = routes::there_and_back();
    route.segments[0].outputs = vec![0, 1];
    assert_eq!(
        peak_in_order(&route).unwrap_err().to_string(),
        "step 0 writes value \"in\" on device 0, where it is already"
    );
}

#[test]
fn steps_without_length_are_in_plan_order() {
    let mut route = routes::there_and_back();
    route.steps.iter_mut().for_each(|s| s.duration.0 = 0);
    let e = emulate(&route, &EmulationOptions::default()).unwrap();
    assert_eq!(e.peak, peak_in_order(&route).unwrap());
}

#[test]
fn enormous_sizes_saturate() {
    let segments = vec![segment(0, &[], &[0, 1], u64::MAX)];
    let steps = vec![step(0, Action::Run(0), 1, &[], &[])];
    let route = routes::route(1, vec![tensor("a", u64::MAX), tensor("b", u64::MAX)], segments, steps);
    assert_eq!(peak_in_order(&route).unwrap()[0], Bytes(u64::MAX));
}
