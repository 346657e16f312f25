//! Tests across modules: exactness against enumeration, laws, whole plans.

mod additive;
mod judge;
mod whole;
