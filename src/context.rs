//! What every command shares: where things are, which engines there are, which machine is meant, and how to show progress.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tandem_ir::check::Severity;
use tandem_ir::{Machine, Profile};
use tandem_runtime::device::{ort::OrtEngine, tract::TractEngine};
use tandem_runtime::discover::{self, Gpu, OrtLookup, OrtStatus};
use tandem_runtime::engine::Engine;

use crate::cli::{Common, EngineChoice};
use crate::output::Negative;

/// Resolved common options.
pub struct Context {
    pub common: Common,
    cache: PathBuf,
    lookup: OnceCell<OrtLookup>,
    gpus: OnceCell<Result<Vec<Gpu>, String>>,
    engines: OnceCell<Vec<Arc<dyn Engine>>>,
}

impl Context {
    /// Resolves what costs nothing; engines are looked for when first asked for.
    pub fn new(common: Common) -> Result<Self> {
        let cache = match (&common.cache, std::env::var_os("TANDEM_CACHE")) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => dir.into(),
            (None, None) => user_cache().context("no cache folder: set TANDEM_CACHE, or give --cache")?,
        };
        Ok(Self { common, cache, lookup: OnceCell::new(), gpus: OnceCell::new(), engines: OnceCell::new() })
    }

    /// Folder of built models.
    pub fn models_dir(&self) -> PathBuf {
        self.cache.join("models")
    }

    /// Folder of measured samples.
    pub fn samples_dir(&self) -> PathBuf {
        self.cache.join("samples")
    }

    /// Where ONNX Runtime was looked for, and whether it was found.
    pub fn ort(&self) -> &OrtLookup {
        self.lookup.get_or_init(|| discover::find_onnxruntime(self.common.ort.as_deref()))
    }

    /// Engines for a CPU, the preferred one first: all that are found, or the one that was asked for.
    pub fn engines(&self) -> Result<&[Arc<dyn Engine>]> {
        if self.engines.get().is_none() {
            let found = self.find_engines()?;
            let _ = self.engines.set(found);
        }
        Ok(self.engines.get().map(Vec::as_slice).unwrap_or_default())
    }

    fn find_engines(&self) -> Result<Vec<Arc<dyn Engine>>> {
        let mut engines: Vec<Arc<dyn Engine>> = vec![];
        if self.common.engine != EngineChoice::Tract {
            match &self.ort().found {
                Some(library) => match OrtEngine::open(library) {
                    Ok(engine) => engines.push(Arc::new(engine)),
                    // A library that was named must work; one that was merely found may be broken or too old.
                    Err(error) if self.common.ort.is_some() || self.common.engine == EngineChoice::Ort => {
                        return Err(error).context(format!("{}", library.display()));
                    }
                    Err(error) => tracing::warn!("{}: {error}; using tract", library.display()),
                },
                None if self.common.engine == EngineChoice::Ort || self.common.ort.is_some() => {
                    bail!("ONNX Runtime was not found; looked in:\n  {}", self.ort().looked.join("\n  "))
                }
                None => {}
            }
        }
        if self.common.engine != EngineChoice::Ort {
            engines.push(Arc::new(TractEngine));
        }
        Ok(engines)
    }

    /// The preferred engine.
    pub fn engine(&self) -> Result<Arc<dyn Engine>> {
        self.engines()?.first().cloned().context("no engine")
    }

    /// What is known of ONNX Runtime here: found, loaded, its version.
    pub fn ort_status(&self) -> OrtStatus {
        let engines = self.engines();
        let version = match (&engines, self.ort().found.is_some()) {
            (_, false) => None,
            (Ok(engines), true) => {
                let ort = engines.iter().find(|e| e.name() == "ort");
                Some(ort.map(|e| e.version().to_owned()).ok_or_else(|| "not asked for, or unusable".to_owned()))
            }
            (Err(error), true) => Some(Err(format!("{error:#}"))),
        };
        OrtStatus::new(self.ort().clone(), version)
    }

    /// The GPUs that CUDA's driver names, or why there are none.
    pub fn gpus(&self) -> &Result<Vec<Gpu>, String> {
        self.gpus.get_or_init(discover::gpus)
    }

    /// The machine this runs on, with the engines that may be used.
    pub fn this_machine(&self) -> Result<Machine> {
        let names: Vec<String> = self.engines()?.iter().map(|e| e.name().to_owned()).collect();
        let mut machine = discover::machine(&self.ort_status(), &discover::system_facts(), self.gpus());
        if self.common.engine != EngineChoice::Auto {
            let host = &mut machine.devices[0];
            host.engines.retain(|e| names.contains(&e.name));
        }
        Ok(machine)
    }

    /// `auto`, or a machine file.
    pub fn machine(&self, choice: &str) -> Result<Machine> {
        if choice == "auto" {
            return self.this_machine();
        }
        let path = Path::new(choice);
        let text = read_document(path)?;
        let here = self.this_machine()?;
        let machine =
            tandem_ir::format::machine::from_yaml_with_host(&text, &path.display().to_string(), &here.devices[0])?;
        report(&path.display().to_string(), tandem_ir::check::check_machine(&machine))?;
        Ok(machine)
    }

    /// A profile file.
    pub fn profile(&self, path: &Path) -> Result<Profile> {
        let name = path.display().to_string();
        let profile = tandem_ir::format::profile::from_yaml(&read_document(path)?, &name)?;
        report(&name, tandem_ir::check::check_profile(&profile))?;
        Ok(profile)
    }

    /// A progress bar on stderr: drawn on a terminal only, and not with `--quiet`.
    pub fn bar(&self, what: &str) -> ProgressBar {
        let bar = ProgressBar::new(0);
        let hidden = self.common.quiet || !std::io::IsTerminal::is_terminal(&std::io::stderr());
        bar.set_draw_target(if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
        let style = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(what.to_owned());
        bar
    }

    /// Something people should read, on stderr.
    pub fn say(&self, text: &str) {
        if !self.common.quiet {
            eprintln!("{}", text.trim_end());
        }
    }
}

/// The user's cache folder, by the XDG rules.
fn user_cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("tandem"))
}

/// Reads a document, refusing ones that no document is as large as.
pub fn read_document(path: &Path) -> Result<String> {
    let name = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("{name}"))?.len();
    if size > tandem_ir::limits::DOCUMENT_BYTES_MAX {
        bail!("{name}: expected at most {} bytes, found {size}", tandem_ir::limits::DOCUMENT_BYTES_MAX);
    }
    std::fs::read_to_string(path).with_context(|| format!("{name}"))
}

/// Fails with all errors among the findings; warnings go to stderr.
pub fn report(file: &str, findings: Vec<tandem_ir::check::Finding>) -> Result<()> {
    let (errors, rest): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.severity == Severity::Error);
    rest.iter().filter(|f| f.severity == Severity::Warning).for_each(|f| eprintln!("{file}: {f}"));
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = errors.iter().map(|f| format!("  {f}")).collect();
    bail!("{file}: {} error(s)\n{}", errors.len(), lines.join("\n"))
}

/// A negative answer.
pub fn negative<T>(text: String) -> Result<T> {
    Err(Negative(text).into())
}
