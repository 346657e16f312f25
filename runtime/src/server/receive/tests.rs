use std::io::Write;

use axum::http::HeaderValue;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

fn options(body_bytes_max: u64) -> ServerOptions {
    ServerOptions { body_bytes_max, ..ServerOptions::default() }
}

fn head(pairs: &[(&'static str, &str)], body: &'static str) -> Result<BodyHead, Fault> {
    let headers = pairs.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a header"))
    });
    BodyHead::read(&headers.collect(), &Body::from(body), &options(100))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn unpacked(packed: &[u8], encoding: Encoding, max: u64) -> Result<Vec<u8>, Fault> {
    let head = BodyHead { encoding, json_bytes: Some(3), length: None };
    let bytes = unpack(Aligned::copy_of(packed), &head, &options(max))?;
    Ok(bytes.as_ref().to_vec())
}

#[test]
fn a_head_says_how_the_body_is_packed() {
    let plain = BodyHead { encoding: Encoding::Identity, json_bytes: None, length: Some(4) };
    assert_eq!(head(&[], "four"), Ok(plain));
    assert_eq!(head(&[("content-type", "application/JSON; charset=utf-8")], "four"), Ok(plain));
    assert_eq!(head(&[("content-type", "application/x-www-form-urlencoded")], "four"), Ok(plain));
    let binary = [("content-type", "application/octet-stream"), ("inference-header-content-length", "3")];
    assert_eq!(head(&binary, "four"), Ok(BodyHead { json_bytes: Some(3), ..plain }));
    let packed = [("content-encoding", "GZIP")];
    assert_eq!(head(&packed, "four"), Ok(BodyHead { encoding: Encoding::Gzip, ..plain }));
}

#[test]
fn heads_that_cannot_be_served_have_their_own_status() {
    let status = |pairs: &[(&'static str, &str)]| head(pairs, "four").expect_err("a bad head").status.as_u16();
    assert_eq!(status(&[("content-type", "text/plain")]), 415);
    assert_eq!(status(&[("content-type", "multipart/form-data; boundary=x")]), 415);
    assert_eq!(status(&[("content-encoding", "br")]), 415);
    assert_eq!(status(&[("content-encoding", "gzip, gzip")]), 415);
    for length in ["-1", "3.0", "x", "", "18446744073709551616", "\u{e9}"] {
        assert_eq!(status(&[("inference-header-content-length", length)]), 400, "{length}");
    }
    let long = "x".repeat(101).leak();
    assert_eq!(head(&[], long).expect_err("a large body").status.as_u16(), 413);
}

#[test]
fn packed_bodies_are_the_same_once_unpacked() {
    let text = b"some text, some text, some text".repeat(100);
    assert_eq!(unpacked(&gzip(&text), Encoding::Gzip, 10_000), Ok(text.clone()));
    let mut encoder = ZlibEncoder::new(vec![], Compression::fast());
    encoder.write_all(&text).expect("memory takes it");
    let deflated = encoder.finish().expect("memory takes it");
    assert_eq!(unpacked(&deflated, Encoding::Deflate, 10_000), Ok(text.clone()));
    assert_eq!(unpacked(&text, Encoding::Identity, 10_000), Ok(text));
}

#[test]
fn unpacking_ends_at_the_bound() {
    let bomb = gzip(&vec![0; 50 << 20]);
    assert!(bomb.len() < 100_000);
    assert_eq!(unpacked(&bomb, Encoding::Gzip, 1 << 20).expect_err("a bomb").status.as_u16(), 413);
}

#[test]
fn damaged_packing_is_refused() {
    let good = gzip(b"some text");
    let status = |bytes: &[u8], encoding| unpacked(bytes, encoding, 1000).map_err(|f| f.status.as_u16());
    assert_eq!(status(&good[..good.len() - 1], Encoding::Gzip), Err(400));
    assert_eq!(status(&good, Encoding::Deflate), Err(400));
    assert_eq!(status(b"", Encoding::Gzip), Err(400));
    assert_eq!(status(&[&good[..], b"more"].concat(), Encoding::Gzip), Err(400));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            // The time of packing may be anything, and bits that fill the last byte.
            let found = unpacked(&damaged, Encoding::Gzip, 1000);
            assert!(found.is_err() || found == Ok(b"some text".to_vec()), "bit {bit} of byte {at}");
        }
    }
}
