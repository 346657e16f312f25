//! The profile file: written by `tandem profile`, read by the planner, diffed by people. One sample a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::MachineTwin;
use super::scalar::Digest;
use super::{Fault, FormatError};
use crate::graph::NodeId;
use crate::profile::{
    Atom, AtomTable, BatchProof, Interference, LinkSample, Method, Profile, SegmentSample, Setting, Timing,
};
use crate::signature::Signature;
use crate::units::Nanos;

const KIND: &str = "Profile";

/// A profile as YAML, in the order of its maps.
pub fn to_yaml(profile: &Profile) -> String {
    super::write(&ProfileTwin::from(profile), KIND)
}

/// A profile as JSON.
pub fn to_json(profile: &Profile) -> String {
    super::write_json(&ProfileTwin::from(profile), KIND)
}

/// Reads a profile (YAML or JSON); `file` is its name in errors.
///
/// # Errors
/// Where the text is no profile of a version we know, or states a sample twice.
pub fn from_yaml(text: &str, file: &str) -> Result<Profile, FormatError> {
    let twin: ProfileTwin = super::read(text, file, KIND)?;
    twin.profile().map_err(|fault| super::place(fault, text, file))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct ProfileTwin {
    #[serde(rename = "apiVersion", default, skip_serializing)]
    _api_version: Option<String>,
    #[serde(rename = "kind", default, skip_serializing)]
    _kind: Option<String>,
    date: String,
    machine: MachineTwin,
    proofs: Vec<ProofTwin>,
    launches: Vec<LaunchTwin>,
    copies: Vec<CopyTwin>,
    interference: Vec<InterferenceTwin>,
    runs: Vec<RunTwin>,
    samples: Vec<SampleTwin>,
    tables: Vec<TableTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct ProofTwin {
    graph: Digest,
    engine: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MethodTwin {
    EngineTimed,
    Isolated,
    Modelled,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct LaunchTwin {
    device: String,
    engine: String,
    threads: u32,
    batch: u64,
    median_ns: u64,
    spread_ns: u64,
    repeats: u32,
    method: MethodTwin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct SampleTwin {
    signature: String,
    device: String,
    engine: String,
    threads: u32,
    batch: u64,
    median_ns: u64,
    spread_ns: u64,
    repeats: u32,
    method: MethodTwin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct RunTwin {
    graph: Digest,
    first: u32,
    last: u32,
    nodes: u32,
    device: String,
    engine: String,
    threads: u32,
    batch: u64,
    median_ns: u64,
    spread_ns: u64,
    repeats: u32,
    method: MethodTwin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct CopyTwin {
    from: String,
    to: String,
    bytes: u64,
    median_ns: u64,
    spread_ns: u64,
    repeats: u32,
    method: MethodTwin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct InterferenceTwin {
    graph: Digest,
    device: String,
    engine: String,
    threads: u32,
    batch: u64,
    lanes: u32,
    factor_permille: u64,
    method: MethodTwin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct TableTwin {
    graph: Digest,
    model: String,
    device: String,
    engine: String,
    atoms: Vec<AtomTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct AtomTwin {
    signature: String,
    nodes: Vec<u32>,
}

impl From<Method> for MethodTwin {
    fn from(method: Method) -> Self {
        match method {
            Method::EngineTimed => MethodTwin::EngineTimed,
            Method::Isolated => MethodTwin::Isolated,
            Method::Modelled => MethodTwin::Modelled,
        }
    }
}

impl From<MethodTwin> for Method {
    fn from(method: MethodTwin) -> Self {
        match method {
            MethodTwin::EngineTimed => Method::EngineTimed,
            MethodTwin::Isolated => Method::Isolated,
            MethodTwin::Modelled => Method::Modelled,
        }
    }
}

/// Builds a twin that spells out a setting and a timing among fields of its own. (serde's `flatten` would lose the
/// positions of errors and the check for unknown fields.)
macro_rules! twin {
    ($name:ident { $($field:ident: $value:expr),* $(,)? }, setting $setting:expr, timing $timing:expr) => {{
        let (s, t): (&Setting, &Timing) = ($setting, $timing);
        $name {
            $($field: $value,)*
            device: s.device.clone(),
            engine: s.engine.clone(),
            threads: s.threads,
            batch: s.batch,
            median_ns: t.median.0,
            spread_ns: t.spread.0,
            repeats: t.repeats,
            method: t.method.into(),
        }
    }};
}

/// The setting of a twin.
macro_rules! setting {
    ($twin:expr) => {
        Setting { device: $twin.device, engine: $twin.engine, threads: $twin.threads, batch: $twin.batch }
    };
}

/// The timing of a twin.
macro_rules! timing {
    ($twin:expr) => {
        Timing {
            median: Nanos($twin.median_ns),
            spread: Nanos($twin.spread_ns),
            repeats: $twin.repeats,
            method: $twin.method.into(),
        }
    };
}

impl From<&Profile> for ProfileTwin {
    fn from(p: &Profile) -> Self {
        let proof =
            |b: &BatchProof| ProofTwin { graph: Digest(b.graph), engine: b.engine.clone(), refusal: b.refusal.clone() };
        let samples = p.samples.iter();
        Self {
            _api_version: None,
            _kind: None,
            date: p.date.clone(),
            machine: MachineTwin::from(&p.machine),
            proofs: p.proofs.iter().map(proof).collect(),
            launches: p.launches.iter().map(|(s, t)| twin!(LaunchTwin {}, setting s, timing t)).collect(),
            copies: p.links.iter().map(CopyTwin::from).collect(),
            interference: p.interference.iter().map(InterferenceTwin::from).collect(),
            runs: p.segments.iter().map(RunTwin::from).collect(),
            samples: samples
                .map(|((g, s), t)| twin!(SampleTwin { signature: g.0.clone() }, setting s, timing t))
                .collect(),
            tables: p.tables.iter().map(TableTwin::from).collect(),
        }
    }
}

impl From<&SegmentSample> for RunTwin {
    fn from(s: &SegmentSample) -> Self {
        let (first, last, nodes) = s.nodes;
        twin!(
            RunTwin { graph: Digest(s.graph), first: first.0, last: last.0, nodes: nodes },
            setting & s.setting,
            timing & s.timing
        )
    }
}

impl From<&LinkSample> for CopyTwin {
    fn from(l: &LinkSample) -> Self {
        Self {
            from: l.from.clone(),
            to: l.to.clone(),
            bytes: l.bytes,
            median_ns: l.timing.median.0,
            spread_ns: l.timing.spread.0,
            repeats: l.timing.repeats,
            method: l.timing.method.into(),
        }
    }
}

impl From<&Interference> for InterferenceTwin {
    fn from(i: &Interference) -> Self {
        let s = i.setting.clone();
        Self {
            graph: Digest(i.graph),
            device: s.device,
            engine: s.engine,
            threads: s.threads,
            batch: s.batch,
            lanes: i.lanes,
            factor_permille: i.factor_permille,
            method: i.method.into(),
        }
    }
}

impl From<&AtomTable> for TableTwin {
    fn from(t: &AtomTable) -> Self {
        let atom =
            |a: &Atom| AtomTwin { signature: a.signature.0.clone(), nodes: a.nodes.iter().map(|n| n.0).collect() };
        Self {
            graph: Digest(t.graph),
            model: t.model.clone(),
            device: t.device.clone(),
            engine: t.engine.clone(),
            atoms: t.atoms.iter().map(atom).collect(),
        }
    }
}

impl ProfileTwin {
    fn profile(self) -> Result<Profile, Fault> {
        let twice = |key: &str, i: usize| Fault::new("expected each sample once, found one again").item(key, i);
        let mut samples = BTreeMap::new();
        for (i, t) in self.samples.into_iter().enumerate() {
            let timing = timing!(t);
            if samples.insert((Signature(t.signature), setting!(t)), timing).is_some() {
                return Err(twice("samples", i));
            }
        }
        let mut launches = BTreeMap::new();
        for (i, t) in self.launches.into_iter().enumerate() {
            let timing = timing!(t);
            if launches.insert(setting!(t), timing).is_some() {
                return Err(twice("launches", i));
            }
        }
        let run = |t: RunTwin| SegmentSample {
            graph: t.graph.0,
            nodes: (NodeId(t.first), NodeId(t.last), t.nodes),
            timing: timing!(t),
            setting: setting!(t),
        };
        let copy = |t: CopyTwin| LinkSample { timing: timing!(t), from: t.from, to: t.to, bytes: t.bytes };
        let interference = |t: InterferenceTwin| Interference {
            graph: t.graph.0,
            lanes: t.lanes,
            factor_permille: t.factor_permille,
            method: t.method.into(),
            setting: setting!(t),
        };
        let proof = |t: ProofTwin| BatchProof { graph: t.graph.0, refusal: t.refusal, engine: t.engine };
        Ok(Profile {
            machine: self.machine.machine(None).map_err(|f| f.under("machine"))?,
            date: self.date,
            tables: self.tables.into_iter().map(TableTwin::table).collect(),
            samples,
            launches,
            segments: self.runs.into_iter().map(run).collect(),
            links: self.copies.into_iter().map(copy).collect(),
            interference: self.interference.into_iter().map(interference).collect(),
            proofs: self.proofs.into_iter().map(proof).collect(),
        })
    }
}

impl TableTwin {
    fn table(self) -> AtomTable {
        let atom =
            |a: AtomTwin| Atom { nodes: a.nodes.into_iter().map(NodeId).collect(), signature: Signature(a.signature) };
        AtomTable {
            graph: self.graph.0,
            model: self.model,
            device: self.device,
            engine: self.engine,
            atoms: self.atoms.into_iter().map(atom).collect(),
        }
    }
}
