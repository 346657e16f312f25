//! The outer half of a server: requests of the Open Inference Protocol v2 over HTTP/1.1, and replies to them.
//!
//! Whoever executes them is behind [`Backend`]. A request asks for a place before its body is read, is decoded by a
//! codec that knows no HTTP (`request` and `reply`, over `json` and `binary`), and is cancelled when its client goes
//! away; one that closes its sending side counts as gone. Tensors of a binary body are used where they lie, and those
//! of a binary reply are sent from where they lie. What is copied is each body once, from the connection's buffer to an
//! address of its own, at which the first tensor is aligned; a later one is copied again where the sizes before it move
//! it off its elements' alignment.
//!
//! Not here: the choice of batches, deadlines and devices, TLS, HTTP/2, packing of replies.

mod aligned;
mod backend;
mod binary;
mod chunks;
mod connections;
mod documents;
mod fault;
mod http;
mod json;
mod oip;
mod options;
mod patience;
mod receive;
mod reply;
mod request;

pub use backend::{
    Backend, BatchStats, Cancels, Counted, Failure, FailureKind, Permit, Phases, Places, Refusal, RefusalReason, Reply,
    ReplyTo, Request, RequestHandle, TenantSpec, TenantStats, TensorSpec, VERSION,
};
pub use connections::serve;
pub use options::{Ended, ServeError, ServerOptions};
