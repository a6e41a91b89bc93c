//! Floor 2: what a message says before anything is looked up. Pure; rules first.

pub mod clauses;
pub mod language;
pub mod normalize;
pub mod pii;
pub mod readability;
pub mod signals;
