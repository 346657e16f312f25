//! Where ONNX Runtime's library is: a flag, `ORT_DYLIB_PATH`, beside the binary, the active Python environment, the
//! system.
//!
//! The wheel carries the library as `onnxruntime/capi/libonnxruntime.so.VERSION`, beside one that Python loads and that
//! cannot be used here. Python itself is asked last among the environments, for starting it takes tens of milliseconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a search for ONNX Runtime found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtLookup {
    /// The library.
    pub found: Option<PathBuf>,
    /// Where was looked, in order, each with what was there.
    pub looked: Vec<String>,
}

/// Where to look, as the process's surroundings have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `ORT_DYLIB_PATH`: a file, or a folder that holds it.
    pub dylib_path: Option<PathBuf>,
    /// The folder of the binary.
    pub binary_folder: Option<PathBuf>,
    /// Roots of Python environments (`VIRTUAL_ENV`, `CONDA_PREFIX`), each with the name of its variable.
    pub environments: Vec<(String, PathBuf)>,
    /// Python to ask for its `onnxruntime` package; `None`: not asked.
    pub python: Option<PathBuf>,
    /// Folders of libraries.
    pub system: Vec<PathBuf>,
}

impl Places {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"];
        let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let listed = std::env::split_paths(&listed).filter(|p| !p.as_os_str().is_empty()).collect::<Vec<_>>();
        let usual =
            ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let more = ["/opt/onnxruntime/lib", "/opt/homebrew/lib"];
        Self {
            dylib_path: path("ORT_DYLIB_PATH"),
            binary_folder: std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned)),
            environments: environments.iter().filter_map(|v| Some(((*v).to_owned(), path(v)?))).collect(),
            python: Some("python3".into()),
            system: listed.into_iter().chain(usual.into_iter().chain(more).map(PathBuf::from)).collect(),
        }
    }
}

/// Looks for ONNX Runtime's library around this process. A flag that is given is the only place looked at.
pub fn find_onnxruntime(flag: Option<&Path>) -> OrtLookup {
    find_onnxruntime_in(flag, &Places::of_process())
}

/// Looks for it in these places, in the order of the module's description; the newest where a folder holds several.
pub fn find_onnxruntime_in(flag: Option<&Path>, places: &Places) -> OrtLookup {
    let mut lookup = OrtLookup::default();
    if let Some(flag) = flag {
        lookup.try_path("the flag", flag);
        return lookup;
    }
    if let Some(path) = &places.dylib_path
        && lookup.try_path("ORT_DYLIB_PATH", path)
    {
        return lookup;
    }
    if let Some(folder) = &places.binary_folder
        && (lookup.try_path("beside the binary", folder) || lookup.try_path("beside the binary", &folder.join("lib")))
    {
        return lookup;
    }
    for (name, root) in &places.environments {
        if lookup.try_folders(name, root, &packages(root)) {
            return lookup;
        }
    }
    if let Some(python) = &places.python
        && lookup.try_python(python)
    {
        return lookup;
    }
    for folder in &places.system {
        if lookup.try_path("system", folder) {
            return lookup;
        }
    }
    lookup
}

impl OrtLookup {
    /// A file or a folder; whether it is found there.
    fn try_path(&mut self, what: &str, path: &Path) -> bool {
        let found = if path.is_dir() { newest(path) } else { Some(path.to_owned()).filter(|p| p.is_file()) };
        let state = match &found {
            Some(file) if file != path => format!("found {}", file.display()),
            Some(_) => "found".into(),
            None if path.is_dir() => "no such library in it".into(),
            None => "not there".into(),
        };
        self.looked.push(format!("{what}: {}: {state}", path.display()));
        // Absolute, for the loader would look for a bare name in places of its own.
        self.found = found.map(|file| std::path::absolute(&file).unwrap_or(file));
        self.found.is_some()
    }

    fn try_folders(&mut self, what: &str, root: &Path, folders: &[PathBuf]) -> bool {
        if folders.is_empty() {
            self.looked.push(format!("{what}: {}: no package onnxruntime in it", root.display()));
        }
        folders.iter().any(|folder| self.try_path(what, folder))
    }

    fn try_python(&mut self, python: &Path) -> bool {
        // The package is located, not imported: an import would load the library and take half a second.
        let script = "import importlib.util as u; s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";
        let mut command = Command::new(python);
        command.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null());
        let name = python.display();
        match command.output() {
            Err(error) => {
                self.looked.push(format!("{name}: {error}"));
                false
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                match text.trim() {
                    "" => {
                        self.looked.push(format!("{name}: no package onnxruntime"));
                        false
                    }
                    folder => self.try_path(&name.to_string(), &Path::new(folder).join("capi")),
                }
            }
        }
    }
}

/// The package's library folders in a Python environment.
fn packages(root: &Path) -> Vec<PathBuf> {
    let unix = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten().map(|e| e.path());
    let unix = unix.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
    let mut folders: Vec<PathBuf> = unix.map(|p| p.join("site-packages")).collect();
    folders.push(root.join("Lib/site-packages"));
    folders.sort();
    folders.into_iter().map(|p| p.join("onnxruntime/capi")).filter(|p| p.is_dir()).collect()
}

/// The newest library of a folder.
fn newest(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_file());
    files.filter_map(|p| Some((version_of(&p.file_name()?.to_string_lossy())?, p))).max().map(|(_, path)| path)
}

/// The version in a library's file name, empty where it has none; `None` for other files (providers, Python's module).
fn version_of(file: &str) -> Option<Vec<u64>> {
    if file == "onnxruntime.dll" {
        return Some(vec![]);
    }
    let rest = file.strip_prefix("libonnxruntime.")?;
    let version = match rest.strip_prefix("so") {
        Some(version) => version.trim_start_matches('.'),
        None => rest.strip_suffix("dylib")?.trim_end_matches('.'),
    };
    version.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Whether the CUDA provider's library lies in the folder, and the one that providers are reached through.
pub(crate) fn has_cuda_provider(folder: &Path) -> bool {
    let here = |name: &str| {
        let files = [format!("libonnxruntime_providers_{name}.so"), format!("onnxruntime_providers_{name}.dll")];
        files.iter().any(|file| folder.join(file).is_file())
    };
    here("cuda") && here("shared")
}
