//! The architectures, a file each. Each has a configuration type, the published configuration, and a small one.

pub(crate) mod alexnet;
pub(crate) mod mobilenet;
pub(crate) mod resnet;
pub(crate) mod vgg;
