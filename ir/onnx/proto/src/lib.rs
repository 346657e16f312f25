//! ONNX protobuf messages, complete for IR 13, that keep unknown fields.
