//! Damaged files end in errors, not in panics; what is still a model can still be cut.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tandem_onnx::cut::{cut_whole, original};
use tandem_onnx::import::import_bytes;
use tandem_onnx_proto::{AttributeProto, FunctionProto, Message, NodeProto, OperatorSetIdProto, TensorProto};

use crate::build::*;
use crate::importing::branching;

/// SplitMix64: a generator of one line, so that a failing seed can be replayed anywhere.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A bit of everything: bodies, functions, typed and raw weights, strings, attributes.
fn victim() -> Vec<u8> {
    let mut g = branching();
    g.node.push(constant("s", AttributeProto::strings("value_strings", ["a", "bc"])));
    g.node.push(NodeProto { domain: "local".into(), ..node("F", &["y"], &["z"]) });
    g.node.push(node("Reshape", &["z", "shape"], &["out"]).with(AttributeProto::int("allowzero", 1)));
    g.output.push(float("out"));
    g.initializer.push(TensorProto::from_i64("shape", &[1], &[-1]));
    g.initializer.push(weight("big", 400));
    g.initializer.push(TensorProto {
        name: "typed".into(),
        dims: vec![3],
        data_type: 1,
        float_data: vec![1.0; 3],
        ..Default::default()
    });
    let mut m = model(g);
    m.opset_import.push(OperatorSetIdProto::new("local", 1));
    m.functions.push(FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![node("Neg", &["a"], &["t"]), node("Abs", &["t"], &["b"])],
        opset_import: vec![OperatorSetIdProto::new("", 17)],
        ..Default::default()
    });
    m.encode()
}

/// Imports and, where that works, writes images; true where it worked.
fn survives(bytes: Vec<u8>, what: &str) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(|| match import_bytes("damaged.onnx", bytes, None) {
        Ok(model) => {
            let images = [cut_whole(&model).ok(), Some(original(&model))];
            images.iter().flatten().for_each(|image| drop(image.inline()));
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("damaged.onnx: ") && message.len() > 20, "{message}");
            false
        }
    }));
    outcome.unwrap_or_else(|_| panic!("{what}: a panic"))
}

#[test]
fn truncated_files_are_errors() {
    let whole = victim();
    assert!(survives(whole.clone(), "whole"));
    let accepted = (0..whole.len()).filter(|len| survives(whole[..*len].to_vec(), &format!("{len} bytes"))).count();
    // Only a file that ends between two fields of the model can pass.
    assert!(accepted <= 4, "{accepted}");
}

#[test]
fn mutated_files_do_not_panic() {
    let whole = victim();
    let mut accepted = 0;
    for seed in 0..5_000u64 {
        let mut state = seed;
        let mut bytes = whole.clone();
        for _ in 0..1 + random(&mut state) % 4 {
            let at = (random(&mut state) % bytes.len() as u64) as usize;
            match random(&mut state) % 4 {
                0 => bytes[at] = random(&mut state) as u8,
                1 => bytes[at] ^= 1 << (random(&mut state) % 8),
                2 => bytes.insert(at, random(&mut state) as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        accepted += usize::from(survives(bytes, &format!("seed {seed}")));
    }
    assert!(
        (100..4_900).contains(&accepted),
        "{accepted} of 5000 mutants are still models: the damage is too mild or too harsh"
    );
}

#[test]
fn bodies_inside_bodies_have_a_limit() {
    let mut body = graph(vec![node("Neg", &["x"], &["r"])], &[], &["r"]);
    for _ in 0..31 {
        let branch = node("If", &["c"], &["r"]).with(AttributeProto::graph("then_branch", body));
        body = graph(vec![branch], &[], &["r"]);
    }
    let deep = |body| {
        let branch = node("If", &["c"], &["y"]).with(AttributeProto::graph("then_branch", body));
        let mut g = graph(vec![branch], &["x"], &["y"]);
        g.input.push(float("c"));
        model(g).encode()
    };
    let import = |bytes| import_bytes("deep.onnx", bytes, None);
    // 32 bodies fit our limit; whether they fit protobuf's is the decoder's word. One more never passes.
    let branch = node("If", &["c"], &["r"]).with(AttributeProto::graph("then_branch", body.clone()));
    assert!(import(deep(graph(vec![branch], &[], &["r"]))).is_err());
    if let Err(error) = import(deep(body)) {
        assert!(error.to_string().contains("nested"), "{error}");
    }
}
