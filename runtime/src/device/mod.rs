//! Engines and devices: the only place that names ONNX Runtime, tract or CUDA.
//!
//! An engine (see [`crate::engine`]) prepares segments and runs them; it knows no routes, batches or deadlines.

pub mod conformance;
pub mod cuda;
pub mod emulated;
pub mod ort;
pub mod threaded;
pub mod timed;
pub mod tract;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use cuda::accelerator;

use crate::engine::EngineError;

/// Calls foreign code that may panic: a panic becomes [`EngineError::Failed`] with its message.
pub(crate) fn guarded<T>(engine: &str, call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(EngineError::Failed { engine: engine.to_owned(), why: panic_words(panic.as_ref()) })
    })
}

/// What a panic said, for an error message.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", said.unwrap_or_else(|| "no message".to_owned()))
}
