//! One immutable state of knowledge: entries, index, trained head and gate that belong together.

use std::fs;
use std::path::Path;

use crate::base::fault::Fault;
use crate::base::file::write_atomic;
use crate::gate::model::{Fingerprint, GateError, GateModel};
use crate::model::ModelIdentity;
use crate::pipeline::seal::{GATE_FILE, HEAD_FILE, Seal};
use crate::search::SearchError;
use crate::search::head::Head;
use crate::search::index::KnowledgeIndex;

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
    /// Whether people's labels went into the gate, enough of them or not.
    pub labelled: bool,
    /// Share of the calibration messages that would be answered automatically.
    pub coverage: f64,
}

pub struct Generation {
    id: String,
    /// How many files were checked when it was opened.
    pub files: usize,
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
        let seal = Seal::verify(dir).map_err(|e| damaged(&e))?;
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
        let head = seal.has_head().then(|| Head::read(&dir.join(HEAD_FILE))).transpose();
        let head = head.map_err(|e| damaged(&e))?;
        let files = seal.files().count() + manifest.files.len();
        Ok(Self { id, files, index, head, gate })
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
            labelled: self.gate.counts.labelled + self.gate.counts.calibration > 0,
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
        Fault::BuiltHead.passes();
    }
    write_atomic(&dir.join(GATE_FILE), gate.to_json()?.as_bytes())?;
    Fault::BuiltGate.passes();
    Seal::write(dir, head.is_some())?;
    Fault::BuiltSeal.passes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use crate::domain::knowledge::{
        Domain, Entry, EntryId, EntryState, Level, Scene, Tone, Validity, VersionedEntry,
    };
    use crate::gate::model::FitOptions;
    use crate::search::head::{self, Example};
    use crate::search::index::{Embedded, EntryTexts};
    use crate::search::manifest::VectorSpace;

    const QUESTIONS: [(&str, [f32; 2]); 2] = [("怎么退款", [1.0, 0.0]), ("怎么发货", [0.0, 1.0])];

    fn entry(question: &str) -> VersionedEntry {
        let entry = Entry {
            id: EntryId(question.into()),
            question: question.into(),
            similar_questions: vec![],
            answer: Some("三天内。".into()),
            scene: Scene::Inquiry,
            level: Level::Primary,
            parent: None,
            tone: Tone::Neutral,
            domain: Domain::General,
            validity: Validity::default(),
            state: EntryState::Published,
        };
        VersionedEntry { version: 1, entry }
    }

    fn written(with_head: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let embedded = |text: &str, v: [f32; 2]| Embedded { text: text.into(), vector: v.to_vec() };
        let entries: Vec<_> = QUESTIONS.iter().map(|(q, _)| entry(q)).collect();
        let texts = QUESTIONS.map(|(q, v)| EntryTexts {
            phrasings: vec![embedded(q, v)],
            answer: Some(embedded("三天内。", v)),
        });
        let space = VectorSpace { model: "synthetic".into(), sha256: "00".into(), dim: 2 };
        let manifest = KnowledgeIndex::build(dir.path(), &entries, &texts, &space).unwrap();
        let examples = QUESTIONS.iter().zip(0..);
        let examples: Vec<_> =
            examples.map(|((text, vector), class)| Example { text, vector, class }).collect();
        let classes = QUESTIONS.map(|(q, _)| q.to_owned());
        let head = Head::fit(&examples, &classes, &head::FitOptions::default()).unwrap();
        let fingerprint = Fingerprint { knowledge: manifest.entries_digest, embedder: "00".into() };
        let gate = GateModel::closed(&FitOptions { fingerprint, ..Default::default() });
        write_fitted(dir.path(), with_head.then_some(&head), &gate).unwrap();
        dir
    }

    fn files_below(dir: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
        paths.flat_map(|p| if p.is_dir() { files_below(&p) } else { vec![p] }).collect()
    }

    #[test]
    fn no_file_can_be_lost_or_altered_unnoticed() {
        let dir = written(true);
        let whole = Generation::open(dir.path()).unwrap();
        let files = files_below(dir.path());
        assert_eq!(files.len(), whole.files + 1, "all are checked, and the seal by being read");
        for path in files {
            let good = fs::read(&path).unwrap();
            let mut longer = good.clone();
            longer.push(b'x');
            let altered: Vec<u8> = good.iter().rev().copied().collect();
            for bad in [Some(longer), Some(altered), None] {
                match bad {
                    Some(bad) if bad == good => continue,
                    Some(bad) => fs::write(&path, bad).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                let opened = Generation::open(dir.path());
                let damaged = matches!(opened, Err(GenerationError::Damaged { .. }));
                assert!(damaged, "{}", path.display());
            }
            fs::write(&path, good).unwrap();
        }
        assert!(Generation::open(dir.path()).unwrap().head.is_some());
    }

    #[test]
    fn to_have_no_head_is_a_state_and_not_a_missing_file() {
        let dir = written(false);
        fs::write(dir.path().join(HEAD_FILE), "left by someone").unwrap();
        assert!(Generation::open(dir.path()).unwrap().head.is_none());
        let seal = dir.path().join("generation.json");
        let text = fs::read_to_string(&seal).unwrap();
        assert!(text.contains("\"state\": \"none\""), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut silent = value.as_object().unwrap().clone();
        silent.remove("head");
        fs::write(&seal, serde_json::to_vec(&silent).unwrap()).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::Damaged { .. })));
    }
}
