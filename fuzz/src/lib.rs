//! The floors that read what platforms send, compiled without what lies above them: seconds instead of
//! the whole service's models and readers, and all of it watched by the fuzzer.

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/channels/mod.rs"]
pub mod channels;
#[path = "../../src/domain/mod.rs"]
pub mod domain;
