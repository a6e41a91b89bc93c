//! Builds a generation: knowledge and labels in; index, trained head and calibrated gate out.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::base::clock::UnixMs;
use crate::domain::knowledge::{EntryState, VersionedEntry};
use crate::domain::label::{Labelled, QuestionPair};
use crate::domain::message::Utterance;
use crate::engine::EngineError;
use crate::gate::model::{Fingerprint, FitOptions, GateError, GateModel};
use crate::gate::threshold::Promise;
use crate::pipeline::adapt::{Adapted, Lessons, Trial, adapt};
use crate::pipeline::embedding::Embedding;
use crate::pipeline::generation::{Parts, WriteError, write_fitted};
use crate::pipeline::observe::{Bench, Learned, Message};
use crate::search::SearchError;
use crate::search::index::{Embedded, EntryTexts, KnowledgeIndex};
use crate::search::layers::Layers;
use crate::search::synonyms::Synonyms;
use crate::understand::normalize::normalize;

#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// Import knowledge, or publish some of it.
    #[error("there is no published entry to build an index from: run `huida kb import FILE`")]
    NoKnowledge,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("the generation could not be written: {0}")]
    Write(#[from] std::io::Error),
}

impl From<WriteError> for FitError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Search(e) => Self::Search(e),
            WriteError::Gate(e) => Self::Gate(e),
            WriteError::Io(e) => Self::Write(e),
        }
    }
}

/// What a generation is made from.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// All entries; only published ones are used.
    pub entries: &'a [VersionedEntry],
    /// What the operator's customers use for one another.
    pub synonyms: &'a Synonyms,
    /// Messages to fit on.
    pub train: &'a [Labelled],
    /// Messages for the threshold. Empty: a part of `train` is kept back for it.
    pub calibrate: &'a [Labelled],
    /// Questions that ask the same, or not, for a map of the embedding space.
    pub pairs: &'a [QuestionPair],
    pub promise: Promise,
    pub now: UnixMs,
}

/// What a build came to.
pub struct Built {
    pub gate: GateModel,
    /// How a map of the embedding space did, if there was anything to fit one from.
    pub trial: Option<Trial>,
}

/// How far the work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FitProgress {
    pub stage: Stage,
    pub done: usize,
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    EmbedKnowledge,
    WriteIndex,
    EmbedPairs,
    FitAdapter,
    /// Asks labelled messages with the map and without it.
    TryAdapter,
    EmbedLabels,
    FitHead,
    /// Asks the knowledge its own questions without their answers.
    AskKnowledge,
    FitGate,
}

/// Writes a complete generation into the empty folder `dir`.
pub fn build(
    dir: &Path,
    material: Material<'_>,
    embedding: &mut Embedding<'_>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Built, FitError> {
    let Material { entries, synonyms, train, calibrate, pairs, promise, now } = material;
    let index = build_index(dir, entries, synonyms, embedding, progress)?;
    let lessons = Lessons { pairs, train, calibrate, now };
    let Adapted { index, adapter, trial } = adapt(dir, index, lessons, embedding, progress)?;
    let (knowledge, embedder) = (Layers::of(index), embedding.embedder());
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress };
    let Fitted { learned, gate, .. } = fit(&mut bench, train, calibrate, promise)?;
    let (head, adapter, trial_of) =
        (learned.ranking.head.as_ref(), adapter.as_ref(), trial.as_ref());
    write_fitted(dir, &Parts { head, gate: &gate, adapter, trial: trial_of, pairs })?;
    Ok(Built { gate, trial })
}

/// What labels and knowledge give beside the index.
pub struct Fitted {
    pub learned: Learned,
    pub gate: GateModel,
    /// The messages that the threshold was fitted on.
    pub calibrate: Vec<Message>,
}

/// Trains the head and fits the gate.
pub fn fit(
    bench: &mut Bench<'_>,
    train: &[Labelled],
    calibrate: &[Labelled],
    promise: Promise,
) -> Result<Fitted, FitError> {
    let (train, calibrate) = split(train, calibrate);
    let (train, calibrate) = (bench.messages(&train)?, bench.messages(&calibrate)?);
    let learned = bench.learn(&train, &calibrate)?;
    let unseen = bench.calibration(&calibrate, &learned)?;
    bench.tell(Stage::FitGate, 0, 1);
    let manifest = bench.knowledge.base().manifest();
    let fingerprint = Fingerprint {
        knowledge: manifest.entries_digest.clone(),
        embedder: manifest.space.sha256.clone(),
    };
    let options = FitOptions { promise, fingerprint };
    let mut gate = match GateModel::fit(&learned.observations, &unseen, &options) {
        // A first handful of entries must still be searchable.
        Err(GateError::TooFewObservations { .. }) => GateModel::closed(&options),
        fitted => fitted?,
    };
    gate.reranker.clone_from(&learned.ranking.reranker);
    bench.tell(Stage::FitGate, 1, 1);
    Ok(Fitted { learned, gate, calibrate })
}

/// Only the searchable part of a generation.
pub fn build_index(
    dir: &Path,
    entries: &[VersionedEntry],
    synonyms: &Synonyms,
    embedding: &mut Embedding<'_>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<KnowledgeIndex, FitError> {
    let published: Vec<VersionedEntry> =
        entries.iter().filter(|e| e.entry.state == EntryState::Published).cloned().collect();
    if published.is_empty() {
        return Err(FitError::NoKnowledge);
    }
    write_index(dir, &published, synonyms, embedding, progress)?;
    Ok(KnowledgeIndex::open(dir)?)
}

/// Writes an index of published entries into the empty folder `dir`.
pub(super) fn write_index(
    dir: &Path,
    published: &[VersionedEntry],
    synonyms: &Synonyms,
    embedding: &mut Embedding<'_>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<(), FitError> {
    let of_entry = |e: &'_ VersionedEntry| {
        let phrasings = e.entry.phrasings().map(str::to_owned);
        phrasings.chain(e.entry.answer.clone()).collect::<Vec<String>>()
    };
    let texts = published.iter().flat_map(of_entry);
    let texts: Vec<String> = texts.map(|text| synonyms.unify(&normalize(&text))).collect();
    let vectors = embedding.vectors(&texts, &mut |done, total| {
        progress(FitProgress { stage: Stage::EmbedKnowledge, done, total });
    })?;
    progress(FitProgress { stage: Stage::WriteIndex, done: 0, total: 1 });
    let mut embedded =
        texts.into_iter().zip(vectors).map(|(text, vector)| Embedded { text, vector });
    let by_entry: Vec<EntryTexts> = published
        .iter()
        .map(|VersionedEntry { entry, .. }| EntryTexts {
            phrasings: embedded.by_ref().take(entry.phrasings().count()).collect(),
            answer: entry.answer.as_ref().and_then(|_| embedded.next()),
        })
        .collect();
    KnowledgeIndex::build(dir, published, &by_entry, &embedding.space(), synonyms)?;
    progress(FitProgress { stage: Stage::WriteIndex, done: 1, total: 1 });
    Ok(())
}

/// Every so many-th label is kept back for the threshold where none is given for it.
const KEPT_BACK: usize = 3;

/// What makes two labels speak of the same message.
pub(super) fn message(label: &Labelled) -> (String, &[Utterance]) {
    (normalize(&label.text), &label.context)
}

/// The messages that a build from these labels keeps from its head.
pub fn held_back(train: &[Labelled], calibrate: &[Labelled]) -> Vec<Labelled> {
    split(train, calibrate).1
}

/// Without calibration messages, every third training message becomes one. No message is in both,
/// and none twice: of labels that say different things of one message the last is the corrected one.
pub(super) fn split(train: &[Labelled], calibrate: &[Labelled]) -> (Vec<Labelled>, Vec<Labelled>) {
    let (train, calibrate) = (last_of_each(train), last_of_each(calibrate));
    if !calibrate.is_empty() {
        // A message that the head has seen would calibrate the threshold too boldly.
        let held: HashSet<_> = calibrate.iter().map(message).collect();
        let unseen = train.iter().filter(|l| !held.contains(&message(l)));
        return (unseen.cloned().collect(), calibrate);
    }
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (at, label) in train.into_iter().enumerate() {
        if at % KEPT_BACK == KEPT_BACK - 1 { held.push(label) } else { kept.push(label) }
    }
    (kept, held)
}

/// Where a message was first labelled, with what was last said of it.
fn last_of_each(labels: &[Labelled]) -> Vec<Labelled> {
    let mut places = HashMap::new();
    let mut distinct: Vec<Labelled> = Vec::new();
    for label in labels {
        let place = *places.entry(message(label)).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some(earlier) => *earlier = label.clone(),
            None => distinct.push(label.clone()),
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::EntryId;

    #[test]
    fn a_third_is_kept_back_only_when_nothing_is_given() {
        let label = |n: usize| Labelled { text: n.to_string(), context: vec![], answer: None };
        let train: Vec<_> = (0..8).map(label).collect();
        let (kept, held) = split(&train, &[]);
        assert_eq!((kept.len(), held.len()), (6, 2));
        assert!(held.iter().all(|h| !kept.contains(h)));
        let (kept, held) = split(&train, &train[..1]);
        assert_eq!((kept.len(), held.len()), (7, 1), "a calibration message is not trained on");
        let answered =
            |n: usize, id: &str| Labelled { answer: Some(EntryId(id.into())), ..label(n) };
        let corrected = [answered(0, "a"), label(1), answered(0, "b")];
        let (kept, held) = split(&corrected, &train[5..6]);
        assert_eq!((kept, held.len()), (vec![answered(0, "b"), label(1)], 1));
    }
}
