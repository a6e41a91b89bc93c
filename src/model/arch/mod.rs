//! Forward passes on our own kernels, one file per architecture.

pub mod bert;
pub mod qwen;
