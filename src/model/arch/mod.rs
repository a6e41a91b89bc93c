//! Model architectures: forward passes over candle tensors, nothing else.

pub mod qwen2;
