//! Where the values of one batch lie: one arena a device, and an offset in it for each value.
//!
//! A value (tensor, device) lives from the start of the step that writes it there (graph inputs: from the beginning, in
//! the host's memory) to the end of the step that frees it; what no step frees lives until the batch ends. Two values
//! may share bytes when one of them is known to be freed before the other is written, by the order of the lanes and
//! `after` alone: durations are a forecast, and memory that is safe only while forecasts hold is not safe. So a layout
//! holds for every interleaving of the lanes that the route allows.
//!
//! In the arena are dense tensors of known shape. What has no size before it is made is the engine's to allocate, as is
//! a segment's workspace; both are counted beside the arena. Batches in flight have an arena each, and engine-owned values;
//! a workspace has only who computes ([`Route::memory_bytes`]).
//!
//! Finding the smallest arena is NP-hard (dynamic storage allocation: Garey and Johnson, "Computers and Intractability",
//! 1979, problem SR2). Here values are put one by one at the lowest offset that is free of those they overlap in time:
//! the largest first (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020), then other
//! orders, then orders repaired by moving what ended on top to the front (Joslin and Clements, "Squeaky wheel
//! optimization", JAIR 10, 1999). Some order always gives the optimum: that of the offsets in an optimal layout. The
//! search stops at the [floor](DeviceLayout::floor), which no layout can be below.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::dtype::DType;
use crate::machine::HOST;
use crate::order::Order;
use crate::plan::{Action, MemoryUse, Route, RouteTensor};
use crate::units::Bytes;

mod alive;
#[cfg(test)]
mod tests;

use alive::Events;
use limits::{ORDERS_MAX, PAIRS_MAX};

/// Offsets, and the size of an arena, are multiples of this many bytes: a cache line, so that lanes that write
/// neighbours do not fight over one, and the widest vector register of today's processors.
pub const ALIGNMENT: u64 = 64;

mod limits {
    /// Orders of placing that are tried on a device. On random routes of up to 600 steps, the first alone is 0.5 per cent
    /// above the floor on average, 100 are 0.1, and 400 are hardly better.
    pub const ORDERS_MAX: usize = 100;

    /// Pairs of values that are compared on a device, over all orders but the first: about a tenth of a second. It binds
    /// beyond a thousand values, where routes of our planner have tens.
    pub const PAIRS_MAX: usize = 50_000_000;
}

/// Where one value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Position in [`Route::tensors`].
    pub tensor: usize,
    /// Its first byte, counted from the arena's: a multiple of [`ALIGNMENT`].
    pub offset: Bytes,
    /// What its type and shape take, without padding.
    pub bytes: Bytes,
}

/// The arena of one device for one batch in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceLayout {
    /// Values in the arena, ascending by tensor.
    pub slots: Vec<Slot>,
    /// Values on the device without a known shape or a dense form, ascending: engines allocate them.
    pub engine_owned: Vec<usize>,
    /// Bytes of the arena: a multiple of [`ALIGNMENT`].
    pub size: Bytes,
    /// The most bytes of the arena's values, each padded, that are alive at once in some interleaving of the lanes. No
    /// layout is smaller.
    pub floor: Bytes,
    /// The most bytes of engine-owned values alive at once in some interleaving, by what the plan reserves for them.
    pub owned: Bytes,
    /// The most bytes of workspaces in use at once in some interleaving.
    pub workspace: Bytes,
}

impl DeviceLayout {
    /// Where a value (position in [`Route::tensors`]) lies; `None` if it is not in the arena.
    pub fn slot(&self, tensor: usize) -> Option<&Slot> {
        self.slots.binary_search_by_key(&tensor, |s| s.tensor).ok().map(|i| &self.slots[i])
    }
}

/// A route whose values cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// A value has no one life on a device. A route that passed `check` has none of these.
    #[error("step {step} {what} value \"{value}\" on device {device}, {why}")]
    Life {
        /// Position of the step.
        step: usize,
        /// `writes`, `frees`.
        what: &'static str,
        /// Name of the value.
        value: String,
        /// Position of the device.
        device: usize,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The values on a device are more than can be counted.
    #[error("device {device}: expected values of less than 2^64 bytes in all, found more")]
    TooLarge {
        /// Position of the device.
        device: usize,
    },
}

/// Lays out the values of a route that passed `check`, for one batch in flight: by position of the device, as many as
/// the route has memory entries or names.
///
/// # Errors
/// A value that is written where it is already or freed where it is not; sizes beyond 64 bits.
///
/// # Panics
/// If the route names a lane, segment or value that it does not have, or a step that comes after a later one.
pub fn layout(route: &Route) -> Result<Vec<DeviceLayout>, ArenaError> {
    let (lives, order) = (lives(route)?, Order::of(route));
    let events = Events::of(&order);
    let named = lives.iter().map(|l| l.device).chain(route.segments.iter().map(|s| s.device)).max();
    let devices = route.memory.len().max(named.map_or(0, |d| d + 1));
    let on = |device: usize| {
        let here: Vec<&Life> = lives.iter().filter(|l| l.device == device).collect();
        lay_out(route, device, &here, &order, &events).ok_or(ArenaError::TooLarge { device })
    };
    (0..devices).map(on).collect()
}

/// What a route needs, by position of the device: [`layout`]'s numbers and the weights of its segments.
///
/// # Errors
/// As [`layout`].
///
/// # Panics
/// As [`layout`].
pub fn memory(route: &Route) -> Result<Vec<MemoryUse>, ArenaError> {
    let of =
        |l: DeviceLayout| MemoryUse { arena: l.size, owned: l.owned, workspace: l.workspace, ..Default::default() };
    let mut memory: Vec<MemoryUse> = layout(route)?.into_iter().map(of).collect();
    route.segments.iter().for_each(|s| memory[s.device].weights += s.weight_bytes);
    Ok(memory)
}

/// A value on a device, and when it is there.
struct Life {
    tensor: usize,
    device: usize,
    /// Step that writes it; `None`: there from the beginning.
    from: Option<usize>,
    /// Step that frees it; `None`: there until the batch ends.
    until: Option<usize>,
}

/// Every value on every device, ascending by device, then by tensor.
fn lives(route: &Route) -> Result<Vec<Life>, ArenaError> {
    let error = |step, what, tensor: usize, device, why| {
        Err(ArenaError::Life { step, what, value: route.tensors[tensor].name.clone(), device, why })
    };
    let fed = |t: &usize| ((HOST, *t), Life { tensor: *t, device: HOST, from: None, until: None });
    let mut lives: BTreeMap<(usize, usize), Life> = route.inputs.iter().map(fed).collect();
    for (i, step) in route.steps.iter().enumerate() {
        let (device, written) = match step.action {
            Action::Run(s) => (route.segments[s].device, &route.segments[s].outputs[..]),
            Action::Copy { ref tensor, to, .. } => (to, std::slice::from_ref(tensor)),
            Action::Barrier => (HOST, &[][..]),
        };
        for t in written {
            let life = Life { tensor: *t, device, from: Some(i), until: None };
            if lives.insert((device, *t), life).is_some() {
                return error(i, "writes", *t, device, "where it is already");
            }
        }
        for (t, d) in &step.frees {
            match lives.get_mut(&(*d, *t)) {
                Some(life) if life.until.is_none() => life.until = Some(i),
                _ => return error(i, "frees", *t, *d, "where it is not"),
            }
        }
    }
    Ok(lives.into_values().collect())
}

/// Bytes of a dense tensor of known shape, 2^64 - 1 for all beyond. From the shape, not from what the plan reserves: an engine writes the shape.
fn dense_bytes(tensor: &RouteTensor) -> Option<u64> {
    let dtype = tensor.dtype.filter(|d| *d != DType::String)?;
    let bits = tensor.dims.as_ref()?.iter().fold(u128::from(dtype.bits()), |a, d| a.saturating_mul(u128::from(*d)));
    Some(u64::try_from(bits.div_ceil(8)).unwrap_or(u64::MAX))
}

/// One device. `None` if its sizes exceed 64 bits.
fn lay_out(route: &Route, device: usize, lives: &[&Life], order: &Order, events: &Events) -> Option<DeviceLayout> {
    let mut out = DeviceLayout::default();
    let (mut items, mut owned, mut workspaces) = (vec![], vec![], vec![]);
    for life in lives {
        let tensor = &route.tensors[life.tensor];
        if let Some(bytes) = dense_bytes(tensor) {
            items.push(Item { size: bytes.checked_next_multiple_of(ALIGNMENT)?, from: life.from, until: life.until });
            out.slots.push(Slot { tensor: life.tensor, offset: Bytes::ZERO, bytes: Bytes(bytes) });
        } else {
            owned.push(Item { size: tensor.bytes.0, from: life.from, until: life.until });
            out.engine_owned.push(life.tensor);
        }
    }
    for (i, step) in route.steps.iter().enumerate() {
        if let Action::Run(s) = step.action
            && route.segments[s].device == device
        {
            workspaces.push(Item { size: route.segments[s].workspace_bytes.0, from: Some(i), until: Some(i) });
        }
    }
    out.floor = Bytes(events.most_alive(&items)?);
    out.owned = Bytes(events.most_alive(&owned)?);
    out.workspace = Bytes(events.most_alive(&workspaces)?);
    let packing = pack(&items, order, out.floor.0);
    out.size = Bytes(packing.size);
    out.slots.iter_mut().zip(packing.offsets).for_each(|(slot, offset)| slot.offset = Bytes(offset));
    Some(out)
}

/// Bytes from the start of a step (`None`: from the beginning) to the end of one (`None`: of the batch).
#[derive(Clone, Copy)]
struct Item {
    size: u64,
    from: Option<usize>,
    until: Option<usize>,
}

/// Whether the life of `a` ends before that of `b` begins in every interleaving.
fn apart(a: &Item, b: &Item, order: &Order) -> bool {
    a.until.zip(b.from).is_some_and(|(end, start)| order.before(end, start))
}

/// Whether both may be alive at once.
fn overlap(a: &Item, b: &Item, order: &Order) -> bool {
    !apart(a, b, order) && !apart(b, a, order)
}

/// Offsets of items, and the bytes they span.
struct Packing {
    offsets: Vec<u64>,
    size: u64,
}

/// The smallest packing found, of `floor` bytes at least.
fn pack(items: &[Item], order: &Order, floor: u64) -> Packing {
    let length = |i: &Item| i.until.unwrap_or(order.steps()) - i.from.unwrap_or(0);
    let mut orders: [Vec<usize>; 4] = std::array::from_fn(|_| (0..items.len()).collect());
    orders[0].sort_by_key(|i| Reverse(items[*i].size));
    orders[1].sort_by_key(|i| Reverse(u128::from(items[*i].size) * (1 + length(&items[*i])) as u128));
    orders[2].sort_by_key(|i| (Reverse(length(&items[*i])), Reverse(items[*i].size)));
    orders[3].sort_by_key(|i| (items[*i].from, Reverse(items[*i].size)));
    let mut best = place(items, &orders[0], order);
    let tries = ORDERS_MAX.min(PAIRS_MAX / (items.len() * items.len()).max(1));
    for turn in 1..tries {
        if best.size == floor {
            break;
        }
        // Each of the four takes its turn, and what stuck out is placed earlier the next time.
        let current = &mut orders[turn % 4];
        let packing = place(items, current, order);
        let (top, rest): (Vec<usize>, Vec<usize>) =
            current.iter().partition(|i| packing.offsets[**i] + items[**i].size == packing.size);
        *current = [top, rest].concat();
        if packing.size < best.size {
            best = packing;
        }
    }
    best
}

/// Puts the items one by one at the lowest offset where they fit.
fn place(items: &[Item], sequence: &[usize], order: &Order) -> Packing {
    let mut packing = Packing { offsets: vec![0; items.len()], size: 0 };
    // (offset, item), ascending.
    let mut placed: Vec<(u64, usize)> = Vec::with_capacity(items.len());
    for i in sequence.iter().copied().filter(|i| items[*i].size > 0) {
        let item = &items[i];
        let mut offset = 0;
        for (start, other) in &placed {
            if *start >= offset + item.size {
                break;
            }
            let end = start + items[*other].size;
            if end > offset && overlap(item, &items[*other], order) {
                offset = end;
            }
        }
        packing.offsets[i] = offset;
        packing.size = packing.size.max(offset + item.size);
        placed.insert(placed.partition_point(|p| *p < (offset, i)), (offset, i));
    }
    packing
}
