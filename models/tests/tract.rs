//! Every small model without control flow is readable by the embedded engine: typed with symbolic dimensions, then run.

use std::collections::HashMap;
use tandem_models::{DEFAULT_SEED, ZooModel, zoo};
use tandem_onnx_proto::Message;
use tract_onnx::prelude::*;

/// Rows of the batch that is run.
const BATCH: i64 = 2;

fn typed(model: &ZooModel) -> TractResult<TypedModel> {
    let bytes = model.build(DEFAULT_SEED).encode();
    tract_onnx::onnx().model_for_read(&mut bytes.as_slice())?.into_typed()
}

/// The same with all dimensions bound: the batch, and the model's suggestions.
fn bound(model: &ZooModel, typed: &TypedModel) -> TractResult<TypedModel> {
    let mut dims = HashMap::from([(typed.symbols.sym("batch"), TDim::from(BATCH))]);
    for (name, length) in model.default_dims.iter().filter(|(name, _)| !name.contains('+')) {
        dims.insert(typed.symbols.sym(name), TDim::from(*length as i64));
    }
    typed.set_symbols(&dims)
}

/// Small numbers without a pattern; ones where integers are asked for.
fn input(fact: &TypedFact) -> TractResult<TValue> {
    let shape = fact.shape.as_concrete().expect("all dimensions are bound").to_vec();
    if fact.datum_type == i64::datum_type() {
        return Ok(tract_ndarray::ArrayD::<i64>::from_elem(shape, 1).into_tensor().into_tvalue());
    }
    let count: usize = shape.iter().product();
    let values = (0..count).map(|index| (index * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
    Ok(tract_ndarray::ArrayD::<f32>::from_shape_vec(shape, values)?.into_tensor().into_tvalue())
}

fn run(model: &ZooModel) -> TractResult<()> {
    let typed = typed(model)?;
    let symbolic = typed.input_fact(0)?.shape.iter().any(|dim| dim.to_i64().is_err());
    assert!(symbolic, "{}: the batch is lost", model.name);
    let bound = bound(model, &typed)?;
    let facts: Vec<TypedFact> =
        (0..bound.inputs.len()).map(|slot| bound.input_fact(slot).cloned()).collect::<TractResult<_>>()?;
    let inputs = facts.iter().map(input).collect::<TractResult<TVec<TValue>>>()?;
    let outputs = bound.into_runnable()?.run(inputs)?;
    for output in outputs {
        let view = output.to_plain_array_view::<f32>()?;
        assert!(view.iter().all(|value| value.is_finite()), "{}: an output is not finite", model.name);
        assert!(view.shape().contains(&(BATCH as usize)), "{}: an output has no batch", model.name);
    }
    Ok(())
}

#[test]
fn small_models_run_on_tract_at_batch_two() {
    for model in zoo().iter().filter(|model| model.tiny && !model.name.contains("control-flow")) {
        run(model).unwrap_or_else(|error| panic!("{}: {error:#}", model.name));
    }
}

#[test]
fn full_size_graphs_are_typed() {
    // Those that are quick to build; the others have the same layers.
    for name in ["mobilenet-v2", "branchy", "lstm", "resnet18-int8"] {
        let model = tandem_models::find(name).unwrap();
        typed(model).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}
