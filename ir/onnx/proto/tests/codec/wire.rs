//! Bytes written by hand: what the wire format says, decoded and encoded.

use crate::round_trip::again;
use std::sync::Arc;
use tandem_onnx_proto::*;

fn decode<M: Message>(bytes: &[u8]) -> M {
    M::decode(&bytes.into()).expect("the fixture decodes")
}

fn fault<M: Message + std::fmt::Debug>(bytes: &[u8]) -> DecodeError {
    M::decode(&bytes.into()).expect_err("the fixture is faulty")
}

/// A model as other tools write it: `Relu` from `x` to `y`.
const RELU: &[u8] = b"\x08\x0d\x12\x02me\x3a\x23\x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\x12\x01g\
    \x5a\x10\x0a\x01x\x12\x0b\x0a\x09\x08\x01\x12\x05\x0a\x03\x12\x01N\x42\x04\x0a\x00\x10\x19";

#[test]
fn a_small_model_reads_and_writes_byte_by_byte() {
    let model: ModelProto = decode(RELU);
    let expected = ModelProto {
        ir_version: 13,
        producer_name: "me".into(),
        graph: Some(GraphProto {
            node: vec![NodeProto::new("Relu", &["x"], &["y"])],
            name: "g".into(),
            input: vec![ValueInfoProto::tensor("x", data_type::FLOAT, &["N".into()])],
            ..Default::default()
        }),
        opset_import: vec![OperatorSetIdProto { version: 25, ..decode(b"\x0a\x00") }],
        ..Default::default()
    };
    assert_eq!(model, expected);
    assert_eq!(model.encode(), RELU);
}

#[test]
fn explicit_defaults_survive() {
    // doc_string present and empty, i present and zero without a type, f present and zero.
    let bytes = b"\x15\0\0\0\0\x18\0\x6a\0";
    let attribute: AttributeProto = decode(bytes);
    assert_eq!(attribute.encode(), bytes);
    assert!(attribute.unknown.is_empty());
    // A later value takes the explicit default's place, and the other way round.
    let renamed: NodeProto = decode(b"\x1a\0\x1a\x01n");
    assert_eq!(renamed, NodeProto::default().named("n"));
    let cleared: NodeProto = decode(b"\x1a\x01n\x1a\0");
    assert_eq!(cleared.encode(), b"\x1a\0");
}

#[test]
fn zero_attributes_are_written() {
    assert_eq!(AttributeProto::int("k", 0).encode(), b"\x0a\x01k\x18\0\xa0\x01\x02");
    assert_eq!(AttributeProto::float("k", 0.0).encode(), b"\x0a\x01k\x15\0\0\0\0\xa0\x01\x01");
    assert_eq!(AttributeProto::string("k", "").encode(), b"\x0a\x01k\x22\0\xa0\x01\x03");
    let mut reference = AttributeProto::int("k", 0);
    reference.ref_attr_name = "r".into();
    assert_eq!(reference.encode(), b"\x0a\x01k\xa0\x01\x02\xaa\x01\x01r");
    let built = AttributeProto::int("k", 0);
    assert_eq!(again(&built), built);
}

#[test]
fn packed_and_single_numbers_are_the_same() {
    let packed: TensorProto = decode(b"\x0a\x04\x01\x02\xac\x02\x22\x08\0\0\x80\x3f\0\0\0\x40\x2a\x02\x05\x06");
    let single: TensorProto = decode(b"\x08\x01\x08\x02\x08\xac\x02\x25\0\0\x80\x3f\x25\0\0\0\x40\x28\x05\x28\x06");
    let mixed: TensorProto =
        decode(b"\x0a\x02\x01\x02\x25\0\0\x80\x3f\x08\xac\x02\x22\x04\0\0\0\x40\x28\x05\x2a\x01\x06");
    assert_eq!(packed.dims, [1, 2, 300]);
    assert_eq!(packed.float_data, [1.0, 2.0]);
    assert_eq!(packed.int32_data, [5, 6]);
    assert_eq!(packed, single);
    assert_eq!(packed, mixed);
    // Written as the schema says: dims one by one, contents packed.
    assert_eq!(packed.encode(), b"\x08\x01\x08\x02\x08\xac\x02\x22\x08\0\0\x80\x3f\0\0\0\x40\x2a\x02\x05\x06");
}

#[test]
fn negative_numbers_take_ten_bytes() {
    let tensor: TensorProto = decode(b"\x2a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    assert_eq!(tensor.int32_data, [-1]);
    assert_eq!(tensor.encode(), b"\x2a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
}

#[test]
fn unknown_fields_survive_in_order() {
    // Number 100 as integer, 4 bytes and 8 bytes, number 15 as bytes; a known name in between.
    let bytes = b"\xa0\x06\x07\x12\x01g\xa5\x06\x01\x02\x03\x04\xa1\x06\x01\x02\x03\x04\x05\x06\x07\x08\x9a\x01\x02hi";
    let graph: GraphProto = decode(bytes);
    assert_eq!(graph.name, "g");
    assert_eq!(graph.unknown.len(), bytes.len() - 3);
    let encoded = graph.encode();
    assert!(encoded.starts_with(b"\x12\x01g\xa0\x06\x07\xa5\x06"));
    assert!(encoded.ends_with(b"\x9a\x01\x02hi"));
    assert_eq!(decode::<GraphProto>(&encoded), graph);
    assert_eq!(graph.unknown.to_vec(), &encoded[3..]);
}

#[test]
fn a_message_that_comes_twice_is_merged_and_the_last_choice_wins() {
    let model: ModelProto = decode(b"\x3a\x03\x12\x01a\x3a\x07\x12\x01b\x0a\x02\x22\0");
    let graph = model.graph.expect("a graph");
    assert_eq!((graph.name.as_str(), graph.node.len()), ("b", 1));
    let dim: Dimension = decode(b"\x08\x05\x12\x01N");
    assert_eq!(dim.value, Some(DimValue::Param("N".into())));
    // Element type first, shape in a second piece of the same member.
    let r#type: TypeProto = decode(b"\x0a\x02\x08\x01\x0a\x02\x12\0");
    let tensor = r#type.as_tensor().expect("a tensor");
    assert_eq!((tensor.elem_type, tensor.shape.is_some()), (1, true));
}

#[test]
fn bytes_fields_are_windows_of_the_source() {
    let source = Blob::from(&b"__\x4a\x03abc\x32\x01d"[..]);
    let inner = source.window(2..source.len()).expect("inside");
    let tensor = TensorProto::decode(&inner).expect("decodes");
    let raw = tensor.raw_data.expect("raw data");
    assert_eq!(&*raw, b"abc");
    assert!(raw.same_source(&source) && tensor.string_data[0].same_source(&source));
    assert_eq!(format!("{raw:?}"), "Blob(3 bytes)");
}

#[test]
fn windows_stay_inside() {
    let source: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(vec![1u8, 2, 3]);
    assert!(Blob::shared(source.clone(), 1..4).is_none());
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = Blob::shared(source.clone(), 2..1);
    assert!(reversed.is_none());
    let blob = Blob::shared(source, 1..3).expect("inside");
    assert_eq!(blob, Blob::from(vec![2, 3]));
    assert!(blob.window(0..3).is_none());
    assert_eq!(blob.window(2..2), Some(Blob::default()));
}

#[test]
fn errors_name_place_and_fault() {
    // Second node of the graph, first attribute, its name: not UTF-8 after one byte.
    let error = fault::<ModelProto>(b"\x3a\x0a\x0a\0\x0a\x06\x2a\x04\x0a\x02a\xff");
    assert_eq!(error.path, "ModelProto.graph.node[1].attribute[0].name");
    assert_eq!((error.offset, error.kind), (11, DecodeErrorKind::Text { valid: 1 }));

    let error = fault::<ModelProto>(b"\x3a\x05\x12\x01g");
    assert_eq!(error.to_string(), "ModelProto.graph at byte 2: expected 5 more bytes, found 3");

    let error = fault::<ValueInfoProto>(b"\x12\x02\x0a\x05");
    assert_eq!(error.path, "ValueInfoProto.type.value");
    assert_eq!(error.kind, DecodeErrorKind::Truncated { needed: 5, remaining: 0 });

    let error = fault::<ModelProto>(b"\x0a\x01x");
    assert_eq!(
        error.to_string(),
        "ModelProto.ir_version at byte 1: expected a variable-length integer, found a length and bytes"
    );
}

#[test]
fn every_kind_of_fault_is_told() {
    use DecodeErrorKind as Kind;
    let truncated = |needed, remaining| Kind::Truncated { needed, remaining };
    let huge = b"\x4a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    for (bytes, kind) in [
        (&b"\x10"[..], truncated(1, 0)),
        (b"\x10\x80\x80", truncated(3, 2)),
        (b"\x25\0\0", truncated(4, 2)),
        (b"\x51\0", truncated(8, 1)),
        (huge, truncated(u64::MAX, 0)),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Kind::Varint),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x01", Kind::Varint),
        (b"\x02\0", Kind::Key { found: 2 }),
        (b"\x17", Kind::Key { found: 0x17 }),
        (b"\x80\x80\x80\x80\x10\0", Kind::Key { found: 1 << 32 }),
        (b"\xa3\x06\xa4\x06", Kind::Group),
        (b"\x22\x05\0\0\0\0\0", Kind::Packed { width: 4, found: 5 }),
        (b"\x52\x04\0\0\0\0", Kind::Packed { width: 8, found: 4 }),
        (b"\x2a\x02\x01\x80", truncated(2, 1)),
    ] {
        assert_eq!(fault::<TensorProto>(bytes).kind, kind, "{bytes:x?}");
    }
}

/// A length as the wire format writes it.
fn varint(mut length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes
}

/// Sequences in one another, `depth` of them.
fn nest(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 1..depth {
        // Field 5 of a sequence holds sequences.
        let head = [vec![0x2a], varint(bytes.len() as u64)].concat();
        bytes.splice(0..0, head);
    }
    bytes
}

#[test]
fn nesting_has_a_limit() {
    let deepest: SequenceProto = decode(&nest(100));
    assert_eq!(again(&deepest), deepest);
    let error = fault::<SequenceProto>(&nest(101));
    assert_eq!(error.kind, DecodeErrorKind::Depth { limit: MAX_DEPTH });
    assert_eq!(error.path.matches("sequence_values[0]").count(), 100);
    assert_eq!(fault::<SequenceProto>(&nest(20_000)).kind, error.kind);
}

/// Counts what is written and looks at nothing.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The memory is never touched but at both ends, so it is hardly more than address space.
#[test]
fn messages_beyond_two_gibibytes_read_and_write() {
    let weights = (1u64 << 31) + 12_345;
    // Key and length of the weights.
    let inner = [vec![0x4a], varint(weights)].concat();
    let tensor = varint(inner.len() as u64 + weights);
    let head = [vec![0x2a], tensor, inner].concat();
    let mut bytes = vec![0u8; head.len() + weights as usize + 3];
    let tail = bytes.len() - 3;
    bytes[..head.len()].copy_from_slice(&head);
    bytes[tail..].copy_from_slice(b"\x12\x01g");
    let total = bytes.len() as u64;
    let graph = GraphProto::decode(&bytes.into()).expect("a large graph decodes");
    assert_eq!(graph.name, "g");
    let raw = graph.initializer[0].raw_data.as_ref().expect("raw data");
    assert_eq!(raw.len() as u64, weights);
    assert_eq!(graph.encoded_len(), total);
    let mut count = Count(0);
    graph.write_to(&mut count).expect("counting does not fail");
    assert_eq!(count.0, total);
}

#[test]
fn a_writer_that_fails_is_reported() {
    let tensor = TensorProto::from_f32("w", &[100_000], &vec![1.0; 100_000]);
    let mut short = [0u8; 1000];
    assert!(tensor.write_to(&mut &mut short[..]).is_err());
}
