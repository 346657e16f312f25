//! Element types of tensors.

use std::fmt;
use std::str::FromStr;

macro_rules! dtypes {
    ($($name:ident $code:literal $text:literal $bits:literal,)*) => {
        /// The element type of a tensor: every type of ONNX IR 13. `String` has no fixed size.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum DType { $($name,)* }

        impl DType {
            /// Every type, in the order of its ONNX code.
            pub const ALL: &'static [DType] = &[$(DType::$name,)*];

            /// The code of `TensorProto.DataType`, which ONNX Runtime's interface shares.
            pub fn onnx_code(self) -> i32 { match self { $(DType::$name => $code,)* } }

            /// The type of an ONNX code; `None` for 0 (undefined) and codes of later standards.
            pub fn from_onnx_code(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$name),)* _ => None }
            }

            /// The short name used in files and messages.
            pub fn name(self) -> &'static str { match self { $(DType::$name => $text,)* } }

            /// Bits an element takes; 0 for strings, whose size is their content's.
            pub fn bits(self) -> u64 { match self { $(DType::$name => $bits,)* } }
        }
    };
}

dtypes! {
    F32 1 "f32" 32,
    U8 2 "u8" 8,
    I8 3 "i8" 8,
    U16 4 "u16" 16,
    I16 5 "i16" 16,
    I32 6 "i32" 32,
    I64 7 "i64" 64,
    String 8 "string" 0,
    Bool 9 "bool" 8,
    F16 10 "f16" 16,
    F64 11 "f64" 64,
    U32 12 "u32" 32,
    U64 13 "u64" 64,
    Complex64 14 "c64" 64,
    Complex128 15 "c128" 128,
    BF16 16 "bf16" 16,
    F8E4M3FN 17 "f8e4m3fn" 8,
    F8E4M3FNUZ 18 "f8e4m3fnuz" 8,
    F8E5M2 19 "f8e5m2" 8,
    F8E5M2FNUZ 20 "f8e5m2fnuz" 8,
    U4 21 "u4" 4,
    I4 22 "i4" 4,
    F4E2M1 23 "f4e2m1" 4,
    F8E8M0 24 "f8e8m0" 8,
    U2 25 "u2" 2,
    I2 26 "i2" 2,
}

impl DType {
    /// Bytes that `elements` packed elements take, rounded up to whole bytes; 0 for strings.
    pub fn bytes_of(self, elements: u64) -> u64 {
        elements.saturating_mul(self.bits()).div_ceil(8)
    }

    /// Whether the type holds real numbers in floating point, of any width.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F64 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F4E2M1 | F8E8M0)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = DType::ALL.iter().find(|d| d.name() == text);
        found.copied().ok_or_else(|| format!("expected an element type such as f32 or i64, found \"{text}\""))
    }
}
