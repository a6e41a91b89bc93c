//! `eval retrieval`: does the right entry come first, and how fast?

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::clock::{Clock, Stopwatch};
use crate::domain::knowledge::{EntryId, VersionedEntry};
use crate::domain::label::{Labelled, QuestionPair};
use crate::engine::embed::EmbedWorker;
use crate::eval::{EvalError, percentile, read_all};
use crate::ingest::read_entries;
use crate::model::Control;
use crate::pipeline::adapt::{Adapted, Lessons, Trial, adapt};
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{FitProgress, build_index};
use crate::pipeline::observe::Bench;
use crate::pipeline::retrieve::{CANDIDATES, Question, Scope, Trained, look_up};
use crate::search::index::Exclude;
use crate::search::layers::Layers;
use crate::search::synonyms::Synonyms;
use crate::understand::understand;

/// Keys as scripts know them.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalReport {
    /// Answerable queries; others are left out.
    pub n: usize,
    pub recall_at_1: f64,
    pub recall_at_5: f64,
    pub mrr_at_10: f64,
    /// Understanding, embedding and search of one query alone.
    pub ms_p50: f64,
    pub ms_p99: f64,
    /// How a map of the embedding space did, where pairs were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Trial>,
}

/// Files of one evaluation.
#[derive(Clone, Debug)]
pub struct RetrievalInput {
    pub kb: PathBuf,
    pub queries: Vec<PathBuf>,
    /// Labels for the trained head; empty: before any training.
    pub labels: Vec<PathBuf>,
    /// Pairs of questions for a map of the embedding space.
    pub pairs: Vec<QuestionPair>,
    pub synonyms: Synonyms,
}

pub fn run(
    input: &RetrievalInput,
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<RetrievalReport, EvalError> {
    let queries = read_all(&input.queries)?;
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("generation");
    let entries = knowledge(&input.kb)?;
    let now = Clock::System.now();
    let mut embedding = Embedding::new(embedder, Vec::new());
    let index = build_index(&dir, &entries, &input.synonyms, &mut embedding, progress)?;
    let train = read_all(&input.labels)?;
    // No map may be fitted from what is asked here.
    let lessons = Lessons { pairs: &input.pairs, train: &train, calibrate: &queries, now };
    let Adapted { index, trial, .. } = adapt(&dir, index, lessons, &mut embedding, progress)?;
    let knowledge = Layers::of(index);
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress };
    let train = bench.messages(&train)?;
    // Nothing is promised here: no label is kept back for a threshold, as with `train --calibrate`.
    let ranking = bench.train(&train)?;
    let report = measure(&knowledge, ranking.trained(), &queries, embedder)?;
    Ok(RetrievalReport { adapter: trial, ..report })
}

/// Entries of a file, all at version 1.
pub(super) fn knowledge(file: &Path) -> Result<Vec<VersionedEntry>, EvalError> {
    let entries = read_entries(file)?;
    Ok(entries.into_iter().map(|entry| VersionedEntry { version: 1, entry }).collect())
}

fn measure(
    knowledge: &Layers,
    trained: Trained<'_>,
    queries: &[Labelled],
    embedder: &EmbedWorker,
) -> Result<RetrievalReport, EvalError> {
    let mut ranks = Vec::new();
    let mut times = Vec::new();
    for query in queries {
        let Some(answer) = &query.answer else { continue };
        let watch = Stopwatch::start();
        ranks.push(rank(knowledge, trained, query, answer, embedder)?);
        times.push(watch.ms());
    }
    if ranks.is_empty() {
        return Err(EvalError::Input("no query has a kb_id: nothing to measure".into()));
    }
    let n = ranks.len();
    let share = |most: usize| {
        ranks.iter().filter(|r| r.is_some_and(|rank| rank < most)).count() as f64 / n as f64
    };
    let reciprocal = ranks.iter().flatten().map(|rank| 1.0 / (*rank as f64 + 1.0)).sum::<f64>();
    Ok(RetrievalReport {
        n,
        recall_at_1: share(1),
        recall_at_5: share(5),
        mrr_at_10: reciprocal / n as f64,
        ms_p50: percentile(&times, 0.5),
        ms_p99: percentile(&times, 0.99),
        adapter: None,
    })
}

/// Place of the right entry among the candidates, from 0; `None` beyond [`CANDIDATES`].
fn rank(
    knowledge: &Layers,
    trained: Trained<'_>,
    query: &Labelled,
    answer: &EntryId,
    embedder: &EmbedWorker,
) -> Result<Option<usize>, EvalError> {
    let understood = understand(&query.text, &query.context);
    let text = knowledge.unify(&understood.question);
    let vector = embedder.embed_one(&text, &Control::default())?;
    let rewritten = understood.rewritten_by.is_some();
    let question = Question { text: &text, vector: &vector, rewritten };
    let scope = Scope { exclude: Exclude::None, asker: None, now: Clock::System.now() };
    let found = look_up(knowledge, trained, question, scope)?;
    debug_assert!(found.evidence.len() <= CANDIDATES);
    let index = knowledge.base();
    let Some(answer) = index.ordinal(answer) else { return Ok(None) };
    Ok(found.evidence.iter().position(|e| index.answers(&e.id, answer)))
}
