use super::*;
use crate::enumerate;
use crate::master::NODES_MAX;
use crate::problem::Value;
use crate::testing::{self, Rng, Shape};

/// A made-up problem at a batch: a part of each duration goes with the items, sizes all do.
fn at_batch(one: &Problem, batch: u64) -> Problem {
    let mut atoms = one.atoms.clone();
    for time in atoms.iter_mut().flat_map(|a| a.time.iter_mut().flatten()) {
        *time = Nanos(time.0 * (3 * batch + 2) / 5);
    }
    let value = |v: &Value| Value { bytes: v.bytes * batch, ..v.clone() };
    let links = one.links.iter().map(|l| l.link.clone()).collect();
    let mut problem =
        Problem::new(one.devices.clone(), links, atoms, one.values.iter().map(value).collect()).expect("sound");
    problem.batch = batch;
    problem
}

/// Tenants of a few atoms each at batches 1 and 2, on one machine.
fn points(tenants: usize, rng: &mut Rng) -> Vec<Point> {
    let mut points: Vec<Point> = vec![];
    for tenant in 0..tenants {
        let shape = Shape { atoms: 3 + rng.below(3) as usize, launch: 10, ..Shape::default() };
        let mut one = testing::random_problem_of(shape, rng.below(1 << 40));
        if let Some(first) = points.first() {
            let links = first.problem.links.iter().map(|l| l.link.clone()).collect();
            let (atoms, values) = (one.atoms.clone(), one.values.clone());
            one = Problem::new(first.problem.devices.clone(), links, atoms, values).expect("sound");
        }
        for batch in [1, 2] {
            let problem = at_batch(&one, batch);
            points.push(Point { tenant, floor: problem.clone(), problem });
        }
    }
    points
}

fn weights(point: &Point, segments: &Segments) -> Option<Vec<Bytes>> {
    let mut held = vec![Bytes(0); point.problem.devices.len()];
    for (atom, device) in point.problem.atoms.iter().zip(segments.devices()) {
        held[usize::from(device)] += atom.weights;
    }
    Some(held)
}

/// Every set of segments there is, as columns: what the choice makes of them is the best there is.
#[test]
fn what_is_generated_is_nearly_all_that_could_help() {
    let mut rng = Rng::new(23);
    let (mut gaps, mut bounds) = (vec![], vec![]);
    for case in 0..1050 {
        let tenants = 2 + rng.below(2) as usize;
        let points = points(tenants, &mut rng);
        let lanes = points[0].problem.lane_count();
        let slo = |rng: &mut Rng| (rng.below(3) == 0).then(|| Nanos(300 + rng.below(1500)));
        let terms: Vec<Terms> = (0..tenants).map(|_| Terms { slo: slo(&mut rng), ..Terms::default() }).collect();
        let master = Master {
            millirate: (0..tenants).map(|_| 500 + rng.below(2000)).collect(),
            instances: vec![1; lanes],
            memory: points[0].problem.devices.iter().map(|d| d.memory).collect(),
        };
        let mut found = Generator::new(&terms, &points, &master, &weights);
        let (_, bound) = found.run().expect("solved");
        let mut all = Generator::new(&terms, &points, &master, &weights);
        let every = |point: &Point| {
            let mut every = vec![];
            enumerate::segmentations(&point.problem, &mut |s| every.extend(search::judge(&point.problem, s)));
            every
        };
        all.take(points.iter().map(every).collect());
        let columns = |of: &[Generated]| of.iter().map(|g| g.column.clone()).collect::<Vec<_>>();
        let choose =
            |of: &[Column], nodes_max| master.choose(&of.iter().collect::<Vec<_>>(), 3, nodes_max).expect("solved");
        let all = columns(&all.generated);
        let Some(chosen) = choose(&all, NODES_MAX) else {
            assert!(
                found.generated.is_empty() || choose(&columns(&found.generated), NODES_MAX).is_none(),
                "case {case}"
            );
            continue;
        };
        // Where the choice among all is too large to be certain, what it cannot exceed.
        let certain = chosen.is_best.then_some(chosen.lambda);
        let best = certain.unwrap_or_else(|| master.fluid(&all.iter().collect::<Vec<_>>()).expect("solved").lambda);
        let ours = choose(&columns(&found.generated), NODES_MAX).map_or(0.0, |c| c.lambda);
        assert!(best * 1e6 <= bound as f64 * (1.0 + 1e-9), "case {case}: {best} is over the bound {bound}");
        assert!(ours <= best * (1.0 + 3e-6), "case {case}: {ours} is over the best, {best}");
        let is_single = |g: &&Generated| g.candidate.segments.len() == 1;
        let singles: Vec<Generated> = found.generated.iter().filter(is_single).cloned().collect();
        let simple = choose(&columns(&singles), NODES_MAX).map_or(0.0, |c| c.lambda);
        assert!(ours >= simple * (1.0 - 3e-6), "case {case}: whole models carry {simple}, we {ours}");
        gaps.push((best - ours) / best);
        bounds.push(bound as f64 / 1e6 / best - 1.0);
    }
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let worst = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    println!(
        "{} cases: search gap mean {:.3} %, worst {:.2} %; bound over the best mean {:.2} %, worst {:.1} %",
        gaps.len(),
        100.0 * mean(&gaps),
        100.0 * worst(&gaps),
        100.0 * mean(&bounds),
        100.0 * worst(&bounds)
    );
    assert!(gaps.len() >= 1000, "{} cases", gaps.len());
    assert!(mean(&gaps) <= 0.005 && worst(&gaps) <= 0.05, "{} and {}", mean(&gaps), worst(&gaps));
}
