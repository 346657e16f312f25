//! What was measured on this machine before, so that it is not measured again.
//!
//! One JSON file for each machine and engine version, named after both, in a folder the caller chooses (and one for each
//! model that was observed: `kept.rs`). A file that cannot be read is ignored with a warning and written anew. Saving
//! reads the file again and adds what is new, so that two writers lose at most what one of them added in between; the
//! file is written aside and renamed, never half-written.
//!
//! Deliberately not a document for people or for other machines: those are profiles (`tandem_ir::format`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tandem_ir::fingerprint::Hasher;
use tandem_ir::profile::{Atom, Method, Setting, Timing};
use tandem_ir::signature::Signature;
use tandem_ir::{Device, Fingerprint, Graph, Nanos, NodeId};

/// Version of the file's layout and of the way numbers are measured: files of another are ignored.
const VERSION: u32 = 2;

/// Most bytes of a cache file that is read; about 150 bytes a sample, so a million of them.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What identifies a machine for measurements: processor, instruction sets, usable cores.
pub fn machine_identity(device: &Device) -> String {
    let told = device.facts.iter().filter(|(name, _)| name.contains("feature") || name.contains("instruction"));
    let told: Vec<String> = told.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}; {} cores; {}", device.model, device.cores, told.join("; "))
}

/// What identifies a graph with the shapes that are known of it: the same file bound to other shapes is another.
pub fn graph_key(graph: &Graph) -> Fingerprint {
    fn facts(graph: &Graph, hasher: &mut Hasher) {
        for tensor in &graph.tensors {
            hasher.field(tensor.fact.to_string().as_bytes());
        }
        graph.nodes.iter().flat_map(|n| n.bodies.values()).for_each(|body| facts(body, hasher));
    }
    let mut hasher = Hasher::default();
    hasher.field(&graph.fingerprint.0);
    facts(graph, &mut hasher);
    hasher.finish()
}

/// Measurements of one engine on one machine.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    path: Option<PathBuf>,
    identity: String,
    known: Content,
    added: Content,
    /// Why an existing file was ignored, for the report.
    pub warning: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    samples: BTreeMap<(Signature, Setting), Timing>,
    costs: BTreeMap<Setting, SessionCost>,
    tables: BTreeMap<TableKey, Vec<Atom>>,
    /// Numbers that belong to a graph as a whole: proofs, whole runs, interference.
    notes: BTreeMap<(Fingerprint, String), serde_json::Value>,
}

type TableKey = (Fingerprint, String, u32);

/// What an engine costs beside operators, at a thread count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCost {
    /// What a run costs however few operators it has, in nanoseconds.
    pub launch_ns: u64,
    /// Half the distance between its quartiles, in nanoseconds.
    pub launch_spread_ns: u64,
    /// What the engine's own timing adds to each node's duration, in nanoseconds; 0 where it has none.
    pub timing_overhead_ns: u64,
    /// Repeats behind these.
    pub repeats: u32,
}

impl Cache {
    /// A cache that is not kept.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens the file of an engine on a machine, whether it exists or not. Never fails: what cannot be read is ignored,
    /// and [`Cache::warning`] says so.
    pub fn open(folder: &Path, engine: &str, version: &str, identity: &str) -> Self {
        let short = &Fingerprint::of(identity.as_bytes()).to_string()[..12];
        let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-', "_");
        let path = folder.join(format!("{}-{}-{short}.json", plain(engine), plain(version)));
        let (known, warning) = match read(&path, identity) {
            Ok(known) => (known, None),
            Err(why) => (Content::default(), Some(format!("{}: ignored and rebuilt: {why}", path.display()))),
        };
        if let Some(warning) = &warning {
            tracing::warn!(target: "tandem::profiler", "{warning}");
        }
        Self { path: Some(path), identity: identity.to_owned(), known, added: Content::default(), warning }
    }

    /// The duration of an atom.
    pub fn sample(&self, signature: &Signature, setting: &Setting) -> Option<Timing> {
        let key = (signature.clone(), setting.clone());
        self.added.samples.get(&key).or_else(|| self.known.samples.get(&key)).copied()
    }

    /// Keeps the duration of an atom.
    pub fn put_sample(&mut self, signature: &Signature, setting: &Setting, timing: Timing) {
        self.added.samples.insert((signature.clone(), setting.clone()), timing);
    }

    /// What the engine costs beside operators; the setting's batch is 0.
    pub fn cost(&self, setting: &Setting) -> Option<SessionCost> {
        self.added.costs.get(setting).or_else(|| self.known.costs.get(setting)).copied()
    }

    /// Keeps what the engine costs beside operators.
    pub fn put_cost(&mut self, setting: &Setting, cost: SessionCost) {
        self.added.costs.insert(setting.clone(), cost);
    }

    /// How the engine groups a graph's nodes on a device with so many threads.
    pub fn table(&self, graph: Fingerprint, device: &str, threads: u32) -> Option<&[Atom]> {
        let key = (graph, device.to_owned(), threads);
        self.added.tables.get(&key).or_else(|| self.known.tables.get(&key)).map(Vec::as_slice)
    }

    /// Keeps how the engine groups a graph's nodes.
    pub fn put_table(&mut self, graph: Fingerprint, device: &str, threads: u32, atoms: Vec<Atom>) {
        self.added.tables.insert((graph, device.to_owned(), threads), atoms);
    }

    /// Something else that is known of a graph, under a name.
    pub fn note<T: for<'de> Deserialize<'de>>(&self, graph: Fingerprint, name: &str) -> Option<T> {
        let key = (graph, name.to_owned());
        let value = self.added.notes.get(&key).or_else(|| self.known.notes.get(&key))?;
        serde_json::from_value(value.clone()).ok()
    }

    /// Keeps something else that is known of a graph.
    pub fn put_note<T: Serialize>(&mut self, graph: Fingerprint, name: &str, value: &T) {
        if let Ok(value) = serde_json::to_value(value) {
            self.added.notes.insert((graph, name.to_owned()), value);
        }
    }

    /// Writes what was added. Does nothing if nothing was, or if the cache is in memory only.
    ///
    /// # Errors
    /// The folder cannot be made or the file not written; what was there stays as it was.
    pub fn save(&mut self) -> std::io::Result<()> {
        let Some(path) = self.path.clone().filter(|_| self.added != Content::default()) else { return Ok(()) };
        // Somebody else may have written since this was read. What is on disk wins nothing and loses nothing: ours is
        // newer.
        let mut merged = read(&path, &self.identity).unwrap_or_default();
        merged.take(std::mem::take(&mut self.added));
        write(&path, &self.identity, &merged)?;
        self.known = merged;
        Ok(())
    }
}

impl Content {
    fn take(&mut self, newer: Content) {
        self.samples.extend(newer.samples);
        self.costs.extend(newer.costs);
        self.tables.extend(newer.tables);
        self.notes.extend(newer.notes);
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    machine: String,
    samples: Vec<FileSample>,
    costs: Vec<FileCost>,
    tables: Vec<FileTable>,
    notes: Vec<FileNote>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSetting {
    device: String,
    engine: String,
    threads: u32,
    batch: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSample {
    signature: String,
    setting: FileSetting,
    timing: FileTiming,
}

/// A timing, for files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTiming {
    median_ns: u64,
    spread_ns: u64,
    repeats: u32,
    method: FileMethod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileMethod {
    EngineTimed,
    Isolated,
    Modelled,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCost {
    setting: FileSetting,
    cost: SessionCost,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    graph: String,
    device: String,
    threads: u32,
    atoms: Vec<FileAtom>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAtom {
    signature: String,
    nodes: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNote {
    graph: String,
    name: String,
    value: serde_json::Value,
}

impl From<&Timing> for FileTiming {
    fn from(t: &Timing) -> Self {
        let method = match t.method {
            Method::EngineTimed => FileMethod::EngineTimed,
            Method::Isolated => FileMethod::Isolated,
            Method::Modelled => FileMethod::Modelled,
        };
        Self { median_ns: t.median.0, spread_ns: t.spread.0, repeats: t.repeats, method }
    }
}

impl From<FileTiming> for Timing {
    fn from(t: FileTiming) -> Self {
        let method = match t.method {
            FileMethod::EngineTimed => Method::EngineTimed,
            FileMethod::Isolated => Method::Isolated,
            FileMethod::Modelled => Method::Modelled,
        };
        Self { median: Nanos(t.median_ns), spread: Nanos(t.spread_ns), repeats: t.repeats, method }
    }
}

impl From<&Setting> for FileSetting {
    fn from(s: &Setting) -> Self {
        Self { device: s.device.clone(), engine: s.engine.clone(), threads: s.threads, batch: s.batch }
    }
}

impl From<FileSetting> for Setting {
    fn from(s: FileSetting) -> Self {
        Self { device: s.device, engine: s.engine, threads: s.threads, batch: s.batch }
    }
}

/// What a file holds; nothing if there is none.
fn read(path: &Path, identity: &str) -> Result<Content, String> {
    let size = match std::fs::metadata(path) {
        Ok(facts) => facts.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(e) => return Err(e.to_string()),
    };
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes, at most {FILE_BYTES_MAX} expected"));
    }
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    let file: File = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {VERSION} expected, found {}", file.version));
    }
    if file.machine != identity {
        return Err(format!("it is of something else: {}", file.machine));
    }
    content(file)
}

fn content(file: File) -> Result<Content, String> {
    let mut content = Content::default();
    for s in file.samples {
        content.samples.insert((Signature(s.signature), s.setting.into()), s.timing.into());
    }
    for c in file.costs {
        content.costs.insert(c.setting.into(), c.cost);
    }
    for t in file.tables {
        let atom =
            |a: FileAtom| Atom { nodes: a.nodes.into_iter().map(NodeId).collect(), signature: Signature(a.signature) };
        let atoms = t.atoms.into_iter().map(atom).collect();
        content.tables.insert((t.graph.parse()?, t.device, t.threads), atoms);
    }
    for n in file.notes {
        content.notes.insert((n.graph.parse()?, n.name), n.value);
    }
    Ok(content)
}

fn write(path: &Path, identity: &str, content: &Content) -> std::io::Result<()> {
    let sample = |((signature, setting), timing): (&(Signature, Setting), &Timing)| FileSample {
        signature: signature.0.clone(),
        setting: setting.into(),
        timing: timing.into(),
    };
    let atom = |a: &Atom| FileAtom { signature: a.signature.0.clone(), nodes: a.nodes.iter().map(|n| n.0).collect() };
    let table = |((graph, device, threads), atoms): (&TableKey, &Vec<Atom>)| FileTable {
        graph: graph.to_string(),
        device: device.clone(),
        threads: *threads,
        atoms: atoms.iter().map(atom).collect(),
    };
    let note = |((graph, name), value): (&(Fingerprint, String), &serde_json::Value)| FileNote {
        graph: graph.to_string(),
        name: name.clone(),
        value: value.clone(),
    };
    let file = File {
        version: VERSION,
        machine: identity.to_owned(),
        samples: content.samples.iter().map(sample).collect(),
        costs: content.costs.iter().map(|(s, c)| FileCost { setting: s.into(), cost: *c }).collect(),
        tables: content.tables.iter().map(table).collect(),
        notes: content.notes.iter().map(note).collect(),
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(std::io::BufWriter::new(aside.as_file_mut()), &file)?;
    aside.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
