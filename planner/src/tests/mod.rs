//! Tests across modules: exactness against enumeration, laws, whole plans.

mod additive;
mod graphs;
mod judge;
mod tenants;
mod whole;
