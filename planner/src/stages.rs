//! Stage search: several tenants in rounds on one machine, cut into stages, operator by operator.
//!
//! Each tenant's operators stand in a fixed topological order. A [`Schedule`] cuts every order by the same number of
//! pointers; between two pointers lies a *segment*, which runs on one processor, and the segments of all tenants between
//! the same two pointers are a *stage*. [`evaluate()`] judges a schedule, [`search()`] finds one: the dynamic program of
//! [`chain`] under prices, a small policy-gradient learner ([`learner`]), then coordinate descent ([`descent`]).
//!
//! The pointer matrix is our reading of what COS ("operator-level cross-processor scheduling for several tenants") calls
//! its intermediate representation: only its abstract is public, and its nearest relative (Yu et al., "Automated runtime-aware
//! scheduling for multi-tenant DNN inference on GPU", ICCAD 2021) cuts streams of operators by pointers; the label is ours.

pub mod baselines;
pub mod chain;
pub mod descent;
pub mod evaluate;
pub mod exhaustive;
pub mod learner;
pub mod problem;
mod row;
pub mod schedule;
pub mod search;
pub mod text;

#[cfg(test)]
mod tests;

pub use baselines::{block_level, learner_alone, model_level, random, single};
pub use evaluate::{Evaluation, evaluate};
pub use exhaustive::exhaustive;
pub use problem::{
    Cost, Operator, Processor, Rules, Semantics, StageError, StageProblem, TenantDraft, TenantProblem, fixed_switch,
};
pub use schedule::{Schedule, ScheduleError, Segment};
pub use search::{Found, Phase, search};

/// Bounds of this module, each with its reason.
pub mod limits {
    /// Tenants of a round. The planner's tables go up to 64 tenants; a barrier over more serves nobody.
    pub const TENANTS_MAX: usize = 64;

    /// Stages of a round. Each costs every tenant a synchronisation; routes of more than 32 segments are refused elsewhere.
    pub const STAGES_MAX: usize = 64;

    /// Longest sum of one tenant's durations on one processor, and longest switch: 18 minutes, where rounds take seconds.
    /// It keeps every product of times, tenants and per mille below 2^64.
    pub const SPAN_MAX: u64 = 1 << 40;

    /// Occupancy of a processor in full, per mille.
    pub const FULL: u64 = 1000;

    /// Schedules that enumeration scores: a few seconds of one core.
    pub const EXHAUSTIVE_MAX: u128 = 4_000_000;

    /// Price vectors the priced program is run at. Systems dossier 5.5: 20 to 50 rounds balance the processors.
    pub const PRICE_ROUNDS: u64 = 32;

    /// Assignments of whole models to processors that are all tried; above it they are improved one by one.
    pub const ASSIGNMENTS_MAX: u128 = 4096;

    /// Learners that run on their own, each with its share of the episodes: fixed, so that threads never show in a result.
    pub const LEARNERS: u64 = 4;

    /// Parts the learner sees of a tenant at most: its steps are multiples of a 64th of longer ones, or an episode of
    /// 100,000 operators would be 12,000 decisions.
    pub const GRAINS: usize = 64;

    /// Schedules that descent starts from, each by itself.
    pub const STARTS: usize = 6;

    /// Ends of descents from which random moves set out with what is left of the budget.
    pub const WALKS: usize = 3;

    /// Positions of a tenant at which a row worked out anew may be cut, but for those around its pointers: the program
    /// grows with the square.
    pub const POSITIONS: usize = 32;

    /// Times that random moves set out: more find other valleys, fewer search one more closely.
    pub const CYCLES: u64 = 4;
}
