//! ONNX Runtime on the CPU, through its C interface.
//!
//! The library is loaded when the program runs, from a path somebody else found. The `ort` crate loads it and hands out
//! the table of functions; sessions and values are made here over that table, for the crate's own types know neither
//! every element type nor sequences of anything, nor initialisers that stay where they are.
//!
//! Memory: weights beside the image are lent to the session, not copied (the session keeps their buffers alive; kernels
//! that repack weights keep their own packed copy, as ONNX Runtime always does). Inputs are lent for the duration of a
//! run. Outputs stay in ONNX Runtime's memory, and the returned values own them.
//!
//! Threads: one run uses `SessionOptions::threads` threads. They spin while a run is in flight and stop with it
//! (`session.force_spinning_stop`), for plans give each lane cores of its own. Measured with 2 threads on 2 cores: on
//! an idle machine a session that never spins is as fast on resnet50 (40 against 38 ms) and slower on small operators
//! (squeezenet: 6.8 against 4.4 ms), and one that goes on spinning after its run makes the next run, on another
//! session, up to 1.8 times slower (resnet50: 69 against 38 ms). Where other processes want the cores, never spinning
//! is the fastest by far (load 6, resnet50: 85 against 141 ms), and one thread the best of all for small models.
//!
//! Denormals are computed as IEEE says; the option to flush them is not set.

#![allow(unsafe_code)]

mod bound;
pub mod cuda;
mod profile;
mod raw;
mod values;

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock};

use tandem_ir::DType;
use tandem_onnx::cut::{SegmentImage, Weight};
use tandem_onnx::value::{Buffer, Value};

use crate::device::guarded;
use crate::engine::{Engine, EngineError, EngineProfile, Session, SessionOptions};
use raw::{Owned, api, check, check_as, sys};

/// The engine's name.
pub const NAME: &str = "ort";

/// ONNX Runtime, loaded. One library a process.
#[derive(Clone, Debug)]
pub struct OrtEngine {
    version: Arc<str>,
    path: Arc<Path>,
}

static OPENED: Mutex<Option<OrtEngine>> = Mutex::new(None);

impl OrtEngine {
    /// Loads the library, or hands out the one that is loaded already.
    ///
    /// # Errors [`EngineError::Missing`] if the file cannot be loaded, is no ONNX Runtime or an older one than 1.24, or
    /// if another library was loaded before: the process holds one.
    pub fn open(lib: &Path) -> Result<OrtEngine, EngineError> {
        let missing = |why: String| EngineError::Missing { engine: NAME.into(), why };
        let path: PathBuf = lib.canonicalize().map_err(|e| missing(format!("{}: {e}", lib.display())))?;
        let mut opened = OPENED.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(engine) = &*opened {
            if *engine.path == *path {
                return Ok(engine.clone());
            }
            let held = engine.path.display();
            return Err(missing(format!("{} cannot be loaded beside {held}: one library a process", path.display())));
        }
        let version = guarded(NAME, || raw::load(&path)).map_err(|e| missing(e.to_string()))?;
        let engine = OrtEngine { version: version.into(), path: path.into() };
        *opened = Some(engine.clone());
        Ok(engine)
    }

    /// The library that is loaded, if one is.
    pub fn opened() -> Option<OrtEngine> {
        OPENED.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }

    /// Where the library was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Engine for OrtEngine {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        guarded(NAME, || Ok(Arc::new(OrtSession::load(image, options, None)?) as Arc<dyn Session>))
    }

    fn save_optimized(
        &self,
        image: &SegmentImage,
        options: &SessionOptions,
        folder: &Path,
    ) -> Result<Option<PathBuf>, EngineError> {
        let options = SessionOptions { profile: false, ..options.clone() };
        guarded(NAME, || OrtSession::load(image, &options, Some(folder)).map(drop))?;
        Ok(Some(folder.join(GRAPH_FILE)))
    }
}

/// A session with everything it points into. Outputs hold it, for they may lie in its memory.
pub(crate) struct Inner {
    session: Owned<sys::OrtSession>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Kept, for the session reads them where they lie.
    _weights: Vec<Buffer>,
}

/// An input or output as the session declares it.
struct Port {
    name: CString,
    kind: values::PortKind,
}

/// Profile and graph files while profiling is on.
struct Profiling {
    folder: tempfile::TempDir,
    ended: OnceLock<()>,
}

struct OrtSession {
    inner: Arc<Inner>,
    profiling: Option<Profiling>,
}

/// Name of the saved optimised graph in its folder.
const GRAPH_FILE: &str = "optimized.onnx";

impl OrtSession {
    /// With a folder, the optimised graph is saved there (where profiling has none of its own).
    fn load(image: &SegmentImage, options: &SessionOptions, folder: Option<&Path>) -> Result<Self, EngineError> {
        let profiling = match options.profile {
            true => Some(Profiling { folder: profile_folder()?, ended: OnceLock::new() }),
            false => None,
        };
        let made = session_options(options)?;
        if let Some(profiling) = &profiling {
            let prefix = raw::os_path(&profiling.folder.path().join("profile"))?;
            // SAFETY: the options live, and the path outlives the call, which copies it.
            check(unsafe { (api().EnableProfiling)(made.ptr(), prefix.as_ptr()) })?;
        }
        if let Some(folder) = profiling.as_ref().map(|p| p.folder.path()).or(folder) {
            save_graph(&made, folder)?;
        }
        Ok(Self { profiling, ..Self::open(image, &made)? })
    }

    /// With these options, and without profiling.
    fn open(image: &SegmentImage, made: &Owned<sys::OrtSessionOptions>) -> Result<Self, EngineError> {
        let weights: Vec<Weight> = image.weights.iter().map(aligned).collect();
        lend_weights(made, &weights)?;
        let mut session = null_mut();
        // SAFETY: the model's bytes and the options live through the call; ONNX models are parsed, not referred to.
        check(unsafe {
            (api().CreateSessionFromArray)(
                raw::environment()?,
                image.model.as_ptr().cast(),
                image.model.len(),
                made.ptr(),
                &mut session,
            )
        })?;
        let session = Owned::new(session, api().ReleaseSession)?;
        let inputs = ports(&session, &image.inputs, values::Side::Input)?;
        let outputs = ports(&session, &image.outputs, values::Side::Output)?;
        let weights = weights.into_iter().map(|w| w.data).collect();
        Ok(Self { inner: Arc::new(Inner { session, inputs, outputs, _weights: weights }), profiling: None })
    }

    fn run_raw(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        let inner = &self.inner;
        if inputs.len() != inner.inputs.len() {
            let why = format!("expected {} inputs, found {}", inner.inputs.len(), inputs.len());
            return Err(raw::failed(why));
        }
        if inner.outputs.is_empty() {
            return Ok(vec![]);
        }
        let (mut feeds, mut input_names) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for (value, port) in inputs.iter().zip(&inner.inputs) {
            let fed = values::feed(value, &port.kind);
            let fed = fed.map_err(|e| raw::about(e, &format!("input \"{}\"", port.name.to_string_lossy())))?;
            if let Some(fed) = fed {
                feeds.push(fed);
                input_names.push(port.name.as_ptr());
            }
        }
        let feed_values: Vec<_> = feeds.iter().map(|f| f.ptr().cast_const()).collect();
        let output_names: Vec<_> = inner.outputs.iter().map(|p| p.name.as_ptr()).collect();
        let mut made = vec![null_mut(); output_names.len()];
        // SAFETY: all arrays have the stated lengths, names end in NUL, values live until after the call; ONNX Runtime
        // allows concurrent runs of one session.
        let status = unsafe {
            (api().Run)(
                inner.session.ptr(),
                std::ptr::null(),
                input_names.as_ptr(),
                feed_values.as_ptr(),
                feed_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                made.as_mut_ptr(),
            )
        };
        // Taken first, so that values made before an error are released.
        let owned: Vec<_> = made.into_iter().map(|v| Owned::new(v, api().ReleaseValue)).collect();
        check(status)?;
        let mut outputs = Vec::with_capacity(owned.len());
        for (value, port) in owned.into_iter().zip(&inner.outputs) {
            let taken = value.and_then(|v| values::take(v, &port.kind, inner, inputs));
            outputs.push(taken.map_err(|e| raw::about(e, &format!("output \"{}\"", port.name.to_string_lossy())))?);
        }
        Ok(outputs)
    }
}

impl Session for OrtSession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        guarded(NAME, || self.run_raw(inputs))
    }

    fn output_types(&self) -> Vec<Option<DType>> {
        let tensor = |port: &Port| match port.kind {
            values::PortKind::Tensor(dtype) => dtype,
            _ => None,
        };
        self.inner.outputs.iter().map(tensor).collect()
    }

    /// Durations are whole microseconds rounded down by ONNX Runtime; half a microsecond is added to each, so that
    /// means over many runs are unbiased. Single values of operators below some 10 us mean little.
    fn end_profile(&self) -> Result<Option<EngineProfile>, EngineError> {
        let Some(profiling) = &self.profiling else { return Ok(None) };
        if profiling.ended.set(()).is_err() {
            return Ok(None);
        }
        let mut name = null_mut();
        // SAFETY: the session lives; the name is allocated by the default allocator and released by `c_string`.
        check(unsafe { (api().SessionEndProfiling)(self.inner.session.ptr(), raw::allocator()?, &mut name) })?;
        let file = raw::c_string(name)?;
        let graph = profile::graph(&profiling.folder.path().join(GRAPH_FILE))?;
        profile::read(Path::new(&file), graph).map(Some)
    }
}

/// The weight, copied only where its elements do not lie at multiples of their size (allocators align to 16 bytes).
fn aligned(weight: &Weight) -> Weight {
    let align = (weight.dtype.bits() / 8).clamp(1, 8) as usize;
    let mut weight = weight.clone();
    if !weight.data.as_ptr().addr().is_multiple_of(align) {
        weight.data = weight.data.to_vec().into();
    }
    weight
}

/// Lends weights to the session to be: it reads them where they lie.
///
/// They pose as the contents of files, named as the image's references name them, and the session is told to use these
/// contents directly. (Lent as values instead, by `AddExternalInitializers`, ONNX Runtime 1.31 copies each: resnet50
/// with optimisation off takes 106 MiB more a session so, and 9 MiB this way.)
fn lend_weights(options: &Owned<sys::OrtSessionOptions>, weights: &[Weight]) -> Result<(), EngineError> {
    if weights.is_empty() {
        return Ok(());
    }
    config(options.ptr(), "session.use_external_initializer_file_buffers_directly", "1")?;
    let paths: Vec<_> = weights.iter().map(|w| raw::os_path(Path::new(&w.name))).collect::<Result<_, _>>()?;
    let names: Vec<_> = paths.iter().map(|n| n.as_ptr()).collect();
    let data: Vec<*mut c_char> = weights.iter().map(|w| w.data.as_ptr().cast_mut().cast()).collect();
    let sizes: Vec<usize> = weights.iter().map(|w| w.data.len()).collect();
    // SAFETY: names and arrays live through the call, which copies them; `Inner` keeps the contents alive. ONNX Runtime
    // does not write to initialisers, though its interface takes pointers to mutable memory.
    check(unsafe {
        (api().AddExternalInitializersFromMemory)(
            options.ptr(),
            names.as_ptr(),
            data.as_ptr(),
            sizes.as_ptr(),
            names.len(),
        )
    })
}

fn profile_folder() -> Result<tempfile::TempDir, EngineError> {
    tempfile::tempdir().map_err(|e| raw::failed(format!("no folder for profiles: {e}")))
}

/// Options of a session: sequential, one thread pool, the library's own messages at warning.
fn session_options(options: &SessionOptions) -> Result<Owned<sys::OrtSessionOptions>, EngineError> {
    let mut made = null_mut();
    // SAFETY: the pointer is written by the call.
    check(unsafe { (api().CreateSessionOptions)(&mut made) })?;
    let made = Owned::new(made, api().ReleaseSessionOptions)?;
    let o = made.ptr();
    let level = match options.optimize {
        true => sys::GraphOptimizationLevel::ORT_ENABLE_ALL,
        false => sys::GraphOptimizationLevel::ORT_DISABLE_ALL,
    };
    let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
    // SAFETY (this and all below): the options live, and every string outlives its call, which copies it.
    check(unsafe { (api().SetSessionGraphOptimizationLevel)(o, level) })?;
    check(unsafe { (api().SetIntraOpNumThreads)(o, threads) })?;
    check(unsafe { (api().SetInterOpNumThreads)(o, 1) })?;
    check(unsafe { (api().SetSessionExecutionMode)(o, sys::ExecutionMode::ORT_SEQUENTIAL) })?;
    if threads > 0 {
        config(o, "session.force_spinning_stop", "1")?;
        config(o, "session.use_env_allocators", "1")?;
    }
    Ok(made)
}

/// Has the graph saved as it runs.
fn save_graph(options: &Owned<sys::OrtSessionOptions>, folder: &Path) -> Result<(), EngineError> {
    let graph = raw::os_path(&folder.join(GRAPH_FILE))?;
    // SAFETY: the options live, and the path outlives the call, which copies it.
    check(unsafe { (api().SetOptimizedModelFilePath)(options.ptr(), graph.as_ptr()) })?;
    // Weights go beside the saved graph, so that reading the graph reads none, and models over 2 GiB can be saved.
    config(options.ptr(), "session.optimized_model_external_initializers_file_name", "weights.bin")?;
    config(options.ptr(), "session.optimized_model_external_initializers_min_size_in_bytes", "1024")
}

fn config(options: *mut sys::OrtSessionOptions, key: &str, value: &str) -> Result<(), EngineError> {
    let (key, value) = (raw::c_text(key)?, raw::c_text(value)?);
    // SAFETY: both strings end in NUL and outlive the call, which copies them.
    check(unsafe { (api().AddSessionConfigEntry)(options, key.as_ptr(), value.as_ptr()) })
}

/// The session's declarations for the image's names, in the image's order.
fn ports(session: &Owned<sys::OrtSession>, names: &[String], side: values::Side) -> Result<Vec<Port>, EngineError> {
    let mut declared = values::declared(session, side)?;
    let mut ports = Vec::with_capacity(names.len());
    for name in names {
        let kind = declared.remove(name.as_str());
        let kind = kind.ok_or_else(|| raw::failed(format!("the loaded model has no {side} \"{name}\"")))?;
        ports.push(Port { name: raw::c_text(name)?, kind });
    }
    Ok(ports)
}

/// Runs a model of one node without inputs, for a value that the interface cannot make: an empty sequence.
fn make_by_model(model: &[u8], output: &str) -> Result<Owned<sys::OrtValue>, EngineError> {
    let options = session_options(&SessionOptions::default())?;
    let (mut session, mut value) = (null_mut(), null_mut());
    let name = raw::c_text(output)?;
    // SAFETY: bytes, options and names live through the calls; one output is asked for and one pointer given.
    check_as(
        unsafe {
            (api().CreateSessionFromArray)(
                raw::environment()?,
                model.as_ptr().cast(),
                model.len(),
                options.ptr(),
                &mut session,
            )
        },
        "an empty value",
    )?;
    let session = Owned::new(session, api().ReleaseSession)?;
    let (none, names) = (std::ptr::null(), [name.as_ptr()]);
    // SAFETY: as above; there are no inputs.
    check(unsafe {
        (api().Run)(session.ptr(), std::ptr::null(), none, std::ptr::null(), 0, names.as_ptr(), 1, &mut value)
    })?;
    Owned::new(value, api().ReleaseValue)
}
