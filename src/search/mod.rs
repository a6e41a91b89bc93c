//! Floor 2: finding the entries that a message may be about. Pure compute on vectors and
//! normalised text that the caller supplies; blocking, no models, no SQL, no network.
//!
//! [`index::KnowledgeIndex`] is the door: built once per knowledge generation, read-only afterwards.
//! It stands on dense vectors ([`dense`]: an exact scan, [`flat`], and for many a graph, [`hnsw`]),
//! an inverted index ([`bm25`]), a trained vote ([`head`], with [`kin`] beside it) and one formula
//! that joins them ([`fuse`]); a trained map ([`adapter`]) may lie between vectors and lists. An operator's [`synonyms`] are one word to all of it.
//! [`classifier::Classifier`] puts messages into classes of any kind.

pub mod adapter;
mod bag;
mod bm25;
mod cholesky;
pub mod classifier;
mod codes;
pub mod dense;
mod distance;
mod flat;
mod frame;
mod fuse;
pub mod head;
mod hnsw;
pub mod index;
mod kin;
pub mod known;
pub mod layers;
pub mod manifest;
mod near;
pub mod sample;
pub mod synonyms;
pub mod telling;
pub mod vectors;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Grouped by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The file is damaged: build the generation (or train the head) again.
    #[error("{path}: {reason}")]
    Corrupt { path: String, reason: String },
    /// The file is sound but was made by another format: build again.
    #[error("{path}: {reason}")]
    Incompatible { path: String, reason: String },
    /// The caller's data do not fit together; a fault of the program, not of the disk.
    #[error("{0}")]
    BadInput(String),
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("full-text index: {0}")]
    FullText(#[from] tantivy::TantivyError),
}

impl SearchError {
    fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.display().to_string(), reason: reason.into() }
    }

    fn incompatible(path: &Path, reason: impl Into<String>) -> Self {
        Self::Incompatible { path: path.display().to_string(), reason: reason.into() }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.display().to_string(), source }
    }
}

/// Where no invariant spans two statements, what a panicking thread leaves behind is still whole.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
