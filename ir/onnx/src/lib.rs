//! ONNX files to tandem graphs, and segments of graphs back to runnable ONNX.
