//! Random inputs that a model accepts: seeded, within the ranges its operators demand.
//!
//! Floats are standard normal. Integers are followed to the operators that read them (`demands`): an index stays below
//! the size of the axis it indexes, a trip count stays small, a mask is ones. Where an integer reaches an operator that
//! demands a range and none can be inferred, the user is asked for a sample instead: a made-up index would fail, or
//! read the wrong row without a word.
//!
//! Values depend on the seed, the input's position and its shape only. Rows differ wherever the range leaves a choice,
//! as a proof of batching needs.

mod demands;
mod fill;

use std::collections::BTreeMap;

use tandem_core::rng::Rng;
use tandem_ir::{DType, Graph, Kind, TensorId};
use tandem_onnx::value::{TensorValue, Value};

use crate::limits::NPZ_BYTES_MAX;
use fill::Fill;

/// An input that cannot be made up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random values can be made for input \"{input}\": {why}; give some with --sample FILE.npz")]
pub struct SampleError {
    /// Name of the input.
    pub input: String,
    /// Why not.
    pub why: String,
}

/// Random values for all inputs, in the graph's order. `dims` holds concrete shapes by name of the input; one it lacks
/// takes the graph's own shape at batch 1.
///
/// # Errors
/// An input is no tensor, its type or shape is not known, or the range of its integers is not.
pub fn random_inputs(graph: &Graph, dims: &BTreeMap<String, Vec<u64>>, seed: u64) -> Result<Vec<Value>, SampleError> {
    let shapes: Vec<Vec<u64>> = graph.inputs.iter().map(|t| shape(graph, *t, dims)).collect::<Result<_, _>>()?;
    let bound: BTreeMap<&str, &[u64]> =
        graph.inputs.iter().zip(&shapes).map(|(t, s)| (graph.tensor(*t).name.as_str(), s.as_slice())).collect();
    let mut values = Vec::with_capacity(shapes.len());
    for (i, id) in graph.inputs.iter().enumerate() {
        let tensor = graph.tensor(*id);
        let error = |why: String| SampleError { input: tensor.name.clone(), why };
        let dtype = tensor.fact.dtype.ok_or_else(|| error("its element type is not known".into()))?;
        let fill = choose(graph, *id, dtype, &bound).map_err(error)?;
        // Every input draws from a generator of its own, so that one more input changes none of the others.
        let mut rng = Rng::keyed(seed, &[i as u64]);
        let value = fill.tensor(dtype, &shapes[i], &mut rng);
        values.push(Value::Tensor(value.ok_or_else(|| error(format!("{dtype} values are not made up")))?));
    }
    Ok(values)
}

/// The concrete shape of an input.
fn shape(graph: &Graph, id: TensorId, dims: &BTreeMap<String, Vec<u64>>) -> Result<Vec<u64>, SampleError> {
    let tensor = graph.tensor(id);
    let error = |why: String| SampleError { input: tensor.name.clone(), why };
    if tensor.fact.kind != Kind::Tensor {
        return Err(error(format!("it is a {:?}, not a tensor", tensor.fact.kind)));
    }
    let shape = match dims.get(&tensor.name) {
        Some(dims) => dims.clone(),
        None => tensor.fact.dims_at(1).ok_or_else(|| error(format!("its shape {} is not bound", tensor.fact)))?,
    };
    let bits = tensor.fact.dtype.map_or(8, |d| if d == DType::String { 256 } else { d.bits() });
    let bytes = shape.iter().filter(|d| **d > 0).try_fold(bits.div_ceil(8), |a, d| a.checked_mul(*d));
    match bytes.filter(|b| *b <= NPZ_BYTES_MAX) {
        Some(_) => Ok(shape),
        None => Err(error(format!("its shape {shape:?} is larger than {NPZ_BYTES_MAX} bytes"))),
    }
}

/// What to fill an input with: what its name says, within what its readers demand.
fn choose(graph: &Graph, id: TensorId, dtype: DType, bound: &BTreeMap<&str, &[u64]>) -> Result<Fill, String> {
    let tensor = graph.tensor(id);
    let demand = demands::of(graph, id, bound);
    use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
    let integer = matches!(dtype, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64);
    if !integer {
        return Ok(demand.fill.or_else(|| float_by_name(&tensor.name)).unwrap_or(Fill::Any));
    }
    if let Some(fill) = demand.fill {
        return Ok(fill);
    }
    if let Some(fill) = integer_by_name(&tensor.name, tensor.fact.shape.as_ref().map_or(0, Vec::len), bound) {
        return Ok(match (fill, demand.below) {
            (Fill::Positions(_), below) => Fill::Positions(below),
            (Fill::Integers(from, to), Some(below)) if to > below => Fill::Integers(from.min(below - 1), below),
            (Fill::Constant(c), Some(below)) if c >= below => Fill::Integers(0, below),
            (fill, _) => fill,
        });
    }
    match (demand.below, demand.unknown) {
        (_, Some(why)) => Err(why),
        (Some(below), None) => Ok(Fill::Integers(0, below)),
        (None, None) => Ok(Fill::Any),
    }
}

/// Names that exporters give, and what such inputs hold.
fn integer_by_name(name: &str, rank: usize, bound: &BTreeMap<&str, &[u64]>) -> Option<Fill> {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["mask"]) {
        return Some(Fill::Constant(1));
    }
    if has(&["token_type", "segment_id", "segment_ids", "tokentype"]) {
        return Some(Fill::Constant(0));
    }
    if has(&["position_ids", "position_id", "cache_position", "positions"]) {
        return Some(Fill::Positions(None));
    }
    if has(&["im_shape", "image_shape", "img_size", "image_size", "target_sizes", "orig_size"]) {
        return image_size(bound);
    }
    if rank <= 1 && (name == "sr" || has(&["sample_rate", "sampling_rate"])) {
        return Some(Fill::Constant(16_000));
    }
    if rank <= 1 && has(&["length", "lens", "seq_len", "num_", "count", "max_", "min_", "trip"]) {
        return Some(Fill::Integers(1, 5));
    }
    None
}

fn float_by_name(name: &str) -> Option<Fill> {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["mask", "scale_factor"]) {
        return Some(Fill::Constant(1));
    }
    has(&["thresh", "ratio"]).then_some(Fill::Unit)
}

/// Height and width of the first image among the inputs.
fn image_size(bound: &BTreeMap<&str, &[u64]>) -> Option<Fill> {
    let image = bound.values().find(|dims| dims.len() == 4)?;
    Some(Fill::Pair(image[2], image[3]))
}

/// Tensor of the concrete shape from a function of the element's place.
fn build(dtype: DType, dims: &[u64], mut element: impl FnMut(u64, &mut Vec<u8>)) -> TensorValue {
    let elements: u64 = dims.iter().product();
    let mut bytes = Vec::with_capacity(dtype.bytes_of(elements) as usize);
    (0..elements).for_each(|i| element(i, &mut bytes));
    TensorValue::new(dtype, dims.to_vec(), bytes)
}

#[cfg(test)]
mod tests;
