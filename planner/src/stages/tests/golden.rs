//! The golden cases of the systems dossier, section 5.7, in units of 0.1 (times 100 ns).

use tandem_ir::units::Nanos;

use super::{processor, rules, tenant};
use crate::stages::problem::StageProblem;
use crate::stages::{Found, block_level, exhaustive, model_level, search, single};

fn chain(switch: u64) -> StageProblem {
    let tenant = tenant("A", &[20, 40, 100, 30, 10, 60], &[30, 10, 20, 10, 40, 10], switch, &[]);
    StageProblem::new(vec![processor("cpu"), processor("gpu")], &[tenant], rules(0, 4)).expect("sound")
}

pub(super) fn pair(stages_max: usize) -> StageProblem {
    let a = tenant("A", &[40, 30, 60, 20], &[10, 20, 15, 10], 5, &[2, 4]);
    let b = tenant("B", &[20, 20, 30, 50], &[15, 20, 20, 10], 5, &[2, 4]);
    StageProblem::new(vec![processor("cpu"), processor("gpu")], &[a, b], rules(2, stages_max)).expect("sound")
}

fn found(problem: &StageProblem) -> Found {
    search(problem, 1, 64, 4000).expect("it runs")
}

#[test]
fn one_chain() {
    for (switch, makespan) in [(15, 120), (5, 95)] {
        let problem = chain(switch);
        assert_eq!(exhaustive(&problem).expect("tiny").makespan, Nanos(makespan));
        assert_eq!(found(&problem).makespan, Nanos(makespan));
    }
    assert_eq!(single(&chain(15), 1).expect("it runs").makespan, Nanos(120));
    let text = found(&chain(5)).schedule.to_text(&chain(5));
    assert_eq!(text, "tandem stages 1\nA: cpu 1 | gpu 4 | cpu 5 | gpu 6\n");
}

#[test]
fn two_tenants() {
    let one = pair(1);
    assert_eq!(single(&one, 1).expect("it runs").makespan, Nanos(122));
    assert_eq!(single(&one, 0).expect("it runs").makespan, Nanos(272));
    assert_eq!(model_level(&one).expect("it runs").makespan, Nanos(122));
    assert_eq!(exhaustive(&one).expect("tiny").makespan, Nanos(122));
    for stages in [2, 3] {
        let problem = pair(stages);
        assert_eq!(exhaustive(&problem).expect("tiny").makespan, Nanos(84));
        assert_eq!(found(&problem).makespan, Nanos(84));
        let (blocks, positions) = problem.of_blocks().expect("blocks fit");
        assert_eq!(positions, [[0, 2, 4], [0, 2, 4]]);
        assert_eq!(exhaustive(&blocks).expect("tiny").makespan, Nanos(94));
        assert_eq!(block_level(&problem, 1, 64, 4000).expect("it runs").makespan, Nanos(94));
    }
    let text = found(&pair(2)).schedule.to_text(&pair(2));
    assert_eq!(text, "tandem stages 1\nA: gpu 3 | cpu 4\nB: cpu 2 | gpu 4\n");
}
