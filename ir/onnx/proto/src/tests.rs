//! What the codec promises, on every message.

mod mutation;
mod round_trip;
mod wire;
