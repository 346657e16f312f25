//! What keeps a plan from being made.

use tandem_ir::check::Finding;
use tandem_ir::format::scalar::Rate;
use tandem_ir::units::{Bytes, Nanos};

use crate::problem::ProblemError;

/// Why no admissible route exists, and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infeasible {
    /// The objective that was asked for.
    pub slo: Option<Nanos>,
    /// What each device (and mixture) comes to at best, a line each.
    pub evidence: Vec<String>,
    /// The smallest SLO for which the same search finds a plan; `None` where memory is what lacks.
    pub nearest_slo: Option<Nanos>,
    /// The batch of that plan.
    pub best_batch: Option<u64>,
    /// Bytes that lack on the roomiest choice, where memory is what lacks.
    pub bytes_over: Option<Bytes>,
}

impl std::fmt::Display for Infeasible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.slo {
            Some(slo) => write!(f, "no route meets {slo}")?,
            None => f.write_str("no route fits")?,
        }
        if let (Some(nearest), Some(batch)) = (self.nearest_slo, self.best_batch) {
            write!(f, "; the nearest that can be met is {} ns ({nearest}), at batch {batch}", nearest.0)?;
        }
        if let Some(over) = self.bytes_over {
            write!(f, "; memory lacks {over}")?;
        }
        self.evidence.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Rates that the tenants ask for and that are not carried together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overloaded {
    /// By tenant: thousandths of requests a second in the same proportions that are carried.
    pub nearest: Vec<(String, u64)>,
    /// Lanes that are busy all the time then.
    pub binds: Vec<String>,
    /// What is proven that nothing exceeds, in parts per million of what was asked for.
    pub bound_ppm: Option<u64>,
}

impl std::fmt::Display for Overloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the rates are not carried together; the nearest that are: ")?;
        let rate = |(name, millirate): &(String, u64)| format!("{name} {}", Rate(*millirate));
        f.write_str(&self.nearest.iter().map(rate).collect::<Vec<_>>().join(", "))?;
        write!(f, "\n  what binds: {}", self.binds.join(", "))?;
        match self.bound_ppm {
            Some(ppm) if ppm < 1_000_000 => {
                write!(f, "\n  proven: nothing carries more than {:.1} % of what was asked for", ppm as f64 / 1e4)
            }
            _ => Ok(()),
        }
    }
}

/// What keeps a plan from being made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PlanError {
    #[error("{0}")]
    Infeasible(Box<Infeasible>),
    #[error("tenant \"{tenant}\": {error}")]
    Tenant { tenant: String, error: Box<PlanError> },
    #[error("{device} has neither a profile of this model nor described rates: profile it, or describe its rates")]
    NoCosts { device: String },
    #[error(
        "no interference factor of {device} at {lanes} lanes of {threads} threads: expected one in the profile, or memory \
         bandwidth in the machine, to model it by"
    )]
    NoInterference { device: String, lanes: u32, threads: u32 },
    #[error("node \"{node}\"{} can run on no device\n  {}{}", with(.operators), .reasons.join("\n  "), unpin(.pinned))]
    Unrunnable { node: String, operators: usize, pinned: bool, reasons: Vec<String> },
    #[error(
        "nodes \"{}\" and \"{}\" must run on one device, and there is none for both\n  {pass}: {reason}\n  {}{}",
        .nodes.0, .nodes.1, .reasons.join("\n  "), unpin(.pinned)
    )]
    Clash { nodes: (String, String), pass: &'static str, reason: &'static str, pinned: bool, reasons: Vec<String> },
    #[error("{}", listed(.0))]
    Pins(Vec<Finding>),
    #[error("route {route}: {}", listed(.findings))]
    Parts { route: usize, findings: Vec<Finding> },
    #[error("route {route}: no part names node \"{node}\"")]
    Unnamed { route: usize, node: String },
    #[error("route {route}: nodes \"{from}\" and \"{to}\" cannot be parted: a value between them is no dense tensor")]
    Parted { route: usize, from: String, to: String },
    #[error("route {route}: {source}")]
    Timeline { route: usize, source: crate::timeline::TimelineError },
    #[error("route {route}: {source}")]
    Memory { route: usize, source: tandem_ir::arena::ArenaError },
    #[error("route {route}: node \"{node}\" cannot run on {device}: {reason}")]
    Misplaced { route: usize, node: String, device: String, reason: String },
    #[error("the machine has no device \"{device}\"")]
    UnknownDevice { device: String },
    #[error("tenant \"{tenant}\" has no graph")]
    NoGraph { tenant: String },
    #[error("tenant \"{tenant}\" has no route{}", at(.batch))]
    NoRoute { tenant: String, batch: Option<u64> },
    #[error("no batch sizes to choose from")]
    NoBatches,
    #[error("batch {batch}: expected 1 to {max}")]
    Batch { batch: u64, max: u64 },
    #[error("search {method} does not apply: {reason}")]
    Method { method: String, reason: String },
    #[error("{0}")]
    Problem(ProblemError),
    #[error("the machine has no devices")]
    NoDevices,
    #[error("there is no number of threads at which the costs of all tenants are known: profile them at the same ones")]
    NoCommonThreads,
    #[error("{0}")]
    Overloaded(Box<Overloaded>),
    #[error(
        "each tenant has a route that would do alone, but not all of them do on the same lanes of the host, or they do not \
         fit in memory together"
    )]
    Crowded,
    #[error(transparent)]
    Master(#[from] crate::master::MasterError),
}

impl PlanError {
    /// Whether an interference factor is what lacks.
    pub(crate) fn is_no_interference(&self) -> bool {
        match self {
            PlanError::NoInterference { .. } => true,
            PlanError::Tenant { error, .. } => error.is_no_interference(),
            _ => false,
        }
    }

    /// Whether this is an answer, that nothing will do, rather than a fault of what was asked.
    pub fn is_infeasible(&self) -> bool {
        match self {
            PlanError::Infeasible(_) | PlanError::Overloaded(_) | PlanError::Crowded => true,
            PlanError::Tenant { error, .. } => error.is_infeasible(),
            _ => false,
        }
    }
}

/// All of them are errors, and the whole says so.
fn listed(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{}: {}", f.component, f.message)).collect::<Vec<_>>().join("\n  ")
}

fn with(operators: &usize) -> String {
    if *operators > 1 { format!(" and the {} placed with it", operators - 1) } else { String::new() }
}

fn unpin(pinned: &bool) -> &'static str {
    if *pinned { "\n  change or remove a pin" } else { "" }
}

fn at(batch: &Option<u64>) -> String {
    batch.map(|b| format!(" at batch {b}")).unwrap_or_default()
}
