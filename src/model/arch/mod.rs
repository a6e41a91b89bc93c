//! Forward passes over candle tensors, one file per architecture.

pub mod bert;
pub mod qwen;
