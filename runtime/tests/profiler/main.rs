//! The profiler on real engines and small models: tract always, ONNX Runtime where `ORT_DYLIB_PATH` names it.

mod common;
mod measuring;
mod proving;
