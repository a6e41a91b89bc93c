//! One immutable state of knowledge: entries, index, trained head and gate that belong together.

use std::fs;
use std::path::Path;

use crate::base::file::write_atomic;
use crate::gate::model::{Fingerprint, GateError, GateModel};
use crate::model::ModelIdentity;
use crate::search::SearchError;
use crate::search::head::Head;
use crate::search::index::KnowledgeIndex;

const GATE_FILE: &str = "gate.json";
const HEAD_FILE: &str = "head.bin";

#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// Import knowledge and build an index first.
    #[error("no index yet in {0}: run `huida kb import FILE` and `huida index build`")]
    None(String),
    /// Build the index again.
    #[error("{path}: {reason}; run `huida index build`")]
    Damaged { path: String, reason: String },
    /// The index holds vectors of other weights.
    #[error(
        "the index was built with {built}, this service runs {running}: run `huida index build`"
    )]
    OtherModel { built: String, running: String },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
}

/// How sure the gate is, and what it promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromiseView {
    pub alpha: f64,
    pub confidence: f64,
    /// False while the gate only calibrated itself.
    pub promised: bool,
    /// Share of the calibration messages that would be answered automatically.
    pub coverage: f64,
}

pub struct Generation {
    id: String,
    pub index: KnowledgeIndex,
    pub head: Option<Head>,
    pub gate: GateModel,
}

impl Generation {
    /// Reads and verifies everything in `dir`; its name is the generation's id.
    pub fn open(dir: &Path) -> Result<Self, GenerationError> {
        let damaged = |reason: &dyn std::fmt::Display| GenerationError::Damaged {
            path: dir.display().to_string(),
            reason: reason.to_string(),
        };
        let id = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let index = KnowledgeIndex::open(dir).map_err(|e| damaged(&e))?;
        let gate_file = dir.join(GATE_FILE);
        let gate = fs::read_to_string(&gate_file)
            .map_err(|source| GenerationError::Io { path: gate_file.display().to_string(), source })
            .and_then(|text| GateModel::from_json(&text).map_err(|e| damaged(&e)))?;
        let manifest = index.manifest();
        let built = Fingerprint {
            knowledge: manifest.entries_digest.clone(),
            embedder: manifest.space.sha256.clone(),
        };
        if !gate.fits(&built) {
            return Err(damaged(&"its gate was fitted for other knowledge"));
        }
        let head_file = dir.join(HEAD_FILE);
        let head = head_file.exists().then(|| Head::read(&head_file)).transpose();
        let head = head.map_err(|e| damaged(&e))?;
        Ok(Self { id, index, head, gate })
    }

    /// Vectors of other weights mean nothing to this service's queries.
    pub fn check_model(&self, running: &ModelIdentity) -> Result<(), GenerationError> {
        let space = &self.index.manifest().space;
        if space.model == running.name && space.sha256 == running.sha256 {
            return Ok(());
        }
        let short = |sha256: &str| sha256.get(..12).unwrap_or_default().to_owned();
        Err(GenerationError::OtherModel {
            built: format!("{} {}", space.model, short(&space.sha256)),
            running: format!("{} {}", running.name, short(&running.sha256)),
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn promise(&self) -> PromiseView {
        PromiseView {
            alpha: self.gate.promise.alpha,
            confidence: self.gate.promise.confidence,
            promised: self.gate.promised(),
            coverage: self.gate.threshold.map_or(0.0, |t| t.coverage),
        }
    }
}

/// Completes a directory into which the index was already written.
pub(super) fn write_fitted(
    dir: &Path,
    head: Option<&Head>,
    gate: &GateModel,
) -> Result<(), WriteError> {
    if let Some(head) = head {
        head.write(&dir.join(HEAD_FILE))?;
    }
    write_atomic(&dir.join(GATE_FILE), gate.to_json()?.as_bytes())?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
