//! `eval gate`: what would go out by itself, how often that is right, and what it costs in coverage.

use std::path::PathBuf;
use std::sync::Arc;

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
use crate::search::layers::Layers;

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

/// One message as it was judged, for whoever wants to see what is behind a figure.
#[derive(Clone, Debug, Serialize)]
pub struct GateRow {
    pub text: String,
    /// What was searched for.
    pub question: String,
    /// The label; `null` when no entry answers.
    pub kb_id: Option<String>,
    pub confidence: f32,
    /// False: a hard rule, a greeting or noise decides this message.
    pub gated: bool,
    /// Whether the best evidence is the labelled entry.
    pub correct: bool,
    /// The best evidence's entry.
    pub best: Option<String>,
}

/// The report and the rows behind it.
pub fn run(
    input: &GateInput,
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<(GateReport, Vec<GateRow>), EvalError> {
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
        known: None,
    };
    build(&dir, material, embedder, progress)?;
    let generation = Generation::open(&dir).map_err(|e| EvalError::Input(e.to_string()))?;
    let rows = score(&generation, &queries, embedder, progress)?;
    let scored: Vec<ScoredRow> = rows
        .iter()
        .map(|row| ScoredRow {
            confidence: row.confidence,
            answerable: row.kb_id.is_some(),
            correct: row.correct,
        })
        .collect();
    let threshold = generation.gate.threshold;
    let report = GateReport {
        alpha: input.promise.alpha,
        confidence: input.promise.confidence,
        threshold: threshold.map(|t| t.value),
        promised: generation.gate.promised(),
        metrics: measure(&scored, threshold.map(|t| t.value)),
    };
    Ok((report, rows))
}

/// A message that a hard rule, a greeting or noise decides has no confidence: it is never an
/// automatic answer from the knowledge.
fn score(
    generation: &Generation,
    queries: &[Labelled],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Vec<GateRow>, EvalError> {
    let now = Clock::System.now();
    let knowledge = Layers::of(Arc::clone(&generation.index));
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress };
    let messages = bench.messages(queries)?;
    let mut rows = Vec::with_capacity(messages.len());
    for (message, query) in messages.iter().zip(queries) {
        let found = bench.find(message, generation.head.as_ref())?;
        let best = found.evidence.first().map(|e| e.id.clone());
        let seen = found.features.filter(|_| message.gated);
        rows.push(GateRow {
            text: query.text.clone(),
            question: message.question.clone(),
            kb_id: query.answer.as_ref().map(ToString::to_string),
            confidence: seen.map_or(0.0, |features| generation.gate.confidence(&features)),
            gated: message.gated,
            correct: best.is_some() && best == query.answer,
            best: best.map(|id| id.0),
        });
    }
    Ok(rows)
}
