//! Damaged input: no panic, bounded memory, and whatever still decodes comes back the same.

use crate::meter::peak;
use crate::round_trip::{again, model, sequence, types};
use tandem_onnx_proto::*;

/// Bytes that one decoding may take whatever its input's length: an error's path, a reference count.
const ALLOWANCE: usize = 8 * 1024;

/// A small seeded generator (SplitMix64), enough to place damage.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Damages `bytes` in one of the ways that files get damaged, or attackers damage them.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    if bytes.is_empty() {
        return;
    }
    let at = dice.below(bytes.len());
    let len = dice.below(16.min(bytes.len() - at) + 1);
    match dice.below(7) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
        3 => drop(bytes.drain(at..at + len)),
        4 => {
            let from = dice.below(bytes.len());
            let piece = bytes[from..bytes.len().min(from + 4 * len)].to_vec();
            bytes.splice(at..at, piece);
        }
        // An enormous length or integer.
        5 => drop(bytes.splice(at..at, [0xff; 8])),
        // Random bytes.
        _ => {
            bytes[at..at + len].fill_with(|| dice.next() as u8);
        }
    }
}

/// Decodes within the promised memory; what decodes must come back from its encoding.
fn probe<M: Message + PartialEq + std::fmt::Debug>(bytes: Vec<u8>) -> bool {
    let bound = bytes.len() * MEMORY_PER_BYTE + ALLOWANCE;
    let source = Blob::from(bytes);
    let (decoded, peak) = peak(|| M::decode(&source));
    assert!(peak <= bound, "{peak} bytes for {}", source.len());
    match decoded {
        Ok(message) => {
            // Not `==`: damage makes NaNs.
            let encoded = message.encode();
            let second = M::decode(&encoded.clone().into()).expect("what was encoded decodes");
            assert_eq!(second.encode(), encoded);
            true
        }
        Err(error) => {
            assert!(error.offset <= source.len() as u64, "{error}");
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn damaged_messages_end_in_errors() {
    let mut dice = Dice(1);
    let mut small = model();
    small.training_info.clear();
    small.functions.truncate(0);
    let sources = [small.encode(), sequence().encode(), types()[5].encode()];
    let mut intact = 0;
    for round in 0..20_000 {
        let mut bytes = sources[round % sources.len()].clone();
        for _ in 0..=dice.below(3) {
            damage(&mut bytes, &mut dice);
        }
        intact += usize::from(match round % sources.len() {
            0 => probe::<ModelProto>(bytes),
            1 => probe::<SequenceProto>(bytes),
            _ => probe::<TypeProto>(bytes),
        });
    }
    // Damage inside contents is no fault of the encoding; both ways must have been taken.
    assert!((1_000..19_000).contains(&intact), "{intact} decoded");
}

#[test]
fn random_bytes_end_in_errors() {
    let mut dice = Dice(2);
    for _ in 0..2_000 {
        let len = dice.below(200);
        let bytes: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
        probe::<ModelProto>(bytes.clone());
        probe::<AttributeProto>(bytes.clone());
        probe::<OptionalProto>(bytes);
    }
}

#[test]
fn every_truncation_is_an_error_or_whole_fields() {
    let bytes = sequence().encode();
    for len in 0..bytes.len() {
        probe::<SequenceProto>(bytes[..len].to_vec());
    }
}

#[test]
fn rows_of_empty_messages_keep_the_bound() {
    let rows = 100_000;
    // Nodes of a graph; attributes of a node.
    let (graph, graph_peak) = decode_measured::<GraphProto>([0x0a, 0].repeat(rows));
    assert_eq!(graph.node.len(), rows);
    let (node, node_peak) = decode_measured::<NodeProto>([0x2a, 0].repeat(rows));
    assert_eq!(node.attribute.len(), rows);
    // A node in each graph of a list, an attribute in each node, a tensor in each attribute.
    decode_measured::<AttributeProto>([0x5a, 6, 0x0a, 4, 0x2a, 2, 0x2a, 0].repeat(rows));
    // A graph that comes a second time grows the first one's list.
    let half: Vec<u8> = [0x0a, 0].repeat(rows);
    let mut twice = vec![0x3a, 0x02, 0x0a, 0x00, 0x3a, 0xc0, 0x9a, 0x0c];
    twice.extend(half);
    let (model, _) = decode_measured::<ModelProto>(twice);
    assert_eq!(model.graph.map(|graph| graph.node.len()), Some(rows + 1));
    // Lists known to be long are allocated exactly: no more than the structs themselves.
    assert!(graph_peak <= rows * size_of::<NodeProto>() + ALLOWANCE);
    assert!(node_peak <= rows * size_of::<AttributeProto>() + ALLOWANCE);
}

fn decode_measured<M: Message>(bytes: Vec<u8>) -> (M, usize) {
    let bound = bytes.len() * MEMORY_PER_BYTE + ALLOWANCE;
    let source = Blob::from(bytes);
    let (message, peak) = peak(|| M::decode(&source).expect("rows decode"));
    assert!(peak <= bound, "{peak} bytes for {}", source.len());
    (message, peak)
}

#[test]
fn weights_cost_no_memory() {
    let tensor = TensorProto::from_raw("w", data_type::UINT8, &[1 << 20], vec![7; 1 << 20]);
    let source = Blob::from(tensor.encode());
    let (decoded, decode_peak) = peak(|| TensorProto::decode(&source).expect("a tensor decodes"));
    assert!(decode_peak < ALLOWANCE, "{decode_peak} bytes to decode");
    assert!(decoded.raw_data.as_ref().is_some_and(|raw| raw.same_source(&source)));
    let (result, write_peak) = peak(|| decoded.write_to(&mut std::io::sink()));
    result.expect("nothing fails to be written");
    assert!(write_peak < 64 * 1024, "{write_peak} bytes to write");
    assert_eq!(again(&decoded), tensor);
}
