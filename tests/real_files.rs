//! What real files do, each built by hand: imported, planned with random splits for a described GPU, run on its emulator
//! and compared with the whole model, on every engine that is here.

#[path = "real_files/batches.rs"]
mod batches;
#[path = "cli/binary.rs"]
mod binary;
#[path = "real_files/build.rs"]
mod build;
#[path = "real_files/oddities.rs"]
mod oddities;
