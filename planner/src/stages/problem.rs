//! What is scheduled: processors, tenants as prefix tables over their operators, and the rules of a round.
//!
//! Integers only. A tenant's table answers in O(1) what a run of its operators takes on a processor; the crossing table
//! answers what a switch at a cut takes. The operators themselves are not kept.

use tandem_ir::units::{Bytes, Nanos};

use super::limits::{FULL, SPAN_MAX, STAGES_MAX, TENANTS_MAX};
use crate::problem::{DEVICES_MAX, HOST, Problem};

/// A processor and how those who meet on it share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its name in schedules: no blanks, `:` or `|`.
    pub name: String,
    /// Cost of launching a segment.
    pub launch: Nanos,
    /// What a segment loses that is not its tenant's whole model (fusion across the cut).
    pub cut_loss: Nanos,
    /// Memory for weights and live values.
    pub memory: Bytes,
    /// Slowdown by the number of tenants that meet on it in a stage, per mille: entry 0 is for a tenant alone; the last
    /// entry holds for more. Empty: none.
    pub chi_permille: Vec<u64>,
}

/// What an operator takes on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Alone.
    pub time: Nanos,
    /// The part of the processor it fills meanwhile: 1 to 1000; at 1000 nothing runs beside it.
    pub occupancy_permille: u64,
}

/// An operator, as it is handed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// By processor; `None` where it cannot run or must not.
    pub cost: Vec<Option<Cost>>,
    /// By processor: copies from the host of what the caller gives and this operator is the first to read. Empty: none.
    pub upload: Vec<Nanos>,
    /// By processor: copies to the host of what the caller gets from it. Empty: none.
    pub download: Vec<Nanos>,
    /// Constants it reads.
    pub weights: Bytes,
}

/// A tenant, as it is handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantDraft {
    /// Its name in schedules: no blanks, `:` or `|`.
    pub name: String,
    /// Its operators in a topological order.
    pub operators: Vec<Operator>,
    /// Duration of a switch from processor p to q at cut c (before operator c), at `(c * processors + p) * processors + q`,
    /// for c from 0 to the number of operators; `None` where there is no way. Each tensor counts once at a cut.
    pub crossing: Vec<Option<Nanos>>,
    /// Ends of its blocks, ascending, the last being the number of operators. Empty: one block.
    pub block_ends: Vec<usize>,
    /// Most bytes of values alive at once, counted in full on every processor the tenant uses.
    pub live: Bytes,
}

/// A crossing table where every switch takes the same.
pub fn fixed_switch(operators: usize, processors: usize, cost: Nanos) -> Vec<Option<Nanos>> {
    let one = |i: usize| if i / processors % processors == i % processors { Nanos::ZERO } else { cost };
    (0..(operators + 1) * processors * processors).map(|i| Some(one(i))).collect()
}

/// How a round is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Semantics {
    /// All tenants wait for each other at the end of a stage.
    Barrier,
    /// A segment starts when its data has arrived and its processor has room; stages only give the order.
    Event,
}

/// The rules of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Cost of a barrier, charged for every stage under [`Semantics::Barrier`].
    pub sync: Nanos,
    /// Most stages, 1 to [`STAGES_MAX`].
    pub stages_max: usize,
    /// What the makespan is that is searched for.
    pub semantics: Semantics,
}

/// A problem that breaks a rule, or has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum StageError {
    #[error("expected 1 to {max} processors, found {found}")]
    Processors { max: usize, found: usize },
    #[error("expected 1 to {max} tenants, found {found}")]
    Tenants { max: usize, found: usize },
    #[error("expected 1 to {max} stages, found {found}")]
    Stages { max: usize, found: usize },
    #[error("name \"{name}\": expected a name of its own without blanks, \":\" and \"|\"")]
    Name { name: String },
    #[error("tenant \"{tenant}\": expected {expected} {what}, found {found}")]
    Length { tenant: String, what: &'static str, expected: usize, found: usize },
    #[error("tenant \"{tenant}\", operator {operator}: occupancy {found} per mille: expected 1 to 1000")]
    Occupancy { tenant: String, operator: usize, found: u64 },
    #[error("tenant \"{tenant}\": blocks end at ascending positions, the last after its {operators} operators")]
    Blocks { tenant: String, operators: usize },
    #[error("tenant \"{tenant}\", operator {operator}: it can run on no processor")]
    Unrunnable { tenant: String, operator: usize },
    #[error("tenant \"{tenant}\": durations on one processor, or one switch, of more than {SPAN_MAX} ns")]
    Span { tenant: String },
    #[error("tenant \"{tenant}\" must switch so often that it needs {needed} stages, and there are {max}")]
    Scattered { tenant: String, needed: usize, max: usize },
    #[error("tenant \"{tenant}\" is planned for other devices than \"{first}\"")]
    Devices { tenant: String, first: String },
    #[error("enumeration would score {count} schedules, more than {max}")]
    Large { count: u128, max: u128 },
    #[error("no schedule was found that runs within the memory of every processor ({scored} scored)")]
    NothingFits { scored: u64 },
}

/// Sums over a tenant's first operators on one processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) time: u64,
    /// Time by occupancy, ns per mille.
    pub(crate) share: u64,
    pub(crate) upload: u64,
    pub(crate) download: u64,
    pub(crate) weights: u64,
    /// Operators that cannot run here.
    pub(crate) barred: u32,
}

/// A tenant as tables over its positions 0 to n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTenant {
    name: String,
    processors: usize,
    /// By (position, processor).
    sums: Vec<Sums>,
    /// By (position, from, to).
    crossing: Vec<Option<Nanos>>,
    /// By (position, processor): how far a segment can go that begins here.
    reach: Vec<u32>,
    /// Fewest segments from here to the end.
    need: Vec<u32>,
    block_ends: Vec<usize>,
    live: Bytes,
}

impl StageTenant {
    fn new(draft: &TenantDraft, processors: usize) -> Result<Self, StageError> {
        let name = || draft.name.clone();
        let n = draft.operators.len();
        let length = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(StageError::Length { tenant: name(), what, expected, found }),
        };
        length("entries of the crossing table", (n + 1) * processors * processors, draft.crossing.len())?;
        let mut sums = vec![Sums::default(); processors];
        for (o, operator) in draft.operators.iter().enumerate() {
            length("costs of an operator", processors, operator.cost.len())?;
            for q in 0..processors {
                let next = added(sums[o * processors + q], operator, q).map_err(|found| StageError::Occupancy {
                    tenant: name(),
                    operator: o,
                    found,
                })?;
                let span = next.time.saturating_add(next.upload).saturating_add(next.download);
                if span > SPAN_MAX {
                    return Err(StageError::Span { tenant: name() });
                }
                sums.push(next);
            }
        }
        if draft.crossing.iter().flatten().any(|c| c.0 > SPAN_MAX) {
            return Err(StageError::Span { tenant: name() });
        }
        let ends = if draft.block_ends.is_empty() && n > 0 { vec![n] } else { draft.block_ends.clone() };
        let ascending = ends.iter().zip(std::iter::once(&0).chain(&ends)).all(|(end, before)| before < end);
        if !ascending || ends.last().copied().unwrap_or(0) != n {
            return Err(StageError::Blocks { tenant: name(), operators: n });
        }
        Self::linked(name(), processors, sums, draft.crossing.clone(), ends, draft.live)
    }

    /// Works out how far segments can go.
    fn linked(
        name: String,
        processors: usize,
        sums: Vec<Sums>,
        crossing: Vec<Option<Nanos>>,
        block_ends: Vec<usize>,
        live: Bytes,
    ) -> Result<Self, StageError> {
        let n = sums.len() / processors - 1;
        let mut reach = vec![n as u32; sums.len()];
        let mut need = vec![0; n + 1];
        for c in (0..n).rev() {
            for q in 0..processors {
                let (here, next) = (c * processors + q, (c + 1) * processors + q);
                reach[here] = if sums[here].barred == sums[next].barred { reach[next] } else { c as u32 };
            }
            let furthest = (0..processors).map(|q| reach[c * processors + q] as usize).max().unwrap_or(c);
            if furthest == c {
                return Err(StageError::Unrunnable { tenant: name, operator: c });
            }
            need[c] = 1 + need[furthest];
        }
        Ok(Self { name, processors, sums, crossing, reach, need, block_ends, live })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many operators it has.
    pub fn operators(&self) -> usize {
        self.need.len() - 1
    }

    /// Ends of its blocks, ascending.
    pub fn block_ends(&self) -> &[usize] {
        &self.block_ends
    }

    /// Most bytes alive at once.
    pub fn live(&self) -> Bytes {
        self.live
    }

    /// What its operators from `begin` to `end` (excluded) come to on a processor; `None` where one cannot run there.
    pub(crate) fn span(&self, q: usize, begin: usize, end: usize) -> Option<Sums> {
        let (a, b) = (&self.sums[begin * self.processors + q], &self.sums[end * self.processors + q]);
        (a.barred == b.barred).then(|| Sums {
            time: b.time - a.time,
            share: b.share - a.share,
            upload: b.upload - a.upload,
            download: b.download - a.download,
            weights: b.weights - a.weights,
            barred: 0,
        })
    }

    /// Bytes of all its constants, where all that can run on a processor does.
    pub(crate) fn all_weights(&self, q: usize) -> u64 {
        self.sums[self.operators() * self.processors + q].weights
    }

    /// Duration of a switch at a cut; `None` where there is no way.
    pub fn crossing(&self, cut: usize, from: usize, to: usize) -> Option<Nanos> {
        if from == to {
            return Some(Nanos::ZERO);
        }
        self.crossing[(cut * self.processors + from) * self.processors + to]
    }

    /// How far a segment on a processor can go that begins at `cut`.
    pub fn reach(&self, cut: usize, q: usize) -> usize {
        self.reach[cut * self.processors + q] as usize
    }

    /// Fewest segments that finish the tenant from `cut` on.
    pub fn need(&self, cut: usize) -> usize {
        self.need[cut] as usize
    }

    /// The tenant whose operators are the runs between some of its positions; 0 and n are among them.
    fn contracted(&self, positions: &[usize]) -> Result<Self, StageError> {
        let p = self.processors;
        let sums = positions.iter().flat_map(|c| self.sums[c * p..(c + 1) * p].iter().copied()).collect();
        let crossing = positions.iter().flat_map(|c| self.crossing[c * p * p..(c + 1) * p * p].iter().copied());
        let ends = (1..positions.len()).collect();
        Self::linked(self.name.clone(), p, sums, crossing.collect(), ends, self.live)
    }

    /// 0, the ends of blocks, and every position inside a block that can run nowhere as a whole.
    fn block_positions(&self) -> Vec<usize> {
        let mut positions = vec![0];
        for end in &self.block_ends {
            let begin = positions[positions.len() - 1];
            if !(0..self.processors).any(|q| self.reach(begin, q) >= *end) {
                positions.extend(begin + 1..*end);
            }
            positions.push(*end);
        }
        positions
    }
}

/// Sums with one more operator; the occupancy where it is out of bounds.
fn added(before: Sums, operator: &Operator, q: usize) -> Result<Sums, u64> {
    let copy = |list: &[Nanos]| list.get(q).map_or(0, |c| c.0);
    let mut next = before;
    next.weights = next.weights.saturating_add(operator.weights.0);
    match operator.cost[q] {
        Some(cost) if !(1..=FULL).contains(&cost.occupancy_permille) => return Err(cost.occupancy_permille),
        Some(cost) => {
            next.time = next.time.saturating_add(cost.time.0);
            next.share = next.share.saturating_add(cost.time.0.saturating_mul(cost.occupancy_permille));
            next.upload = next.upload.saturating_add(copy(&operator.upload));
            next.download = next.download.saturating_add(copy(&operator.download));
        }
        None => next.barred += 1,
    }
    Ok(next)
}

/// Several tenants on one machine, in rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageProblem {
    processors: Vec<Processor>,
    tenants: Vec<StageTenant>,
    rules: Rules,
}

/// A tenant by its problem, for [`StageProblem::of`].
#[derive(Clone, Copy, Debug)]
pub struct TenantProblem<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its atoms, values and devices.
    pub problem: &'a Problem,
}

impl StageProblem {
    /// Checks a problem and builds its tables.
    ///
    /// # Errors
    /// What [`StageError`] says of counts, names, lengths, occupancies, spans, and of operators that run nowhere.
    pub fn new(processors: Vec<Processor>, tenants: &[TenantDraft], rules: Rules) -> Result<Self, StageError> {
        if !(1..=DEVICES_MAX).contains(&processors.len()) {
            return Err(StageError::Processors { max: DEVICES_MAX, found: processors.len() });
        }
        if !(1..=TENANTS_MAX).contains(&tenants.len()) {
            return Err(StageError::Tenants { max: TENANTS_MAX, found: tenants.len() });
        }
        if !(1..=STAGES_MAX).contains(&rules.stages_max) {
            return Err(StageError::Stages { max: STAGES_MAX, found: rules.stages_max });
        }
        check_names(processors.iter().map(|p| p.name.as_str()))?;
        check_names(tenants.iter().map(|t| t.name.as_str()))?;
        if processors.iter().any(|p| p.launch.0.saturating_add(p.cut_loss.0) > SPAN_MAX) {
            return Err(StageError::Span { tenant: tenants[0].name.clone() });
        }
        let linked: Result<Vec<_>, _> = tenants.iter().map(|t| StageTenant::new(t, processors.len())).collect();
        let problem = Self { processors, tenants: linked?, rules };
        for tenant in &problem.tenants {
            let (needed, max) = (tenant.need(0), rules.stages_max);
            if needed > max {
                return Err(StageError::Scattered { tenant: tenant.name.clone(), needed, max });
            }
        }
        Ok(problem)
    }

    /// The same of problems as the planner makes them: atoms are the operators, the first device is the host. What the
    /// caller gives is copied where it is first read, what the caller gets is copied back where it is made, and all
    /// values alive at a switch follow: an upper bound where a value already lies there. A segment on a device with n
    /// lanes fills an n-th of it, and the device's interference is its slowdown whoever else is there.
    ///
    /// # Errors
    /// As [`StageProblem::new`]; tenants planned for devices of other names.
    pub fn of(tenants: &[TenantProblem<'_>], rules: Rules) -> Result<Self, StageError> {
        let Some(first) = tenants.first() else {
            return Err(StageError::Tenants { max: TENANTS_MAX, found: 0 });
        };
        let names = |p: &Problem| p.devices.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        if let Some(other) = tenants.iter().find(|t| names(t.problem) != names(first.problem)) {
            return Err(StageError::Devices { tenant: other.name.into(), first: first.name.into() });
        }
        let one = |d: &crate::problem::DeviceModel| Processor {
            name: d.name.clone(),
            launch: d.launch,
            cut_loss: d.cut_loss,
            memory: d.memory,
            chi_permille: vec![d.factor_permille.saturating_sub(1000)],
        };
        let processors = first.problem.devices.iter().map(one).collect();
        let drafts: Vec<TenantDraft> = tenants.iter().map(|t| draft(t.name, t.problem)).collect();
        Self::new(processors, &drafts, rules)
    }

    /// Its processors; the first is the host.
    pub fn processors(&self) -> &[Processor] {
        &self.processors
    }

    /// Its tenants.
    pub fn tenants(&self) -> &[StageTenant] {
        &self.tenants
    }

    /// The rules of a round.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The same problem by other rules.
    ///
    /// # Errors
    /// Where the number of stages is out of bounds, or a tenant needs more.
    pub fn with_rules(&self, rules: Rules) -> Result<Self, StageError> {
        if !(1..=STAGES_MAX).contains(&rules.stages_max) {
            return Err(StageError::Stages { max: STAGES_MAX, found: rules.stages_max });
        }
        let scattered = |t: &&StageTenant| t.need(0) > rules.stages_max;
        if let Some(t) = self.tenants.iter().find(scattered) {
            let (needed, max) = (t.need(0), rules.stages_max);
            return Err(StageError::Scattered { tenant: t.name.clone(), needed, max });
        }
        Ok(Self { rules, ..self.clone() })
    }

    /// The same problem with other slowdowns by the number of tenants, a list a processor (measured pairs).
    ///
    /// # Errors
    /// Where there is not one list for each processor.
    pub fn with_chi(mut self, chi_permille: Vec<Vec<u64>>) -> Result<Self, StageError> {
        if chi_permille.len() != self.processors.len() {
            return Err(StageError::Processors { max: self.processors.len(), found: chi_permille.len() });
        }
        self.processors.iter_mut().zip(chi_permille).for_each(|(p, chi)| p.chi_permille = chi);
        Ok(self)
    }

    /// The problem whose operators are whole blocks, with each tenant's positions in this one. Blocks that run nowhere as
    /// a whole fall to their operators. `None` where blocks need more stages than there are.
    pub(crate) fn of_blocks(&self) -> Option<(Self, Vec<Vec<usize>>)> {
        let positions: Vec<Vec<usize>> = self.tenants.iter().map(StageTenant::block_positions).collect();
        let tenants: Result<Vec<_>, _> = self.tenants.iter().zip(&positions).map(|(t, p)| t.contracted(p)).collect();
        let tenants = tenants.ok()?;
        let fits = tenants.iter().all(|t| t.need(0) <= self.rules.stages_max);
        fits.then(|| (Self { tenants, ..self.clone() }, positions))
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), StageError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        let odd = name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ':' || c == '|');
        if odd || !seen.insert(name) {
            return Err(StageError::Name { name: name.to_owned() });
        }
    }
    Ok(())
}

/// A tenant's operators and crossing table from its atoms and values.
fn draft(name: &str, problem: &Problem) -> TenantDraft {
    let devices = problem.devices.len();
    let mut operators: Vec<Operator> = problem
        .atoms
        .iter()
        .map(|atom| Operator {
            cost: atom.time.iter().zip(&problem.devices).map(|(t, d)| t.map(|time| cost(time, d.lanes))).collect(),
            upload: vec![Nanos::ZERO; devices],
            download: vec![Nanos::ZERO; devices],
            weights: atom.weights,
        })
        .collect();
    for (v, value) in problem.values.iter().enumerate() {
        let first = value.consumers.first().copied().filter(|_| value.producer.is_none());
        for q in 0..devices {
            if let Some(o) = first {
                charge(&mut operators[o], q, problem.copy(v, HOST, q), |o| &mut o.upload);
            }
            if let Some(o) = value.producer.filter(|_| value.output) {
                charge(&mut operators[o], q, problem.copy(v, q, HOST), |o| &mut o.download);
            }
        }
    }
    let of = crate::baselines::blocks(problem);
    let block_ends = (1..=of.len()).filter(|c| *c == of.len() || of[*c] != of[c - 1]).collect();
    let (crossing, live) = (crossings(problem), peak(problem));
    TenantDraft { name: name.to_owned(), operators, crossing, block_ends, live }
}

fn cost(time: Nanos, lanes: u32) -> Cost {
    Cost { time, occupancy_permille: FULL.div_ceil(u64::from(lanes.max(1))) }
}

/// Adds a copy to an operator's list; where there is no way, the operator cannot run there.
fn charge(operator: &mut Operator, q: usize, copy: Option<Nanos>, list: impl Fn(&mut Operator) -> &mut Vec<Nanos>) {
    match copy {
        Some(duration) => list(operator)[q] += duration,
        None => operator.cost[q] = None,
    }
}

/// Values alive at each cut, priced for each pair of devices. What the caller gave is alive from its first reader on and
/// is on the host anyway; so is what the caller gets.
fn crossings(problem: &Problem) -> Vec<Option<Nanos>> {
    let (n, devices) = (problem.atoms.len(), problem.devices.len());
    let pairs = devices * devices;
    // Changes of (duration, values without a way) at each cut.
    let mut change = vec![(0i128, 0i64); (n + 2) * pairs];
    for (v, value) in problem.values.iter().enumerate() {
        let (Some(first), Some(last)) = (value.producer.or(value.consumers.first().copied()), value.consumers.last())
        else {
            continue;
        };
        for (p, q) in (0..pairs).map(|i| (i / devices, i % devices)) {
            if q == HOST && (value.output || value.producer.is_none()) {
                continue;
            }
            let (cost, blocked) = problem.copy(v, p, q).map_or((0, 1), |c| (i128::from(c.0), 0));
            for (cut, sign) in [(first + 1, 1), (last + 1, -1)] {
                let entry = &mut change[cut * pairs + p * devices + q];
                *entry = (entry.0 + i128::from(sign) * cost, entry.1 + sign * blocked);
            }
        }
    }
    for i in pairs..change.len() {
        change[i] = (change[i].0 + change[i - pairs].0, change[i].1 + change[i - pairs].1);
    }
    let duration = |c: i128| Nanos(u64::try_from(c).unwrap_or(u64::MAX));
    change[..(n + 1) * pairs].iter().map(|(cost, blocked)| (*blocked == 0).then(|| duration(*cost))).collect()
}

/// Most bytes of values alive while one atom runs.
fn peak(problem: &Problem) -> Bytes {
    let n = problem.atoms.len();
    let mut change = vec![0i128; n + 1];
    for value in problem.values.iter().filter(|_| n > 0) {
        let last = if value.output { n - 1 } else { value.consumers.last().copied().or(value.producer).unwrap_or(0) };
        change[value.producer.unwrap_or(0)] += i128::from(value.bytes.0);
        change[last + 1] -= i128::from(value.bytes.0);
    }
    let sums = change.iter().scan(0i128, |sum, c| {
        *sum += c;
        Some(*sum)
    });
    Bytes(u64::try_from(sums.max().unwrap_or(0)).unwrap_or(u64::MAX))
}
