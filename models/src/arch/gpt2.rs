//! GPT-2 (Radford et al. 2019) with keys and values of earlier words as inputs, as Optimum exports the Hugging Face
//! model: one graph serves the prompt (no earlier words) and each further word. Input and output embeddings are tied.

use crate::arch::bert::{additive_mask, reshape};
use crate::graph::{BATCH, Graph, ShapePart, module};
use tandem_onnx_proto::{AttributeProto, DimValue, TensorProto, data_type};

/// A GPT-2 configuration.
pub(crate) struct Gpt2 {
    /// Layers.
    layers: usize,
    /// Width of the hidden states; a multiple of `heads`.
    hidden: i64,
    /// Attention heads.
    heads: i64,
    /// Words known.
    vocabulary: i64,
    /// Longest sequence, earlier words included.
    positions: i64,
}

/// GPT-2 small.
pub(crate) const GPT2_SMALL: Gpt2 = Gpt2 { layers: 12, hidden: 768, heads: 12, vocabulary: 50257, positions: 1024 };

/// Two narrow layers.
pub(crate) const TINY: Gpt2 = Gpt2 { layers: 2, hidden: 64, heads: 4, vocabulary: 512, positions: 256 };

/// Gain of the two projections that a layer adds to its input: small, so that the sum grows by little.
const RESIDUAL_GAIN: f32 = 0.5;

/// Epsilon of the layer normalisations.
const EPSILON: f32 = 1e-5;

/// Words of this call, words before it, and both.
const DIMS: [&str; 3] = ["sequence", "past_sequence", "past_sequence + sequence"];

/// `input_ids` (int64 `[batch, sequence]`), `attention_mask` (int64 `[batch, past_sequence + sequence]`) and
/// `past_key_values.N.key`, `.value` (`[batch, heads, past_sequence, width]`) to `logits`
/// `[batch, sequence, vocabulary]` and `present.N.key`, `.value` (`[batch, heads, past_sequence + sequence, width]`).
pub(crate) fn build(g: &mut Graph, config: &Gpt2) {
    let [sequence, past, total] = DIMS.map(DimValue::from);
    let ids = g.input("input_ids", data_type::INT64, &[BATCH.into(), sequence.clone()]);
    let width = config.hidden / config.heads;
    let cache = |length: &DimValue| [BATCH.into(), config.heads.into(), length.clone(), width.into()];
    let mut pasts = Vec::new();
    for layer in 0..config.layers {
        let part =
            |g: &mut Graph, kind| g.input(&format!("past_key_values.{layer}.{kind}"), data_type::FLOAT, &cache(&past));
        pasts.push((part(g, "key"), part(g, "value")));
    }
    let mask = g.input("attention_mask", data_type::INT64, &[BATCH.into(), total.clone()]);
    let table = g.weight("transformer.wte.weight", &[config.vocabulary, config.hidden], config.hidden, 1.0);
    let mut x = embeddings(g, config, &ids, &pasts[0].0, &table);
    let mask = additive_mask(g, "/transformer", &mask);
    let causal = causal(g, config.positions);
    let mut presents = Vec::new();
    for (layer, past) in pasts.iter().enumerate() {
        let scope = format!("/transformer/h.{layer}");
        let normed = g.layer_norm(&format!("{scope}/ln_1"), &x, config.hidden, EPSILON);
        let scope_attn = format!("{scope}/attn");
        let attention = Attention { config, scope: &scope_attn, mask: &mask, causal: &causal };
        let (context, present) = attention.build(g, &normed, past);
        presents.push(present);
        x = g.op(&scope, "Add", &[&context, &x], vec![]);
        let normed = g.layer_norm(&format!("{scope}/ln_2"), &x, config.hidden, EPSILON);
        let inner = feed_forward(g, config, &format!("{scope}/mlp"), &normed);
        x = g.op(&scope, "Add", &[&x, &inner], vec![]);
    }
    let x = g.layer_norm("/transformer/ln_f", &x, config.hidden, EPSILON);
    let head = g.transpose("/lm_head", &table, &[1, 0]);
    let logits = g.op("/lm_head", "MatMul", &[&x, &head], vec![]);
    g.output(&logits, "logits", data_type::FLOAT, &[BATCH.into(), sequence, config.vocabulary.into()]);
    for (layer, (key, value)) in presents.iter().enumerate() {
        g.output(key, &format!("present.{layer}.key"), data_type::FLOAT, &cache(&total));
        g.output(value, &format!("present.{layer}.value"), data_type::FLOAT, &cache(&total));
    }
}

/// Sum of the embeddings of word and position; positions go on from the earlier words.
fn embeddings(g: &mut Graph, config: &Gpt2, ids: &str, past_key: &str, table: &str) -> String {
    let scope = "/transformer";
    let length = g.dim(scope, ids, 1);
    let past = g.dim(scope, past_key, 2);
    let total = g.op(scope, "Add", &[&length, &past], vec![]);
    let one = g.index(scope, 1);
    let positions = g.op(scope, "Range", &[&past, &total, &one], vec![]);
    let axes = g.indices(scope, &[0]);
    let positions = g.op(scope, "Unsqueeze", &[&positions, &axes], vec![]);
    let words = g.op("/transformer/wte", "Gather", &[table, ids], vec![]);
    let places = g.weight("transformer.wpe.weight", &[config.positions, config.hidden], config.hidden, 1.0);
    let places = g.op("/transformer/wpe", "Gather", &[&places, &positions], vec![]);
    g.op(scope, "Add", &[&words, &places], vec![])
}

/// Which position may look at which: bool `[1, 1, positions, positions]`, true on and below the diagonal. All layers
/// share it, as exporters keep one of equal constants.
fn causal(g: &mut Graph, positions: i64) -> String {
    let square = (0..positions).flat_map(|row| (0..positions).map(move |column| u8::from(column <= row)));
    let raw: Vec<u8> = square.collect();
    let dims = [1, 1, positions, positions];
    g.fixed(TensorProto::from_raw("transformer.h.0.attn.bias", data_type::BOOL, &dims, raw))
}

/// What the attention of a layer works with.
struct Attention<'a> {
    config: &'a Gpt2,
    scope: &'a str,
    mask: &'a str,
    causal: &'a str,
}

impl Attention<'_> {
    /// The projected context `[batch, sequence, hidden]`, and keys and values of earlier and new words.
    fn build(&self, g: &mut Graph, x: &str, past: &(String, String)) -> (String, (String, String)) {
        let Self { config, scope, .. } = *self;
        let merged = conv1d(g, &format!("{scope}/c_attn"), x, config.hidden, 3 * config.hidden, 1.0);
        let sizes = g.indices(scope, &[config.hidden; 3]);
        let parts = g.op_many(scope, "Split", &[&merged, &sizes], vec![AttributeProto::int("axis", 2)], 3);
        let mut heads = parts.iter().map(|part| {
            let split = reshape(g, scope, part, &[config.heads, config.hidden / config.heads]);
            g.transpose(scope, &split, &[0, 2, 1, 3])
        });
        let mut next = || heads.next().expect("query, key and value");
        let (query, key, value) = (next(), next(), next());
        let key = g.concat(scope, &[past.0.clone(), key], -2);
        let value = g.concat(scope, &[past.1.clone(), value], -2);
        let shares = self.shares(g, &query, &key);
        let context = g.op(scope, "MatMul", &[&shares, &value], vec![]);
        let context = g.transpose(scope, &context, &[0, 2, 1, 3]);
        let context = reshape(g, scope, &context, &[config.hidden]);
        let out = format!("{scope}/c_proj");
        (conv1d(g, &out, &context, config.hidden, config.hidden, RESIDUAL_GAIN), (key, value))
    }

    /// How much each new word takes from each word: `[batch, heads, sequence, past_sequence + sequence]`.
    fn shares(&self, g: &mut Graph, query: &str, key: &str) -> String {
        let scope = self.scope;
        let turned = g.transpose(scope, key, &[0, 1, 3, 2]);
        let scores = g.op(scope, "MatMul", &[query, &turned], vec![]);
        let root = g.scalar(scope, ((self.config.hidden / self.config.heads) as f32).sqrt());
        let scores = g.op(scope, "Div", &[&scores, &root], vec![]);
        let queries = g.dim(scope, query, 2);
        let keys = g.dim(scope, key, 2);
        let first = g.op(scope, "Sub", &[&keys, &queries], vec![]);
        let first = g.vector(scope, &first);
        let keys = g.vector(scope, &keys);
        let zero = g.indices(scope, &[0]);
        let rows = slice(g, scope, self.causal, [&first, &keys], 2);
        let allowed = slice(g, scope, &rows, [&zero, &keys], 3);
        let lowest = g.scalar(scope, f32::MIN);
        let scores = g.op(scope, "Where", &[&allowed, &scores, &lowest], vec![]);
        let scores = g.op(scope, "Add", &[&scores, self.mask], vec![]);
        g.op(scope, "Softmax", &[&scores], vec![AttributeProto::int("axis", -1)])
    }
}

/// Slice of one axis, from and to given as vectors of one element.
fn slice(g: &mut Graph, scope: &str, x: &str, [from, to]: [&str; 2], axis: i64) -> String {
    let axes = g.indices(scope, &[axis]);
    let steps = g.indices(scope, &[1]);
    g.op(scope, "Slice", &[x, from, to, &axes, &steps], vec![])
}

/// The fully connected layer that GPT-2 calls a convolution: rows as a matrix, Gemm with `[inputs, outputs]` weights,
/// and back to `[batch, sequence, outputs]`.
fn conv1d(g: &mut Graph, scope: &str, x: &str, inputs: i64, outputs: i64, gain: f32) -> String {
    let path = module(scope);
    let batch = g.dim(scope, x, 0);
    let length = g.dim(scope, x, 1);
    let flat = g.indices(scope, &[-1, inputs]);
    let keep = || vec![AttributeProto::int("allowzero", 0)];
    let rows = g.op(scope, "Reshape", &[x, &flat], keep());
    let weight = g.weight(&format!("{path}.weight"), &[inputs, outputs], inputs, gain);
    let bias = g.trained(&format!("{path}.bias"), &[outputs], 0.0, 0.05);
    let unit = vec![AttributeProto::float("alpha", 1.0), AttributeProto::float("beta", 1.0)];
    let rows = g.op(scope, "Gemm", &[&rows, &weight, &bias], unit);
    let parts = [ShapePart::Scalar(&batch), ShapePart::Scalar(&length), ShapePart::Fixed(outputs)];
    let shape = g.shape_of(scope, &parts);
    g.op(scope, "Reshape", &[&rows, &shape], keep())
}

/// Widen, GELU by its tanh approximation, and back.
fn feed_forward(g: &mut Graph, config: &Gpt2, scope: &str, x: &str) -> String {
    let inner = conv1d(g, &format!("{scope}/c_fc"), x, config.hidden, 4 * config.hidden, 1.0);
    let inner = gelu_tanh(g, &format!("{scope}/act"), &inner);
    conv1d(g, &format!("{scope}/c_proj"), &inner, 4 * config.hidden, config.hidden, RESIDUAL_GAIN)
}

/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
fn gelu_tanh(g: &mut Graph, scope: &str, x: &str) -> String {
    let half = g.scalar(scope, 0.5);
    let halved = g.op(scope, "Mul", &[x, &half], vec![]);
    let three = g.scalar(scope, 3.0);
    let cube = g.op(scope, "Pow", &[x, &three], vec![]);
    let small = g.scalar(scope, 0.044715);
    let cube = g.op(scope, "Mul", &[&cube, &small], vec![]);
    let sum = g.op(scope, "Add", &[x, &cube], vec![]);
    let root = g.scalar(scope, 0.797_884_6);
    let sum = g.op(scope, "Mul", &[&sum, &root], vec![]);
    let tanh = g.op(scope, "Tanh", &[&sum], vec![]);
    let one = g.scalar(scope, 1.0);
    let tanh = g.op(scope, "Add", &[&tanh, &one], vec![]);
    g.op(scope, "Mul", &[&halved, &tanh], vec![])
}
