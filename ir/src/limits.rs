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

/// Tenants of one plan. Each has sessions of its own, and beyond the cores of any machine we describe tenants share cores.
pub const TENANTS_MAX: usize = 64;

/// Cores of one device: sixty times the largest server. Planning hands them out one by one.
pub const CORES_MAX: u32 = 1 << 16;

/// Requests a second of one tenant, in thousandths: a thousand million a second is a mistake. Far below 2^53, so that a rate
/// is exact as the decimal number it is written as.
pub const MILLIRATE_MAX: u64 = 1_000_000_000_000;

/// Nesting of lists and maps in a document. Ours nest at most 10 deep.
pub const DOCUMENT_DEPTH_MAX: usize = 64;

/// Values (scalars, lists, maps) of a document. The parser keeps about 150 bytes a value, so that this many are 1.5 GB at
/// most; a plan of a 10,000-operator model has about 200,000.
pub const DOCUMENT_VALUES_MAX: usize = 10_000_000;

/// Steps of one route that are checked. A route of 32 segments with a thousand values crossing between each two neighbours
/// has 32,000 copies and is no plan anybody wants; at this many, a check takes some seconds at worst.
pub const STEPS_MAX: usize = 16_384;

/// Lanes of one route that are checked: a host, 31 accelerators and their links both ways are 94. Who is done before whom
/// takes a number a step and lane, 16 MiB at most.
pub const ROUTE_LANES_MAX: usize = 256;

/// Batches of one route in flight at once. Two hide the transfers, one more a lane hides jitter; beyond 64 the memory of
/// the batches, not their number, is what runs out.
pub const BATCHES_IN_FLIGHT_MAX: usize = 64;
