//! Stage search against enumeration, golden cases, laws.

mod golden;
mod laws;
mod twin;

use tandem_ir::units::{Bytes, Nanos};

use super::problem::{
    Cost, Operator, Processor, Rules, Semantics, StageProblem, TenantDraft, TenantProblem, fixed_switch,
};
use super::schedule::{Schedule, Segment};
use crate::testing::{self, Rng, Shape};

fn processor(name: &str) -> Processor {
    let (launch, cut_loss, memory) = (Nanos::ZERO, Nanos::ZERO, Bytes(u64::MAX));
    Processor { name: name.into(), launch, cut_loss, memory, chi_permille: vec![] }
}

/// A tenant whose operators take this on the CPU and the GPU, each all of it.
fn tenant(name: &str, cpu: &[u64], gpu: &[u64], switch: u64, block_ends: &[usize]) -> TenantDraft {
    let cost = |t: &u64| Some(Cost { time: Nanos(*t), occupancy_permille: 1000 });
    let one = |(c, g): (&u64, &u64)| Operator { cost: vec![cost(c), cost(g)], ..Operator::default() };
    TenantDraft {
        name: name.into(),
        operators: cpu.iter().zip(gpu).map(one).collect(),
        crossing: fixed_switch(cpu.len(), 2, Nanos(switch)),
        block_ends: block_ends.to_vec(),
        live: Bytes::ZERO,
    }
}

fn rules(sync: u64, stages_max: usize) -> Rules {
    Rules { sync: Nanos(sync), stages_max, semantics: Semantics::Barrier }
}

/// What random problems have.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    tenants: usize,
    operators_max: u64,
    stages_max: usize,
    semantics: Semantics,
}

/// A random problem: occupancies, launches, slowdowns, copies to and from the host, blocks, operators that run on one
/// processor only, memory that may bind.
fn random_problem(sizes: Sizes, seed: u64) -> StageProblem {
    let mut rng = Rng::new(seed ^ 0x57A6E);
    let mut processors = vec![processor("cpu"), processor("gpu")];
    for p in &mut processors {
        p.launch = Nanos(rng.below(2) * rng.below(6));
        p.cut_loss = Nanos(rng.below(2) * rng.below(4));
        p.chi_permille = [vec![], vec![0, 100, 250], vec![50]][rng.below(3) as usize].clone();
    }
    let full = rng.one_in(2);
    let drafts: Vec<TenantDraft> =
        (0..sizes.tenants).map(|t| random_tenant(&mut rng, t, sizes.operators_max, full)).collect();
    if rng.one_in(6) {
        let all: u64 = drafts.iter().map(|d| d.live.0 + d.operators.iter().map(|o| o.weights.0).sum::<u64>()).sum();
        processors[1].memory = Bytes(all * (4 + rng.below(8)) / 10);
    }
    let rules = Rules { semantics: sizes.semantics, ..rules(rng.below(6), sizes.stages_max) };
    StageProblem::new(processors, &drafts, rules).expect("random problems follow the rules")
}

fn random_tenant(rng: &mut Rng, t: usize, operators_max: u64, full: bool) -> TenantDraft {
    let n = (3 + rng.below(operators_max - 2)) as usize;
    let cost = |rng: &mut Rng, slow: u64| Cost {
        time: Nanos(1 + rng.below(40 * slow)),
        occupancy_permille: if full { 1000 } else { 200 + rng.below(801) },
    };
    let mut operators = vec![];
    for o in 0..n {
        // The host runs everything, so that there is a schedule within any memory.
        let gpu = cost(rng, 1);
        let cost = vec![Some(cost(rng, 2)), (!rng.one_in(15)).then_some(gpu)];
        let copies = |at: bool, rng: &mut Rng| vec![Nanos::ZERO, Nanos(if at { rng.below(10) } else { 0 })];
        let (upload, download) = (copies(o == 0, rng), copies(o + 1 == n, rng));
        operators.push(Operator { cost, upload, download, weights: Bytes(rng.below(100)) });
    }
    let mut crossing = fixed_switch(n, 2, Nanos(rng.below(15)));
    if rng.one_in(2) {
        let vary = |(i, c): (usize, &mut Option<Nanos>)| {
            *c = c.filter(|_| i % 4 != 0 && i % 4 != 3).map(|_| Nanos(rng.below(20)))
        };
        crossing.iter_mut().enumerate().for_each(vary);
    }
    let mut block_ends: Vec<usize> = (1..n).filter(|_| rng.one_in(2)).collect();
    block_ends.push(n);
    TenantDraft { name: format!("t{t}"), operators, crossing, block_ends, live: Bytes(rng.below(100)) }
}

/// A random schedule in shape; not all of them can run.
fn random_schedule(problem: &StageProblem, rng: &mut Rng) -> Schedule {
    let stages = 1 + rng.below(problem.rules().stages_max as u64) as usize;
    let row = |t: usize, rng: &mut Rng| {
        let n = problem.tenants()[t].operators() as u64;
        let mut ends: Vec<u32> = (1..stages).map(|_| rng.below(n + 1) as u32).collect();
        ends.push(n as u32);
        ends.sort_unstable();
        let count = problem.processors().len() as u64;
        ends.into_iter().map(|end| Segment { end, processor: rng.below(count) as u8 }).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<Segment>> = (0..problem.tenants().len()).map(|t| row(t, rng)).collect();
    Schedule::new(&rows).expect("rows are as long as each other")
}

/// Random problems of the planner as tenants of one machine: the first one's devices and links.
fn random_tenants(tenants: u64, atoms: usize, devices: usize, seed: u64) -> Vec<crate::Problem> {
    let shape = Shape { atoms, devices, ..Shape::default() };
    let first = testing::random_problem_of(shape, seed);
    let other = |i: u64| {
        let own = testing::random_problem_of(shape, seed + 1000 * i);
        let links = first.links.iter().map(|l| l.link.clone()).collect();
        crate::Problem::new(first.devices.clone(), links, own.atoms, own.values).expect("sound")
    };
    (0..tenants).map(other).collect()
}

fn of(problems: &[crate::Problem], rules: Rules) -> StageProblem {
    let names: Vec<String> = (0..problems.len()).map(|i| format!("t{i}")).collect();
    let tenants: Vec<TenantProblem<'_>> =
        names.iter().zip(problems).map(|(name, problem)| TenantProblem { name, problem }).collect();
    StageProblem::of(&tenants, rules).expect("sound")
}
