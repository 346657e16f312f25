//! Bytes written by hand: what the wire format says, decoded and encoded.
