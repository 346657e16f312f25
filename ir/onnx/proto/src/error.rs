//! What can be wrong with encoded bytes, and where.

use std::fmt;

/// Bytes that are not the message they were said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DecodeError {
    /// Where in the decoded source, in bytes from its start.
    pub offset: u64,
    /// The field that was being read, from the outermost message on: `ModelProto.graph.node[12].attribute[0].name`.
    pub path: String,
    /// What was expected and what was found.
    pub kind: DecodeErrorKind,
}

/// What was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// A value ends behind its message's (or the source's) end.
    #[error("expected {needed} more bytes, found {remaining}")]
    Truncated {
        /// Bytes that the value needs.
        needed: u64,
        /// Bytes that are left.
        remaining: u64,
    },
    /// A variable-length integer does not end, or is over 64 bits.
    #[error("expected a variable-length integer of at most 64 bits, found one that is longer or does not end")]
    Varint,
    /// A field's key has a number that no field can have, or a wire type that does not exist.
    #[error("expected the key of a field, found {found}")]
    Key {
        /// The key as read: field number times 8 plus wire type.
        found: u64,
    },
    /// A known field is encoded in another way than its type is.
    #[error("expected {expected}, found {found}")]
    WireType {
        /// The wire type of the field's type.
        expected: &'static str,
        /// The wire type in the source.
        found: &'static str,
    },
    /// A packed list of fixed-size numbers whose length is no multiple of that size.
    #[error("expected packed numbers of {width} bytes each, found {found} bytes")]
    Packed {
        /// Bytes of one number.
        width: u64,
        /// Bytes of the list.
        found: u64,
    },
    /// Text that is not UTF-8.
    #[error("expected UTF-8 text, found an invalid sequence after {valid} bytes")]
    Text {
        /// Bytes of valid text before the fault.
        valid: u64,
    },
    /// Messages inside messages, more than [`crate::MAX_DEPTH`] of them.
    #[error("expected at most {limit} nested messages, found more")]
    Depth {
        /// The limit.
        limit: u32,
    },
    /// A group, an obsolete encoding that ONNX does not use.
    #[error("expected no group (an obsolete encoding), found one")]
    Group,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path, self.offset, self.kind)
    }
}

impl DecodeError {
    pub(crate) fn new(offset: usize, kind: DecodeErrorKind) -> Self {
        Self { offset: offset as u64, path: String::new(), kind }
    }

    /// The same error seen from the enclosing message, which was reading element `index` of its field `name`.
    pub(crate) fn within(mut self, name: &str, index: Option<usize>) -> Self {
        let name = name.trim_start_matches("r#");
        let tail = std::mem::take(&mut self.path);
        self.path = match index {
            Some(index) => format!(".{name}[{index}]{tail}"),
            None => format!(".{name}{tail}"),
        };
        self
    }

    /// Puts the outermost message's name before the path.
    pub(crate) fn rooted(mut self, message: &str) -> Self {
        self.path.insert_str(0, message);
        self
    }
}
