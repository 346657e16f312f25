//! The nouns of tandem: graph, machine, profile, plan, their checks and their file formats.
//!
//! Plain data and pure functions. This crate does no I/O, reads no clock, and knows neither ONNX protobuf nor any engine;
//! it depends on no other crate of the workspace. In-memory types are not the file formats: those live in [`mod@format`].

#![forbid(unsafe_code)]

pub mod arena;
pub mod batch;
pub mod check;
pub mod dtype;
pub mod fingerprint;
mod folded;
pub mod format;
pub mod graph;
pub mod limits;
pub mod machine;
pub mod order;
pub mod placement;
pub mod plan;
pub mod profile;
#[cfg(test)]
mod random;
pub mod segment;
pub mod signature;
pub mod units;
pub mod work;

pub use check::{Finding, Severity};
pub use dtype::DType;
pub use fingerprint::Fingerprint;
pub use graph::{Dim, Fact, Graph, GraphBuilder, GraphError, Kind, Node, NodeId, OpKind, Origin, Tensor, TensorId};
pub use machine::{Device, DeviceKind, Link, Machine};
pub use plan::{Plan, Route, Segment, Step};
pub use profile::Profile;
pub use units::{Bytes, Flops, Nanos, Time};
