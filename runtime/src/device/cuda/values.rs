//! The values of one batch in flight in an accelerator's memory, and on their way to and from it.
//!
//! Dense values of known shape lie in one arena, each at the offset that [`tandem_ir::arena`] gave it; others are the
//! engine's, or in blocks of their own, and so are those that turn out to be of another shape than the plan has seen,
//! for shapes may depend on what values are. Copies go through pinned host memory: a value that comes from the host is
//! written there first, a value that goes to the host is handed on where it lies.
//!
//! What is begun here is on a stream, and there once the stream has come so far. Whoever calls sees to it that a value
//! is not asked for on another stream before, and is freed only when all that use it are over.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tandem_ir::arena::{self, ArenaError};
use tandem_ir::plan::{Action, Route};
use tandem_onnx::value::{Buffer, Data, TensorValue, Value};

use super::accelerator::{Accelerator, Block, Bound, Pinned, Place, Resident, Stream};
use crate::engine::{EngineError, Session};
use crate::limits::PINNED_COPIES_MAX;

/// What a route needs on one accelerator for a batch in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// By value of the route: where in the arena it lies. `None` for what is not on the device, or has no known shape.
    slots: Vec<Option<Slot>>,
    /// Bytes of pinned memory by value, for those that come from the host and for those that go there.
    coming: Vec<(usize, usize)>,
    going: Vec<(usize, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    offset: u64,
    dtype: tandem_ir::DType,
    dims: Arc<[u64]>,
}

impl Slots {
    /// Those of a route on the device of this position.
    ///
    /// # Errors
    /// A route whose values have no one life on a device.
    pub fn of(route: &Route, device: usize) -> Result<Self, ArenaError> {
        let layout = arena::layout(route)?.into_iter().nth(device).unwrap_or_default();
        let mut slots = vec![None; route.tensors.len()];
        for slot in &layout.slots {
            let tensor = &route.tensors[slot.tensor];
            if let (Some(dtype), Some(dims)) = (tensor.dtype, &tensor.dims) {
                slots[slot.tensor] = Some(Slot { offset: slot.offset.0, dtype, dims: dims.as_slice().into() });
            }
        }
        let bytes = |tensor: usize| layout.slot(tensor).map(|slot| (tensor, slot.bytes.0 as usize));
        let crossing = |side: fn(Action) -> Option<(usize, usize)>| {
            let mut values: Vec<usize> = route
                .steps
                .iter()
                .filter_map(|s| side(s.action))
                .filter(|(_, d)| *d == device)
                .map(|(t, _)| t)
                .collect();
            values.sort_unstable();
            values.dedup();
            values.into_iter().filter_map(bytes).collect()
        };
        let coming = crossing(|action| match action {
            Action::Copy { tensor, to, .. } => Some((tensor, to)),
            _ => None,
        });
        let going = crossing(|action| match action {
            Action::Copy { tensor, from, .. } => Some((tensor, from)),
            _ => None,
        });
        Ok(Self { arena_bytes: layout.size.0, slots, coming, going })
    }
}

/// The values of one batch in flight.
pub struct Values {
    device: String,
    names: Arc<[String]>,
    accelerator: Arc<dyn Accelerator>,
    compute: Stream,
    /// By value: its place in the arena.
    places: Vec<Option<Place>>,
    held: Vec<Mutex<Held>>,
    runs: Mutex<Runs>,
}

/// Sessions as they were run, by their address.
#[derive(Default)]
struct Runs {
    /// Of sessions whose values are all where they are in every batch.
    bound: HashMap<usize, Box<dyn Bound>>,
    /// Sessions that made something of another shape than the plan states.
    unplanned: HashSet<usize>,
}

impl Runs {
    /// Runs a session; `fixed`: its values will be at these places again.
    fn run(
        &mut self,
        address: usize,
        resident: &dyn Resident,
        inputs: &[Place],
        outputs: &[Option<Place>],
        fixed: bool,
    ) -> Result<Vec<(usize, Place)>, EngineError> {
        match self.bound.get_mut(&address) {
            Some(bound) if fixed => bound.enqueue(),
            _ => {
                let mut new = resident.bind(inputs, outputs)?;
                let own = new.enqueue()?;
                if fixed {
                    self.bound.insert(address, new);
                }
                Ok(own)
            }
        }
    }
}

/// What is held for a value.
#[derive(Default)]
struct Held {
    here: Option<Place>,
    /// A block of its own, where it has no place in the arena.
    block: Option<Arc<Block>>,
    /// On its way from the host.
    coming: Option<Pinned>,
    /// Copies on the host, each until nobody reads it any more.
    copies: Vec<Arc<Pinned>>,
    /// One more, that is never handed on.
    spare: Option<Arc<Pinned>>,
    /// Copies to the host under way, by the device that they are for in the end.
    going: Vec<(usize, Going)>,
}

/// A copy to the host under way.
struct Going {
    to: Arc<Pinned>,
    place: Place,
    /// Whether the copy may be handed on.
    handed_on: bool,
}

impl Going {
    /// What has arrived.
    fn value(self) -> Value {
        let Self { to, place, handed_on } = self;
        let copied = Copied { of: to, bytes: place.bytes() as usize };
        let bytes: Buffer = match handed_on {
            true => Buffer::shared(Arc::new(copied)),
            false => copied.as_ref().to_vec().into(),
        };
        Value::Tensor(TensorValue { dtype: place.dtype(), dims: place.dims().to_vec(), data: Data::Bytes(bytes) })
    }
}

/// Part of a copy on the host.
struct Copied {
    of: Arc<Pinned>,
    bytes: usize,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.of.as_ref().as_ref()[..self.bytes]
    }
}

impl Values {
    /// Room for values of these names, the route's first, with all the memory that is known to be needed. Segments run on
    /// the stream `compute`.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    pub fn new(
        device: &str,
        names: Arc<[String]>,
        slots: &Slots,
        accelerator: Arc<dyn Accelerator>,
        compute: Stream,
    ) -> Result<Self, EngineError> {
        // A block of nothing has no address.
        let arena = accelerator.clone().allocate(slots.arena_bytes.max(1))?;
        let place = |slot: &Slot| Place::new(arena.clone(), slot.offset, slot.dtype, slot.dims.clone());
        let mut places: Vec<_> = slots.slots.iter().map(|s| s.as_ref().and_then(place)).collect();
        places.resize_with(names.len().max(places.len()), || None);
        let mut held: Vec<Held> = places.iter().map(|_| Held::default()).collect();
        for (tensor, bytes) in &slots.coming {
            held[*tensor].coming = Some(accelerator.clone().pin(*bytes)?);
        }
        for (tensor, bytes) in &slots.going {
            held[*tensor].copies.push(Arc::new(accelerator.clone().pin(*bytes)?));
        }
        let held = held.into_iter().map(Mutex::new).collect();
        Ok(Self { device: device.to_owned(), names, accelerator, compute, places, held, runs: Mutex::default() })
    }

    /// Name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The stream that segments run on.
    pub fn compute(&self) -> Stream {
        self.compute
    }

    /// What they are in the memory of.
    pub fn accelerator(&self) -> &Arc<dyn Accelerator> {
        &self.accelerator
    }

    /// Begins to bring a value from the host, on the stream of uploads.
    ///
    /// # Errors
    /// It is no dense tensor; memory has run out.
    pub fn begin_put(&self, tensor: usize, value: &Value) -> Result<(), EngineError> {
        let Value::Tensor(TensorValue { dtype, dims, data: Data::Bytes(bytes) }) = value else {
            return Err(self.failed(tensor, "is no dense tensor, and cannot be copied there"));
        };
        let mut held = self.held(tensor);
        let place = match &self.places[tensor] {
            Some(place) if place.dtype() == *dtype && **place.dims() == **dims => place.clone(),
            // Of no known shape, or of another one than the plan has seen.
            _ => {
                let enough = held.block.take().filter(|b| b.bytes() >= bytes.len() as u64);
                let block = match enough {
                    Some(block) => block,
                    None => self.accelerator.clone().allocate(bytes.len().max(1) as u64)?,
                };
                held.block = Some(block.clone());
                let place = Place::new(block, 0, *dtype, dims.as_slice().into());
                place.ok_or_else(|| self.failed(tensor, "has no size in bytes"))?
            }
        };
        if bytes.len() as u64 != place.bytes() {
            return Err(self.failed(tensor, "has not as many bytes as its shape says"));
        }
        if !bytes.is_empty() {
            let mut pinned = match held.coming.take().filter(|p| p.bytes() >= bytes.len()) {
                Some(pinned) => pinned,
                None => self.accelerator.clone().pin(bytes.len())?,
            };
            pinned.fill(bytes);
            // SAFETY: both memories are held here, and neither is used for anything else before the next batch in this
            // set of values, which begins when this one's commands are over; a failed command is waited for too.
            let begun = unsafe { self.accelerator.upload(Stream::Upload, &pinned, &place) };
            held.coming = Some(pinned);
            begun?;
        }
        held.here = Some(place);
        Ok(())
    }

    /// Begins to bring a value to the host, on the stream of downloads; on its way to the device `to`, which tells copies
    /// of one value apart.
    ///
    /// # Errors
    /// It is not here; memory has run out.
    pub fn begin_get(&self, tensor: usize, to: usize) -> Result<(), EngineError> {
        let going = self.start_get(tensor)?;
        self.held(tensor).going.push((to, going));
        Ok(())
    }

    fn start_get(&self, tensor: usize) -> Result<Going, EngineError> {
        let mut held = self.held(tensor);
        let place = self.here(&held, tensor)?;
        let (to, handed_on) = self.host_copy(&mut held, place.bytes() as usize)?;
        if place.bytes() > 0 {
            // SAFETY: both memories are held by what is returned; nobody has the host's but this, and the route lets nobody write
            // to the value while a copy of it is under way.
            unsafe { self.accelerator.download(Stream::Download, &place, &to) }?;
        }
        Ok(Going { to, place, handed_on })
    }

    /// Pinned memory that nobody reads, and whether it may be handed on.
    fn host_copy(&self, held: &mut Held, bytes: usize) -> Result<(Arc<Pinned>, bool), EngineError> {
        let is_free = |copy: &mut Arc<Pinned>| copy.bytes() >= bytes && Arc::get_mut(copy).is_some();
        if let Some(at) = held.copies.iter_mut().position(is_free) {
            return Ok((held.copies[at].clone(), true));
        }
        // Those that are too small are of no use any more.
        held.copies.retain(|copy| copy.bytes() >= bytes);
        let further = held.copies.len() < PINNED_COPIES_MAX;
        if let Some(spare) = &mut held.spare
            && !further
            && is_free(spare)
        {
            return Ok((spare.clone(), false));
        }
        let pinned = Arc::new(self.accelerator.clone().pin(bytes)?);
        match further {
            true => held.copies.push(pinned.clone()),
            false => held.spare = Some(pinned.clone()),
        }
        Ok((pinned, further))
    }

    /// The value on the host, once the copy that was begun for this device is there.
    ///
    /// # Errors
    /// No copy was begun.
    pub fn end_get(&self, tensor: usize, to: usize) -> Result<Value, EngineError> {
        let mut held = self.held(tensor);
        let begun = held.going.iter().position(|(of, _)| *of == to);
        let begun = begun.ok_or_else(|| self.failed(tensor, "is waited for, and no copy of it was begun"))?;
        Ok(held.going.swap_remove(begun).1.value())
    }

    /// The value on the host.
    ///
    /// # Errors
    /// The value is not here; memory has run out; something on the stream of downloads failed.
    pub fn get(&self, tensor: usize) -> Result<Value, EngineError> {
        let going = self.start_get(tensor);
        // Also where it failed half-way: what is on the stream uses the value's memory.
        let waited = self.wait(Stream::Download);
        going.and_then(|going| waited.map(|()| going.value()))
    }

    /// Begins to run a segment on values that are here, on its stream. The same session is always given the same
    /// values, and outlives these.
    ///
    /// # Errors
    /// A value is not here; the session cannot run here; what its engine says.
    pub fn begin_run(&self, session: &dyn Session, inputs: &[usize], outputs: &[usize]) -> Result<(), EngineError> {
        let there = inputs.iter().map(|t| self.here(&self.held(*t), *t)).collect::<Result<Vec<_>, _>>()?;
        let resident = session.resident().ok_or_else(|| EngineError::Failed {
            engine: self.device.clone(),
            why: "the segment's session runs on the host".into(),
        })?;
        let address = (&raw const *session).addr();
        let mut runs = self.runs.lock().unwrap_or_else(|poison| poison.into_inner());
        let planned: Vec<Option<Place>> = match runs.unplanned.contains(&address) {
            false => outputs.iter().map(|t| self.places[*t].clone()).collect(),
            true => vec![None; outputs.len()],
        };
        let own = match runs.run(address, resident, &there, &planned, self.is_fixed(inputs, &there, &planned)) {
            // Shapes may depend on what the values are, and the plan have seen others: the engine finds the places then.
            Err(EngineError::Failed { .. }) if planned.iter().any(Option::is_some) => {
                let own = resident.bind(&there, &vec![None; outputs.len()])?.enqueue()?;
                runs.unplanned.insert(address);
                own
            }
            other => other?,
        };
        drop(runs);
        for (tensor, place) in outputs.iter().zip(planned) {
            self.held(*tensor).here = place;
        }
        for (output, place) in own {
            let tensor = *outputs.get(output).ok_or_else(|| EngineError::Failed {
                engine: self.device.clone(),
                why: format!("the session made output {output} of {}", outputs.len()),
            })?;
            self.held(tensor).here = Some(place);
        }
        Ok(())
    }

    /// Whether all values are where they are in every batch.
    fn is_fixed(&self, inputs: &[usize], there: &[Place], made: &[Option<Place>]) -> bool {
        let planned = |(tensor, place): (&usize, &Place)| self.places[*tensor].as_ref() == Some(place);
        made.iter().all(Option::is_some) && inputs.iter().zip(there).all(planned)
    }

    /// Waits until a stream has done what is on it now.
    ///
    /// # Errors
    /// Something on it failed.
    pub fn wait(&self, stream: Stream) -> Result<(), EngineError> {
        let mark = self.accelerator.mark(stream)?;
        let reached = self.accelerator.wait(mark);
        self.accelerator.forget(mark);
        reached
    }

    /// Forgets a value that nothing uses any more.
    pub fn free(&self, tensor: usize) {
        let mut held = self.held(tensor);
        held.here = None;
        held.going.clear();
    }

    /// Forgets all values.
    pub fn clear(&self) {
        (0..self.held.len()).for_each(|tensor| self.free(tensor));
    }

    fn held(&self, tensor: usize) -> MutexGuard<'_, Held> {
        // What is held is changed at once or not at all.
        self.held[tensor].lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn here(&self, held: &Held, tensor: usize) -> Result<Place, EngineError> {
        held.here.clone().ok_or_else(|| self.failed(tensor, "is read there, where nothing has brought it"))
    }

    fn failed(&self, tensor: usize, why: &str) -> EngineError {
        let why = format!("value \"{}\" on device {} {why}", self.names[tensor], self.device);
        EngineError::Failed { engine: "driver".into(), why }
    }
}

#[cfg(test)]
mod tests;
