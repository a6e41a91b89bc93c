//! Huida 回答: a customer-reply service for the WeChat ecosystem that never invents.
//!
//! The modules are floors; arrows point down only (`ARCHITECTURE.md`, held by
//! `tests/it/architecture.rs`). Reading order: `domain`, `pipeline`, then what they stand on.

pub mod base;
pub mod domain;
pub mod gate;
pub mod model;
