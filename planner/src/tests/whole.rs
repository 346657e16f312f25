//! From a graph to a plan and back.

use tandem_ir::plan::Objective;

use crate::plan::{self, RebuildInput};
use crate::testing::{self, Shape};

fn graph(seed: u64) -> tandem_ir::Graph {
    let shape = Shape { atoms: 24, bytes: 2_000_000, ..Shape::default() };
    testing::graph_of(&testing::random_problem_of(shape, seed))
}

#[test]
fn a_plan_is_rebuilt_from_its_authored_part_alone() {
    for seed in 0..40 {
        let (graph, machine) = (graph(seed), testing::machine(4, true));
        let mut input = testing::input(&graph, &machine);
        input.batches = vec![1, 2, 4];
        input.objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        let (plan, reports) = plan::plan(&input).expect("feasible");
        let again = plan::rebuild(
            &plan.authored,
            &RebuildInput {
                graphs: &[&graph],
                machine: &machine,
                profile: None,
                profile_fingerprint: input.profile_fingerprint,
                tandem: &input.tandem,
                reports: &reports,
            },
        );
        assert_eq!(again.as_ref(), Ok(&plan.derived), "seed {seed}");
        assert!(plan.derived.routes.iter().any(|r| r.share_permille == 1000));
        assert!(plan.derived.routes.iter().all(|r| r.prediction.lower_bound <= r.prediction.makespan));
    }
}
