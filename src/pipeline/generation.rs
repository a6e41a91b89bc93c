//! One immutable state of knowledge: entries, index, trained head and gate that belong together.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::fault::Fault;
use crate::base::file::write_atomic;
use crate::domain::label::QuestionPair;
use crate::gate::model::{Fingerprint, GateError, GateModel};
use crate::ingest::read_pairs;
use crate::model::ModelIdentity;
use crate::pipeline::adapt::Trial;
use crate::pipeline::retrieve::Trained;
use crate::pipeline::seal::{ADAPTER_FILE, GATE_FILE, HEAD_FILE, PAIRS_FILE, Seal};
use crate::search::SearchError;
use crate::search::adapter::Adapter;
use crate::search::head::Head;
use crate::search::index::KnowledgeIndex;
use crate::search::manifest::Manifest;

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

impl GenerationError {
    /// A file that is lost is damage; one that is there and cannot be read may be readable later.
    fn unreadable(dir: &Path, error: SearchError) -> Self {
        match error {
            SearchError::Io { path, source } if source.kind() != ErrorKind::NotFound => {
                Self::Io { path, source }
            }
            SearchError::Io { .. }
            | SearchError::Corrupt { .. }
            | SearchError::Incompatible { .. }
            | SearchError::BadInput(_)
            | SearchError::FullText(_) => {
                Self::Damaged { path: dir.display().to_string(), reason: error.to_string() }
            }
        }
    }
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
    /// Share of the calibration messages that the gate admits; without any, of its own phrasings.
    pub coverage: f64,
    /// Of that, messages whose entry was taken out, since no label says of one that nothing answers
    /// it: the promise rests on how many such messages come.
    pub made_up: usize,
}

pub struct Generation {
    id: String,
    /// How many files were checked when it was opened.
    pub files: usize,
    pub index: Arc<KnowledgeIndex>,
    pub head: Option<Head>,
    pub gate: GateModel,
    /// How a map of the embedding space did, if one was tried; the index has it if it was promoted.
    pub trial: Option<Trial>,
}

impl Generation {
    /// Reads and verifies everything in `dir`; its name is the generation's id.
    pub fn open(dir: &Path) -> Result<Self, GenerationError> {
        let damaged = |reason: &dyn std::fmt::Display| GenerationError::Damaged {
            path: dir.display().to_string(),
            reason: reason.to_string(),
        };
        let unreadable = |e: SearchError| GenerationError::unreadable(dir, e);
        let id = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let seal = Seal::verify(dir).map_err(unreadable)?;
        let index = match seal.has_adapter() {
            false => KnowledgeIndex::open(dir),
            true => Adapter::read(&dir.join(ADAPTER_FILE))
                .and_then(|adapter| KnowledgeIndex::open_adapted(dir, adapter)),
        };
        let index = Arc::new(index.map_err(unreadable)?);
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
        let head = head.map_err(unreadable)?;
        if head.as_ref().is_some_and(|head| head.dim() != manifest.space.dim) {
            return Err(damaged(&"its head was fitted on vectors of another width"));
        }
        let files = seal.files().count() + manifest.files.len();
        let trial = seal.trial().cloned();
        Ok(Self { id, files, index, head, gate, trial })
    }

    /// As [`Generation::open`], of a service that embeds with `running`: vectors of other weights
    /// mean nothing to its queries, which is found out before all of them are read.
    pub fn open_for(dir: &Path, running: &ModelIdentity) -> Result<Self, GenerationError> {
        let manifest = Manifest::read(dir).map_err(|e| GenerationError::unreadable(dir, e))?;
        let space = manifest.space;
        if space.model == running.name && space.sha256 == running.sha256 {
            return Self::open(dir);
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

    /// What its labels taught about finding.
    pub fn trained(&self) -> Trained<'_> {
        Trained { head: self.head.as_ref(), reranker: self.gate.reranker.as_ref() }
    }

    pub fn promise(&self) -> PromiseView {
        PromiseView {
            alpha: self.gate.promise.alpha,
            confidence: self.gate.promise.confidence,
            promised: self.gate.promised(),
            labelled: self.gate.counts.labelled + self.gate.counts.calibration > 0,
            coverage: self.gate.coverage,
            made_up: self.gate.counts.calibration_removed,
        }
    }
}

/// Completes a directory into which the index was already written.
pub(super) fn write_fitted(dir: &Path, parts: &Parts<'_>) -> Result<(), WriteError> {
    let Parts { head, gate, adapter, trial, pairs } = *parts;
    if let Some(adapter) = adapter {
        adapter.write(&dir.join(ADAPTER_FILE))?;
    }
    if trial.is_some() {
        write_pairs(&dir.join(PAIRS_FILE), pairs)?;
    }
    if let Some(head) = head {
        head.write(&dir.join(HEAD_FILE))?;
        Fault::BuiltHead.passes();
    }
    write_atomic(&dir.join(GATE_FILE), gate.to_json()?.as_bytes())?;
    Fault::BuiltGate.passes();
    Seal::write(dir, parts)?;
    Fault::BuiltSeal.passes();
    Ok(())
}

/// What completes an index.
pub(super) struct Parts<'a> {
    pub(super) head: Option<&'a Head>,
    pub(super) gate: &'a GateModel,
    /// There only if its trial promoted it.
    pub(super) adapter: Option<&'a Adapter>,
    pub(super) trial: Option<&'a Trial>,
    /// Kept where a map was tried, for the next build.
    pub(super) pairs: &'a [QuestionPair],
}

/// In the form in which pairs are read.
fn write_pairs(path: &Path, pairs: &[QuestionPair]) -> std::io::Result<()> {
    let line = |QuestionPair { one, other, same }: &QuestionPair| {
        serde_json::json!({"q1": one, "q2": other, "label": u8::from(*same)}).to_string() + "\n"
    };
    write_atomic(path, pairs.iter().map(line).collect::<String>().as_bytes())
}

/// The pairs that the newest of some generations was built with; none where it had none, or where
/// they cannot be read.
pub fn pairs_of(newest_first: &[PathBuf]) -> Vec<QuestionPair> {
    let Some(dir) = newest_first.first() else { return Vec::new() };
    match Seal::verify(dir) {
        Ok(seal) if seal.trial().is_some() => {
            read_pairs(&dir.join(PAIRS_FILE)).unwrap_or_else(|error| {
                tracing::warn!(%error, "pairs of questions cannot be used again");
                Vec::new()
            })
        }
        _ => Vec::new(),
    }
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
pub(super) mod testing {
    use super::*;
    use crate::domain::knowledge::{Entry, EntryId, VersionedEntry};
    use crate::gate::model::FitOptions;
    use crate::search::head::{self, Example};
    use crate::search::index::{Embedded, EntryTexts};
    use crate::search::manifest::VectorSpace;
    use crate::search::synonyms::Synonyms;

    pub(in crate::pipeline) const QUESTIONS: [(&str, [f32; 2]); 2] =
        [("怎么退款", [1.0, 0.0]), ("怎么发货", [0.0, 1.0])];

    pub(in crate::pipeline) fn model(name: &str) -> ModelIdentity {
        ModelIdentity { name: name.into(), sha256: "00".into() }
    }

    pub(in crate::pipeline) fn answer_to(question: &str) -> String {
        format!("{question}：三天内。")
    }

    pub(in crate::pipeline) fn entry(question: &str) -> Entry {
        Entry {
            answer: Some(answer_to(question)),
            ..Entry::new(EntryId(question.into()), question.into())
        }
    }

    /// A whole generation of two entries, with a head of the given width if any.
    pub(in crate::pipeline) fn write(dir: &Path, model: &ModelIdentity, head_width: Option<usize>) {
        write_with(dir, model, head_width, |_| ());
    }

    /// As [`write`], with something changed about the gate, which is closed.
    pub(in crate::pipeline) fn write_with(
        dir: &Path,
        model: &ModelIdentity,
        head_width: Option<usize>,
        change: impl FnOnce(&mut GateModel),
    ) {
        make(dir, model, QUESTIONS.map(|(_, vector)| vector), head_width, change);
    }

    /// As [`write`], with the questions and answers at other places.
    pub(in crate::pipeline) fn write_at(
        dir: &Path,
        model: &ModelIdentity,
        places: [[f32; 2]; 2],
        head_width: Option<usize>,
    ) {
        make(dir, model, places, head_width, |_| ());
    }

    fn make(
        dir: &Path,
        model: &ModelIdentity,
        places: [[f32; 2]; 2],
        head_width: Option<usize>,
        change: impl FnOnce(&mut GateModel),
    ) {
        let embedded = |text: &str, v: [f32; 2]| Embedded { text: text.into(), vector: v.to_vec() };
        let first =
            |(question, _): &(&str, _)| VersionedEntry { version: 1, entry: entry(question) };
        let entries: Vec<_> = QUESTIONS.iter().map(first).collect();
        let text = |((question, _), at): (&(&str, _), [f32; 2])| EntryTexts {
            phrasings: vec![embedded(question, at)],
            answer: Some(embedded(&answer_to(question), at)),
        };
        let texts: Vec<EntryTexts> = QUESTIONS.iter().zip(places).map(text).collect();
        let ModelIdentity { name, sha256 } = model.clone();
        let space = VectorSpace { model: name, sha256, dim: 2 };
        let manifest =
            KnowledgeIndex::build(dir, &entries, &texts, &space, &Synonyms::default()).unwrap();
        let head = head_width.map(|width| {
            let wide = |v: [f32; 2]| v.into_iter().cycle().take(width).collect::<Vec<f32>>();
            let vectors = QUESTIONS.map(|(_, v)| wide(v));
            let examples = QUESTIONS.iter().zip(&vectors).zip(0..);
            let examples: Vec<_> = examples
                .map(|(((text, _), vector), class)| Example { text, vector, class })
                .collect();
            let classes = QUESTIONS.map(|(q, _)| q.to_owned());
            Head::fit(&examples, &classes, &head::FitOptions::default()).unwrap()
        });
        let fingerprint =
            Fingerprint { knowledge: manifest.entries_digest, embedder: model.sha256.clone() };
        let mut gate = GateModel::closed(&FitOptions { fingerprint, ..Default::default() });
        change(&mut gate);
        let head = head.as_ref();
        write_fitted(dir, &Parts { head, gate: &gate, adapter: None, trial: None, pairs: &[] })
            .unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::testing::{model, write};
    use super::*;

    fn written(head_width: Option<usize>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &model("synthetic"), head_width);
        dir
    }

    fn files_below(dir: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
        paths.flat_map(|p| if p.is_dir() { files_below(&p) } else { vec![p] }).collect()
    }

    #[test]
    fn no_file_can_be_lost_or_altered_unnoticed() {
        let dir = written(Some(2));
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
        let dir = written(None);
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

    #[test]
    fn what_cannot_be_read_now_is_not_called_damaged() {
        let dir = written(None);
        let gate = dir.path().join(GATE_FILE);
        fs::remove_file(&gate).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::Damaged { .. })));
        fs::create_dir(&gate).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::Io { .. })));
    }

    #[test]
    fn a_head_of_other_vectors_is_refused() {
        let dir = written(Some(3));
        let error = Generation::open(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("another width") && error.contains("huida index build"), "{error}");
    }

    #[test]
    fn another_model_is_found_out_before_all_is_read() {
        let dir = written(None);
        fs::remove_file(dir.path().join("phrasings.vec")).unwrap();
        let opened = Generation::open_for(dir.path(), &model("another"));
        assert!(matches!(opened, Err(GenerationError::OtherModel { .. })));
        let opened = Generation::open_for(dir.path(), &model("synthetic"));
        assert!(matches!(opened, Err(GenerationError::Damaged { .. })));
    }
}
