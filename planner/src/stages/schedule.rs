//! The intermediate representation: a matrix of cut pointers, tenants by stages, with a processor for each segment.

use tandem_ir::units::Bytes;

use super::evaluate::Judge;
use super::problem::StageProblem;

/// A segment: where it ends (it begins where the tenant's previous one ended) and what it runs on. Where it ends where it
/// begins it is empty, and its processor says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Position after its last operator.
    pub end: u32,
    /// Position in [`StageProblem::processors`].
    pub processor: u8,
}

/// A round: every tenant's segments, stage by stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schedule {
    stages: usize,
    /// By (tenant, stage).
    segments: Vec<Segment>,
}

/// A schedule that is none of a problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ScheduleError {
    #[error("expected {expected} tenants, found {found}")]
    Tenants { expected: usize, found: usize },
    #[error("expected at most {max} stages, found {found}")]
    Stages { max: usize, found: usize },
    #[error("tenant \"{tenant}\" has {found} segments, but there are {expected} stages")]
    Ragged { tenant: String, expected: usize, found: usize },
    #[error("tenant \"{tenant}\", stage {stage}: the segment ends at {end}, before it begins at {begin}")]
    Backwards { tenant: String, stage: usize, begin: usize, end: usize },
    #[error("tenant \"{tenant}\": the last segment ends at {end}, but there are {operators} operators")]
    End { tenant: String, end: usize, operators: usize },
    #[error("tenant \"{tenant}\", stage {stage}: there is no processor {processor}")]
    Processor { tenant: String, stage: usize, processor: usize },
    #[error("tenant \"{tenant}\", stage {stage}: operator {operator} cannot run on \"{processor}\"")]
    Unsupported { tenant: String, stage: usize, operator: usize, processor: String },
    #[error("tenant \"{tenant}\", stage {stage}: values cannot get from \"{from}\" to \"{to}\"")]
    NoWay { tenant: String, stage: usize, from: String, to: String },
    #[error("\"{processor}\" would hold {needed} (weights, and live values of each tenant on it), and has {available}")]
    Memory { processor: String, needed: Bytes, available: Bytes },
    #[error("line {line}: {reason}")]
    Text { line: usize, reason: String },
}

impl Schedule {
    /// A schedule of rows of segments, one row a tenant.
    ///
    /// # Errors
    /// Where a row is longer or shorter than the first.
    pub fn new(rows: &[Vec<Segment>]) -> Result<Self, ScheduleError> {
        let stages = rows.first().map_or(0, Vec::len);
        if let Some(t) = rows.iter().position(|r| r.len() != stages) {
            return Err(ScheduleError::Ragged { tenant: t.to_string(), expected: stages, found: rows[t].len() });
        }
        Ok(Self { stages, segments: rows.concat() })
    }

    /// A schedule of a flat matrix, tenant by tenant.
    pub(crate) fn flat(stages: usize, segments: Vec<Segment>) -> Self {
        Self { stages, segments }
    }

    /// How many stages it has.
    pub fn stages(&self) -> usize {
        self.stages
    }

    /// How many tenants it has; none where it has no stages.
    pub fn tenants(&self) -> usize {
        self.segments.len() / self.stages.max(1)
    }

    /// A tenant's segments.
    pub fn row(&self, tenant: usize) -> &[Segment] {
        &self.segments[tenant * self.stages..(tenant + 1) * self.stages]
    }

    pub(crate) fn row_mut(&mut self, tenant: usize) -> &mut [Segment] {
        &mut self.segments[tenant * self.stages..(tenant + 1) * self.stages]
    }

    /// All segments, tenant by tenant.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where a tenant's segment begins.
    pub fn begin(&self, tenant: usize, stage: usize) -> usize {
        if stage == 0 { 0 } else { self.row(tenant)[stage - 1].end as usize }
    }

    /// Each operator's processor, for a tenant.
    pub fn placement(&self, tenant: usize) -> Vec<u8> {
        let mut devices = vec![];
        for segment in self.row(tenant) {
            devices.resize(segment.end as usize, segment.processor);
        }
        devices
    }

    /// Switches between processors, over all tenants.
    pub fn switches(&self) -> usize {
        let one = |t: usize| self.filled(t).windows(2).filter(|w| w[0] != w[1]).count();
        (0..self.tenants()).map(one).sum()
    }

    /// Processors of a tenant's segments that are not empty.
    fn filled(&self, tenant: usize) -> Vec<u8> {
        (0..self.stages).filter(|k| !self.is_empty(tenant, *k)).map(|k| self.row(tenant)[k].processor).collect()
    }

    /// The one spelling of the schedule: no stage that is empty for every tenant, empty segments with the processor of the
    /// segment before. It is executed the same.
    pub fn canonical(&self) -> Self {
        let tenants = self.tenants();
        let kept: Vec<usize> = (0..self.stages).filter(|k| (0..tenants).any(|t| !self.is_empty(t, *k))).collect();
        let mut segments = Vec::with_capacity(tenants * kept.len());
        for t in 0..tenants {
            let mut processor = 0;
            for k in &kept {
                let segment = self.row(t)[*k];
                processor = if self.is_empty(t, *k) { processor } else { segment.processor };
                segments.push(Segment { processor, ..segment });
            }
        }
        Self { stages: kept.len(), segments }
    }

    /// Two neighbouring stages as one; a tenant's label is that of the segment `label` names for it.
    pub(crate) fn joined(&self, stage: usize, label: impl Fn(usize) -> u8) -> Self {
        let mut segments = Vec::with_capacity(self.segments.len());
        for t in 0..self.tenants() {
            let row = self.row(t);
            segments.extend(&row[..stage]);
            segments.push(Segment { end: row[stage + 1].end, processor: label(t) });
            segments.extend(&row[stage + 2..]);
        }
        Self { stages: self.stages - 1, segments }
    }

    /// Whether a tenant does nothing in a stage.
    pub(crate) fn is_empty(&self, tenant: usize, stage: usize) -> bool {
        self.begin(tenant, stage) == self.row(tenant)[stage].end as usize
    }

    /// The same without a stage that is empty for all.
    pub(crate) fn without(&self, stage: usize) -> Self {
        let kept = self.segments.iter().enumerate().filter(|(i, _)| i % self.stages != stage);
        Self { stages: self.stages - 1, segments: kept.map(|(_, s)| *s).collect() }
    }

    /// The same with a stage more in front of one, empty for all.
    pub(crate) fn with_gap(&self, stage: usize) -> Self {
        let mut segments = Vec::with_capacity(self.segments.len() + self.tenants());
        for t in 0..self.tenants() {
            let row = self.row(t);
            let begin = self.begin(t, stage) as u32;
            segments.extend(&row[..stage]);
            segments.push(Segment { end: begin, processor: 0 });
            segments.extend(&row[stage..]);
        }
        Self { stages: self.stages + 1, segments }
    }

    /// Canonical, and with neighbouring stages merged where no tenant switches between them and the makespan does not
    /// rise: what keeps such stages apart is that the synchronisation pays (it keeps tenants out of each other's way).
    pub fn merged(&self, problem: &StageProblem) -> Self {
        let mut judge = Judge::new(problem);
        let mut best = self.canonical();
        let Some(mut makespan) = judge.score(&best) else { return best };
        let mut k = 0;
        while k + 1 < best.stages {
            let stays = |t: usize| {
                let row = best.row(t);
                best.is_empty(t, k) || best.is_empty(t, k + 1) || row[k].processor == row[k + 1].processor
            };
            let label = |t: usize| best.row(t)[if best.is_empty(t, k) { k + 1 } else { k }].processor;
            let joined = (0..best.tenants()).all(stays).then(|| best.joined(k, label).canonical());
            match joined.and_then(|s| judge.score(&s).filter(|m| *m <= makespan).map(|m| (s, m))) {
                Some((schedule, score)) => (best, makespan) = (schedule, score),
                None => k += 1,
            }
        }
        best
    }

    /// Checks the schedule against a problem.
    ///
    /// # Errors
    /// The first rule it breaks, as [`ScheduleError`] says.
    pub fn check(&self, problem: &StageProblem) -> Result<(), ScheduleError> {
        let expected = problem.tenants().len();
        let all_empty = self.stages == 0 && problem.tenants().iter().all(|t| t.operators() == 0);
        if self.tenants() != expected && !all_empty {
            return Err(ScheduleError::Tenants { expected, found: self.tenants() });
        }
        if self.stages > problem.rules().stages_max {
            return Err(ScheduleError::Stages { max: problem.rules().stages_max, found: self.stages });
        }
        (0..self.tenants()).try_for_each(|t| self.check_row(problem, t))?;
        self.check_memory(problem)
    }

    fn check_row(&self, problem: &StageProblem, t: usize) -> Result<(), ScheduleError> {
        let one = &problem.tenants()[t];
        let tenant = || one.name().to_owned();
        let (mut begin, mut before) = (0, None);
        for (stage, segment) in self.row(t).iter().enumerate() {
            let (end, q) = (segment.end as usize, usize::from(segment.processor));
            let Some(processor) = problem.processors().get(q).map(|p| p.name.clone()) else {
                return Err(ScheduleError::Processor { tenant: tenant(), stage, processor: q });
            };
            if end < begin {
                return Err(ScheduleError::Backwards { tenant: tenant(), stage, begin, end });
            }
            if end > one.operators() {
                return Err(ScheduleError::End { tenant: tenant(), end, operators: one.operators() });
            }
            if begin == end {
                continue;
            }
            let operator = one.reach(begin, q);
            if operator < end {
                return Err(ScheduleError::Unsupported { tenant: tenant(), stage, operator, processor });
            }
            if let Some(p) = before.filter(|p| one.crossing(begin, *p, q).is_none()) {
                let from = problem.processors()[p].name.clone();
                return Err(ScheduleError::NoWay { tenant: tenant(), stage, from, to: processor });
            }
            (begin, before) = (end, Some(q));
        }
        match begin == one.operators() {
            true => Ok(()),
            false => Err(ScheduleError::End { tenant: tenant(), end: begin, operators: one.operators() }),
        }
    }

    fn check_memory(&self, problem: &StageProblem) -> Result<(), ScheduleError> {
        let needed = self.memory(problem);
        for (needed, p) in needed.into_iter().zip(problem.processors()) {
            if needed > p.memory {
                return Err(ScheduleError::Memory { processor: p.name.clone(), needed, available: p.memory });
            }
        }
        Ok(())
    }

    /// What each processor holds: weights of the operators on it, and each tenant's live values that uses it.
    pub(crate) fn memory(&self, problem: &StageProblem) -> Vec<Bytes> {
        let mut sums = vec![Bytes::ZERO; problem.processors().len()];
        for (t, tenant) in problem.tenants().iter().enumerate().take(self.tenants()) {
            let mut used = vec![false; sums.len()];
            let mut begin = 0;
            for segment in self.row(t) {
                let (end, q) = (segment.end as usize, usize::from(segment.processor));
                if begin < end {
                    used[q] = true;
                    sums[q] += Bytes(tenant.span(q, begin, end).map_or(0, |s| s.weights));
                }
                begin = end;
            }
            used.iter().zip(&mut sums).filter(|(used, _)| **used).for_each(|(_, sum)| *sum += tenant.live());
        }
        sums
    }
}
