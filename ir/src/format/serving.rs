//! The serving section of a plan file: a policy and what it takes; or, where it takes nothing, its name alone.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Fault;
use super::scalar::Duration;
use crate::plan::{Policy, Serving};
use crate::units::Nanos;

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyTwin {
    Fixed,
    AdtSerial,
    AdtSlide,
    #[default]
    AdtFlow,
}

/// Fields that are not there are `None`: a policy that does not take them must not be given them.
#[derive(Default, Serialize)]
pub(super) struct ServingTwin {
    policy: PolicyTwin,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_delay: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_max: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct ServingFields {
    policy: PolicyTwin,
    #[serde(default)]
    preferred: Option<Vec<u64>>,
    #[serde(default)]
    queue_delay: Option<Duration>,
    #[serde(default)]
    queue_max: Option<u32>,
}

impl<'de> Deserialize<'de> for ServingTwin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMap;
        impl<'de> Visitor<'de> for NameOrMap {
            type Value = ServingTwin;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy, or a map of `policy` and what it takes")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<ServingTwin, E> {
                let policy = PolicyTwin::deserialize(StrDeserializer::new(name))?;
                Ok(ServingTwin { policy, ..ServingTwin::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServingTwin, A::Error> {
                let ServingFields { policy, preferred, queue_delay, queue_max } =
                    ServingFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ServingTwin { policy, preferred, queue_delay, queue_max })
            }
        }
        deserializer.deserialize_any(NameOrMap)
    }
}

impl From<&Serving> for ServingTwin {
    fn from(serving: &Serving) -> Self {
        let bare = |policy| (policy, None, None);
        let (policy, preferred, queue_delay) = match &serving.policy {
            Policy::Fixed { preferred, queue_delay } => {
                let preferred = Some(preferred.clone()).filter(|p| !p.is_empty());
                (PolicyTwin::Fixed, preferred, Some(Duration(*queue_delay)).filter(|d| d.0 > Nanos::ZERO))
            }
            Policy::AdtSerial => bare(PolicyTwin::AdtSerial),
            Policy::AdtSlide => bare(PolicyTwin::AdtSlide),
            Policy::AdtFlow => bare(PolicyTwin::AdtFlow),
        };
        Self { policy, preferred, queue_delay, queue_max: serving.queue_max }
    }
}

impl ServingTwin {
    pub(super) fn serving(self) -> Result<Serving, Fault> {
        let given = [("preferred", self.preferred.is_some()), ("queue_delay", self.queue_delay.is_some())];
        let policy = match self.policy {
            PolicyTwin::Fixed => Policy::Fixed {
                preferred: self.preferred.unwrap_or_default(),
                queue_delay: self.queue_delay.map_or(Nanos::ZERO, |d| d.0),
            },
            PolicyTwin::AdtSerial => Policy::AdtSerial,
            PolicyTwin::AdtSlide => Policy::AdtSlide,
            PolicyTwin::AdtFlow => Policy::AdtFlow,
        };
        let takes_them = matches!(policy, Policy::Fixed { .. });
        if let Some((field, _)) = given.into_iter().find(|(_, given)| *given && !takes_them) {
            let message = format!("expected it with the policy fixed only, found it with {}", policy.name());
            return Err(Fault::new(message).under(field));
        }
        Ok(Serving { policy, queue_max: self.queue_max })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{authored_from_yaml, authored_to_yaml};
    use super::*;

    /// A document with this serving section.
    fn document(serving: &str) -> String {
        format!("apiVersion: tandem/v1\nkind: Plan\n{serving}applications: []\n")
    }

    fn read(serving: &str) -> Result<Serving, String> {
        authored_from_yaml(&document(serving), "p.yaml").map(|a| a.serving).map_err(|e| e.to_string())
    }

    fn fixed(preferred: &[u64], queue_delay: u64) -> Policy {
        Policy::Fixed { preferred: preferred.to_vec(), queue_delay: Nanos(queue_delay) }
    }

    #[test]
    fn sections_are_read_and_written_as_they_stand() {
        let whole = "serving:\n  policy: fixed\n  preferred: [4, 8]\n  queue_delay: 2ms\n  queue_max: 1024\n";
        let cases = [
            (whole, Serving { policy: fixed(&[4, 8], 2_000_000), queue_max: Some(1024) }),
            ("serving:\n  policy: fixed\n", Serving { policy: fixed(&[], 0), queue_max: None }),
            ("serving:\n  policy: adt-serial\n", Serving { policy: Policy::AdtSerial, queue_max: None }),
            ("serving:\n  policy: adt-slide\n", Serving { policy: Policy::AdtSlide, queue_max: None }),
            ("serving:\n  policy: adt-flow\n  queue_max: 7\n", Serving { policy: Policy::AdtFlow, queue_max: Some(7) }),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text}");
            let authored = authored_from_yaml(&document(text), "p.yaml").expect("it was just read");
            assert!(authored_to_yaml(&authored).contains(text), "{text}");
        }
    }

    #[test]
    fn a_name_alone_is_a_policy_and_none_the_default() {
        assert_eq!(read("serving: fixed\n"), Ok(Serving { policy: fixed(&[], 0), queue_max: None }));
        assert_eq!(read("serving: adt-slide\n"), Ok(Serving { policy: Policy::AdtSlide, queue_max: None }));
        assert_eq!(read(""), Ok(Serving::default()));
        assert_eq!(Serving::default().policy, Policy::AdtFlow);
    }

    #[test]
    fn what_a_policy_does_not_take_is_refused() {
        let cases = [
            ("serving: adt\n", "p.yaml:3:10: serving: expected one of `fixed`, `adt-serial`", "found `adt`"),
            ("serving: [1]\n", "p.yaml:3:10: serving: expected a policy, or a map", "found sequence"),
            ("serving: {queue_max: 3}\n", "p.yaml:3:10: serving: expected the field `policy`", "found none"),
            ("serving: {policy: magic}\n", "p.yaml:3:19: serving.policy: expected one of", "found `magic`"),
            ("serving: {policy: fixed, delay: 2ms}\n", "p.yaml:3:26: serving", "unknown field `delay`"),
            (
                "serving:\n  policy: adt-flow\n  preferred: [4]\n",
                "p.yaml:5:14: serving.preferred: expected it with the policy fixed only",
                "found it with adt-flow",
            ),
            (
                "serving: {policy: adt-serial, queue_delay: 0ns}\n",
                "p.yaml:3:44: serving.queue_delay: expected it with",
                "found it with adt-serial",
            ),
            (
                "serving: {policy: fixed, queue_delay: soon}\n",
                "p.yaml:3:39: serving.queue_delay: expected a dur",
                "soon",
            ),
            ("serving: {policy: fixed, queue_max: -1}\n", "p.yaml:3:37: serving.queue_max: expected u32", "-1"),
        ];
        for (text, start, end) in cases {
            let error = read(text).expect_err("refused");
            assert!(error.starts_with(start) && error.contains(end), "{text}{error}");
        }
    }
}
