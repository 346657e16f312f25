//! What clients ask of a server besides inference: metadata, configuration, statistics.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use tandem_ir::DType;
use tandem_ir::graph::Dim;

use super::backend::{BatchStats, Counted, TenantSpec, TenantStats, TensorSpec, VERSION};
use super::oip::{datatype, wire_dim};

/// Extensions of the protocol that are served.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_configuration", "statistics", "parameters"];

/// Of the server.
pub(super) fn server() -> Value {
    json!({ "name": "tandem", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS })
}

/// Names of all tenants.
pub(super) fn models(tenants: &[TenantSpec]) -> Value {
    json!({ "models": tenants.iter().map(|t| &t.name).collect::<Vec<_>>() })
}

/// Of a tenant: inputs and outputs, -1 for the axes a request decides.
pub(super) fn metadata(tenant: &TenantSpec) -> Value {
    let tensors = |specs: &[TensorSpec]| -> Value {
        let tensor = |s: &TensorSpec| json!({ "name": s.name, "datatype": datatype(s.dtype), "shape": shape(&s.dims) });
        specs.iter().map(tensor).collect()
    };
    json!({
        "name": tenant.name,
        "versions": [VERSION],
        "platform": "onnx_onnxv1",
        "inputs": tensors(&tenant.inputs),
        "outputs": tensors(&tenant.outputs),
    })
}

/// The configuration, in the form of Triton's.
pub(super) fn config(tenant: &TenantSpec) -> Value {
    // A batch size says there that each tensor has a first axis of rows, which its dims then leave out.
    let rows_first = |s: &TensorSpec| {
        let is_rows = |d: &Dim| matches!(d, Dim::Batch { .. });
        s.dims.first() == Some(&Dim::Batch { per_item: 1 }) && !s.dims[1..].iter().any(is_rows)
    };
    let mut tensors = tenant.inputs.iter().chain(&tenant.outputs);
    let batches = tensors.all(rows_first);
    let side = |specs: &[TensorSpec]| -> Value {
        let dims = |s: &TensorSpec| shape(&s.dims[usize::from(batches)..]);
        specs.iter().map(|s| json!({ "name": s.name, "data_type": config_type(s.dtype), "dims": dims(s) })).collect()
    };
    let mut config = json!({
        "name": tenant.name,
        "platform": "onnx_onnxv1",
        "backend": "tandem",
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": if batches { tenant.rows_max } else { 0 },
        "input": side(&tenant.inputs),
        "output": side(&tenant.outputs),
    });
    if batches && tenant.rows_max > 1 {
        config["dynamic_batching"] = json!({
            "preferred_batch_size": tenant.preferred,
            "max_queue_delay_microseconds": u64::try_from(tenant.queue_delay.as_micros()).unwrap_or(u64::MAX),
        });
    }
    config
}

/// Statistics of several tenants.
pub(super) fn stats<'a>(tenants: impl Iterator<Item = (&'a TenantSpec, TenantStats)>) -> Value {
    let each = |(tenant, stats): (&TenantSpec, TenantStats)| {
        let last = stats.last_inference.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        json!({
            "name": tenant.name,
            "version": VERSION,
            "last_inference": last.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            "inference_count": stats.inference_count,
            "execution_count": stats.execution_count,
            "inference_stats": {
                "success": counted(stats.success),
                "fail": counted(stats.fail),
                "queue": counted(stats.queue),
                "compute_input": counted(stats.upload),
                "compute_infer": counted(stats.compute),
                "compute_output": counted(stats.download),
                // There is no cache of replies, but clients read these without asking.
                "cache_hit": counted(Counted::default()),
                "cache_miss": counted(Counted::default()),
            },
            "batch_stats": stats.batches.iter().map(batch).collect::<Value>(),
            "memory_usage": [],
        })
    };
    json!({ "model_stats": tenants.map(each).collect::<Value>() })
}

fn batch(stats: &BatchStats) -> Value {
    json!({
        "batch_size": stats.batch,
        "compute_input": counted(stats.upload),
        "compute_infer": counted(stats.compute),
        "compute_output": counted(stats.download),
    })
}

fn counted(counted: Counted) -> Value {
    json!({ "count": counted.count, "ns": counted.ns })
}

fn shape(dims: &[Dim]) -> Value {
    dims.iter().map(wire_dim).collect()
}

fn config_type(dtype: DType) -> String {
    let name = if dtype == DType::String { "STRING" } else { datatype(dtype).unwrap_or("INVALID") };
    format!("TYPE_{name}")
}

#[cfg(test)]
mod tests;
