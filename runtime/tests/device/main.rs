//! Engines, the numeric emulator and the driver on small models.

mod common;
mod driver;
mod emulated;
mod engines;
mod observing;
mod routes;
