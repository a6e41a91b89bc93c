//! Forward passes on our own kernels, one file per architecture.

pub mod bert;
mod output;
pub mod qwen;
