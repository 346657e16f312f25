//! Engines, the numeric emulator and the driver on small models.

mod common;
mod engines;
