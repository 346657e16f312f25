//! ONNX files to tandem graphs, and segments of graphs back to runnable ONNX.
//!
//! The only crate (with the zoo and the tract engine) that knows ONNX protobuf. It runs nothing and reads no clock.

pub mod cut;
pub mod import;
pub mod value;
