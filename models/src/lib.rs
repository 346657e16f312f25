//! Standard architectures as ONNX with seeded weights, and a manifest of real models.
