//! What CUDA's error codes mean for whoever goes on afterwards.
//!
//! Driver and runtime interface number the same errors alike; ONNX Runtime states them in the text of its errors.

use tandem_ir::Bytes;

use crate::engine::EngineError;

/// Memory has run out.
const OUT_OF_MEMORY: u32 = 2;

/// Codes after which the process cannot use the device any more: the context is corrupted or gone, or the hardware is.
/// By CUDA's documentation of its error codes.
const FATAL: [u32; 19] = [
    4,   // the driver shuts down
    46,  // the device is unavailable
    100, // no device
    201, // the context is invalid
    214, // an uncorrectable memory error
    220, // an uncorrectable error of the link between devices
    226, // an uncorrectable memory error that was contained
    700, // an illegal address
    702, // a kernel ran into its time limit
    709, // the context is destroyed
    710, // an assertion in a kernel
    714, // the hardware's stack
    715, // an illegal instruction
    716, // a misaligned address
    717, // an address of the wrong space
    718, // an invalid program counter
    719, // a kernel failed
    721, // memory of tensor cores that was not given back
    999, // unknown
];

/// An error of a call that returned this code. `needed` is the memory that the call was for, if any.
pub(super) fn error(engine: &str, code: u32, needed: u64, why: String) -> EngineError {
    let engine = engine.to_owned();
    match code {
        OUT_OF_MEMORY => EngineError::OutOfMemory { needed: Bytes(needed), why },
        _ if FATAL.contains(&code) => EngineError::Lost { engine, why },
        _ => EngineError::Failed { engine, why },
    }
}

/// What an engine's words about CUDA mean: the same error, told apart by the code they state.
pub(in crate::device) fn told(error: EngineError) -> EngineError {
    let EngineError::Failed { engine, why } = error else { return error };
    let stated = ["CUDA failure ", "CUDA error ", "cudaError "].iter().find_map(|mark| number_after(&why, mark));
    let exhausted = ["out of memory", "Failed to allocate memory", "STATUS_ALLOC_FAILED"];
    let needed = number_after(&why, "buffer of size ").unwrap_or(0);
    match stated {
        Some(code) if code != u64::from(OUT_OF_MEMORY) => {
            self::error(&engine, u32::try_from(code).unwrap_or(0), needed, why)
        }
        None if !exhausted.iter().any(|words| why.contains(words)) => EngineError::Failed { engine, why },
        _ => EngineError::OutOfMemory { needed: Bytes(needed), why },
    }
}

fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(why: &str) -> EngineError {
        told(EngineError::Failed { engine: "ort-cuda".into(), why: why.into() })
    }

    #[test]
    fn codes_say_whether_to_go_on() {
        let of = |code| error("cuda", code, 64, String::new());
        assert!(matches!(of(2), EngineError::OutOfMemory { needed: Bytes(64), .. }));
        assert!(matches!(of(700), EngineError::Lost { .. }) && matches!(of(719), EngineError::Lost { .. }));
        assert!(matches!(of(1), EngineError::Failed { .. }) && matches!(of(400), EngineError::Failed { .. }));
    }

    #[test]
    fn an_engines_words_are_understood() {
        let lost = said("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaLaunch");
        assert!(matches!(lost, EngineError::Lost { ref why, .. } if why.contains("illegal")), "{lost:?}");
        let arena = said("Failed to allocate memory for requested buffer of size 1048576");
        assert!(matches!(arena, EngineError::OutOfMemory { needed: Bytes(1_048_576), .. }), "{arena:?}");
        let cuda = said("CUDA failure 2: out of memory ; GPU=0");
        assert!(matches!(cuda, EngineError::OutOfMemory { needed: Bytes(0), .. }), "{cuda:?}");
        assert!(matches!(said("CUDA failure 1: invalid argument"), EngineError::Failed { .. }));
        assert!(matches!(said("Non-zero status code returned while running Conv"), EngineError::Failed { .. }));
        let other = EngineError::Unsupported { engine: "x".into(), why: "CUDA failure 700".into() };
        assert_eq!(told(other.clone()), other);
    }
}
