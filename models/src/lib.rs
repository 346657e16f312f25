//! Standard architectures as ONNX with seeded weights, and a manifest of real models.
//!
//! What it is: builders that write well-known architectures with the layouts and operator sequences of the common
//! exporters, so that what is planned is what users have, with a dynamic batch dimension and weights from a seed
//! ([`zoo`], [`build_to`], [`cached`]).
//!
//! What it deliberately does not do: it trains nothing, runs nothing and parses no command line.
//!
//! Invariants: the same name, seed and [`BUILDER_VERSION`] give the same bytes on every machine.

mod arch;
mod error;
mod graph;
mod layers;
mod weights;
mod zoo;

pub use error::ModelsError;
pub use zoo::{BUILDER_VERSION, DEFAULT_SEED, ZooModel, ZooStats, build_to, cached, find, zoo};
