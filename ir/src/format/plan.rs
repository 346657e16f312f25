//! The plan file: the authored part first, to be read and edited; then, under `derived`, what follows from it.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::derived::DerivedTwin;
use super::machine::MachineTwin;
use super::scalar::{Axis, Duration, Pattern, Percentile, Rate, Ref};
use super::serving::ServingTwin;
use super::{Fault, FormatError};
use crate::fingerprint::Fingerprint;
use crate::machine::Machine;
use crate::plan::{Application, Authored, AuthoredRoute, Batching, Objective, Part, Plan, Tenant};

const KIND: &str = "Plan";

/// A plan as YAML.
pub fn to_yaml(plan: &Plan) -> String {
    super::write(&twin_of(plan), KIND)
}

/// A plan as JSON.
pub fn to_json(plan: &Plan) -> String {
    super::write_json(&twin_of(plan), KIND)
}

/// Reads a plan (YAML or JSON); `file` is its name in errors.
///
/// # Errors
/// Where the text is no plan of a version we know, or names a device, lane, value or tenant that it does not define.
pub fn from_yaml(text: &str, file: &str) -> Result<Plan, FormatError> {
    whole_from_yaml(text, file).map_err(|mut error| {
        // What follows can be derived again, whatever is wrong with it.
        if error.field.starts_with("derived") {
            error.message += &format!(": rebuild it with `{}`", rebuild_command(file));
        }
        error
    })
}

fn whole_from_yaml(text: &str, file: &str) -> Result<Plan, FormatError> {
    let twin: PlanTwin<DerivedTwin> = super::read(text, file, KIND)?;
    let place = |fault| super::place(fault, text, file);
    let derived = twin.derived.ok_or_else(|| {
        let message = format!("expected the field `derived`, found none: build it with `{}`", rebuild_command(file));
        place(Fault::new(message))
    })?;
    let derived = derived.derived().map_err(|f| place(f.under("derived")))?;
    let authored = AuthoredTwin {
        objective: twin.objective,
        search: twin.search,
        serving: twin.serving,
        applications: twin.applications,
    };
    Ok(Plan { authored: authored.authored().map_err(place)?, derived })
}

/// The command that derives a plan file's derived part again from its authored one: what messages tell people to do.
pub fn rebuild_command(file: &str) -> String {
    format!("tandem plan --from {file} --search none -o {file}")
}

/// Reads only the authored part of a plan file, whose derived part may be missing, stale or broken.
///
/// # Errors
/// Where the text is no plan of a version we know, or its authored part is not sound.
pub fn authored_from_yaml(text: &str, file: &str) -> Result<Authored, FormatError> {
    let twin: PlanTwin<IgnoredAny> = super::read(text, file, KIND)?;
    let authored = AuthoredTwin {
        objective: twin.objective,
        search: twin.search,
        serving: twin.serving,
        applications: twin.applications,
    };
    authored.authored().map_err(|fault| super::place(fault, text, file))
}

/// Reads only the machine of a plan file's derived part, whatever is wrong with the rest of that; `None` where it does not
/// read.
pub fn machine_from_yaml(text: &str, file: &str) -> Option<Machine> {
    let twin: PlanTwin<PlannedMachine> = super::read(text, file, KIND).ok()?;
    twin.derived?.machine.machine(None).ok()
}

#[derive(Deserialize)]
struct PlannedMachine {
    machine: MachineTwin,
}

/// The authored part alone, as it stands in the plan file.
pub fn authored_to_yaml(authored: &Authored) -> String {
    super::write(&AuthoredTwin::from(authored), KIND)
}

/// The digest of the authored part's canonical text: what [`crate::plan::Derived::authored`] holds.
pub fn authored_digest(authored: &Authored) -> Fingerprint {
    Fingerprint::of(authored_to_yaml(authored).as_bytes())
}

fn twin_of(plan: &Plan) -> PlanTwin<DerivedTwin> {
    let AuthoredTwin { objective, search, serving, applications } = AuthoredTwin::from(&plan.authored);
    let derived = Some(DerivedTwin::from(&plan.derived));
    PlanTwin { _api_version: None, _kind: None, objective, search, serving, applications, derived }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct PlanTwin<D> {
    #[serde(rename = "apiVersion", default, skip_serializing)]
    _api_version: Option<String>,
    #[serde(rename = "kind", default, skip_serializing)]
    _kind: Option<String>,
    #[serde(default)]
    objective: ObjectiveTwin,
    #[serde(default = "auto")]
    search: String,
    #[serde(default)]
    serving: ServingTwin,
    applications: Vec<ApplicationTwin>,
    #[serde(default = "Option::default")]
    derived: Option<D>,
}

#[derive(Serialize)]
struct AuthoredTwin {
    objective: ObjectiveTwin,
    search: String,
    serving: ServingTwin,
    applications: Vec<ApplicationTwin>,
}

fn auto() -> String {
    "auto".into()
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ObjectiveTwin {
    Latency,
    #[default]
    Throughput,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct ApplicationTwin {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slo: Option<Duration>,
    #[serde(default = "p99")]
    percentile: Percentile,
    tenants: Vec<TenantTwin>,
    /// `[from, to]` by tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    edges: Vec<(Ref, Ref)>,
}

fn p99() -> Percentile {
    Percentile(990)
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BatchingTwin {
    Proven,
    #[default]
    Inferred,
    Insisted,
    Refused,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct TenantTwin {
    name: String,
    model: String,
    #[serde(default)]
    shapes: BTreeMap<String, Vec<Axis>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(default)]
    batching: BatchingTwin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batching_refusal: Option<String>,
    batches: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pins: Vec<PartTwin>,
    #[serde(default)]
    routes: Vec<RouteTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct RouteTwin {
    batch: u64,
    #[serde(default = "one")]
    lanes: u32,
    #[serde(default = "one")]
    threads: u32,
    #[serde(default = "all")]
    share_permille: u64,
    parts: Vec<PartTwin>,
}

fn one() -> u32 {
    1
}

fn all() -> u64 {
    1000
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct PartTwin {
    device: String,
    nodes: Vec<Pattern>,
}

impl From<&Authored> for AuthoredTwin {
    fn from(authored: &Authored) -> Self {
        Self {
            objective: match authored.objective {
                Objective::Latency => ObjectiveTwin::Latency,
                Objective::Throughput => ObjectiveTwin::Throughput,
            },
            search: authored.search.clone(),
            serving: ServingTwin::from(&authored.serving),
            applications: authored.applications.iter().map(ApplicationTwin::from).collect(),
        }
    }
}

impl From<&Application> for ApplicationTwin {
    fn from(a: &Application) -> Self {
        let names: Vec<&str> = a.tenants.iter().map(|t| t.name.as_str()).collect();
        Self {
            name: a.name.clone(),
            slo: a.slo.map(Duration),
            percentile: Percentile(a.percentile_permille),
            tenants: a.tenants.iter().map(TenantTwin::from).collect(),
            edges: a.edges.iter().map(|(x, y)| (refer(&names, *x), refer(&names, *y))).collect(),
        }
    }
}

/// A reference by name where the name is there and means this position, else by position.
pub(super) fn refer(names: &[&str], position: usize) -> Ref {
    match names.get(position) {
        Some(name) if names.iter().position(|n| n == name) == Some(position) => Ref::Name((*name).to_owned()),
        _ => Ref::Position(position),
    }
}

impl From<&Tenant> for TenantTwin {
    fn from(t: &Tenant) -> Self {
        let (batching, batching_refusal) = match &t.batching {
            Batching::Proven => (BatchingTwin::Proven, None),
            Batching::Inferred => (BatchingTwin::Inferred, None),
            Batching::Insisted => (BatchingTwin::Insisted, None),
            Batching::Refused(reason) => (BatchingTwin::Refused, Some(reason.clone())),
        };
        Self {
            name: t.name.clone(),
            model: t.model.clone(),
            shapes: t.shapes.iter().map(|(k, v)| (k.clone(), v.iter().map(|d| Axis(*d)).collect())).collect(),
            rate: t.millirate.map(Rate),
            batching,
            batching_refusal,
            batches: t.batches.clone(),
            pins: t.pins.iter().map(PartTwin::from).collect(),
            routes: t.routes.iter().map(RouteTwin::from).collect(),
        }
    }
}

impl From<&AuthoredRoute> for RouteTwin {
    fn from(r: &AuthoredRoute) -> Self {
        Self {
            batch: r.batch,
            lanes: r.lanes,
            threads: r.threads,
            share_permille: r.share_permille,
            parts: r.parts.iter().map(PartTwin::from).collect(),
        }
    }
}

impl From<&Part> for PartTwin {
    fn from(p: &Part) -> Self {
        Self { device: p.device.clone(), nodes: p.nodes.iter().cloned().map(Pattern).collect() }
    }
}

impl AuthoredTwin {
    fn authored(self) -> Result<Authored, Fault> {
        let mut applications = vec![];
        for (i, a) in self.applications.into_iter().enumerate() {
            applications.push(a.application().map_err(|f| f.item("applications", i))?);
        }
        Ok(Authored {
            objective: match self.objective {
                ObjectiveTwin::Latency => Objective::Latency,
                ObjectiveTwin::Throughput => Objective::Throughput,
            },
            search: self.search,
            applications,
            serving: self.serving.serving().map_err(|f| f.under("serving"))?,
        })
    }
}

impl ApplicationTwin {
    fn application(self) -> Result<Application, Fault> {
        let mut tenants = vec![];
        for (i, t) in self.tenants.into_iter().enumerate() {
            tenants.push(t.tenant().map_err(|f| f.item("tenants", i))?);
        }
        let names: Vec<&str> = tenants.iter().map(|t| t.name.as_str()).collect();
        let mut edges = vec![];
        for (i, (from, to)) in self.edges.into_iter().enumerate() {
            let find = |r| resolve(&names, r, "tenant").map_err(|f| f.item("edges", i));
            edges.push((find(from)?, find(to)?));
        }
        let percentile_permille = self.percentile.0;
        Ok(Application { name: self.name, slo: self.slo.map(|s| s.0), percentile_permille, tenants, edges })
    }
}

/// The position that a reference means. Positions are taken as they are: whether they exist is `check_plan`'s business.
pub(super) fn resolve(names: &[&str], reference: Ref, what: &str) -> Result<usize, Fault> {
    match reference {
        Ref::Position(i) => Ok(i),
        Ref::Name(name) => names.iter().position(|n| *n == name).ok_or_else(|| {
            let known: Vec<String> = names.iter().take(8).map(|n| format!("\"{n}\"")).collect();
            let more = if names.len() > 8 { ", .." } else { "" };
            Fault::new(format!("expected a {what} ({}{more}), found \"{name}\"", known.join(", ")))
        }),
    }
}

impl TenantTwin {
    fn tenant(self) -> Result<Tenant, Fault> {
        let batching = match (self.batching, self.batching_refusal) {
            (BatchingTwin::Refused, Some(reason)) => Batching::Refused(reason),
            (BatchingTwin::Refused, None) => {
                let message = "expected `batching_refusal` with the reason, found none";
                return Err(Fault::new(message).under("batching"));
            }
            (_, Some(_)) => {
                let message = "expected no reason beside a batching that is not `refused`, found one";
                return Err(Fault::new(message).under("batching_refusal"));
            }
            (BatchingTwin::Proven, None) => Batching::Proven,
            (BatchingTwin::Inferred, None) => Batching::Inferred,
            (BatchingTwin::Insisted, None) => Batching::Insisted,
        };
        Ok(Tenant {
            name: self.name,
            model: self.model,
            shapes: self.shapes.into_iter().map(|(k, v)| (k, v.into_iter().map(|d| d.0).collect())).collect(),
            millirate: self.rate.map(|r| r.0),
            batching,
            batches: self.batches,
            pins: self.pins.into_iter().map(PartTwin::part).collect(),
            routes: self.routes.into_iter().map(RouteTwin::route).collect(),
        })
    }
}

impl RouteTwin {
    fn route(self) -> AuthoredRoute {
        AuthoredRoute {
            batch: self.batch,
            lanes: self.lanes,
            threads: self.threads,
            share_permille: self.share_permille,
            parts: self.parts.into_iter().map(PartTwin::part).collect(),
        }
    }
}

impl PartTwin {
    fn part(self) -> Part {
        Part { device: self.device, nodes: self.nodes.into_iter().map(|p| p.0).collect() }
    }
}
