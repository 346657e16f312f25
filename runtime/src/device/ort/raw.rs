//! The C interface made bearable: statuses as errors, handles that release themselves, the process-wide environment.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};
use std::sync::OnceLock;

pub(super) use ::ort::sys;

use crate::engine::EngineError;

/// The table of functions. Loading has succeeded before any of this module's users exists.
pub(super) fn api() -> &'static sys::OrtApi {
    ::ort::api()
}

/// A failure in our words.
pub(super) fn failed(why: impl Into<String>) -> EngineError {
    EngineError::Failed { engine: super::NAME.into(), why: why.into() }
}

/// An inability in our words.
pub(super) fn unsupported(why: impl Into<String>) -> EngineError {
    EngineError::Unsupported { engine: super::NAME.into(), why: why.into() }
}

/// The same error, saying what it is about.
pub(super) fn about(error: EngineError, what: &str) -> EngineError {
    match error {
        EngineError::Failed { engine, why } => EngineError::Failed { engine, why: format!("{what}: {why}") },
        EngineError::Unsupported { engine, why } => EngineError::Unsupported { engine, why: format!("{what}: {why}") },
        other => other,
    }
}

/// Parts of messages that mean "I lack this", beside the code for it.
const LACKS: [&str; 10] = [
    "Could not find an implementation",
    "is not a registered function/op",
    "No Op registered",
    "No op registered",
    "not implemented",
    "NOT_IMPLEMENTED",
    "Unsupported model IR version",
    "is under development and support for this is limited",
    "is unsupported",
    "is not currently registered or supported",
];

/// A status as a result; releases it.
pub(super) fn check(status: sys::OrtStatusPtr) -> Result<(), EngineError> {
    let Some(status) = NonNull::new(status.0) else { return Ok(()) };
    // SAFETY: a status that is not null is valid until it is released, which happens once, after its text is copied.
    let (code, text) = unsafe {
        let code = (api().GetErrorCode)(status.as_ptr());
        let text = CStr::from_ptr((api().GetErrorMessage)(status.as_ptr())).to_string_lossy().into_owned();
        (api().ReleaseStatus)(status.as_ptr());
        (code, text)
    };
    let lacks = code == sys::OrtErrorCode::ORT_NOT_IMPLEMENTED || LACKS.iter().any(|l| text.contains(l));
    // "Type 'tensor(bfloat16)' of input parameter (x) of operator (Y) in node (..) is invalid."
    let lacks = lacks || (text.contains("Type 'tensor") && text.contains("is invalid"));
    Err(if lacks { unsupported(text) } else { failed(text) })
}

/// As [`check`], saying what the error is about.
pub(super) fn check_as(status: sys::OrtStatusPtr, what: &str) -> Result<(), EngineError> {
    check(status).map_err(|e| about(e, what))
}

/// A handle that is released when dropped.
pub(super) struct Owned<T> {
    handle: NonNull<T>,
    release: unsafe extern "system" fn(*mut T),
}

// SAFETY: ONNX Runtime's sessions, values and type descriptions are not bound to a thread; what is shared between
// threads here is only read, or run, which the interface allows concurrently.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Takes over a handle that a call made, with the function that releases it.
    pub(super) fn new(handle: *mut T, release: unsafe extern "system" fn(*mut T)) -> Result<Self, EngineError> {
        let handle = NonNull::new(handle).ok_or_else(|| failed("nothing was made, and no reason given"))?;
        Ok(Self { handle, release })
    }

    /// The handle, valid while `self` lives.
    pub(super) fn ptr(&self) -> *mut T {
        self.handle.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the handle came with this function, and nobody else releases it.
        unsafe { (self.release)(self.handle.as_ptr()) }
    }
}

/// What lives as long as the process.
struct Process {
    environment: *mut sys::OrtEnv,
    allocator: *mut sys::OrtAllocator,
    host: *mut sys::OrtMemoryInfo,
}

// SAFETY: the environment, the default allocator and memory descriptions may be used from any thread.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

static PROCESS: OnceLock<Process> = OnceLock::new();

/// Loads the library, makes the environment, and returns the version.
pub(super) fn load(path: &Path) -> Result<String, EngineError> {
    ::ort::init_from(path).map(drop).map_err(|e| failed(e.to_string()))?;
    let version = version(path)?;
    let (mut environment, mut allocator, mut host) = (null_mut(), null_mut(), null_mut());
    let warning = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
    let (arena, default) = (sys::OrtAllocatorType::OrtArenaAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: the pointers are written by the calls; the logger has no state, so its parameter may be null.
    unsafe {
        check((api().CreateEnvWithCustomLogger)(log, null_mut(), warning, c"tandem".as_ptr(), &mut environment))?;
        check((api().GetAllocatorWithDefaultOptions)(&mut allocator))?;
        check((api().CreateCpuMemoryInfo)(arena, default, &mut host))?;
        // One arena for all sessions: what one segment has just given back, and is still in the caches, the next one takes.
        check((api().CreateAndRegisterAllocator)(environment, host, null()))?;
    }
    PROCESS.get_or_init(|| Process { environment, allocator, host });
    Ok(version)
}

/// The version as the library states it (`1.31.1`); the table of functions does not hold it.
fn version(path: &Path) -> Result<String, EngineError> {
    // SAFETY: the library is loaded already, so that this runs no initialiser again; it stays loaded, for `ort` keeps
    // it.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| failed(e.to_string()))?;
    type Base = unsafe extern "system" fn() -> *const sys::OrtApiBase;
    // SAFETY: the symbol's type is that of the interface's header; the string is static.
    unsafe {
        let base = library.get::<Base>(b"OrtGetApiBase").map_err(|e| failed(e.to_string()))?;
        let base = base().as_ref().ok_or_else(|| failed("no interface"))?;
        Ok(CStr::from_ptr((base.GetVersionString)()).to_string_lossy().into_owned())
    }
}

/// Passes the library's messages on to `tracing`.
unsafe extern "system" fn log(
    _: *mut c_void,
    severity: sys::OrtLoggingLevel,
    _: *const c_char,
    _: *const c_char,
    _: *const c_char,
    message: *const c_char,
) {
    if message.is_null() {
        return;
    }
    // SAFETY: the library passes a string that ends in NUL.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // A subscriber that panics must not unwind into C++.
    let _ = std::panic::catch_unwind(|| {
        if severity as i32 >= sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR as i32 {
            // Errors also come back as statuses, and are reported there.
            tracing::debug!(target: "tandem::ort", "{text}");
        } else {
            tracing::trace!(target: "tandem::ort", "{text}");
        }
    });
}

fn process() -> Result<&'static Process, EngineError> {
    PROCESS.get().ok_or_else(|| failed("ONNX Runtime is not loaded"))
}

/// The environment all sessions share.
pub(super) fn environment() -> Result<*mut sys::OrtEnv, EngineError> {
    Ok(process()?.environment)
}

/// The default allocator of host memory.
pub(super) fn allocator() -> Result<*mut sys::OrtAllocator, EngineError> {
    Ok(process()?.allocator)
}

/// Describes host memory.
pub(super) fn host() -> Result<*const sys::OrtMemoryInfo, EngineError> {
    Ok(process()?.host.cast_const())
}

/// A string of the default allocator, which is released.
pub(super) fn c_string(text: *mut c_char) -> Result<String, EngineError> {
    let text = NonNull::new(text).ok_or_else(|| failed("no text"))?;
    // SAFETY: the caller got a string that ends in NUL from the default allocator.
    unsafe {
        let copy = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
        check((api().AllocatorFree)(allocator()?, text.as_ptr().cast()))?;
        Ok(copy)
    }
}

/// A name for the interface.
pub(super) fn c_text(text: &str) -> Result<CString, EngineError> {
    CString::new(text).map_err(|_| unsupported(format!("the name {text:?} holds a NUL")))
}

/// A path for the interface.
#[cfg(unix)]
pub(super) fn os_path(path: &Path) -> Result<CString, EngineError> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| failed("a path holds a NUL"))
}

/// A path for the interface.
#[cfg(windows)]
pub(super) fn os_path(path: &Path) -> Result<Vec<u16>, EngineError> {
    use std::os::windows::ffi::OsStrExt;
    Ok(path.as_os_str().encode_wide().chain([0]).collect())
}
