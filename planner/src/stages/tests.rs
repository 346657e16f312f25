//! Stage search against enumeration, golden cases, laws.

mod golden;
