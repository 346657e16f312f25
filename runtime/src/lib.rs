//! Engines, profiler and driver: what runs plans on real devices.

pub mod device;
pub mod engine;
pub mod profiler;
