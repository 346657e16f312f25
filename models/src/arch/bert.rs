//! BERT encoder (Devlin et al. 2019), as the Hugging Face model without a task head is exported: the shapes of the
//! attention heads are made at run time from the hidden states' shape, once for each use.

use crate::graph::{Graph, ShapePart, batched};
use tandem_onnx_proto::{AttributeProto, DimValue, TensorProto, data_type};

/// A BERT configuration.
pub(crate) struct Bert {
    /// Layers.
    layers: usize,
    /// Width of the hidden states; a multiple of `heads`.
    hidden: i64,
    /// Attention heads.
    heads: i64,
    /// Width inside the feed-forward parts.
    inner: i64,
    /// Words known.
    vocabulary: i64,
    /// Longest sequence, in words.
    positions: i64,
}

/// BERT base, uncased.
pub(crate) const BERT_BASE: Bert =
    Bert { layers: 12, hidden: 768, heads: 12, inner: 3072, vocabulary: 30522, positions: 512 };

/// Two narrow layers.
pub(crate) const TINY: Bert = Bert { layers: 2, hidden: 64, heads: 4, inner: 128, vocabulary: 512, positions: 128 };

/// Name of the dimension along the words.
const SEQUENCE: &str = "sequence";

/// Epsilon of the layer normalisations.
const EPSILON: f32 = 1e-12;

/// `input_ids`, `attention_mask`, `token_type_ids` (int64 `[batch, sequence]`) to `last_hidden_state`
/// `[batch, sequence, hidden]` and `pooler_output` `[batch, hidden]`.
pub(crate) fn build(g: &mut Graph, config: &Bert) {
    let dims: [DimValue; 2] = [crate::graph::BATCH.into(), SEQUENCE.into()];
    let ids = g.input("input_ids", data_type::INT64, &dims);
    let mask = g.input("attention_mask", data_type::INT64, &dims);
    let types = g.input("token_type_ids", data_type::INT64, &dims);
    let mask = additive_mask(g, "", &mask);
    let mut x = embeddings(g, config, &ids, &types);
    for index in 0..config.layers {
        x = layer(g, config, &format!("/encoder/layer.{index}"), &x, &mask);
    }
    let first = g.index("/pooler", 0);
    let first = g.op("/pooler", "Gather", &[&x, &first], vec![AttributeProto::int("axis", 1)]);
    let pooled = g.gemm("/pooler/dense", &first, config.hidden, config.hidden, 1.0);
    let pooled = g.op("/pooler/activation", "Tanh", &[&pooled], vec![]);
    let states: [DimValue; 3] = [crate::graph::BATCH.into(), SEQUENCE.into(), config.hidden.into()];
    g.output(&x, "last_hidden_state", data_type::FLOAT, &states);
    g.output(&pooled, "pooler_output", data_type::FLOAT, &batched(&[config.hidden]));
}

/// From 1 for a word and 0 for none (int64 `[batch, sequence]`) to what is added to attention scores: 0 and the lowest
/// float, `[batch, 1, 1, sequence]`.
pub(crate) fn additive_mask(g: &mut Graph, scope: &str, mask: &str) -> String {
    let mut mask = mask.to_owned();
    for axis in [1, 2] {
        let axes = g.indices(scope, &[axis]);
        mask = g.op(scope, "Unsqueeze", &[&mask, &axes], vec![]);
    }
    let mask = g.op(scope, "Cast", &[&mask], vec![AttributeProto::int("to", data_type::FLOAT.into())]);
    let one = g.scalar(scope, 1.0);
    let absent = g.op(scope, "Sub", &[&one, &mask], vec![]);
    let lowest = g.scalar(scope, f32::MIN);
    g.op(scope, "Mul", &[&absent, &lowest], vec![])
}

/// Sum of the embeddings of word, type and position, normalised.
fn embeddings(g: &mut Graph, config: &Bert, ids: &str, types: &str) -> String {
    let scope = "/embeddings";
    let rows = |g: &mut Graph, kind: &str, count: i64, ids: &str| {
        let scope = format!("{scope}/{kind}");
        let table = g.weight(&format!("embeddings.{kind}.weight"), &[count, config.hidden], 3, 1.0);
        g.op(&scope, "Gather", &[&table, ids], vec![])
    };
    let length = g.dim(scope, ids, 1);
    let words = rows(g, "word_embeddings", config.vocabulary, ids);
    let kinds = rows(g, "token_type_embeddings", 2, types);
    let sum = g.op(scope, "Add", &[&words, &kinds], vec![]);
    let all: Vec<i64> = (0..config.positions).collect();
    let all = g.fixed(TensorProto::from_i64("embeddings.position_ids", &[1, config.positions], &all));
    let starts = g.indices(scope, &[0]);
    let ends = g.vector(scope, &length);
    let axes = g.indices(scope, &[1]);
    let steps = g.indices(scope, &[1]);
    let positions = g.op(scope, "Slice", &[&all, &starts, &ends, &axes, &steps], vec![]);
    let positions = rows(g, "position_embeddings", config.positions, &positions);
    let sum = g.op(scope, "Add", &[&sum, &positions], vec![]);
    g.layer_norm("/embeddings/LayerNorm", &sum, config.hidden, EPSILON)
}

/// Attention and feed-forward, each added to its input and normalised.
fn layer(g: &mut Graph, config: &Bert, scope: &str, x: &str, mask: &str) -> String {
    let context = attention(g, config, &format!("{scope}/attention/self"), x, mask);
    let out = format!("{scope}/attention/output");
    let context = g.linear(&format!("{out}/dense"), &context, config.hidden, config.hidden, 1.0);
    let sum = g.op(&out, "Add", &[&context, x], vec![]);
    let x = g.layer_norm(&format!("{out}/LayerNorm"), &sum, config.hidden, EPSILON);
    let inner = g.linear(&format!("{scope}/intermediate/dense"), &x, config.hidden, config.inner, 1.0);
    let inner = gelu(g, &format!("{scope}/intermediate/intermediate_act_fn"), &inner);
    let out = format!("{scope}/output");
    let inner = g.linear(&format!("{out}/dense"), &inner, config.inner, config.hidden, 1.0);
    let sum = g.op(&out, "Add", &[&inner, &x], vec![]);
    g.layer_norm(&format!("{out}/LayerNorm"), &sum, config.hidden, EPSILON)
}

/// Self-attention of all heads: `[batch, sequence, hidden]`, before the output projection.
fn attention(g: &mut Graph, config: &Bert, scope: &str, x: &str, mask: &str) -> String {
    let width = config.hidden / config.heads;
    let project =
        |g: &mut Graph, name: &str| g.linear(&format!("{scope}/{name}"), x, config.hidden, config.hidden, 1.0);
    let query = project(g, "query");
    let key = project(g, "key");
    let key = reshape(g, scope, &key, &[config.heads, width]);
    let value = project(g, "value");
    let value = reshape(g, scope, &value, &[config.heads, width]);
    let value = g.transpose(scope, &value, &[0, 2, 1, 3]);
    let query = reshape(g, scope, &query, &[config.heads, width]);
    let query = g.transpose(scope, &query, &[0, 2, 1, 3]);
    // The exporter merges the heads' transposition with that of the product.
    let key = g.transpose(scope, &key, &[0, 2, 3, 1]);
    let scores = g.op(scope, "MatMul", &[&query, &key], vec![]);
    let root = g.scalar(scope, (width as f32).sqrt());
    let scores = g.op(scope, "Div", &[&scores, &root], vec![]);
    let scores = g.op(scope, "Add", &[&scores, mask], vec![]);
    let shares = g.op(scope, "Softmax", &[&scores], vec![AttributeProto::int("axis", -1)]);
    let context = g.op(scope, "MatMul", &[&shares, &value], vec![]);
    let context = g.transpose(scope, &context, &[0, 2, 1, 3]);
    reshape(g, scope, &context, &[config.hidden])
}

/// Reshape to the first two dimensions, read from the value, and `tail`.
pub(crate) fn reshape(g: &mut Graph, scope: &str, x: &str, tail: &[i64]) -> String {
    let batch = g.dim(scope, x, 0);
    let length = g.dim(scope, x, 1);
    let mut parts = vec![ShapePart::Scalar(&batch), ShapePart::Scalar(&length)];
    parts.extend(tail.iter().map(|dim| ShapePart::Fixed(*dim)));
    let shape = g.shape_of(scope, &parts);
    g.op(scope, "Reshape", &[x, &shape], vec![AttributeProto::int("allowzero", 0)])
}

/// GELU by the error function: x * (1 + erf(x / sqrt 2)) * 0.5.
fn gelu(g: &mut Graph, scope: &str, x: &str) -> String {
    let root = g.scalar(scope, std::f32::consts::SQRT_2);
    let scaled = g.op(scope, "Div", &[x, &root], vec![]);
    let erf = g.op(scope, "Erf", &[&scaled], vec![]);
    let one = g.scalar(scope, 1.0);
    let sum = g.op(scope, "Add", &[&erf, &one], vec![]);
    let product = g.op(scope, "Mul", &[x, &sum], vec![]);
    let half = g.scalar(scope, 0.5);
    g.op(scope, "Mul", &[&product, &half], vec![])
}
