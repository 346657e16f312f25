//! Every named bound of the runtime, with the why beside the number.

/// Bytes of one array read from `.npy` or of all arrays read from one `.npz`, after decompression. Inputs of models are
/// megabytes; above this a header is damaged or hostile.
pub const NPZ_BYTES_MAX: u64 = 8 << 30;

/// Members of one `.npz`: a hundred times the inputs of the widest model we have seen.
pub const NPZ_MEMBERS_MAX: usize = 10_000;

/// Bytes of an `.npy` header. Ours take 128; numpy itself refuses more than 10,000 unless told otherwise.
pub const NPY_HEADER_BYTES_MAX: usize = 10_000;

/// Axes of an array: numpy's own bound.
pub const NPY_AXES_MAX: usize = 64;

/// Strings of one array: each takes an allocation of its own, so that few bytes of file could ask for much memory.
pub const NPY_STRINGS_MAX: u64 = 1 << 24;
