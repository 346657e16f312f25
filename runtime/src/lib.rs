//! Engines, profiler and driver: what runs plans on real devices.

pub mod engine;
