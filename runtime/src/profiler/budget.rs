//! How often to repeat, and what fits into memory.

use tandem_ir::{Bytes, Graph, Nanos};

/// Limits of measuring one model (or one atom alone) over all its settings, which share it equally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Fewest rounds that make a median worth its name; gone below for huge models only.
    pub rounds_min: u32,
    /// Most rounds: beyond, the spread no longer shrinks visibly.
    pub rounds_max: u32,
    /// Rounds are added until they take so long.
    pub aim: Nanos,
    /// Even the fewest rounds may not take longer.
    pub guard: Nanos,
}

impl Budget {
    /// For a whole model over all its settings.
    pub const MODEL: Self =
        Self { rounds_min: 5, rounds_max: 50, aim: Nanos(3_000_000_000), guard: Nanos(16_000_000_000) };
    /// For an atom run alone.
    pub const ATOM: Self = Self { rounds_min: 5, rounds_max: 20, aim: Nanos(100_000_000), guard: Nanos(1_000_000_000) };
    /// A run that takes so long is not warmed up twice.
    pub const HUGE_RUN: Nanos = Nanos(500_000_000);

    /// The same budget, split into equal shares.
    pub fn shared(&self, shares: u64) -> Self {
        let part = |n: Nanos| Nanos(n.0 / shares.max(1));
        Self { aim: part(self.aim), guard: part(self.guard), ..*self }
    }

    /// Rounds, given how long one takes: at least one, whatever it takes.
    pub fn rounds(&self, round: Nanos) -> u32 {
        let per = round.0.max(1);
        let wanted = (self.aim.0 / per).clamp(u64::from(self.rounds_min), u64::from(self.rounds_max));
        let allowed = (self.guard.0 / per).max(1);
        wanted.min(allowed) as u32
    }
}

/// Bytes that one session of the whole graph needs at a batch, about: weights twice (engines keep packed copies) and
/// the largest sum of values alive at once, in the graph's order. Values of unknown size count as nothing.
pub fn session_bytes(graph: &Graph, batch: u64) -> Bytes {
    let size = |t: tandem_ir::TensorId| graph.tensor(t).fact.bytes_at(batch).unwrap_or(0);
    let mut readers_left: Vec<usize> = graph.tensors.iter().map(|t| t.consumers.len()).collect();
    graph.outputs.iter().for_each(|t| readers_left[t.index()] += 1);
    let mut alive: u64 = graph.inputs.iter().map(|t| size(*t)).sum();
    let mut peak = alive;
    for id in graph.placeable() {
        let node = graph.node(id);
        alive += node.writes().map(size).sum::<u64>();
        peak = peak.max(alive);
        for t in node.reads().into_iter().filter(|t| !graph.is_constant(*t)) {
            readers_left[t.index()] = readers_left[t.index()].saturating_sub(1);
            if readers_left[t.index()] == 0 {
                alive = alive.saturating_sub(size(t));
            }
        }
    }
    Bytes(graph.weight_bytes() * 2 + peak)
}

/// Memory that can be had without swapping, where the system says so.
pub fn available_memory() -> Option<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| Bytes(kb << 10))
}

/// Whether so many sessions fit, with a fifth of the memory left to others. True where the memory is not known.
pub fn fits(sessions: u64, each: Bytes, available: Option<Bytes>) -> bool {
    available.is_none_or(|free| (each * sessions).0 <= free.0 - free.0 / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_the_first_ones_duration() {
        let b = Budget::MODEL;
        assert_eq!(b.rounds(Nanos(0)), 50);
        assert_eq!(b.rounds(Nanos(1_000_000)), 50);
        assert_eq!(b.rounds(Nanos(100_000_000)), 30);
        assert_eq!(b.rounds(Nanos(3_000_000_000)), 5);
        assert_eq!(b.rounds(Nanos(8_000_000_000)), 2);
        assert_eq!(b.shared(4).rounds(Nanos(1_000_000_000)), 4);
        assert_eq!(b.rounds(Nanos(u64::MAX)), 1);
    }

    #[test]
    fn memory_leaves_a_fifth() {
        assert!(fits(2, Bytes(40), Some(Bytes(100))));
        assert!(!fits(2, Bytes(41), Some(Bytes(100))));
        assert!(fits(2, Bytes(u64::MAX), None));
    }
}
