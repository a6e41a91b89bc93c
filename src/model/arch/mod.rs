//! Forward passes, one file per architecture.

pub mod bert;
