//! Replies without a result: a status, and the reason in JSON.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::backend::{Failure, FailureKind, Refusal, RefusalReason};
use super::oip::OipError;
use crate::limits::{SERVER_ERROR_CHARS_MAX, SERVER_RETRY_AFTER};

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Fault {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// It may be asked again.
    pub(super) fn busy(status: StatusCode, message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self { retry_after: Some(retry_after.unwrap_or(SERVER_RETRY_AFTER)), ..Self::new(status, message) }
    }
}

impl From<OipError> for Fault {
    fn from(error: OipError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

fn refused(reason: RefusalReason) -> StatusCode {
    match reason {
        // The server is well, and goes on for those that are in: not the status that takes it out of rotation.
        RefusalReason::Full | RefusalReason::Late => StatusCode::TOO_MANY_REQUESTS,
        RefusalReason::Draining | RefusalReason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::busy(refused(refusal.reason), refusal.reason.to_string(), refusal.retry_after)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Invalid => Self::new(StatusCode::BAD_REQUEST, failure.message),
            FailureKind::Refused(reason) => Self::busy(refused(reason), failure.message, None),
            FailureKind::Failed => Self::new(StatusCode::INTERNAL_SERVER_ERROR, failure.message),
            FailureKind::Expired => Self::new(StatusCode::GATEWAY_TIMEOUT, failure.message),
            // A client that cancels is gone: whoever reads this was cancelled by the server.
            FailureKind::Cancelled | FailureKind::Unavailable => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, failure.message, None)
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let text: String = self.message.chars().take(SERVER_ERROR_CHARS_MAX).collect();
        let mut response = json_response(self.status, &json!({ "error": text }));
        if let Some(after) = self.retry_after {
            // Whole seconds are all the header has; none would say "at once".
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// A document as a reply.
pub(super) fn json_response(status: StatusCode, document: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.to_string())
        .into_response()
}
