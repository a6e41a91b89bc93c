//! `eval gate`: what would go out by itself, how often that is right, and what it costs in coverage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::base::clock::Clock;
use crate::base::random::SplitMix64;
use crate::domain::knowledge::Domain;
use crate::domain::label::Labelled;
use crate::engine::embed::EmbedWorker;
use crate::eval::retrieval::knowledge;
use crate::eval::splits::{self, Judged, Parts, SplitReport};
use crate::eval::{EvalError, read_all};
use crate::gate::metrics::{GateMetrics, Intervals, ScoredRow, bootstrap, measure};
use crate::gate::observation::Leaves;
use crate::gate::threshold::Promise;
use crate::pipeline::draft;
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{FitError, FitProgress, Fitted, build_index, fit};
use crate::pipeline::observe::{Bench, Message, tells_unanswerable};
use crate::search::layers::Layers;
use crate::search::synonyms::Synonyms;
use crate::search::telling::{self, Asked};

/// Keys as scripts know them; the metrics' own follow.
#[derive(Clone, Debug, Serialize)]
pub struct GateReport {
    pub alpha: f64,
    pub confidence: f64,
    /// The strictest of those that let anything out; `null` when nothing may go out by itself.
    pub threshold: Option<f32>,
    /// Of domains whose labels suffice to judge them alone; `null` where nothing of one goes out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub threshold_by_domain: BTreeMap<Domain, Option<f32>>,
    /// Whether the bound was shown on unseen labels.
    pub promised: bool,
    /// Queries labelled with an entry that the knowledge does not hold: they count as unanswerable.
    pub unknown_answers: usize,
    #[serde(flatten)]
    pub metrics: GateMetrics,
    #[serde(flatten)]
    pub intervals: Intervals,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splits: Option<SplitReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels_curve: Vec<CurvePoint>,
}

/// What some of the labels would have brought.
#[derive(Clone, Debug, Serialize)]
pub struct CurvePoint {
    pub labels: usize,
    pub order: Order,
    pub promised: bool,
    pub precision: Option<f64>,
    pub answerable_covered: Option<f64>,
    pub oos_answered: Option<f64>,
}

/// Which labels come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As the service asks for them.
    Asked,
    /// By lot.
    Random,
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
    /// How often calibration messages and queries are divided anew; 0: not at all.
    pub splits: usize,
    /// Numbers of labels to fit with, in both orders.
    pub curve: Vec<usize>,
    pub synonyms: Synonyms,
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
    let now = Clock::System.now();
    let dir = folder.path().join("generation");
    let mut embedding = Embedding::new(embedder, Vec::new());
    let index = build_index(&dir, &entries, &input.synonyms, &mut embedding, progress)?;
    let knowledge = Layers::of(Arc::new(index));
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress };
    let fitted = fit(&mut bench, &train, &calibrate, input.promise)?;
    let messages = bench.messages(&queries)?;
    let judged = judge(&bench, &fitted, &messages)?;
    let threshold = fitted.gate.strictest();
    let own = fitted.gate.thresholds.by_domain.iter();
    let scored: Vec<ScoredRow> = judged.iter().map(|(judged, _)| judged.row).collect();
    let splits = (input.splits > 0).then(|| divided(&bench, &fitted, &messages, input));
    let report = GateReport {
        alpha: input.promise.alpha,
        confidence: input.promise.confidence,
        threshold,
        threshold_by_domain: own.map(|(domain, t)| (*domain, t.map(|t| t.value))).collect(),
        promised: fitted.gate.promised(),
        unknown_answers: unknown_answers(&queries, &messages),
        metrics: measure(&scored),
        intervals: bootstrap(&scored),
        splits: splits.transpose()?,
        labels_curve: curve(&mut bench, &train, &messages, input)?,
    };
    let rows =
        queries.iter().zip(&messages).zip(judged).map(|((query, message), (judged, best))| {
            GateRow {
                text: query.text.clone(),
                question: message.question.clone(),
                kb_id: query.answer.as_ref().map(ToString::to_string),
                confidence: judged.row.confidence,
                gated: judged.gated,
                correct: judged.row.correct,
                best,
            }
        });
    Ok((report, rows.collect()))
}

fn unknown_answers(queries: &[Labelled], messages: &[Message]) -> usize {
    let unknown = |(query, message): &(&Labelled, &Message)| {
        query.answer.is_some() && message.answer.is_none()
    };
    queries.iter().zip(messages).filter(unknown).count()
}

/// Each message with the id of its best evidence. One that a hard rule, a greeting or noise decides
/// has no confidence: it is never an automatic answer from the knowledge.
fn judge(
    bench: &Bench<'_>,
    fitted: &Fitted,
    messages: &[Message],
) -> Result<Vec<(Judged, Option<String>)>, FitError> {
    let index = bench.knowledge.base();
    let mut all = Vec::with_capacity(messages.len());
    for message in messages {
        let found = bench.find(message, fitted.learned.ranking.trained())?;
        let best = found.evidence.first();
        let seen = found.features.filter(|_| message.gated);
        let confidence = seen.map_or(0.0, |features| fitted.gate.confidence(&features));
        let leaves = best.map_or(Leaves::Never, draft::leaves);
        let gated = message.gated && leaves == Leaves::Approved;
        let row = ScoredRow {
            confidence,
            sent: gated && best.is_some_and(|b| fitted.gate.admits(confidence, b.domain, leaves)),
            answerable: message.answer.is_some(),
            correct: best
                .zip(message.answer)
                .is_some_and(|(best, answer)| index.answers(&best.id, answer)),
        };
        let domain = best.map_or(Domain::General, |best| best.domain);
        let best = best.map(|best| best.id.0.clone());
        all.push((Judged { row, gated, domain, without: None }, best));
    }
    Ok(all)
}

fn divided(
    bench: &Bench<'_>,
    fitted: &Fitted,
    queries: &[Message],
    input: &GateInput,
) -> Result<SplitReport, FitError> {
    let told = tells_unanswerable(&fitted.calibrate);
    let part = |messages: &[Message]| -> Result<Vec<Judged>, FitError> {
        let judged = judge(bench, fitted, messages)?;
        let mut part: Vec<Judged> = judged.into_iter().map(|(judged, _)| judged).collect();
        if !told {
            let messages: Vec<&Message> = messages.iter().collect();
            for (at, seen) in bench.without_answer(&fitted.learned, &messages)? {
                part[at].without = Some(fitted.gate.confidence(&seen.features));
            }
        }
        Ok(part)
    };
    let (calibrate, queries) = (part(&fitted.calibrate)?, part(queries)?);
    let parts = Parts {
        calibrate: &calibrate,
        queries: &queries,
        promise: input.promise,
        start: fitted.gate.start,
    };
    Ok(splits::divide(&parts, input.splits, 1))
}

/// Fits with the first of the labels, in the order in which the service asks for them and by lot.
fn curve(
    bench: &mut Bench<'_>,
    labels: &[Labelled],
    queries: &[Message],
    input: &GateInput,
) -> Result<Vec<CurvePoint>, EvalError> {
    let Some(most) = input.curve.iter().max() else { return Ok(Vec::new()) };
    let mut by_lot: Vec<usize> = (0..labels.len()).collect();
    SplitMix64::new(1).shuffle(&mut by_lot);
    // What was never asked about has no order of its own.
    by_lot.truncate(telling::MOST_MESSAGES);
    let pool: Vec<Labelled> = by_lot.iter().map(|at| labels[*at].clone()).collect();
    let messages = bench.messages(&pool)?;
    let vectors: Vec<&[f32]> = messages.iter().map(|m| m.vector.as_slice()).collect();
    let known = bench.knowledge.base().phrasing_vectors()?;
    let asked = telling::first(&vectors, &known, *most)?;
    let mut points = Vec::new();
    for &count in &input.curve {
        for order in [Order::Asked, Order::Random] {
            let (first, calibrate) = match order {
                Order::Asked => asked_about(&pool, asked.iter().take(count)),
                Order::Random => (pool.iter().take(count).cloned().collect(), Vec::new()),
            };
            let labels = first.len() + calibrate.len();
            let fitted = fit(bench, &first, &calibrate, input.promise)?;
            let rows = judge(bench, &fitted, queries)?;
            let scored: Vec<ScoredRow> = rows.into_iter().map(|(judged, _)| judged.row).collect();
            let metrics = measure(&scored);
            points.push(CurvePoint {
                labels,
                order,
                promised: fitted.gate.promised(),
                precision: metrics.precision,
                answerable_covered: metrics.answerable_covered,
                oos_answered: metrics.oos_answered,
            });
        }
    }
    Ok(points)
}

/// Labels to fit on, and those for the threshold: the ones that were drawn by lot.
fn asked_about<'a>(
    pool: &[Labelled],
    asked: impl Iterator<Item = &'a Asked>,
) -> (Vec<Labelled>, Vec<Labelled>) {
    let (drawn, chosen): (Vec<&Asked>, Vec<&Asked>) = asked.partition(|asked| asked.drawn);
    let labels = |of: Vec<&Asked>| of.into_iter().map(|a| pool[a.message].clone()).collect();
    (labels(chosen), labels(drawn))
}
