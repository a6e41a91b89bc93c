//! Builds a generation: knowledge and labels in; index, trained head and calibrated gate out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::base::clock::UnixMs;
use crate::domain::knowledge::{EntryState, VersionedEntry};
use crate::domain::label::Labelled;
use crate::domain::message::Utterance;
use crate::engine::EngineError;
use crate::engine::embed::EmbedWorker;
use crate::gate::model::{
    Fingerprint, FitOptions, GateError, GateModel, Kind, MIN_LABELS_FOR_ALL, Observation,
};
use crate::gate::threshold::Promise;
use crate::model::Control;
use crate::pipeline::generation::{WriteError, write_fitted};
use crate::pipeline::retrieve::{Question, Retrieved, Scope, look_up};
use crate::search::SearchError;
use crate::search::head::{self, Example, Head};
use crate::search::index::{Embedded, EntryTexts, Exclude, KnowledgeIndex, KnownVectors};
use crate::search::layers::Layers;
use crate::search::manifest::VectorSpace;
use crate::understand::normalize::normalize;
use crate::understand::readability::Readability;
use crate::understand::understand;

/// Questions of another world, as known negatives of self-calibration.
const OPEN_DOMAIN: &str = include_str!("../../eval/sets/open_domain.jsonl");
/// Parts of the training labels that are scored by a head which did not see them.
const FOLDS: usize = 4;
/// Phrasings that self-calibration asks about; more would only repeat what these say.
const MOST_PHRASINGS: usize = 2_000;
/// Beyond this many entries a head costs more than it tells: labels per entry become few.
const MOST_CLASSES: usize = 500;
/// What the vote by likeness may count in the sum of the lists; it runs from 0 to 1.
const KIN_WEIGHTS: [f32; 3] = [2.5, 5.0, 10.0];
/// The head's class for messages that no entry answers.
const OUT_OF_SCOPE: &str = "";

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
    /// Messages to fit on.
    pub train: &'a [Labelled],
    /// Messages for the threshold. Empty: a part of `train` is kept back for it.
    pub calibrate: &'a [Labelled],
    pub promise: Promise,
    pub now: UnixMs,
    /// Vectors of an earlier generation in the same space.
    pub known: Option<&'a KnownVectors>,
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
    EmbedLabels,
    FitHead,
    FitGate,
}

/// Writes a complete generation into the empty folder `dir`.
pub fn build(
    dir: &Path,
    material: Material<'_>,
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<GateModel, FitError> {
    let index = build_index(dir, material.entries, material.known, embedder, progress)?;
    let knowledge = Layers::of(Arc::new(index));
    let mut bench = Bench { knowledge: &knowledge, embedder, now: material.now, progress };
    let index = knowledge.base();
    let (train, calibrate) = split(material.train, material.calibrate);
    let train = bench.messages(&train)?;
    let calibrate = bench.messages(&calibrate)?;
    let (head, mut observations) = bench.train(&train)?;
    let unseen = bench.observe(&calibrate, head.as_ref())?;
    if train.len() < MIN_LABELS_FOR_ALL {
        observations.extend(bench.self_calibration()?);
    }
    bench.tell(Stage::FitGate, 0, 1);
    let space = &index.manifest().space;
    let options = FitOptions {
        promise: material.promise,
        fingerprint: Fingerprint {
            knowledge: index.manifest().entries_digest.clone(),
            embedder: space.sha256.clone(),
        },
    };
    let gate = match GateModel::fit(&observations, &unseen, &options) {
        // A first handful of entries must still be searchable.
        Err(GateError::TooFewObservations { .. }) => GateModel::closed(&options),
        fitted => fitted?,
    };
    write_fitted(dir, head.as_ref(), &gate)?;
    bench.tell(Stage::FitGate, 1, 1);
    Ok(gate)
}

/// Only the searchable part of a generation. Texts whose vectors are known are not embedded again.
pub fn build_index(
    dir: &Path,
    entries: &[VersionedEntry],
    known: Option<&KnownVectors>,
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<KnowledgeIndex, FitError> {
    let published: Vec<VersionedEntry> =
        entries.iter().filter(|e| e.entry.state == EntryState::Published).cloned().collect();
    if published.is_empty() {
        return Err(FitError::NoKnowledge);
    }
    let known: Vec<&KnownVectors> = known.into_iter().collect();
    write_index(dir, &published, &known, embedder, progress)?;
    Ok(KnowledgeIndex::open(dir)?)
}

/// Writes an index of published entries into the empty folder `dir`.
pub(super) fn write_index(
    dir: &Path,
    published: &[VersionedEntry],
    known: &[&KnownVectors],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<(), FitError> {
    let of_entry = |e: &'_ VersionedEntry| {
        let phrasings = e.entry.phrasings().map(str::to_owned);
        phrasings.chain(e.entry.answer.clone()).collect::<Vec<String>>()
    };
    let texts: Vec<String> = published.iter().flat_map(of_entry).collect();
    let found = |text: &String| known.iter().find_map(|known| known.get(text));
    let unknown: Vec<String> =
        texts.iter().filter(|t| found(t).is_none()).map(|t| normalize(t)).collect();
    let stage = Stage::EmbedKnowledge;
    let mut fresh = embedder
        .embed(&unknown, &Control::default(), &mut |done, total| {
            progress(FitProgress { stage, done, total });
        })?
        .into_iter();
    let mut embedded = texts.iter().map_while(|text| {
        let vector = found(text).map(<[f32]>::to_vec).or_else(|| fresh.next())?;
        Some(Embedded { text: normalize(text), vector })
    });
    let by_entry: Vec<EntryTexts> = published
        .iter()
        .map(|VersionedEntry { entry, .. }| EntryTexts {
            phrasings: embedded.by_ref().take(entry.phrasings().count()).collect(),
            answer: entry.answer.as_ref().and_then(|_| embedded.next()),
        })
        .collect();
    KnowledgeIndex::build(dir, published, &by_entry, &space_of(embedder))?;
    Ok(())
}

/// Where the embedder's vectors mean something.
pub(super) fn space_of(embedder: &EmbedWorker) -> VectorSpace {
    let identity = embedder.identity();
    VectorSpace {
        model: identity.name.clone(),
        sha256: identity.sha256.clone(),
        dim: embedder.dim(),
    }
}

/// What makes two labels speak of the same message.
fn message(label: &Labelled) -> (String, &[Utterance]) {
    (normalize(&label.text), &label.context)
}

/// Without calibration messages, every fourth training message becomes one. No message is in both.
fn split(train: &[Labelled], calibrate: &[Labelled]) -> (Vec<Labelled>, Vec<Labelled>) {
    if !calibrate.is_empty() {
        // A message that the head has seen would calibrate the threshold too boldly.
        let held: HashSet<_> = calibrate.iter().map(message).collect();
        let unseen = train.iter().filter(|l| !held.contains(&message(l)));
        return (unseen.cloned().collect(), calibrate.to_vec());
    }
    let mut known = HashSet::new();
    let distinct = train.iter().filter(|l| known.insert(message(l)));
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (at, label) in distinct.enumerate() {
        if at % 4 == 3 { held.push(label.clone()) } else { kept.push(label.clone()) }
    }
    (kept, held)
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}

/// A labelled message as the service would search for it.
#[derive(Clone, Debug)]
pub struct Message {
    pub question: String,
    pub vector: Vec<f32>,
    pub rewritten: bool,
    /// Ordinal of the entry that answers; `None` when none does.
    pub answer: Option<u32>,
    /// False for messages that never reach the gate's threshold: a hard rule, a greeting or
    /// noise decides them.
    pub gated: bool,
}

/// Index, embedder and clock, as fitting and evaluation ask them about messages.
pub struct Bench<'a> {
    pub knowledge: &'a Layers,
    pub embedder: &'a EmbedWorker,
    pub now: UnixMs,
    pub progress: &'a mut dyn FnMut(FitProgress),
}

impl Bench<'_> {
    fn index(&self) -> &KnowledgeIndex {
        self.knowledge.base()
    }

    fn scope(&self, exclude: Exclude) -> Scope<'static> {
        Scope { exclude, asker: None, now: self.now }
    }

    fn tell(&mut self, stage: Stage, done: usize, total: usize) {
        (self.progress)(FitProgress { stage, done, total });
    }

    /// Understands and embeds labelled messages. A label of an entry that this index does not
    /// hold says that the message cannot be answered from it.
    pub fn messages(&mut self, labels: &[Labelled]) -> Result<Vec<Message>, FitError> {
        let understood: Vec<_> = labels.iter().map(|l| understand(&l.text, &l.context)).collect();
        let questions: Vec<String> = understood.iter().map(|u| u.question.clone()).collect();
        let progress = &mut *self.progress;
        let vectors =
            self.embedder.embed(&questions, &Control::default(), &mut |done, total| {
                progress(FitProgress { stage: Stage::EmbedLabels, done, total });
            })?;
        let rows = labels.iter().zip(understood).zip(vectors);
        let messages = rows.map(|((label, understood), vector)| Message {
            gated: understood.signals.hard_reasons().is_empty()
                && understood.greeting.is_none()
                && understood.readability == Readability::Readable,
            question: understood.question,
            rewritten: understood.rewritten_by.is_some(),
            answer: label.answer.as_ref().and_then(|id| self.index().ordinal(id)),
            vector,
        });
        Ok(messages.collect())
    }

    /// The head on all labels, if they are enough for one, and what the gate would see of each
    /// label under a head that was fitted without it.
    pub fn train(
        &mut self,
        labels: &[Message],
    ) -> Result<(Option<Head>, Vec<Observation>), FitError> {
        if labels.len() < MIN_LABELS_FOR_ALL || self.index().entries().len() > MOST_CLASSES {
            return Ok((None, self.observe(labels, None)?));
        }
        let mut parts = Vec::new();
        for fold in 0..FOLDS {
            self.tell(Stage::FitHead, fold, FOLDS + 1);
            let of_fold = |at: usize| at % FOLDS == fold;
            let (held, seen): (Vec<_>, Vec<_>) =
                labels.iter().cloned().enumerate().partition(|(at, _)| of_fold(*at));
            let seen: Vec<Message> = seen.into_iter().map(|(_, m)| m).collect();
            let held: Vec<Message> = held.into_iter().map(|(_, m)| m).collect();
            parts.push((self.fit_head(&seen, Some(0.0))?, held));
        }
        self.tell(Stage::FitHead, FOLDS, FOLDS + 1);
        let kin = self.weigh_kin(&mut parts)?;
        let mut observations = Vec::new();
        for (head, held) in &parts {
            observations.extend(self.observe(held, Some(head))?);
        }
        let head = self.fit_head(labels, kin)?;
        self.tell(Stage::FitHead, FOLDS + 1, FOLDS + 1);
        Ok((Some(head), observations))
    }

    /// Gives the vote by likeness the weight that ranks the held-back labels best, and returns it;
    /// `None` when no weight is better than none by more than its own standard error.
    fn weigh_kin(&self, parts: &mut [(Head, Vec<Message>)]) -> Result<Option<f32>, FitError> {
        let without = self.reciprocal_ranks(parts, 0.0)?;
        let mut best: Option<(f32, f64)> = None;
        for weight in KIN_WEIGHTS {
            let with = self.reciprocal_ranks(parts, weight)?;
            let gains: Vec<f64> = with.iter().zip(&without).map(|(w, o)| w - o).collect();
            let (mean, error) = mean_and_error(&gains);
            if mean > error && best.is_none_or(|(_, most)| mean > most) {
                best = Some((weight, mean));
            }
        }
        let weight = best.map(|(weight, _)| weight);
        parts.iter_mut().for_each(|(head, _)| head.weigh_kin(weight.unwrap_or(0.0)));
        Ok(weight)
    }

    /// Of each answerable held-back message, one over the place of its entry.
    fn reciprocal_ranks(
        &self,
        parts: &mut [(Head, Vec<Message>)],
        kin: f32,
    ) -> Result<Vec<f64>, FitError> {
        let mut ranks = Vec::new();
        for (head, held) in parts {
            head.weigh_kin(kin);
            for message in held.iter() {
                let Some(answer) = message.answer else { continue };
                let found = self.find(message, Some(head))?.evidence;
                let place = found.iter().position(|e| self.index().ordinal(&e.id) == Some(answer));
                ranks.push(place.map_or(0.0, |place| 1.0 / (place as f64 + 1.0)));
            }
        }
        Ok(ranks)
    }

    /// Messages and the knowledge's own phrasings are one training set; with a weight for it, a vote
    /// by likeness is fitted as well.
    fn fit_head(&self, labels: &[Message], kin: Option<f32>) -> Result<Head, FitError> {
        let ids = self.index().entries().iter().map(|e| e.entry.id.0.clone());
        let classes: Vec<String> = ids.chain([OUT_OF_SCOPE.to_owned()]).collect();
        let out_of_scope = classes.len() - 1;
        let vectors = self.index().phrasing_vectors()?;
        let phrasings: Vec<(String, usize, usize)> = self.phrasings().collect();
        let known = phrasings.iter().map(|(text, entry, number)| Example {
            text,
            vector: vectors.row(*number),
            class: *entry,
        });
        let said = labels.iter().map(|m| Example {
            text: &m.question,
            vector: &m.vector,
            class: m.answer.map_or(out_of_scope, |a| a as usize),
        });
        let examples: Vec<Example<'_>> = known.chain(said).collect();
        let mut head = Head::fit(&examples, &classes, &head::FitOptions::default())?;
        if let Some(weight) = kin {
            head.add_kin(&examples, weight)?;
        }
        Ok(head)
    }

    /// Normalised text, entry ordinal and number of every phrasing.
    fn phrasings(&self) -> impl Iterator<Item = (String, usize, usize)> + '_ {
        let texts = self.index().entries().iter().enumerate().flat_map(|(at, versioned)| {
            versioned.entry.phrasings().map(move |p| (normalize(p), at))
        });
        texts.enumerate().map(|(number, (text, entry))| (text, entry, number))
    }

    /// What the service would find for the message.
    pub fn find(&self, message: &Message, head: Option<&Head>) -> Result<Retrieved, SearchError> {
        let question = Question {
            text: &message.question,
            vector: &message.vector,
            rewritten: message.rewritten,
        };
        look_up(self.knowledge, head, question, self.scope(Exclude::None))
    }

    /// What the gate would see of each message, and whether the best evidence is right.
    pub fn observe(
        &self,
        messages: &[Message],
        head: Option<&Head>,
    ) -> Result<Vec<Observation>, FitError> {
        let mut observations = Vec::new();
        for message in messages.iter().filter(|m| m.gated) {
            let found = self.find(message, head)?;
            let best = found.evidence.first().and_then(|e| self.index().ordinal(&e.id));
            let correct = best.is_some() && best == message.answer;
            observations.extend(found.features.map(|features| Observation {
                features,
                correct,
                kind: Kind::Labelled,
            }));
        }
        Ok(observations)
    }

    /// A company without labels: its own phrasings, once left out and once with their whole entry
    /// taken away, and questions of another world.
    fn self_calibration(&mut self) -> Result<Vec<Observation>, FitError> {
        let vectors = self.index().phrasing_vectors()?;
        let phrasings: Vec<_> = self.phrasings().collect();
        let stride = phrasings.len().div_ceil(MOST_PHRASINGS).max(1);
        let mut observations = Vec::new();
        for (text, entry, number) in phrasings.iter().step_by(stride) {
            let question = Question { text, vector: vectors.row(*number), rewritten: false };
            let (entry, number) = (*entry as u32, *number as u32);
            let alone = self.index().phrasings_of(entry).len() == 1;
            let left_out = (Exclude::Phrasing(number), Kind::LeftOut);
            let removed = (Exclude::Entry(entry), Kind::EntryRemoved);
            for (exclude, kind) in [left_out, removed] {
                if alone && kind == Kind::LeftOut {
                    continue;
                }
                let found = look_up(self.knowledge, None, question, self.scope(exclude))?;
                let best = found.evidence.first().and_then(|e| self.index().ordinal(&e.id));
                let correct = kind == Kind::LeftOut && best == Some(entry);
                observations.extend(found.features.map(|features| Observation {
                    features,
                    correct,
                    kind,
                }));
            }
        }
        observations.extend(self.far()?);
        Ok(observations)
    }

    fn far(&mut self) -> Result<Vec<Observation>, FitError> {
        let lines = OPEN_DOMAIN.lines().filter_map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(Labelled {
                text: object.get("text")?.as_str()?.to_owned(),
                context: Vec::new(),
                answer: None,
            })
        });
        let labels: Vec<Labelled> = lines.collect();
        let messages = self.messages(&labels)?;
        let observed = self.observe(&messages, None)?;
        Ok(observed.into_iter().map(|o| Observation { kind: Kind::Far, ..o }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_questions_are_read() {
        let parsed = OPEN_DOMAIN.lines().filter(|l| l.contains("\"text\"")).count();
        assert!(parsed >= 200 && OPEN_DOMAIN.lines().count() == parsed);
    }

    #[test]
    fn a_quarter_is_kept_back_only_when_nothing_is_given() {
        let label = |n: usize| Labelled { text: n.to_string(), context: vec![], answer: None };
        let train: Vec<_> = (0..8).map(label).collect();
        let (kept, held) = split(&train, &[]);
        assert_eq!((kept.len(), held.len()), (6, 2));
        assert!(held.iter().all(|h| !kept.contains(h)));
        let (kept, held) = split(&train, &train[..1]);
        assert_eq!((kept.len(), held.len()), (7, 1), "a calibration message is not trained on");
    }
}
