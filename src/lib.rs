//! Huida 回答: a customer-reply service for the WeChat ecosystem that never invents.
//!
//! The modules are floors; arrows point down only (`ARCHITECTURE.md`, held by
//! `tests/it/architecture.rs`). Reading order: `domain`, `pipeline`, then what they stand on.

// Floor 0 and 1: words and rules.
pub mod base;
pub mod domain;
// Floor 2: engines, pure compute.
pub mod gate;
pub mod model;
pub mod search;
pub mod understand;
// Floor 3: ports to the world.
pub mod channels;
pub mod ingest;
pub mod store;
// Floor 4: the message's way.
pub mod engine;
pub mod pipeline;
// Floor 5: surfaces.
pub mod eval;
pub mod http;
pub mod ops;
pub mod simulate;
// Composition.
pub mod app;
pub mod cli;
pub mod config;
