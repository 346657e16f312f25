//! ONNX Runtime's CUDA provider: sessions that compute on one of our streams, on values in our memory.
//!
//! Single precision is single precision: products of it are not rounded to TensorFloat-32 on their way (`use_tf32`),
//! unless that is asked for. The provider's own memory, for what lies between nodes, grows by what is needed and no
//! more, for there is one such memory a session.
//!
//! Operators that the provider lacks run on the host inside the session, with copies that wait; a profile sees what that
//! costs. Graphs can be captured where all of a session is on the GPU and all its values have fixed places: each binding
//! has a captured graph of its own, for a graph holds the addresses.

use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

use tandem_onnx::cut::SegmentImage;

use super::bound::{BoundSession, Memory};
use super::raw::{self, Owned, api, check, sys};
use super::{OrtEngine, OrtSession, session_options};
use crate::device::accelerator::{Accelerator, Stream};
use crate::device::cuda::gpu::{Gpu, GpuOptions};
use crate::device::{cuda, guarded};
use crate::discover::has_cuda_provider;
use crate::engine::{Engine, EngineError, Session, SessionOptions};

/// The engine's name.
pub const NAME: &str = "ort-cuda";

/// How sessions compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// How the GPU is used.
    pub gpu: GpuOptions,
    /// Products of single precision may be rounded to TensorFloat-32.
    pub tf32: bool,
    /// Sessions are captured as graphs where they can be.
    pub graphs: bool,
}

/// ONNX Runtime on one GPU. Its sessions share a stream.
pub struct CudaEngine {
    ort: OrtEngine,
    gpu: Arc<Gpu>,
    stream: Stream,
    options: CudaOptions,
}

impl CudaEngine {
    /// The engine of the GPU of this number, over the ONNX Runtime that is loaded. Every call takes the GPU's next
    /// stream.
    ///
    /// # Errors
    /// [`EngineError::Missing`], with what is: the driver, the GPU, ONNX Runtime, its CUDA provider, or a library that the
    /// provider needs.
    pub fn open(ordinal: usize, options: &CudaOptions) -> Result<Self, EngineError> {
        let missing = |why: String| EngineError::Missing { engine: NAME.into(), why };
        let gpu = Gpu::open(ordinal, &options.gpu).map_err(|e| match e {
            EngineError::Missing { why, .. } => missing(why),
            other => other,
        })?;
        let ort = OrtEngine::opened().ok_or_else(|| missing("ONNX Runtime is not loaded".into()))?;
        if !ort.path().parent().is_some_and(has_cuda_provider) {
            let (library, wheel) = (ort.path().display(), "wheel onnxruntime-gpu, instead of onnxruntime");
            return Err(missing(format!("no CUDA provider lies beside {library} ({wheel})")));
        }
        let engine = Self { ort, stream: gpu.turn(), gpu, options: options.clone() };
        // Loads the provider's library, and with it the libraries of CUDA that it needs.
        match guarded(NAME, || engine.provider_options(false).map(drop)) {
            Ok(()) => Ok(engine),
            Err(EngineError::Failed { why, .. } | EngineError::Unsupported { why, .. }) => {
                // Behind where in ONNX Runtime it was noticed.
                Err(missing(why.rsplit_once("with error: ").map_or(why.trim(), |(_, rest)| rest.trim()).to_owned()))
            }
            Err(other) => Err(other),
        }
    }

    fn provider_options(&self, captures: bool) -> Result<Owned<sys::OrtCUDAProviderOptionsV2>, EngineError> {
        let flag = |on: bool| if on { "1" } else { "0" };
        let stream = self.gpu.handle(self.stream)?.addr();
        provider_options(&[
            ("device_id", &self.gpu.ordinal().to_string()),
            ("has_user_compute_stream", "1"),
            ("user_compute_stream", &stream.to_string()),
            ("use_tf32", flag(self.options.tf32)),
            ("enable_cuda_graph", flag(captures)),
            ("arena_extend_strategy", "kSameAsRequested"),
        ])
    }

    fn open_session(
        &self,
        image: &SegmentImage,
        options: &SessionOptions,
        captures: bool,
    ) -> Result<BoundSession, EngineError> {
        let made = session_options(&SessionOptions { profile: false, ..options.clone() })?;
        let provider = self.provider_options(captures)?;
        // SAFETY: both options live; the provider's are copied.
        check(unsafe { (api().SessionOptionsAppendExecutionProvider_CUDA_V2)(made.ptr(), provider.ptr()) })?;
        let session = OrtSession::open(image, &made)?;
        let described = described(self.gpu.ordinal())?;
        let on: (Arc<dyn Accelerator>, Stream) = (self.gpu.clone(), self.stream);
        BoundSession::new(session, Arc::new(Memory { described, on }), captures, told)
    }
}

/// What ONNX Runtime's words about a GPU mean.
fn told(error: EngineError) -> EngineError {
    cuda::told(match error {
        EngineError::Failed { why, .. } => EngineError::Failed { engine: NAME.into(), why },
        EngineError::Unsupported { why, .. } => EngineError::Unsupported { engine: NAME.into(), why },
        other => other,
    })
}

/// The provider's options. All at once: what is not named is set to its default.
fn provider_options(entries: &[(&str, &str)]) -> Result<Owned<sys::OrtCUDAProviderOptionsV2>, EngineError> {
    let texts = |of: fn(&(&str, &str)) -> String| -> Result<Vec<CString>, EngineError> {
        entries.iter().map(|entry| raw::c_text(&of(entry))).collect()
    };
    let (keys, values) = (texts(|e| e.0.to_owned())?, texts(|e| e.1.to_owned())?);
    let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
    let (keys_at, values_at) = (pointers(&keys), pointers(&values));
    let mut made = null_mut();
    // SAFETY: the pointer is written by the first call; both lists have the stated length, and their texts end in NUL and
    // outlive the second, which copies them.
    unsafe {
        check((api().CreateCUDAProviderOptions)(&mut made))?;
        let made = Owned::new(made, api().ReleaseCUDAProviderOptions)?;
        let set = (api().UpdateCUDAProviderOptions)(made.ptr(), keys_at.as_ptr(), values_at.as_ptr(), entries.len());
        check(set).map(|()| made)
    }
}

/// A GPU's memory.
fn described(ordinal: usize) -> Result<Owned<sys::OrtMemoryInfo>, EngineError> {
    let mut made = null_mut();
    let (kind, of) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: the name ends in NUL, the pointer is written by the call.
    check(unsafe { (api().CreateMemoryInfo)(c"Cuda".as_ptr(), kind, ordinal as i32, of, &mut made) })?;
    Owned::new(made, api().ReleaseMemoryInfo)
}

impl Engine for CudaEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        self.ort.version()
    }

    fn runs_on(&self) -> Option<(Arc<dyn Accelerator>, Stream)> {
        Some((self.gpu.clone(), self.stream))
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        let load = |captures| guarded(NAME, || self.open_session(image, options, captures)).map_err(told);
        let loaded = match load(self.options.graphs) {
            // Part of it runs on the host, or is control flow: as it is then.
            Err(error) if self.options.graphs && error.to_string().contains("graph capture") => load(false),
            other => other,
        };
        loaded.map(|session| Arc::new(session) as Arc<dyn Session>)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn without_a_gpu_the_engine_is_missing_and_says_what() {
        if crate::discover::gpus().is_ok_and(|found| !found.is_empty()) {
            eprintln!("skipped: the absence of a GPU, for there is one");
            return;
        }
        let opened = CudaEngine::open(0, &CudaOptions::default());
        let Err(EngineError::Missing { engine, why }) = opened.map(drop) else { panic!("there is no GPU") };
        assert!(engine == NAME && (why.contains("CUDA driver") || why.contains("GPU")), "{why}");
    }

    #[test]
    fn a_library_that_cannot_compute_on_gpus_is_an_error() {
        let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) else {
            eprintln!("skipped: the provider's options, for ORT_DYLIB_PATH names no ONNX Runtime");
            return;
        };
        let ort = OrtEngine::open(&PathBuf::from(path)).expect("the library that ORT_DYLIB_PATH names");
        let provider = ort.path().parent().is_some_and(has_cuda_provider);
        match provider_options(&[("device_id", "0"), ("use_tf32", "0")]) {
            Ok(_) => assert!(provider, "options of a provider that is not there"),
            Err(error) => eprintln!("{error}"),
        }
    }
}
