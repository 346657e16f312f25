//! Every message with every field set comes back equal.

use tandem_onnx_proto::*;

fn text(key: &str) -> StringStringEntryProto {
    StringStringEntryProto::new(key, format!("{key} value"))
}

fn texts() -> Vec<StringStringEntryProto> {
    vec![text("one"), text(""), text("zwei – ü")]
}

/// A field of number 1000 and one of number 31, which no message has.
fn unknown() -> Unknown {
    let mut unknown = Unknown::default();
    unknown.push(vec![0xc0, 0x3e, 0x05].into());
    unknown.push(vec![0xfa, 0x01, 0x03, 1, 2, 3].into());
    unknown
}

pub(super) fn tensor() -> TensorProto {
    TensorProto {
        dims: vec![2, -1, 0, i64::MAX, i64::MIN],
        data_type: data_type::FLOAT,
        segment: Some(Box::new(Segment { begin: 3, end: -4, unknown: unknown() })),
        float_data: vec![0.0, -0.0, 1.5, f32::INFINITY, f32::MIN_POSITIVE],
        int32_data: vec![0, -1, i32::MAX, i32::MIN],
        string_data: vec![Blob::from("a"), Blob::default(), vec![0xff, 0].into()],
        int64_data: vec![0, -1, 300, i64::MIN],
        name: "w".into(),
        raw_data: Some(vec![1, 2, 3].into()),
        double_data: vec![0.1, f64::MAX],
        uint64_data: vec![0, u64::MAX, 128],
        doc_string: "tensor".into(),
        external_data: texts(),
        data_location: data_location::EXTERNAL,
        metadata_props: texts(),
        unknown: unknown(),
    }
}

fn sparse() -> SparseTensorProto {
    SparseTensorProto {
        values: Some(Box::new(tensor())),
        indices: Some(Box::new(TensorProto::from_i64("i", &[2], &[1, -2]))),
        dims: vec![7, 8],
        unknown: unknown(),
    }
}

fn shape() -> TensorShapeProto {
    let mut shape = TensorShapeProto::new(&[0.into(), 5.into(), "".into(), "batch".into()]);
    shape.dim.push(Dimension::default());
    shape.dim[0].denotation = "DATA_BATCH".into();
    shape.dim[1].unknown = unknown();
    shape.unknown = unknown();
    shape
}

fn tensor_type() -> TypeProto {
    let mut r#type = TypeProto::tensor(data_type::INT4, Some(shape()));
    r#type.denotation = "TENSOR".into();
    r#type.unknown = unknown();
    r#type
}

pub(super) fn types() -> Vec<TypeProto> {
    let elem = Some(Box::new(tensor_type()));
    let sparse = TypeSparseTensor { elem_type: data_type::DOUBLE, shape: Some(shape()), unknown: unknown() };
    let map = TypeMap { key_type: data_type::STRING, value_type: elem.clone(), unknown: unknown() };
    let opaque = TypeOpaque { domain: "d".into(), name: "n".into(), unknown: unknown() };
    let sequence = TypeSequence { elem_type: elem.clone(), unknown: unknown() };
    let optional = TypeOptional { elem_type: elem, unknown: unknown() };
    vec![
        tensor_type(),
        TypeProto::default(),
        TypeProto::tensor(0, None),
        TypeProto::tensor(1, Some(TensorShapeProto::default())),
        TypeValue::Sequence(Box::new(sequence)).into(),
        TypeValue::Map(Box::new(map)).into(),
        TypeValue::Optional(Box::new(optional)).into(),
        TypeValue::Sparse(Box::new(sparse)).into(),
        TypeValue::Opaque(Box::new(opaque)).into(),
        TypeProto::sequence(TypeProto::optional(tensor_type())),
    ]
}

fn value_info() -> ValueInfoProto {
    ValueInfoProto {
        name: "x".into(),
        r#type: Some(tensor_type()),
        doc_string: "value".into(),
        metadata_props: texts(),
        unknown: unknown(),
    }
}

fn attribute(graph: &GraphProto) -> AttributeProto {
    AttributeProto {
        name: "all".into(),
        f: -0.0,
        i: -7,
        s: "bytes".into(),
        t: Some(Box::new(tensor())),
        g: Some(Box::new(graph.clone())),
        floats: vec![0.0, 2.5],
        ints: vec![0, -1, 1 << 40],
        strings: vec!["a".into(), Blob::default()],
        tensors: vec![tensor(), TensorProto::default()],
        graphs: vec![graph.clone(), GraphProto::default()],
        doc_string: "attribute".into(),
        tp: Some(Box::new(tensor_type())),
        type_protos: types(),
        r#type: attribute_type::GRAPHS,
        ref_attr_name: "other".into(),
        sparse_tensor: Some(Box::new(sparse())),
        sparse_tensors: vec![sparse(), SparseTensorProto::default()],
        unknown: unknown(),
    }
}

fn node_device() -> NodeDeviceConfigurationProto {
    let part = SimpleShardedDimProto { num_shards: 2, dim: Some(DimValue::Param("n".into())), unknown: unknown() };
    let whole = SimpleShardedDimProto { dim: Some(DimValue::Value(0)), ..Default::default() };
    let groups = IntIntListEntryProto { key: 0, value: vec![0, -1], unknown: unknown() };
    let sharded = ShardedDimProto { axis: -1, simple_sharding: vec![part, whole], unknown: unknown() };
    let spec = ShardingSpecProto {
        tensor_name: "x".into(),
        device: vec![0, -2],
        index_to_device_group_map: vec![groups],
        sharded_dim: vec![sharded],
        unknown: unknown(),
    };
    NodeDeviceConfigurationProto {
        configuration_id: "c".into(),
        sharding_spec: vec![spec],
        pipeline_stage: Some(0),
        unknown: unknown(),
    }
}

fn graph(inner: &GraphProto) -> GraphProto {
    let node = NodeProto {
        input: vec!["a".into(), String::new(), "b".into()],
        output: vec![String::new()],
        name: "n".into(),
        op_type: "If".into(),
        attribute: vec![attribute(inner), AttributeProto::int("zero", 0), AttributeProto::default()],
        doc_string: "node".into(),
        domain: "d".into(),
        overload: "o".into(),
        metadata_props: texts(),
        device_configurations: vec![node_device()],
        unknown: unknown(),
    };
    let annotation =
        TensorAnnotation { tensor_name: "a".into(), quant_parameter_tensor_names: texts(), unknown: unknown() };
    GraphProto {
        node: vec![node, NodeProto::new("Relu", &["a"], &["b"])],
        name: "g".into(),
        initializer: vec![tensor()],
        doc_string: "graph".into(),
        input: vec![value_info()],
        output: vec![value_info(), ValueInfoProto::default()],
        value_info: vec![value_info()],
        quantization_annotation: vec![annotation],
        sparse_initializer: vec![sparse()],
        metadata_props: texts(),
        unknown: unknown(),
    }
}

fn function(graph: &GraphProto) -> FunctionProto {
    FunctionProto {
        name: "f".into(),
        input: vec!["a".into()],
        output: vec!["b".into(), "c".into()],
        attribute: vec!["alpha".into()],
        node: graph.node.clone(),
        doc_string: "function".into(),
        opset_import: vec![OperatorSetIdProto::new("", 0)],
        domain: "d".into(),
        attribute_proto: vec![AttributeProto::float("beta", 0.0)],
        value_info: vec![value_info()],
        overload: "o".into(),
        metadata_props: texts(),
        unknown: unknown(),
    }
}

/// A model with every field of every message set.
pub(super) fn model() -> ModelProto {
    let graph = graph(&graph(&GraphProto::default()));
    let training = TrainingInfoProto {
        initialization: Some(graph.clone()),
        algorithm: Some(graph.clone()),
        initialization_binding: texts(),
        update_binding: texts(),
        unknown: unknown(),
    };
    let configuration = DeviceConfigurationProto {
        name: "c".into(),
        num_devices: 2,
        device: vec!["cpu".into(), String::new()],
        unknown: unknown(),
    };
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "p".into(),
        producer_version: "1".into(),
        domain: "d".into(),
        model_version: -1,
        doc_string: "model".into(),
        functions: vec![function(&graph)],
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto::new("", 25), OperatorSetIdProto::new("d", 0)],
        metadata_props: texts(),
        training_info: vec![training],
        configuration: vec![configuration],
        unknown: unknown(),
    }
}

/// A sequence with every field of the data messages set.
pub(super) fn sequence() -> SequenceProto {
    let inner = SequenceProto { tensor_values: vec![tensor()], ..Default::default() };
    let map = MapProto {
        name: "m".into(),
        key_type: data_type::INT64,
        keys: vec![0, -1],
        string_keys: vec!["k".into()],
        values: Some(Box::new(inner.clone())),
        unknown: unknown(),
    };
    let optional = OptionalProto {
        name: "o".into(),
        elem_type: value_type::OPTIONAL,
        tensor_value: Some(Box::new(tensor())),
        sparse_tensor_value: Some(Box::new(sparse())),
        sequence_value: Some(Box::new(inner.clone())),
        map_value: Some(Box::new(map.clone())),
        optional_value: Some(Box::default()),
        unknown: unknown(),
    };
    SequenceProto {
        name: "s".into(),
        elem_type: value_type::MAP,
        tensor_values: vec![tensor()],
        sparse_tensor_values: vec![sparse()],
        sequence_values: vec![inner],
        map_values: vec![map],
        optional_values: vec![optional, OptionalProto::default()],
        unknown: unknown(),
    }
}

/// Encodes in both ways, compares lengths, decodes.
pub(super) fn again<M: Message>(message: &M) -> M {
    let encoded = message.encode();
    assert_eq!(encoded.len() as u64, message.encoded_len());
    let mut written = Vec::new();
    message.write_to(&mut written).expect("a vector takes all bytes");
    assert_eq!(written, encoded);
    M::decode(&encoded.into()).expect("what was encoded decodes")
}

#[test]
fn every_field_of_every_message_comes_back() {
    let model = model();
    assert_eq!(again(&model), model);
    let sequence = sequence();
    assert_eq!(again(&sequence), sequence);
    for r#type in types() {
        assert_eq!(again(&r#type), r#type);
    }
}

#[test]
fn empty_messages_come_back() {
    assert_eq!(again(&GraphProto::default()), GraphProto::default());
    assert_eq!(again(&ModelProto::default()), ModelProto::default());
    assert!(GraphProto::default().encode().is_empty());
}

#[test]
fn absence_and_zero_stay_apart() {
    let empty = TensorProto { raw_data: Some(Blob::default()), ..Default::default() };
    assert_eq!(again(&empty).raw_data, Some(Blob::default()));
    assert_eq!(again(&TensorProto::default()).raw_data, None);
    let scalar = TypeProto::tensor(1, Some(TensorShapeProto::default()));
    assert_eq!(again(&scalar).as_tensor().and_then(|tensor| tensor.shape.clone()), Some(TensorShapeProto::default()));
    let unranked = TypeProto::tensor(1, None);
    assert_eq!(again(&unranked).as_tensor().and_then(|tensor| tensor.shape.clone()), None);
}

#[test]
fn element_types_know_their_names() {
    for number in data_type::UNDEFINED..=data_type::INT2 {
        let name = data_type::name(number).expect("every type has a name");
        assert_eq!(data_type::from_name(name), Some(number));
        let unsized_type = matches!(number, data_type::UNDEFINED | data_type::STRING);
        assert_eq!(data_type::size_bits(number).is_none(), unsized_type);
    }
    assert_eq!(data_type::name(27), None);
    assert_eq!(data_type::size_bits(data_type::UINT2), Some(2));
}
