//! Import and cutting on models built by hand, on damaged ones, and (where they are) on the ONNX test suite's files.

mod build;
mod cutting;
mod damage;
mod external;
mod functions;
mod importing;
mod real;
mod values;
