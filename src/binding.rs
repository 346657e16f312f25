//! `[NAME=]MODEL[,rate=R][,slo=D]`, `--shape NAME=DIMS`, `--pin DEVICE=PATTERN`, `--model NAME=PATH`, `--arrivals
//! [TENANT=]SPEC` and `--serving POLICY` as typed, read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use tandem_core::sim::ArrivalSpec;
use tandem_ir::format::scalar::Rate;
use tandem_ir::limits::TENANTS_MAX;
use tandem_ir::plan::{BoundDim, Part, Policy, Serving};
use tandem_ir::{Nanos, check};

use crate::cli::{PolicyChoice, ServingArgs};
use crate::context::report;

/// Reads `images=Nx3x640x640`: `N` (or `2N`) is the batch, `x` or `,` separates. An empty right side is a scalar.
/// A name may hold `=`, for dimensions never do.
pub fn shapes(texts: &[String]) -> Result<BTreeMap<String, Vec<BoundDim>>> {
    let mut shapes = BTreeMap::new();
    for text in texts {
        let (name, dims) = text.rsplit_once('=').with_context(|| format!("--shape {text}: expected NAME=DIMS"))?;
        let dims =
            dims.split(['x', ',']).filter(|d| !d.is_empty()).map(|d| dim(d).with_context(|| format!("--shape {text}")));
        let dims = dims.collect::<Result<Vec<_>>>()?;
        if shapes.insert(name.to_owned(), dims).is_some() {
            bail!("--shape {text}: input \"{name}\" is bound twice");
        }
    }
    Ok(shapes)
}

fn dim(text: &str) -> Result<BoundDim> {
    let bad = || format!("expected a size such as 640, or N or 2N for the batch, found \"{text}\"");
    match text.trim().strip_suffix('N') {
        Some("") => Ok(BoundDim::Batch(1)),
        Some(factor) => Ok(BoundDim::Batch(factor.parse().with_context(bad)?)),
        None => Ok(BoundDim::Fixed(text.trim().parse().with_context(bad)?)),
    }
}

/// Reads `cpu=/embed*` and `gpu0=a .. b`. Device names hold no `=`.
pub fn pins(texts: &[String]) -> Result<Vec<Part>> {
    let pin = |text: &String| -> Result<Part> {
        let (device, nodes) = text.split_once('=').with_context(|| format!("--pin {text}: expected DEVICE=PATTERN"))?;
        let nodes =
            tandem_ir::format::scalar::parse_pattern(nodes).map_err(|e| anyhow::anyhow!("--pin {text}: {e}"))?;
        Ok(Part { device: device.to_owned(), nodes: vec![nodes] })
    };
    texts.iter().map(pin).collect()
}

/// Reads `resnet50=models/r50.onnx`.
pub fn overrides(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| -> Result<(String, String)> {
        let (name, path) = text.split_once('=').with_context(|| format!("--model {text}: expected NAME=PATH"))?;
        Ok((name.to_owned(), path.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// A tenant as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, unique among them.
    pub name: String,
    /// Where its model is.
    pub model: String,
    /// Requests a second, in thousandths.
    pub millirate: Option<u64>,
    /// Latency a request must meet.
    pub slo: Option<Nanos>,
}

/// Reads `[NAME=]MODEL[,rate=R][,slo=D]`, each a tenant. Models without a name are called as [`tenant_name`] says.
///
/// What exists as a path is one, whatever `=` or `,` it holds; in all else the first `=` ends a name and each `,` before an
/// `=` begins an option.
///
/// # Errors
/// Options and names that do not read, equal names, more tenants than a plan holds.
pub fn tenants(texts: &[String]) -> Result<Vec<Wanted>> {
    if texts.len() > TENANTS_MAX {
        bail!("expected at most {TENANTS_MAX} models, found {}", texts.len());
    }
    let tenants = texts.iter().map(|text| tenant(text)).collect::<Result<Vec<_>>>()?;
    for (i, Wanted { name, model, .. }) in tenants.iter().enumerate() {
        if tenants[..i].iter().any(|t| t.name == *name) {
            bail!("expected tenants of different names, found \"{name}\" again: name one, as in NAME={model}");
        }
    }
    Ok(tenants)
}

fn tenant(text: &str) -> Result<Wanted> {
    let is_path = |text: &str| Path::new(text).exists();
    let named_path = |text: &str| is_path(text) || text.split_once('=').is_some_and(|(_, path)| is_path(path));
    let (mut rest, mut millirate, mut slo) = (text, None, None);
    while !named_path(rest)
        && let Some((before, option)) = rest.rsplit_once(',')
        && let Some((key, value)) = option.split_once('=')
    {
        let twice = match key {
            "rate" => millirate.replace(rate(value).with_context(|| text.to_owned())?).is_some(),
            "slo" => slo.replace(duration("slo", value).with_context(|| text.to_owned())?).is_some(),
            _ => bail!("{text}: expected rate=R or slo=D behind the model, found \"{option}\""),
        };
        if twice {
            bail!("{text}: expected {key} once, found it again");
        }
        rest = before;
    }
    let (name, model) = match rest.split_once('=') {
        Some((name, model)) if !is_path(rest) => (name.to_owned(), model),
        _ => (tenant_name(rest), rest),
    };
    if name.is_empty() || model.is_empty() {
        bail!("{text}: expected [NAME=]MODEL[,rate=R][,slo=D]");
    }
    Ok(Wanted { name, model: model.to_owned(), millirate, slo })
}

fn rate(text: &str) -> Result<u64> {
    match Rate::parse(text) {
        Ok(Rate(0)) => bail!("rate {text}: expected a rate above 0"),
        Ok(Rate(millirate)) => Ok(millirate),
        Err(error) => bail!("rate {text}: {error}"),
    }
}

/// Reads a duration above 0; `what` it is stands in errors.
pub fn duration(what: &str, text: &str) -> Result<Nanos> {
    match text.parse::<Nanos>().map_err(|e| anyhow!("{what} {text}: {e}"))? {
        Nanos::ZERO => bail!("{what} {text}: expected a positive duration"),
        duration => Ok(duration),
    }
}

/// A tenant's name: the zoo's or manifest's, else the file's stem, else its folder for `model.onnx`.
pub fn tenant_name(model: &str) -> String {
    if let Some(name) = model.strip_prefix("zoo:").or_else(|| model.strip_prefix("fetched:")) {
        return name.to_owned();
    }
    let path = PathBuf::from(model);
    let stem = |p: &std::path::Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    match stem(&path) {
        Some(name) if name == "model" => {
            path.canonicalize().ok().and_then(|p| p.parent().and_then(stem)).unwrap_or(name)
        }
        Some(name) => name,
        None => model.to_owned(),
    }
}

/// The serving section: what it says now, and in its place what was asked for; of tenants with batches up to so many.
pub fn serving(args: &ServingArgs, now: &Serving, largest_batch: u64) -> Result<Serving> {
    let (mut preferred, mut queue_delay) = match &now.policy {
        Policy::Fixed { preferred, queue_delay } => (preferred.clone(), *queue_delay),
        Policy::AdtSerial | Policy::AdtSlide | Policy::AdtFlow => Default::default(),
    };
    if !args.preferred.is_empty() {
        preferred = args.preferred.clone();
    }
    if let Some(text) = &args.queue_delay {
        queue_delay = text.parse().map_err(|e| anyhow!("--queue-delay {text}: {e}"))?;
    }
    let policy = match args.serving {
        Some(PolicyChoice::Fixed) => Policy::Fixed { preferred, queue_delay },
        None if matches!(now.policy, Policy::Fixed { .. }) => Policy::Fixed { preferred, queue_delay },
        Some(PolicyChoice::AdtSerial) => Policy::AdtSerial,
        Some(PolicyChoice::AdtSlide) => Policy::AdtSlide,
        Some(PolicyChoice::AdtFlow) => Policy::AdtFlow,
        None => now.policy.clone(),
    };
    let given = [("--preferred", !args.preferred.is_empty()), ("--queue-delay", args.queue_delay.is_some())];
    if let Some((option, _)) = given.into_iter().find(|(_, g)| *g && !matches!(policy, Policy::Fixed { .. })) {
        bail!("{option}: expected it with --serving fixed only, found it with {}", policy.name());
    }
    let serving = Serving { policy, queue_max: args.queue_max.or(now.queue_max) };
    // Before anything is measured, not only once the plan is made.
    report("the serving section", check::check_serving(&serving, largest_batch))?;
    Ok(serving)
}

/// Reads `[TENANT=]SPEC`, one for each tenant, by position; `None` where none was given. With one tenant its name may be
/// left out.
pub fn arrivals(texts: &[String], tenants: &[&str]) -> Result<Vec<Option<ArrivalSpec>>> {
    let mut specs = vec![None; tenants.len()];
    for text in texts {
        let named = |name: &&str| text.strip_prefix(*name).is_some_and(|rest| rest.starts_with('='));
        let (tenant, spec) = match (tenants.iter().position(named), tenants) {
            (Some(tenant), _) => (tenant, &text[tenants[tenant].len() + 1..]),
            (None, [_]) => (0, text.as_str()),
            (None, _) => bail!("--arrivals {text}: expected TENANT=SPEC, TENANT one of {}", tenants.join(", ")),
        };
        let spec = spec.parse().map_err(|e| anyhow!("--arrivals {text}: {e}"))?;
        if specs[tenant].replace(spec).is_some() {
            bail!("--arrivals {text}: tenant \"{}\" has arrivals already", tenants[tenant]);
        }
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_with_odd_names() {
        let found = shapes(&["input:0=Nx3x2Nx7".into(), "a=b=4".into(), "s=".into()]).unwrap();
        use BoundDim::*;
        assert_eq!(found["input:0"], vec![Batch(1), Fixed(3), Batch(2), Fixed(7)]);
        assert_eq!(found["a=b"], vec![Fixed(4)]);
        assert!(found["s"].is_empty());
        assert!(shapes(&["x".into()]).is_err());
        assert!(shapes(&["x=1x-3".into()]).is_err());
        assert!(shapes(&["x=1".into(), "x=2".into()]).is_err());
    }

    #[test]
    fn tenants_are_read_with_names_rates_and_bounds() {
        let read = |text: &str| tenant(text).map_err(|e| format!("{e:#}"));
        let wanted = |name: &str, model: &str, millirate, slo: Option<u64>| {
            let (name, model) = (name.to_owned(), model.to_owned());
            Ok(Wanted { name, model, millirate, slo: slo.map(Nanos) })
        };
        assert_eq!(read("zoo:resnet50"), wanted("resnet50", "zoo:resnet50", None, None));
        assert_eq!(read("a=zoo:x,rate=12.5,slo=2ms"), wanted("a", "zoo:x", Some(12_500), Some(2_000_000)));
        assert_eq!(read("m/x.onnx,slo=1s,rate=3"), wanted("x", "m/x.onnx", Some(3_000), Some(1_000_000_000)));
        for (text, message) in [
            ("zoo:x,rate=fast", "rate fast: expected requests a second"),
            ("zoo:x,rate=0", "rate 0: expected a rate above 0"),
            ("zoo:x,slo=0ms", "slo 0ms: expected a positive duration"),
            ("zoo:x,slo=soon", "slo soon: expected a duration"),
            ("zoo:x,rat=5", "expected rate=R or slo=D behind the model, found \"rat=5\""),
            ("zoo:x,rate=5,rate=6", "expected rate once, found it again"),
            ("=zoo:x", "expected [NAME=]MODEL"),
            ("a=", "expected [NAME=]MODEL"),
            ("a=,rate=5", "expected [NAME=]MODEL"),
        ] {
            let error = read(text).expect_err("refused");
            assert!(error.contains(message) && error.starts_with(text), "{text}: {error}");
        }
    }

    #[test]
    fn what_exists_as_a_path_is_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let odd = folder.path().join("a=b,rate=5.onnx");
        std::fs::write(&odd, "").expect("a file");
        let odd = odd.to_str().expect("text");
        for (text, name, millirate) in [
            (odd.to_owned(), "a=b,rate=5", None),
            (format!("{odd},rate=7"), "a=b,rate=5", Some(7_000)),
            (format!("n={odd}"), "n", None),
            (format!("n={odd},rate=7"), "n", Some(7_000)),
        ] {
            let Wanted { name: found, model, millirate: rate, .. } = tenant(&text).expect("a tenant");
            assert_eq!((found.as_str(), model.as_str(), rate), (name, odd, millirate), "{text}");
        }
    }

    #[test]
    fn arrivals_are_a_tenant_s() {
        let read = |texts: &[&str], tenants: &[&str]| {
            arrivals(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), tenants).map_err(|e| format!("{e:#}"))
        };
        let spec = |text: &str| Some(text.parse::<ArrivalSpec>().expect("arrivals"));
        assert_eq!(read(&["poisson:4"], &["a"]), Ok(vec![spec("poisson:4")]));
        assert_eq!(read(&["a=trace:x=y"], &["a"]), Ok(vec![spec("trace:x=y")]));
        assert_eq!(read(&["b=uniform:4"], &["a", "b"]), Ok(vec![None, spec("uniform:4")]));
        for (texts, message) in [
            (&["uniform:4"] as &[&str], "expected TENANT=SPEC, TENANT one of a, b"),
            (&["c=uniform:4"], "expected TENANT=SPEC, TENANT one of a, b"),
            (&["a=uniform:x"], "--arrivals a=uniform:x: arrivals: expected requests a second"),
            (&["a=uniform:4", "a=uniform:5"], "tenant \"a\" has arrivals already"),
        ] {
            let error = read(texts, &["a", "b"]).expect_err("refused");
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn equal_names_and_too_many_are_refused() {
        let read = |texts: &[&str]| tenants(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["zoo:x", "y=zoo:x"]).expect("two").len(), 2);
        let error = read(&["zoo:x", "fetched:x"]).expect_err("refused").to_string();
        assert!(error.contains("found \"x\" again: name one, as in NAME=fetched:x"), "{error}");
        let many: Vec<String> = (0..=TENANTS_MAX).map(|i| format!("t{i}=zoo:x")).collect();
        assert!(tenants(&many).is_err() && tenants(&many[1..]).is_ok());
    }

    #[test]
    fn tenants_are_called_by_zoo_name_stem_or_folder() {
        assert_eq!(tenant_name("zoo:resnet50"), "resnet50");
        assert_eq!(tenant_name("models/r50.onnx"), "r50");
        assert_eq!(tenant_name("fetched:magika"), "magika");
    }
}
