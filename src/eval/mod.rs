//! Floor 5: figures on labelled sets, made by the same steps that answer customers.

pub mod attack;
pub mod bench;
pub mod classify;
pub mod compliance;
pub mod draft;
pub mod faults;
pub mod gate;
pub mod generation;
pub mod page;
pub mod pii;
pub mod retrieval;
pub mod rewrite;
pub mod serving;
pub mod splits;
pub mod suite;

use std::path::PathBuf;

use crate::engine::EngineError;
use crate::ingest::IngestError;
use crate::model::ModelError;
use crate::pipeline::fit::FitError;
use crate::search::SearchError;

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Mend the input files.
    #[error("{0}")]
    Input(String),
    #[error("a temporary folder: {0}")]
    Io(#[from] std::io::Error),
}

/// Files of one kind, read one after another.
pub(crate) fn read_all(
    files: &[PathBuf],
) -> Result<Vec<crate::domain::label::Labelled>, IngestError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(crate::ingest::read_labelled(file)?);
    }
    Ok(all)
}

/// The value below which `share` of the samples lie (nearest rank); 0 without samples.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn nearest_rank() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&samples, 0.5) - 50.0).abs() < 1e-9);
        assert!((percentile(&samples, 0.99) - 99.0).abs() < 1e-9);
        assert!((percentile(&samples, 1.0) - 100.0).abs() < 1e-9);
        assert!(percentile(&[], 0.5).abs() < 1e-9);
    }
}
