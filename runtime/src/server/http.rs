//! Addresses, and what is done for each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request as HttpRequest, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tandem_ir::DType;
use tandem_onnx::value::{Data, TensorValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::aligned::Aligned;
use super::backend::{Backend, Permit, Reply, Request, TenantSpec, TensorSpec, VERSION};
use super::chunks::Chunks;
use super::documents;
use super::fault::{Fault, json_response};
use super::oip::shown;
use super::options::ServerOptions;
use super::receive::{self, BodyHead, Encoding, JSON_BYTES};
use super::reply::{Encoded, encode};
use super::request::{Decoded, Wanted, decode};
use crate::limits::{SERVER_BODY_UNIT_BYTES, SERVER_INLINE_BYTES_MAX};

/// What all requests share.
pub(super) struct Site {
    backend: Arc<dyn Backend>,
    options: ServerOptions,
    by_name: HashMap<String, usize>,
    /// Memory for bodies that is left, in units of [`SERVER_BODY_UNIT_BYTES`].
    bodies: Arc<Semaphore>,
    bodies_units: u32,
    ends: AtomicBool,
}

impl Site {
    pub(super) fn new(backend: Arc<dyn Backend>, options: ServerOptions) -> Self {
        let by_name = backend.tenants().iter().enumerate().map(|(at, t)| (t.name.clone(), at)).collect();
        let bodies_units = units(options.bodies_bytes_max);
        let bodies = Arc::new(Semaphore::new(bodies_units as usize));
        Self { backend, options, by_name, bodies, bodies_units, ends: AtomicBool::new(false) }
    }

    /// From now on the server is not ready, though it goes on.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Sets memory aside for a body.
    fn reserve(&self, head: &BodyHead) -> Result<OwnedSemaphorePermit, Fault> {
        // One body alone is served even where all of them together may take less.
        let wanted = units(head.bytes(&self.options)).min(self.bodies_units);
        self.bodies
            .clone()
            .try_acquire_many_owned(wanted)
            .map_err(|_| Fault::busy(StatusCode::TOO_MANY_REQUESTS, "the memory for requests' bodies is in use", None))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(SERVER_BODY_UNIT_BYTES)).unwrap_or(u32::MAX).max(1)
}

/// A tenant named by an address.
struct Tenant(usize);

impl FromRequestParts<Arc<Site>> for Tenant {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Fault> {
        let named = Path::<HashMap<String, String>>::from_request_parts(parts, site).await;
        let Path(named) = named.map_err(|e| Fault::new(StatusCode::BAD_REQUEST, e.body_text()))?;
        let unknown = |message: String| Err(Fault::new(StatusCode::NOT_FOUND, message));
        let name = named.get("model").map_or("", String::as_str);
        let Some(at) = site.by_name.get(name) else {
            return unknown(format!("unknown model {:?}", shown(name)));
        };
        match named.get("version") {
            Some(version) if version != VERSION => {
                unknown(format!("model {name:?}: expected version {VERSION}, found {:?}", shown(version)))
            }
            _ => Ok(Self(*at)),
        }
    }
}

/// All addresses. A model may be named `stats`: what is asked of it is then asked under `versions/1`.
pub(super) fn router(site: Arc<Site>) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models", get(models))
        .route("/v2/models/stats", get(all_stats));
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(model, get(metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/config"), get(config))
            .route(&format!("{model}/stats"), get(stats))
            .route(&format!("{model}/infer"), post(infer));
    }
    router.fallback(not_found).method_not_allowed_fallback(not_allowed).with_state(site)
}

async fn not_found(uri: Uri) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("nothing is at {:?}", shown(uri.path())))
}

async fn not_allowed(method: Method, uri: Uri) -> Fault {
    let message = format!("{:?} does not take {}", shown(uri.path()), shown(method.as_str()));
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn server() -> Response {
    json_response(StatusCode::OK, &documents::server())
}

async fn live(State(site): State<Arc<Site>>) -> Response {
    if site.backend.is_live() {
        return json_response(StatusCode::OK, &json!({ "live": true }));
    }
    let reason = json!({ "live": false, "error": "the server is broken, and has to be started again" });
    json_response(StatusCode::SERVICE_UNAVAILABLE, &reason)
}

async fn ready(State(site): State<Arc<Site>>) -> Response {
    if site.ends() {
        json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "ready": false, "error": "the server is about to end" }),
        )
    } else if site.backend.is_ready() {
        json_response(StatusCode::OK, &json!({ "ready": true }))
    } else {
        let reason = json!({ "ready": false, "error": "not every model is loaded and warm" });
        json_response(StatusCode::SERVICE_UNAVAILABLE, &reason)
    }
}

async fn models(State(site): State<Arc<Site>>) -> Response {
    json_response(StatusCode::OK, &documents::models(site.backend.tenants()))
}

async fn metadata(State(site): State<Arc<Site>>, Tenant(at): Tenant) -> Response {
    json_response(StatusCode::OK, &documents::metadata(&site.backend.tenants()[at]))
}

async fn config(State(site): State<Arc<Site>>, Tenant(at): Tenant) -> Response {
    json_response(StatusCode::OK, &documents::config(&site.backend.tenants()[at]))
}

async fn model_ready(State(site): State<Arc<Site>>, Tenant(at): Tenant) -> Response {
    let name = &site.backend.tenants()[at].name;
    if !site.ends() && site.backend.is_tenant_ready(at) {
        return json_response(StatusCode::OK, &json!({ "name": name, "ready": true }));
    }
    let reason = json!({ "name": name, "ready": false, "error": "the model is not ready" });
    json_response(StatusCode::SERVICE_UNAVAILABLE, &reason)
}

async fn stats(State(site): State<Arc<Site>>, Tenant(at): Tenant) -> Response {
    let one = std::iter::once((&site.backend.tenants()[at], site.backend.stats(at)));
    json_response(StatusCode::OK, &documents::stats(one))
}

async fn all_stats(State(site): State<Arc<Site>>) -> Response {
    let all = site.backend.tenants().iter().enumerate().map(|(at, t)| (t, site.backend.stats(at)));
    json_response(StatusCode::OK, &documents::stats(all))
}

async fn infer(State(site): State<Arc<Site>>, tenant: Result<Tenant, Fault>, request: HttpRequest) -> Response {
    let (head, mut body) = request.into_parts();
    let answered = match tenant {
        Ok(Tenant(at)) => answer(&site, at, &head.headers, &mut body).await,
        Err(fault) => Err(fault),
    };
    match answered {
        Ok(response) => response,
        Err(fault) => {
            // Who was too slow once is not waited for again.
            let waits = fault.status != StatusCode::REQUEST_TIMEOUT;
            let mut response = fault.into_response();
            if !(waits && receive::discard(&head.headers, &mut body).await) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// From a place in the queue to the reply. The place is asked for before anything of the body is read.
async fn answer(site: &Arc<Site>, at: usize, headers: &HeaderMap, body: &mut Body) -> Result<Response, Fault> {
    let head = BodyHead::read(headers, body, &site.options)?;
    let permit = site.backend.admit(at)?;
    let _memory = site.reserve(&head)?;
    let bytes = receive::receive(body, &head, &site.options).await?;
    let Decoded { request, wanted, copied_bytes } = decoded(site, at, head, bytes).await?;
    let rows = request.rows;
    let reply = submitted(site, permit, request).await?;
    let phases = reply.phases;
    tracing::debug!(target: "tandem::server", tenant = at, rows, copied_bytes, ?phases, ok = reply.result.is_ok());
    let outputs = reply.result?;
    check_outputs(&site.backend.tenants()[at], &outputs)?;
    Ok(respond(encoded(site, at, wanted, outputs).await?))
}

/// Runs short work here, and long work where it holds up no other connection.
async fn off_thread<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    if bytes <= SERVER_INLINE_BYTES_MAX {
        return Ok(work());
    }
    let broken = |_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed to read or write the request");
    tokio::task::spawn_blocking(work).await.map_err(broken)
}

async fn decoded(site: &Arc<Site>, at: usize, head: BodyHead, bytes: Aligned) -> Result<Decoded, Fault> {
    // Text and packed bytes take time, and so do tensors that are looked at; others are used where they lie.
    let is_read = |spec: &TensorSpec| matches!(spec.dtype, DType::Bool | DType::String);
    let costly = match (head.encoding, head.json_bytes) {
        (Encoding::Identity, Some(json_bytes)) if !site.backend.tenants()[at].inputs.iter().any(is_read) => {
            usize::try_from(json_bytes).unwrap_or(usize::MAX).min(bytes.len())
        }
        _ => bytes.len(),
    };
    let site = site.clone();
    off_thread(costly, move || {
        let body = Arc::new(receive::unpack(bytes, &head, &site.options)?);
        Ok(decode(&site.backend.tenants()[at], &body, head.json_bytes)?)
    })
    .await?
}

/// The reply to a request. To stop waiting for it is to cancel the request.
async fn submitted(site: &Site, permit: Permit, request: Request) -> Result<Reply, Fault> {
    let (sender, receiver) = oneshot::channel();
    let take = move |reply| {
        // Nobody may be left to take it.
        let _ = sender.send(reply);
    };
    let handle = site.backend.submit(permit, request, Box::new(take));
    let reply = receiver.await;
    handle.replied();
    reply.map_err(|_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was lost"))
}

/// The backend's own promise: one output each, of its type.
fn check_outputs(tenant: &TenantSpec, outputs: &[TensorValue]) -> Result<(), Fault> {
    let found: Vec<_> = outputs.iter().map(|o| o.dtype).collect();
    if tenant.outputs.iter().map(|o| o.dtype).eq(found.iter().copied()) {
        return Ok(());
    }
    let message = format!("model {:?} gave outputs of types {found:?}, which is not what it declares", tenant.name);
    Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message))
}

async fn encoded(site: &Arc<Site>, at: usize, wanted: Wanted, outputs: Vec<TensorValue>) -> Result<Encoded, Fault> {
    let cost = |(at, is_binary): &(usize, bool)| match &outputs[*at].data {
        Data::Bytes(_) if *is_binary => 0,
        Data::Bytes(bytes) => bytes.len(),
        Data::Strings(strings) => strings.len() * size_of::<Vec<u8>>(),
    };
    let costly = wanted.outputs.iter().map(cost).sum();
    let site = site.clone();
    Ok(off_thread(costly, move || encode(&site.backend.tenants()[at], &wanted, &outputs)).await??)
}

fn respond(encoded: Encoded) -> Response {
    let mut response = Response::new(Body::new(Chunks::new(encoded.chunks)));
    let mut content = "application/json";
    if let Some(json_bytes) = encoded.json_bytes {
        content = "application/octet-stream";
        response.headers_mut().insert(JSON_BYTES, HeaderValue::from(json_bytes));
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    response
}
