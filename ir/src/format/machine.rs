//! The machine file. Authored by people as much as by `tandem machines`, so quantities carry their units.
//!
//! A file may say `host: auto`: then it describes the devices beside the host, and the host is the processor that the plan
//! is made on. Such a file is read by [`from_yaml_with_host`]; in it `cpu` stands for the host, and a device may state its
//! rates as a multiple of the host's.

use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::scalar::{Arithmetic, Bandwidth, Duration, Element, Money, Size};
use super::{Fault, FormatError};
use crate::machine::{Device, DeviceKind, Engine, Link, Machine, Rates};

const KIND: &str = "Machine";

/// The name that stands for the host in a file with `host: auto`.
const HOST: &str = "cpu";

/// A machine as YAML. Rates by element type and facts are maps: their keys must be unique (`check_machine` says so).
pub fn to_yaml(machine: &Machine) -> String {
    super::write(&MachineTwin::from(machine), KIND)
}

/// A machine as JSON.
pub fn to_json(machine: &Machine) -> String {
    super::write_json(&MachineTwin::from(machine), KIND)
}

/// Reads a machine file (YAML or JSON); `file` is its name in errors.
///
/// # Errors
/// Where the text is no machine of a version we know, or leaves its host open (`host: auto`).
pub fn from_yaml(text: &str, file: &str) -> Result<Machine, FormatError> {
    let twin: MachineTwin = super::read(text, file, KIND)?;
    twin.machine(None).map_err(|fault| super::place(fault, text, file))
}

/// Reads a machine file; where it says `host: auto`, the host is `host`, the device discovered where the plan is made.
///
/// # Errors
/// As [`from_yaml`]; also where rates are relative to a host whose rates are unknown and the file gives no others.
pub fn from_yaml_with_host(text: &str, file: &str, host: &Device) -> Result<Machine, FormatError> {
    let twin: MachineTwin = super::read(text, file, KIND)?;
    twin.machine(Some(host)).map_err(|fault| super::place(fault, text, file))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
pub(super) struct MachineTwin {
    #[serde(rename = "apiVersion", default, skip_serializing)]
    _api_version: Option<String>,
    #[serde(rename = "kind", default, skip_serializing)]
    _kind: Option<String>,
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rent_per_hour: Option<Money>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Host>,
    devices: Vec<DeviceTwin>,
    #[serde(default)]
    links: Vec<LinkTwin>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Host {
    /// The processor the plan is made on.
    Auto,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct DeviceTwin {
    name: String,
    kind: KindTwin,
    #[serde(default)]
    model: String,
    cores: u32,
    lanes_max: u32,
    memory: Size,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rates: Option<RatesTwin>,
    launch: Duration,
    operator_overhead: Duration,
    engines: Vec<EngineTwin>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unsupported: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    emulated: bool,
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    facts: Pairs<String, String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindTwin {
    Cpu,
    Gpu,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct RatesTwin {
    /// All rates are this multiple of the host's (in per mille) where the host's are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times_host_permille: Option<u64>,
    flops: Pairs<Element, Arithmetic>,
    memory_bandwidth: Bandwidth,
    efficiency_permille: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct EngineTwin {
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct LinkTwin {
    from: String,
    to: String,
    latency: Duration,
    bandwidth: Bandwidth,
    #[serde(default)]
    shared: bool,
}

/// A map that keeps its order.
struct Pairs<K, V>(Vec<(K, V)>);

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<K, V> Pairs<K, V> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Pairs<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (k, v) in &self.0 {
            map.serialize_entry(k, v)?;
        }
        map.end()
    }
}

impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Deserialize<'de> for Pairs<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<K, V>(std::marker::PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Visitor<'de> for Visit<K, V> {
            type Value = Pairs<K, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs: Vec<(K, V)> = vec![];
                while let Some(key) = map.next_key::<K>()? {
                    if pairs.iter().any(|(k, _)| *k == key) {
                        return Err(A::Error::custom("expected each key once, found one again"));
                    }
                    pairs.push((key, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visit(std::marker::PhantomData))
    }
}

impl From<&Machine> for MachineTwin {
    fn from(machine: &Machine) -> Self {
        Self {
            _api_version: None,
            _kind: None,
            name: machine.name.clone(),
            description: machine.description.clone(),
            sources: machine.sources.clone(),
            rent_per_hour: machine.microdollars_per_hour.map(Money),
            host: None,
            devices: machine.devices.iter().map(DeviceTwin::from).collect(),
            links: machine.links.iter().map(LinkTwin::from).collect(),
        }
    }
}

impl From<&Device> for DeviceTwin {
    fn from(device: &Device) -> Self {
        let engine = |e: &Engine| EngineTwin { name: e.name.clone(), version: e.version.clone() };
        Self {
            name: device.name.clone(),
            kind: match device.kind {
                DeviceKind::Cpu => KindTwin::Cpu,
                DeviceKind::Gpu => KindTwin::Gpu,
            },
            model: device.model.clone(),
            cores: device.cores,
            lanes_max: device.lanes_max,
            memory: Size(device.memory),
            rates: device.rates.as_ref().map(RatesTwin::from),
            launch: Duration(device.launch),
            operator_overhead: Duration(device.operator_overhead),
            engines: device.engines.iter().map(engine).collect(),
            unsupported: device.unsupported.clone(),
            emulated: device.emulated,
            facts: Pairs(device.facts.clone()),
        }
    }
}

impl From<&Rates> for RatesTwin {
    fn from(rates: &Rates) -> Self {
        Self {
            times_host_permille: None,
            flops: Pairs(rates.flops_per_s.iter().map(|(t, r)| (Element(*t), Arithmetic(*r))).collect()),
            memory_bandwidth: Bandwidth(rates.memory_bytes_per_s),
            efficiency_permille: rates.efficiency_permille,
        }
    }
}

impl From<&Link> for LinkTwin {
    fn from(link: &Link) -> Self {
        Self {
            from: link.from.clone(),
            to: link.to.clone(),
            latency: Duration(link.latency),
            bandwidth: Bandwidth(link.bytes_per_s),
            shared: link.shared,
        }
    }
}

impl MachineTwin {
    /// The machine; `host` stands in where the file says `host: auto`.
    pub(super) fn machine(self, host: Option<&Device>) -> Result<Machine, Fault> {
        let host = match (self.host, host) {
            (None, _) => None,
            (Some(Host::Auto), Some(host)) => Some(host),
            (Some(Host::Auto), None) => {
                let message = "expected a machine with a cpu of its own, found one that takes the host it is read on";
                return Err(Fault::new(message).under("host"));
            }
        };
        let mut devices: Vec<Device> = host.into_iter().cloned().collect();
        for (i, twin) in self.devices.into_iter().enumerate() {
            if host.is_some_and(|h| h.name == twin.name) || host.is_some() && twin.name == HOST {
                let message = format!("expected devices beside the host, found \"{}\", which is the host", twin.name);
                return Err(Fault::new(message).under("name").item("devices", i));
            }
            devices.push(twin.device(host).map_err(|f| f.item("devices", i))?);
        }
        let end = |name: String| match host {
            Some(host) if name == HOST => host.name.clone(),
            _ => name,
        };
        let link = |l: LinkTwin| Link {
            from: end(l.from),
            to: end(l.to),
            latency: l.latency.0,
            bytes_per_s: l.bandwidth.0,
            shared: l.shared,
        };
        Ok(Machine {
            name: self.name,
            description: self.description,
            sources: self.sources,
            devices,
            links: self.links.into_iter().map(link).collect(),
            microdollars_per_hour: self.rent_per_hour.map(|m| m.0),
        })
    }
}

impl DeviceTwin {
    fn device(self, host: Option<&Device>) -> Result<Device, Fault> {
        Ok(Device {
            name: self.name,
            kind: match self.kind {
                KindTwin::Cpu => DeviceKind::Cpu,
                KindTwin::Gpu => DeviceKind::Gpu,
            },
            model: self.model,
            cores: self.cores,
            lanes_max: self.lanes_max,
            memory: self.memory.0,
            rates: self.rates.map(|r| r.rates(host)).transpose().map_err(|f| f.under("rates"))?,
            launch: self.launch.0,
            operator_overhead: self.operator_overhead.0,
            engines: self.engines.into_iter().map(|e| Engine { name: e.name, version: e.version }).collect(),
            unsupported: self.unsupported,
            emulated: self.emulated,
            facts: self.facts.0,
        })
    }
}

impl RatesTwin {
    fn rates(self, host: Option<&Device>) -> Result<Rates, Fault> {
        let own = Rates {
            flops_per_s: self.flops.0.into_iter().map(|(t, r)| (t.0, r.0)).collect(),
            memory_bytes_per_s: self.memory_bandwidth.0,
            efficiency_permille: self.efficiency_permille,
        };
        let Some(times) = self.times_host_permille else { return Ok(own) };
        let Some(host) = host else {
            let message = "expected a file with \"host: auto\", found a multiple of the host's rates without it";
            return Err(Fault::new(message).under("times_host_permille"));
        };
        // The file's own figures hold where the host has none: a machine that was only measured.
        let Some(rates) = &host.rates else { return Ok(own) };
        let scale = |r: u64| u64::try_from(u128::from(r) * u128::from(times) / 1000).unwrap_or(u64::MAX);
        Ok(Rates {
            flops_per_s: rates.flops_per_s.iter().map(|(t, r)| (*t, scale(*r))).collect(),
            memory_bytes_per_s: scale(rates.memory_bytes_per_s),
            efficiency_permille: own.efficiency_permille,
        })
    }
}
