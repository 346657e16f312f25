//! A part of a GPU's multiprocessors: green contexts.
//!
//! Since CUDA 12.4 a driver can divide the multiprocessors of a GPU, and make streams whose kernels run on one part
//! only, in the context that everything else is in. Whether a driver does is asked of its library, function by function.
//!
//! The other way, a percentage under the Multi-Process Service, is a setting of a whole process, made by a variable of
//! its environment before the first call of CUDA, so nothing here can choose it; errors name it.

use std::mem::MaybeUninit;
use std::ptr::null_mut;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use super::codes;
use super::gpu::{NAME, RawStream};
use crate::engine::EngineError;

/// What of the driver's library is needed.
const FUNCTIONS: [&str; 6] = [
    "cuDeviceGetDevResource",
    "cuDevSmResourceSplitByCount",
    "cuDevResourceGenerateDesc",
    "cuGreenCtxCreate",
    "cuGreenCtxStreamCreate",
    "cuGreenCtxDestroy",
];

/// Some of a GPU's multiprocessors.
pub(super) struct Share {
    handle: sys::CUgreenCtx,
    /// How many.
    pub(super) multiprocessors: u32,
    /// Of how many.
    pub(super) of: u32,
}

// SAFETY: the handle is used to make streams and is destroyed at the end, which any thread may do.
unsafe impl Send for Share {}
// SAFETY: as above.
unsafe impl Sync for Share {}

impl Share {
    /// So many per mille of the GPU's multiprocessors, rounded up to what the hardware can set apart. A context is current.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub(super) fn of(device: sys::CUdevice, permille: u32) -> Result<Self, EngineError> {
        offered()?;
        let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let mut all = MaybeUninit::<sys::CUdevResource>::zeroed();
        // SAFETY: the functions are there; all pointers are to room for what the calls write, the context is current.
        unsafe {
            check("the GPU's multiprocessors", sys::cuDeviceGetDevResource(device, all.as_mut_ptr(), kind))?;
            let all = all.assume_init();
            let of = all.__bindgen_anon_1.sm.smCount;
            let (mut part, mut rest) = (MaybeUninit::zeroed(), MaybeUninit::zeroed());
            let mut groups = 1;
            let least = multiprocessors(permille, of);
            let split =
                sys::cuDevSmResourceSplitByCount(part.as_mut_ptr(), &mut groups, &all, rest.as_mut_ptr(), 0, least);
            check("a part of the GPU's multiprocessors", split)?;
            let mut part: sys::CUdevResource = part.assume_init();
            let multiprocessors = part.__bindgen_anon_1.sm.smCount;
            let mut described = null_mut();
            check("a part's description", sys::cuDevResourceGenerateDesc(&mut described, &mut part, 1))?;
            let mut handle = null_mut();
            let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
            check("a green context", sys::cuGreenCtxCreate(&mut handle, described, device, flags))?;
            Ok(Self { handle, multiprocessors, of })
        }
    }

    /// A stream on these multiprocessors.
    pub(super) fn stream(&self, priority: i32) -> Result<RawStream, EngineError> {
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the handle lives; the stream is written.
        let made = unsafe { sys::cuGreenCtxStreamCreate(&mut stream, self.handle, flags, priority) };
        check("a green context's stream", made).map(|()| RawStream(stream))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // SAFETY: its streams are destroyed before it, by the GPU that has both; it is destroyed once.
        let _ = unsafe { sys::cuGreenCtxDestroy(self.handle) };
    }
}

/// Whether a share can be had at all.
///
/// # Errors
/// Why not.
pub fn offered() -> Result<(), EngineError> {
    let missing = |why: String| EngineError::Missing { engine: NAME.into(), why };
    crate::discover::gpus().map_err(missing)?;
    // SAFETY: the driver's library is there, for it has just been asked; a name is looked up, and nothing called.
    let absent = FUNCTIONS.iter().find(|name| unsafe { sys::culib().get::<fn()>(name.as_bytes()) }.is_err());
    match absent {
        Some(name) => Err(missing(format!(
            "a part of a GPU needs green contexts, and the driver lacks {name} (CUDA 12.5 has it); the Multi-Process \
             Service can limit a whole process instead: CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, set before it starts"
        ))),
        None => Ok(()),
    }
}

/// Multiprocessors of a share, at least one.
fn multiprocessors(permille: u32, of: u32) -> u32 {
    (u64::from(of) * u64::from(permille.min(1000))).div_ceil(1000).max(1) as u32
}

fn check(what: &str, code: sys::CUresult) -> Result<(), EngineError> {
    let said = |e: DriverError| codes::error(NAME, e.0 as u32, 0, format!("{what}: {e:?}"));
    code.result().map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_to_whole_multiprocessors() {
        assert_eq!(multiprocessors(500, 132), 66);
        assert_eq!(multiprocessors(501, 132), 67);
        assert_eq!((multiprocessors(0, 132), multiprocessors(5000, 132)), (1, 132));
    }

    #[test]
    fn without_a_driver_there_are_no_shares() {
        if let Err(error) = crate::discover::gpus().and_then(|_| offered().map_err(|e| e.to_string())) {
            assert!(error.contains("CUDA") || error.contains("cuda"), "{error}");
        }
    }
}
