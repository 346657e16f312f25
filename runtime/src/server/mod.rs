//! The outer half of a server: requests of the Open Inference Protocol v2 over HTTP/1.1, and replies to them.
//!
//! Whoever executes them is behind [`Backend`].

mod backend;

pub use backend::{
    Backend, BatchStats, Cancels, Counted, Failure, FailureKind, Permit, Phases, Places, Refusal, RefusalReason, Reply,
    ReplyTo, Request, RequestHandle, TenantSpec, TenantStats, TensorSpec, VERSION,
};
