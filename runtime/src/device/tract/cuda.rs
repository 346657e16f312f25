//! tract on a GPU, its kernels compiled on the machine that it runs on.
//!
//! It has a context, streams and memory of its own, on the first GPU, and takes and gives values of the host: a segment's
//! inputs are copied there and its outputs back in each run, whatever the plan says of copies. So it is for machines
//! without ONNX Runtime's GPU build, and not for speed.

use std::sync::Arc;

use tandem_onnx::cut::SegmentImage;
// Registers itself with tract as a runtime of this name.
use tract_cuda as _;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{Runtime, runtime_for_name};

use super::{Plan, TractSession, VERSION, words};
use crate::device::guarded;
use crate::engine::{Engine, EngineError, Session, SessionOptions};

/// The engine's name.
pub const NAME: &str = "tract-cuda";

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct TractCudaEngine(());

impl TractCudaEngine {
    /// The engine of the first GPU.
    ///
    /// # Errors
    /// [`EngineError::Missing`]: no GPU, or a library or header that kernels are compiled with.
    pub fn open() -> Result<Self, EngineError> {
        let missing = |why: String| EngineError::Missing { engine: NAME.into(), why };
        crate::discover::gpus().map_err(missing)?;
        let checked = guarded(NAME, || Ok(runtime().and_then(|runtime| runtime.check()).map_err(|e| words(&e))));
        match checked {
            Ok(Ok(())) => Ok(Self(())),
            Ok(Err(why)) => Err(missing(why)),
            Err(error) => Err(missing(error.to_string())),
        }
    }
}

fn runtime() -> TractResult<&'static dyn Runtime> {
    runtime_for_name("cuda")?.ok_or_else(|| TractError::msg("tract has no runtime for CUDA"))
}

/// The plan of a model that runs there.
pub(super) fn plan(model: TypedModel) -> TractResult<Plan> {
    let prepared = runtime()?.prepare(model)?;
    prepared.typed_plan().cloned().ok_or_else(|| TractError::msg("tract's runtime for CUDA made no plan"))
}

impl Engine for TractCudaEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        guarded(NAME, || Ok(Arc::new(TractSession::load(image, options, plan)?) as Arc<dyn Session>))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        match TractCudaEngine::open() {
            Ok(engine) => assert_eq!(engine.name(), NAME),
            Err(EngineError::Missing { engine, why }) => assert!(engine == NAME && why.contains("CUDA"), "{why}"),
            Err(other) => panic!("{other}"),
        }
    }
}
