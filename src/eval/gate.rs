//! `eval gate`: what would go out by itself, how often that is right, and what it costs in coverage.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::clock::Clock;
use crate::domain::label::Labelled;
use crate::engine::embed::EmbedWorker;
use crate::eval::retrieval::knowledge;
use crate::eval::{EvalError, read_all};
use crate::gate::metrics::{GateMetrics, ScoredRow, measure};
use crate::gate::threshold::Promise;
use crate::pipeline::fit::{Bench, FitProgress, Material, build};
use crate::pipeline::generation::Generation;

/// Keys as scripts know them; the metrics' own follow.
#[derive(Clone, Debug, Serialize)]
pub struct GateReport {
    pub alpha: f64,
    pub confidence: f64,
    /// `null` when nothing may go out by itself.
    pub threshold: Option<f32>,
    /// Whether the bound was shown on unseen labels.
    pub promised: bool,
    #[serde(flatten)]
    pub metrics: GateMetrics,
}

/// Files of one evaluation.
#[derive(Clone, Debug)]
pub struct GateInput {
    pub kb: PathBuf,
    /// Empty: cold start.
    pub labels: Vec<PathBuf>,
    pub calibrate: Vec<PathBuf>,
    pub queries: Vec<PathBuf>,
    /// Every line of these is unanswerable.
    pub oos: Vec<PathBuf>,
    pub promise: Promise,
}

pub fn run(
    input: &GateInput,
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<GateReport, EvalError> {
    let entries = knowledge(&input.kb)?;
    let (train, calibrate) = (read_all(&input.labels)?, read_all(&input.calibrate)?);
    let mut queries = read_all(&input.queries)?;
    let outside = read_all(&input.oos)?;
    queries.extend(outside.into_iter().map(|l| Labelled { answer: None, ..l }));
    if queries.is_empty() {
        return Err(EvalError::Input("no queries: nothing to measure".into()));
    }
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("generation");
    let now = Clock::System.now();
    let material = Material {
        entries: &entries,
        train: &train,
        calibrate: &calibrate,
        promise: input.promise,
        now,
    };
    build(&dir, material, embedder, progress)?;
    let generation = Generation::open(&dir).map_err(|e| EvalError::Input(e.to_string()))?;
    let rows = score(&generation, &queries, embedder, progress)?;
    let threshold = generation.gate.threshold;
    Ok(GateReport {
        alpha: input.promise.alpha,
        confidence: input.promise.confidence,
        threshold: threshold.map(|t| t.value),
        promised: generation.gate.promised(),
        metrics: measure(&rows, threshold.map(|t| t.value)),
    })
}

/// A message that a hard rule, a greeting or noise decides has no confidence: it is never an
/// automatic answer from the knowledge.
fn score(
    generation: &Generation,
    queries: &[Labelled],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Vec<ScoredRow>, EvalError> {
    let now = Clock::System.now();
    let mut bench = Bench { index: &generation.index, embedder, now, progress };
    let messages = bench.messages(queries)?;
    let mut rows = Vec::with_capacity(messages.len());
    for (message, query) in messages.iter().zip(queries) {
        let answerable = query.answer.is_some();
        let observed = bench.observe(std::slice::from_ref(message), generation.head.as_ref())?;
        rows.push(match observed.first() {
            Some(seen) => ScoredRow {
                confidence: generation.gate.confidence(&seen.features),
                answerable,
                correct: seen.correct,
            },
            None => ScoredRow { confidence: 0.0, answerable, correct: false },
        });
    }
    Ok(rows)
}
