//! Engines, profiler and driver: what runs plans on real devices.

pub mod compare;
pub mod device;
pub mod discover;
pub mod driver;
pub mod engine;
pub mod limits;
pub mod npy;
pub mod npz;
pub mod observe;
pub mod profiler;
pub mod rows;
pub mod sample;
pub mod server;
pub mod serving;
