//! The architectures, a file each. Each has a configuration type, the published configuration, and a small one.

pub(crate) mod alexnet;
pub(crate) mod bert;
pub(crate) mod branchy;
pub(crate) mod control;
pub(crate) mod gpt2;
pub(crate) mod inception;
pub(crate) mod lstm;
pub(crate) mod mlp;
pub(crate) mod mobilenet;
pub(crate) mod qdq;
pub(crate) mod resnet;
pub(crate) mod ssd;
pub(crate) mod vgg;
