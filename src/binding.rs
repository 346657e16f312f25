//! `--shape NAME=DIMS`, `--pin DEVICE=PATTERN` and `--model NAME=PATH` as typed, read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tandem_ir::plan::{BoundDim, Part};

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
    fn tenants_are_called_by_zoo_name_stem_or_folder() {
        assert_eq!(tenant_name("zoo:resnet50"), "resnet50");
        assert_eq!(tenant_name("models/r50.onnx"), "r50");
        assert_eq!(tenant_name("fetched:magika"), "magika");
    }
}
