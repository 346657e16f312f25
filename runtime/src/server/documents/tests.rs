use std::time::{Duration, SystemTime};

use super::*;

fn tensor(name: &str, dtype: DType, dims: &[Dim]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, dims: dims.to_vec() }
}

fn tenant(inputs: Vec<TensorSpec>) -> TenantSpec {
    TenantSpec {
        name: "m".to_owned(),
        inputs,
        outputs: vec![tensor("y", DType::String, &[Dim::Batch { per_item: 1 }, Dim::Symbol("n".to_owned())])],
        rows_max: 8,
        preferred: vec![2, 4],
        queue_delay: Duration::from_micros(2500),
    }
}

const IMAGE: [Dim; 3] = [Dim::Batch { per_item: 1 }, Dim::Known(3), Dim::Known(224)];

#[test]
fn metadata_has_minus_one_where_requests_decide() {
    let expected = json!({
        "name": "m", "versions": ["1"], "platform": "onnx_onnxv1",
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1, 3, 224] }],
        "outputs": [{ "name": "y", "datatype": "BYTES", "shape": [-1, -1] }],
    });
    assert_eq!(metadata(&tenant(vec![tensor("x", DType::F32, &IMAGE)])), expected);
}

#[test]
fn a_configuration_leaves_out_the_axis_of_rows() {
    let expected = json!({
        "name": "m", "platform": "onnx_onnxv1", "backend": "tandem",
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": 8,
        "input": [{ "name": "x", "data_type": "TYPE_FP32", "dims": [3, 224] }],
        "output": [{ "name": "y", "data_type": "TYPE_STRING", "dims": [-1] }],
        "dynamic_batching": { "preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 2500 },
    });
    assert_eq!(config(&tenant(vec![tensor("x", DType::F32, &IMAGE)])), expected);
}

#[test]
fn a_configuration_has_no_batch_size_where_rows_are_not_first_everywhere() {
    let rows_second = tensor("state", DType::BF16, &[Dim::Known(2), Dim::Batch { per_item: 1 }]);
    let several_a_row = tensor("pieces", DType::BF16, &[Dim::Batch { per_item: 4 }]);
    let without = tensor("scale", DType::BF16, &[]);
    for other in [rows_second, several_a_row, without] {
        let found = config(&tenant(vec![tensor("x", DType::F32, &IMAGE), other]));
        assert_eq!(found["max_batch_size"], 0);
        assert_eq!(found["input"][0]["dims"], json!([-1, 3, 224]));
        assert_eq!(found["input"][1]["data_type"], "TYPE_BF16");
        assert_eq!(found.get("dynamic_batching"), None);
    }
}

#[test]
fn statistics_have_the_protocols_names() {
    let counted = |count| Counted { count, ns: 10 * count };
    let all = TenantStats {
        success: counted(1),
        fail: counted(2),
        queue: counted(3),
        upload: counted(4),
        compute: counted(5),
        download: counted(6),
        inference_count: 7,
        execution_count: 3,
        last_inference: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1234)),
        batches: vec![BatchStats { batch: 4, upload: counted(8), compute: counted(9), download: counted(10) }],
    };
    let tenant = tenant(vec![]);
    let found = stats([(&tenant, all), (&tenant, TenantStats::default())].into_iter());
    let shown = |count: u64| json!({ "count": count, "ns": 10 * count });
    let first = json!({
        "name": "m", "version": "1", "last_inference": 1234, "inference_count": 7, "execution_count": 3,
        "inference_stats": {
            "success": shown(1), "fail": shown(2), "queue": shown(3), "compute_input": shown(4),
            "compute_infer": shown(5), "compute_output": shown(6), "cache_hit": shown(0), "cache_miss": shown(0),
        },
        "batch_stats": [
            { "batch_size": 4, "compute_input": shown(8), "compute_infer": shown(9), "compute_output": shown(10) },
        ],
        "memory_usage": [],
    });
    assert_eq!(found["model_stats"][0], first);
    assert_eq!(found["model_stats"][1]["last_inference"], 0);
}
