//! Every named bound of the workspace's documents, with the why beside the number.

/// Segments of one route. Each segment is an engine session with its own launch cost and, on a CNN, about half a per cent
/// of lost fusion; beyond 32 the loss outweighs any overlap a two-device plan can win.
pub const SEGMENTS_MAX: usize = 32;

/// Nodes of one graph, subgraphs included. Ten times the largest exported model we have seen; beyond it a file is hostile.
pub const NODES_MAX: usize = 1_000_000;

/// Depth of nested control-flow bodies. Exporters nest at most 4; recursion over bodies must not exhaust the stack.
pub const BODY_DEPTH_MAX: usize = 32;

/// Elements of an integer constant that are kept as values in the graph, for shape arithmetic and cost models.
pub const CONSTANT_VALUES_MAX: usize = 256;

/// Bytes of a plan, profile or machine file that is read: a thousand times a usual plan.
pub const DOCUMENT_BYTES_MAX: u64 = 256 << 20;

/// Batch size of one route: larger ones are refused as mistakes.
pub const BATCH_MAX: u64 = 4096;
