//! How a server is set up, and how it ends.

use std::time::Duration;

use tandem_ir::DType;
use tandem_ir::graph::Dim;

use super::backend::TenantSpec;
use super::oip::datatype;
use crate::limits;

/// Bounds and waits of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Most bytes of one body, as it travels and inflated.
    pub body_bytes_max: u64,
    /// Most bytes of all bodies together that are being read or answered. What is beyond is refused before it is read.
    pub bodies_bytes_max: u64,
    /// How long a connection may take for a request's head, idle ones for the next; and what a body may lag behind
    /// [`limits::SERVER_BODY_RATE_MIN`].
    pub read_timeout: Duration,
    /// How long a client may leave a reply unread, beyond what [`limits::SERVER_WRITE_RATE_MIN`] allows for its bytes.
    pub write_timeout: Duration,
    /// How long to go on as before once the end was asked for, but not ready: until all who choose servers have seen
    /// it.
    pub drain_delay: Duration,
    /// How long to finish what is in flight after that.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            body_bytes_max: limits::SERVER_BODY_BYTES_MAX,
            bodies_bytes_max: limits::SERVER_BODIES_BYTES_MAX,
            read_timeout: limits::SERVER_READ_TIMEOUT,
            write_timeout: limits::SERVER_WRITE_TIMEOUT,
            drain_delay: limits::SERVER_DRAIN_DELAY,
            drain_timeout: limits::SERVER_DRAIN_TIMEOUT,
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight had its reply.
    Drained,
    /// It took too long: so many connections were cut, and their requests cancelled.
    Cut {
        /// Connections.
        connections: usize,
    },
}

/// Why tenants cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// A type that does not travel.
    #[error("tenant {tenant:?}: the protocol has no datatype for {tensor:?}, which is of type {dtype}")]
    Datatype {
        /// The tenant.
        tenant: String,
        /// Its input or output.
        tensor: String,
        /// The type.
        dtype: DType,
    },
    /// Rows without elements.
    #[error("tenant {tenant:?}: expected elements for each row on every axis of rows, found none in {tensor:?}")]
    EmptyRows {
        /// The tenant.
        tenant: String,
        /// Its input or output.
        tensor: String,
    },
    /// Two tenants of one name.
    #[error("two tenants are named {0:?}")]
    Repeated(String),
}

/// Whether the protocol can express the tenants.
pub(super) fn check(tenants: &[TenantSpec]) -> Result<(), ServeError> {
    for (at, tenant) in tenants.iter().enumerate() {
        if tenants[..at].iter().any(|other| other.name == tenant.name) {
            return Err(ServeError::Repeated(tenant.name.clone()));
        }
        for tensor in tenant.inputs.iter().chain(&tenant.outputs) {
            let (tenant, name, dtype) = (tenant.name.clone(), tensor.name.clone(), tensor.dtype);
            if datatype(dtype).is_none() {
                return Err(ServeError::Datatype { tenant, tensor: name, dtype });
            }
            if tensor.dims.contains(&Dim::Batch { per_item: 0 }) {
                return Err(ServeError::EmptyRows { tenant, tensor: name });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::super::backend::TensorSpec;
    use super::*;

    fn tenant(name: &str, dtype: DType, dims: Vec<Dim>) -> TenantSpec {
        let output = TensorSpec { name: "y".to_owned(), dtype, dims };
        TenantSpec {
            name: name.to_owned(),
            inputs: vec![],
            outputs: vec![output],
            rows_max: 1,
            preferred: vec![],
            queue_delay: Duration::ZERO,
        }
    }

    #[test]
    fn tenants_that_cannot_be_expressed_are_named() {
        let good = tenant("a", DType::F32, vec![Dim::Batch { per_item: 1 }, Dim::Unknown]);
        let message = |tenants: &[TenantSpec]| check(tenants).expect_err("bad tenants").to_string();
        assert_eq!(check(&[good.clone(), TenantSpec { name: "b".to_owned(), ..good.clone() }]), Ok(()));
        assert_eq!(message(&[good.clone(), good]), "two tenants are named \"a\"");
        let complex = tenant("c", DType::Complex64, vec![]);
        let expected = "tenant \"c\": the protocol has no datatype for \"y\", which is of type c64";
        assert_eq!(message(slice::from_ref(&complex)), expected);
        let empty = tenant("d", DType::F32, vec![Dim::Batch { per_item: 0 }]);
        assert!(message(slice::from_ref(&empty)).contains("expected elements for each row"));
    }
}
