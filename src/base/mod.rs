//! Floor 0: ids, clock, text, digests, files, limits. Nothing here knows the business.

pub mod clock;
pub mod digest;
pub mod file;
pub mod id;
pub mod limits;
pub mod text;
