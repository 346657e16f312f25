//! What the codec promises: messages come back whole, hand-written bytes mean what the wire format says, and damaged
//! input ends in an error within bounded memory.

mod meter;
mod mutation;
mod round_trip;
mod wire;
