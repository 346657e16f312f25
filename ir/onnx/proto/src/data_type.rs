//! Element types of tensors: values of [`crate::TensorProto::data_type`] and [`crate::TypeTensor::elem_type`].

/// One row a type: constant, number, name in files for people, bits of one element (0 where it has no fixed size).
macro_rules! data_types {
    ($( $(#[$meta:meta])* $NAME:ident = $number:literal, $name:literal, $bits:literal; )*) => {
        $( $(#[$meta])* pub const $NAME: i32 = $number; )*

        /// Name of an element type as ONNX writes it in signatures (`float`, `int64`, ...), or `None` where the number
        /// is unknown.
        pub fn name(data_type: i32) -> Option<&'static str> {
            match data_type {
                $( $number => Some($name), )*
                _ => None,
            }
        }

        /// The element type of that name, as [`name`] gives it.
        pub fn from_name(name: &str) -> Option<i32> {
            match name {
                $( $name => Some($number), )*
                _ => None,
            }
        }

        /// Bits of one element, or `None` where it has no fixed size (strings, undefined) or the number is unknown.
        pub fn size_bits(data_type: i32) -> Option<u32> {
            match data_type {
                $( $number if $bits > 0 => Some($bits), )*
                _ => None,
            }
        }
    };
}

data_types! {
    /// Not said.
    UNDEFINED = 0, "undefined", 0;
    /// IEEE 754 single precision.
    FLOAT = 1, "float", 32;
    /// Unsigned, 8 bits.
    UINT8 = 2, "uint8", 8;
    /// Signed, 8 bits.
    INT8 = 3, "int8", 8;
    /// Unsigned, 16 bits.
    UINT16 = 4, "uint16", 16;
    /// Signed, 16 bits.
    INT16 = 5, "int16", 16;
    /// Signed, 32 bits.
    INT32 = 6, "int32", 32;
    /// Signed, 64 bits.
    INT64 = 7, "int64", 64;
    /// Byte strings of any length.
    STRING = 8, "string", 0;
    /// Truth values, a byte each.
    BOOL = 9, "bool", 8;
    /// IEEE 754 half precision.
    FLOAT16 = 10, "float16", 16;
    /// IEEE 754 double precision.
    DOUBLE = 11, "double", 64;
    /// Unsigned, 32 bits.
    UINT32 = 12, "uint32", 32;
    /// Unsigned, 64 bits.
    UINT64 = 13, "uint64", 64;
    /// Two single-precision numbers.
    COMPLEX64 = 14, "complex64", 64;
    /// Two double-precision numbers.
    COMPLEX128 = 15, "complex128", 128;
    /// The upper half of a single-precision number.
    BFLOAT16 = 16, "bfloat16", 16;
    /// 8 bits: 4 of exponent, 3 of mantissa, no infinities.
    FLOAT8E4M3FN = 17, "float8e4m3fn", 8;
    /// 8 bits: 4 of exponent, 3 of mantissa, no infinities, no negative zero.
    FLOAT8E4M3FNUZ = 18, "float8e4m3fnuz", 8;
    /// 8 bits: 5 of exponent, 2 of mantissa.
    FLOAT8E5M2 = 19, "float8e5m2", 8;
    /// 8 bits: 5 of exponent, 2 of mantissa, no infinities, no negative zero.
    FLOAT8E5M2FNUZ = 20, "float8e5m2fnuz", 8;
    /// Unsigned, 4 bits, two in a byte.
    UINT4 = 21, "uint4", 4;
    /// Signed, 4 bits, two in a byte.
    INT4 = 22, "int4", 4;
    /// 4 bits: 2 of exponent, 1 of mantissa, two in a byte.
    FLOAT4E2M1 = 23, "float4e2m1", 4;
    /// 8 bits of exponent only: powers of two.
    FLOAT8E8M0 = 24, "float8e8m0", 8;
    /// Unsigned, 2 bits, four in a byte.
    UINT2 = 25, "uint2", 2;
    /// Signed, 2 bits, four in a byte.
    INT2 = 26, "int2", 2;
}
