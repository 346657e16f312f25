//! Damaged input.
