//! NVIDIA GPUs: streams and memory through CUDA's driver interface, segments through ONNX Runtime's CUDA provider.
//!
//! Values of a batch lie in an arena of the GPU's memory (`values.rs`), commands are put on streams by one thread a lane
//! and waited for by another (`streamed.rs`), and both know of CUDA only what [`accelerator`] says, so that they run in
//! tests where there is none. What is CUDA's own is in [`gpu`], and was compiled but never run where this was written:
//! `docs/gpu.md` lists it piece by piece.

#![allow(unsafe_code)]

pub mod accelerator;
mod codes;
pub mod gpu;
pub mod measure;
pub mod shares;
pub mod streamed;
pub mod testing;
mod times;
pub(crate) mod values;

pub(in crate::device) use codes::told;
