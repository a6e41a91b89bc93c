//! Floor 0: ids, clock, text, digests, files, faults, leases, limits, numerals, repeatable chance, a vault,
//! words.
//! Nothing here knows the business.

pub mod clock;
pub mod digest;
pub mod fault;
pub mod file;
pub mod id;
pub mod lease;
pub mod limits;
pub mod numerals;
pub mod random;
pub mod text;
pub mod vault;
pub mod words;
