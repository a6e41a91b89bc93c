//! Floor 0: ids, clock, text, its spelling, digests, files, faults, leases, limits, numerals, patterns,
//! repeatable chance, a vault, words.
//! Nothing here knows the business.

pub mod clock;
pub mod digest;
pub mod fault;
pub mod file;
pub mod id;
pub mod lease;
pub mod limits;
pub mod numerals;
pub(crate) mod pattern;
pub mod random;
pub mod spelling;
pub mod text;
pub mod vault;
pub mod words;
