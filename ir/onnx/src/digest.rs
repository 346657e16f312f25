//! Content hashes of weights, and of a graph's structure with them: what ties a plan to its model.
//!
//! The hash of a graph covers operators, attributes, tensor names, wiring, declared inputs, constants' types, shapes and
//! contents, and functions kept. It covers no node names, comments or producer, and not how the file stores weights
//! (inline, typed fields, external, `Constant` nodes): the same model written in another way keeps its plans.
//!
//! Cost: SHA-256 of every weight byte, in pieces on all cores, so about 1.5 GB/s a core where the processor has SHA
//! instructions and 0.3 GB/s where it has none, and reading the file from disk once. [`Contents::skip`] leaves it out.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use tandem_ir::Fingerprint;
use tandem_ir::fingerprint::Hasher;
use tandem_ir::graph::{Attr, Graph, Tensor};
use tandem_onnx_proto::{AttributeProto, Blob, FunctionProto, Message, attribute_type};

use crate::tensor::{Content, Held};

/// Bytes hashed as one piece. Part of the definition of the hash, so it never changes.
const PIECE_BYTES: usize = 1 << 20;

/// Below this a hash is cheaper than a hand-over to a thread.
const PARALLEL_BYTES_MIN: usize = 64 << 10;

/// Hashes of constants' bytes, those of large ones computed beforehand in parallel.
#[derive(Default)]
pub(crate) struct Contents {
    /// By address and length: the blobs stay alive and in place while this is used.
    large: HashMap<(usize, usize), Fingerprint>,
    skip: bool,
}

impl Contents {
    /// Hashes the large ones among the blobs on all cores.
    pub(crate) fn of(blobs: &[Blob]) -> Self {
        let mut seen = HashSet::new();
        let large: Vec<&Blob> = blobs.iter().filter(|b| b.len() >= PARALLEL_BYTES_MIN && seen.insert(key(b))).collect();
        let pieces: Vec<(usize, &[u8])> =
            large.iter().enumerate().flat_map(|(i, b)| b.chunks(PIECE_BYTES).map(move |c| (i, c))).collect();
        let hashes = hash_all(&pieces);
        let mut joined: Vec<Sha256> = large.iter().map(|_| Sha256::new()).collect();
        pieces.iter().zip(&hashes).for_each(|((i, _), hash)| joined[*i].update(hash));
        let joined = joined.into_iter().map(|h| Fingerprint(h.finalize().into()));
        Self { large: large.iter().map(|b| key(b)).zip(joined).collect(), skip: false }
    }

    /// Stands for each constant's contents with its place among them: structure is told apart, contents are not.
    pub(crate) fn skip() -> Self {
        Self { large: HashMap::new(), skip: true }
    }

    /// The hash of the bytes: SHA-256 over the SHA-256 of each piece.
    fn bytes(&self, blob: &[u8]) -> Fingerprint {
        if self.skip {
            return Fingerprint::of(&[]);
        }
        if let Some(found) = self.large.get(&key(blob)) {
            return *found;
        }
        let mut joined = Sha256::new();
        blob.chunks(PIECE_BYTES).for_each(|piece| joined.update(Sha256::digest(piece)));
        Fingerprint(joined.finalize().into())
    }

    /// The digest of a constant: element type, shape, contents.
    pub(crate) fn constant(&self, held: &Held) -> Fingerprint {
        let mut hasher = Hasher::default();
        hasher.field(held.dtype.name().as_bytes()).number(held.dims.len() as u64);
        held.dims.iter().for_each(|d| {
            hasher.number(*d);
        });
        match &held.content {
            Content::Bytes(blob) => hasher.field(b"bytes").field(&self.bytes(blob).0),
            Content::Strings(strings) => strings.iter().fold(hasher.field(b"strings"), |h, s| h.field(s)),
            Content::Sparse(sparse) => {
                let parts = [&sparse.indices, &sparse.values];
                let raw = |t: &Option<Box<tandem_onnx_proto::TensorProto>>| {
                    t.as_ref().and_then(|t| t.raw_data.clone()).unwrap_or_default()
                };
                parts.iter().fold(hasher.field(b"sparse"), |h, part| h.field(&self.bytes(&raw(part)).0))
            }
        };
        hasher.finish()
    }
}

fn key(blob: &[u8]) -> (usize, usize) {
    (blob.as_ptr() as usize, blob.len())
}

/// One hash a piece, on as many threads as the machine has cores; the result does not depend on their number.
fn hash_all(pieces: &[(usize, &[u8])]) -> Vec<[u8; 32]> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(pieces.len());
    if threads < 2 {
        return pieces.iter().map(|(_, piece)| Sha256::digest(piece).into()).collect();
    }
    let next = AtomicUsize::new(0);
    let hashes = Mutex::new(vec![[0; 32]; pieces.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, (_, piece))) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    pieces.get(at).map(|piece| (at, piece))
                } {
                    let hash = Sha256::digest(piece).into();
                    hashes.lock().unwrap_or_else(|e| e.into_inner())[at] = hash;
                }
            });
        }
    });
    hashes.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// The fingerprint of a graph and the functions it keeps.
pub(crate) fn graph(graph: &Graph, functions: &[FunctionProto]) -> Fingerprint {
    let mut hasher = Hasher::default();
    graph_fields(&mut hasher, graph);
    for function in functions {
        hasher.field(&encoded(function));
    }
    hasher.finish()
}

fn graph_fields(hasher: &mut Hasher, graph: &Graph) {
    let name = |hasher: &mut Hasher, t: &Tensor| {
        hasher.field(t.name.as_bytes());
    };
    hasher.number(graph.inputs.len() as u64);
    for input in &graph.inputs {
        let tensor = graph.tensor(*input);
        name(hasher, tensor);
        hasher.field(tensor.fact.to_string().as_bytes());
    }
    hasher.number(graph.outputs.len() as u64);
    graph.outputs.iter().for_each(|t| name(hasher, graph.tensor(*t)));
    // By name, for the order of constants in a file means nothing.
    let mut constants: Vec<(&str, Fingerprint)> =
        graph.tensors.iter().filter_map(|t| Some((t.name.as_str(), t.constant.as_ref()?.digest))).collect();
    constants.sort_unstable();
    hasher.number(constants.len() as u64);
    for (constant, digest) in constants {
        hasher.field(constant.as_bytes()).field(&digest.0);
    }
    hasher.number(graph.nodes.len() as u64);
    for node in &graph.nodes {
        hasher.field(node.op.domain.as_bytes()).field(node.op.name.as_bytes()).number(node.op.version as u64);
        for side in [&node.inputs, &node.outputs] {
            hasher.number(side.len() as u64);
            side.iter().for_each(|t| {
                hasher.field(t.map_or(&[][..], |t| graph.tensor(t).name.as_bytes()));
            });
        }
        hasher.number(node.attrs.len() as u64);
        for (key, attr) in &node.attrs {
            hasher.field(key.as_bytes());
            attr_fields(hasher, attr);
        }
        hasher.number(node.bodies.len() as u64);
        for (key, body) in &node.bodies {
            hasher.field(key.as_bytes());
            graph_fields(hasher, body);
        }
    }
}

fn attr_fields(hasher: &mut Hasher, attr: &Attr) {
    match attr {
        Attr::Int(v) => hasher.field(b"int").number(*v as u64),
        Attr::Ints(v) => v.iter().fold(hasher.field(b"ints").number(v.len() as u64), |h, x| h.number(*x as u64)),
        Attr::Float(v) => hasher.field(b"float").number(u64::from(*v)),
        Attr::Floats(v) => {
            v.iter().fold(hasher.field(b"floats").number(v.len() as u64), |h, x| h.number(u64::from(*x)))
        }
        Attr::Text(v) => hasher.field(b"text").field(v),
        Attr::Texts(v) => v.iter().fold(hasher.field(b"texts").number(v.len() as u64), |h, x| h.field(x)),
        Attr::Opaque(f) => hasher.field(b"opaque").field(&f.0),
    };
}

fn encoded(message: &impl Message) -> [u8; 32] {
    struct Sink(Sha256);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Sha256::new());
    // A hash takes all bytes.
    let _ = message.write_to(&mut sink);
    sink.0.finalize().into()
}

/// An attribute's value as the graph keeps it; `None` for graphs, which are bodies, and for attributes without a value.
pub(crate) fn attribute(attribute: &AttributeProto) -> Option<Attr> {
    use attribute_type as kind;
    if !attribute.ref_attr_name.is_empty() {
        return None;
    }
    Some(match kind_of(attribute) {
        kind::FLOAT => Attr::Float(attribute.f.to_bits()),
        kind::INT => Attr::Int(attribute.i),
        kind::STRING => Attr::Text(attribute.s.to_vec()),
        kind::FLOATS => Attr::Floats(attribute.floats.iter().map(|f| f.to_bits()).collect()),
        kind::INTS => Attr::Ints(attribute.ints.clone()),
        kind::STRINGS => Attr::Texts(attribute.strings.iter().map(|s| s.to_vec()).collect()),
        kind::GRAPH | kind::GRAPHS => return None,
        _ => Attr::Opaque(Fingerprint(encoded(attribute))),
    })
}

/// The type of an attribute; files before IR 2 leave it to the field that is filled.
pub(crate) fn kind_of(a: &AttributeProto) -> i32 {
    use attribute_type as kind;
    match a.r#type {
        kind::UNDEFINED if a.t.is_some() => kind::TENSOR,
        kind::UNDEFINED if a.g.is_some() => kind::GRAPH,
        kind::UNDEFINED if !a.floats.is_empty() => kind::FLOATS,
        kind::UNDEFINED if !a.ints.is_empty() => kind::INTS,
        kind::UNDEFINED if !a.strings.is_empty() => kind::STRINGS,
        kind::UNDEFINED if !a.s.is_empty() => kind::STRING,
        kind::UNDEFINED if a.f.to_bits() != 0 => kind::FLOAT,
        kind::UNDEFINED => kind::INT,
        given => given,
    }
}
