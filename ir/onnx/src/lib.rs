//! ONNX files to tandem graphs, and segments of graphs back to runnable ONNX.
//!
//! The only crate (with the zoo and the tract engine) that knows ONNX protobuf. It runs nothing and reads no clock.
//!
//! - [`import`]: file to [`import::Model`], a `tandem_ir::Graph` with the weights where the file has them;
//! - [`cut`]: some of its nodes as a runnable model, large weights beside the protobuf and shared by all pieces;
//! - [`value`]: tensors and other values in host memory; [`pb`]: such values as files of the ONNX test suites hold them.

mod body;
pub mod cut;
mod digest;
mod external;
mod fault;
mod functions;
pub mod import;
pub mod inspect;
pub mod literal;
mod lower;
mod mmap;
pub mod pb;
pub mod probe;
mod tensor;
pub mod value;
mod walk;
