//! What an accelerator's copies and marks take, measured with nothing else on it.

use std::sync::Arc;
use std::time::Instant;

use tandem_ir::{DType, Nanos};

use super::accelerator::{Accelerator, Mark, Pinned, Place, Stream};
use crate::engine::EngineError;

/// Memory on both sides, to copy between.
pub struct Copies {
    accelerator: Arc<dyn Accelerator>,
    up: (Pinned, Place),
    down: (Pinned, Place),
}

/// Which copies run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the accelerator.
    Up,
    /// From it.
    Down,
    /// One each way at once.
    Both,
}

impl Copies {
    /// Room for copies of so many bytes.
    ///
    /// # Errors
    /// Memory has run out.
    pub fn new(accelerator: Arc<dyn Accelerator>, bytes: u64) -> Result<Self, EngineError> {
        let side = || -> Result<(Pinned, Place), EngineError> {
            let block = accelerator.clone().allocate(bytes)?;
            let place = Place::new(block, 0, DType::U8, [bytes].into());
            let place = place.ok_or_else(|| failed("a block is smaller than was asked for"))?;
            Ok((accelerator.clone().pin(bytes as usize)?, place))
        };
        Ok(Self { up: side()?, down: side()?, accelerator: accelerator.clone() })
    }

    /// Copies all bytes once, and says how long that took by the accelerator's clock: of copies both ways, from the
    /// beginning of the first to the end of the last.
    ///
    /// # Errors
    /// A copy failed.
    pub fn run(&mut self, direction: Direction) -> Result<Nanos, EngineError> {
        let mut marks = vec![];
        if direction != Direction::Down {
            marks.push(self.enqueue(Stream::Upload)?);
        }
        if direction != Direction::Up {
            marks.push(self.enqueue(Stream::Download)?);
        }
        let waited = marks.iter().try_for_each(|(_, end)| self.accelerator.wait(*end));
        let span = |(from, _): &(Mark, Mark)| {
            let ends = marks.iter().map(|(_, end)| self.accelerator.elapsed(*from, *end));
            ends.collect::<Result<Vec<_>, _>>().map(|ends| ends.into_iter().max().unwrap_or(Nanos::ZERO))
        };
        let spans: Result<Vec<Nanos>, _> = marks.iter().map(span).collect();
        marks.iter().for_each(|(from, to)| [from, to].into_iter().for_each(|mark| self.accelerator.forget(*mark)));
        waited.and(spans).map(|spans| spans.into_iter().max().unwrap_or(Nanos::ZERO))
    }

    fn enqueue(&self, stream: Stream) -> Result<(Mark, Mark), EngineError> {
        let from = self.accelerator.mark(stream)?;
        // SAFETY: both memories live as long as `self`, which `run` borrows until the copies are over (an error of theirs
        // means that the context is broken), and which nothing else uses.
        unsafe {
            match stream {
                Stream::Download => self.accelerator.download(stream, &self.down.1, &self.down.0)?,
                _ => self.accelerator.upload(stream, &self.up.0, &self.up.1)?,
            }
        }
        Ok((from, self.accelerator.mark(stream)?))
    }

    /// Whether bytes that go there come back.
    ///
    /// # Errors
    /// A copy failed.
    pub fn come_back(&mut self, bytes: &[u8]) -> Result<bool, EngineError> {
        self.up.0.fill(bytes);
        self.run(Direction::Up)?;
        std::mem::swap(&mut self.up.1, &mut self.down.1);
        let copied = self.run(Direction::Down);
        std::mem::swap(&mut self.up.1, &mut self.down.1);
        copied.map(|_| self.down.0.as_ref()[..bytes.len()] == *bytes)
    }
}

/// Writes to a place that nothing uses, and waits until it is there.
///
/// # Errors
/// Memory has run out, or the copy failed.
///
/// # Panics
/// If these are not the place's bytes.
pub fn write(accelerator: &Arc<dyn Accelerator>, place: &Place, bytes: &[u8]) -> Result<(), EngineError> {
    assert_eq!(bytes.len() as u64, place.bytes(), "as many bytes as the place has");
    let mut pinned = accelerator.clone().pin(bytes.len())?;
    pinned.fill(bytes);
    // SAFETY: both memories live until the copy is over, for it is waited for here.
    let begun = unsafe { accelerator.upload(Stream::Upload, &pinned, place) };
    let mark = accelerator.mark(Stream::Upload)?;
    let reached = accelerator.wait(mark);
    accelerator.forget(mark);
    begun.and(reached)
}

/// From putting a mark on an empty stream until the host knows that it was reached, by the host's clock.
///
/// # Errors
/// The stream is broken.
pub fn round_trip(accelerator: &dyn Accelerator, stream: Stream) -> Result<Nanos, EngineError> {
    let begin = Instant::now();
    let mark = accelerator.mark(stream)?;
    let waited = loop {
        match accelerator.is_reached(mark) {
            Ok(false) => std::hint::spin_loop(),
            Ok(true) => break Ok(Nanos(begin.elapsed().as_nanos() as u64)),
            Err(error) => break Err(error),
        }
    };
    accelerator.forget(mark);
    waited
}

fn failed(why: &str) -> EngineError {
    EngineError::Failed { engine: super::gpu::NAME.into(), why: why.into() }
}
