//! Bodies of requests, from the connection into memory: bounded in bytes and time.

use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::body::{Body as _, Bytes};
use tokio::time::{Instant, timeout, timeout_at};

use super::aligned::Aligned;
use super::fault::Fault;
use super::oip::shown;
use super::options::ServerOptions;
use crate::limits::{SERVER_BODY_RATE_MIN, SERVER_INFLATE_CHUNK_BYTES, SERVER_LINGER, SERVER_REFUSED_BODY_BYTES_MAX};

/// Size of the JSON at the beginning of a body.
pub(super) const JSON_BYTES: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// What the head of a request says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyHead {
    pub(super) encoding: Encoding,
    /// Bytes of JSON at the beginning, once unpacked.
    pub(super) json_bytes: Option<u64>,
    /// Bytes as they travel, where that is said.
    pub(super) length: Option<u64>,
}

impl BodyHead {
    /// Reads the head of an inference.
    ///
    /// # Errors
    /// A body that is too large, or of a type or packing that is not known.
    pub(super) fn read(headers: &HeaderMap, body: &Body, options: &ServerOptions) -> Result<Self, Fault> {
        let length = body.size_hint().exact();
        if length.is_some_and(|n| n > options.body_bytes_max) {
            return Err(too_large(options));
        }
        check_type(headers)?;
        let json_bytes = text(headers, &JSON_BYTES)?.map(|t| {
            t.parse()
                .map_err(|_| Fault::new(StatusCode::BAD_REQUEST, format!("{JSON_BYTES}: expected a number of bytes")))
        });
        Ok(Self { encoding: encoding(headers)?, json_bytes: json_bytes.transpose()?, length })
    }

    /// Memory to set aside for the body, packed and unpacked: what is said, or the most it can be.
    pub(super) fn bytes(&self, options: &ServerOptions) -> u64 {
        let unpacked = if self.encoding == Encoding::Identity { 0 } else { options.body_bytes_max };
        self.length.unwrap_or(options.body_bytes_max).saturating_add(unpacked)
    }

    /// Where tensors begin, which is to be an aligned address.
    fn aligned_at(&self) -> usize {
        self.json_bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    let no_text = |_| Fault::new(StatusCode::BAD_REQUEST, format!("{name}: expected ASCII text"));
    headers.get(name).map(|value| value.to_str().map(str::trim).map_err(no_text)).transpose()
}

/// JSON and binary requests may be labelled as either; clients that post without thinking of it send a form's type.
fn check_type(headers: &HeaderMap) -> Result<(), Fault> {
    let known = ["", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"];
    let given = text(headers, &header::CONTENT_TYPE)?.unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if known.contains(&essence.as_str()) {
        return Ok(());
    }
    let found = shown(given);
    let message = format!("expected content of type application/json or application/octet-stream, found {found:?}");
    Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Fault> {
    let given = text(headers, &header::CONTENT_ENCODING)?.unwrap_or("");
    match given.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "deflate" => Ok(Encoding::Deflate),
        _ => {
            let message = format!("expected content encoded as gzip, deflate or identity, found {:?}", shown(given));
            Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn too_large(options: &ServerOptions) -> Fault {
    let message = format!("expected a body of at most {} bytes, found a larger one", options.body_bytes_max);
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// The next piece; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, axum::Error> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(error),
            // Trailers are of no interest.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a body as it travels.
///
/// # Errors
/// It is too large, too slow, or cut.
pub(super) async fn receive(body: &mut Body, head: &BodyHead, options: &ServerOptions) -> Result<Aligned, Fault> {
    let aligned_at = if head.encoding == Encoding::Identity { head.aligned_at() } else { 0 };
    let room = head.length.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut bytes = Aligned::with_capacity(room, aligned_at);
    let mut due = Instant::now() + options.read_timeout;
    loop {
        let piece = timeout_at(due, next(body)).await.map_err(|_| {
            let message = format!("expected the body sooner, found {} bytes of it so far", bytes.len());
            Fault::new(StatusCode::REQUEST_TIMEOUT, message)
        })?;
        let cut = |error| Fault::new(StatusCode::BAD_REQUEST, format!("the body is cut or malformed: {error}"));
        let Some(piece) = piece.map_err(cut)? else { return Ok(bytes) };
        if (bytes.len() + piece.len()) as u64 > options.body_bytes_max {
            return Err(too_large(options));
        }
        bytes.push(&piece);
        due += Duration::from_secs_f64(piece.len() as f64 / SERVER_BODY_RATE_MIN as f64);
    }
}

/// Unpacks a body.
///
/// # Errors
/// It is not packed as its head says, or too large when it is unpacked.
pub(super) fn unpack(packed: Aligned, head: &BodyHead, options: &ServerOptions) -> Result<Aligned, Fault> {
    let bytes = packed.as_ref();
    let (unpacked, rest) = match head.encoding {
        Encoding::Identity => return Ok(packed),
        Encoding::Gzip => {
            let mut reader = flate2::bufread::GzDecoder::new(bytes);
            (inflate(&mut reader, head, options)?, reader.into_inner())
        }
        Encoding::Deflate => {
            let mut reader = flate2::bufread::ZlibDecoder::new(bytes);
            (inflate(&mut reader, head, options)?, reader.into_inner())
        }
    };
    if rest.is_empty() {
        return Ok(unpacked);
    }
    let message = format!("expected nothing after the packed body, found {} bytes", rest.len());
    Err(Fault::new(StatusCode::BAD_REQUEST, message))
}

fn inflate(reader: &mut impl Read, head: &BodyHead, options: &ServerOptions) -> Result<Aligned, Fault> {
    let mut out = Aligned::with_capacity(0, head.aligned_at());
    let mut chunk = vec![0; SERVER_INFLATE_CHUNK_BYTES];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(out),
            Ok(n) if (out.len() + n) as u64 > options.body_bytes_max => return Err(too_large(options)),
            Ok(n) => out.push(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let message = format!("the body is not packed as Content-Encoding says: {error}");
                return Err(Fault::new(StatusCode::BAD_REQUEST, message));
            }
        }
    }
}

/// Reads on without keeping anything, so that a small refused request does not cost its connection. Whether the end was
/// reached; where not, the connection has to close.
pub(super) async fn discard(headers: &HeaderMap, body: &mut Body) -> bool {
    let is_small = body.size_hint().exact().is_some_and(|left| left <= SERVER_REFUSED_BODY_BYTES_MAX);
    // To read would tell the client to send what it asks leave to send.
    if !is_small || headers.contains_key(header::EXPECT) {
        return body.is_end_stream();
    }
    let to_the_end = async {
        while let Ok(piece) = next(body).await {
            if piece.is_none() {
                return true;
            }
        }
        false
    };
    timeout(SERVER_LINGER, to_the_end).await.unwrap_or(false)
}

#[cfg(test)]
mod tests;
