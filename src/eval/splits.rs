//! Does the promise hold? Calibration messages and queries are mixed and divided anew many times;
//! each time the threshold is fitted on one part and tried on the other.

use serde::Serialize;

use crate::base::random::SplitMix64;
use crate::domain::knowledge::Domain;
use crate::gate::metrics::{ScoredRow, measure};
use crate::gate::strata::Strata;
use crate::gate::threshold::{self, Outcome, Promise};
use crate::pipeline::observe::ASK_WITHOUT;

/// One message of either part, judged by a head and a gate that were fitted on neither.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    pub row: ScoredRow,
    /// False: a hard rule, a greeting or noise decides this message, or its best evidence cannot go
    /// out as it stands; no threshold is fitted on it.
    pub gated: bool,
    /// Of the best evidence.
    pub domain: Domain,
    /// The confidence had its entry been taken out, where that was asked.
    pub without: Option<f32>,
}

/// The parts as they were given.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub calibrate: &'a [Judged],
    pub queries: &'a [Judged],
    pub promise: Promise,
    /// As [`threshold::select`] takes it.
    pub start: Option<f32>,
}

/// Shares over the divisions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitReport {
    pub n: usize,
    /// Of the divisions in which anything went out, those in which at most α of it was wrong.
    pub held: f64,
    /// Divisions in which anything went out.
    pub opened: f64,
    /// Means over those that opened, and what a tenth of them does not reach.
    pub precision: f64,
    pub precision_p10: f64,
    pub answerable_covered: f64,
    pub answerable_covered_p10: f64,
    pub oos_answered: f64,
}

/// Divides `n` times. Parts keep their sizes; unanswerable messages change places only if there are
/// some on both sides.
pub fn divide(parts: &Parts<'_>, n: usize, seed: u64) -> SplitReport {
    let mut random = SplitMix64::new(seed);
    let by_answer = |of: &[Judged], answerable| -> Vec<Judged> {
        of.iter().filter(|j| j.row.answerable == answerable).copied().collect()
    };
    let kinds = [true, false].map(|a| (by_answer(parts.calibrate, a), by_answer(parts.queries, a)));
    let mut precisions = Vec::new();
    let mut covered = Vec::new();
    let (mut held, mut outside) = (0, 0.0);
    for _ in 0..n {
        let (mut calibrate, mut queries) = (Vec::new(), Vec::new());
        for (left, right) in &kinds {
            let mut all = [left.as_slice(), right.as_slice()].concat();
            if !left.is_empty() {
                random.shuffle(&mut all);
            }
            queries.extend(all.split_off(left.len()));
            calibrate.extend(all);
        }
        let fitted = Strata::of(outcomes(&calibrate), parts.promise)
            .thresholds(|rows, each| threshold::select(rows, each, parts.start));
        let judged = |j: &Judged| {
            let sent = j.gated && fitted.of(j.domain).is_some_and(|t| j.row.confidence >= t.value);
            ScoredRow { sent, ..j.row }
        };
        let metrics = measure(&queries.iter().map(judged).collect::<Vec<_>>());
        if let Some(precision) = metrics.precision {
            held += usize::from(precision >= 1.0 - parts.promise.alpha);
            precisions.push(precision);
            covered.push(metrics.answerable_covered.unwrap_or(0.0));
            outside += metrics.oos_answered.unwrap_or(0.0);
        }
    }
    let opened = precisions.len();
    SplitReport {
        n,
        held: held as f64 / opened.max(1) as f64,
        opened: opened as f64 / n.max(1) as f64,
        precision: mean(&precisions),
        precision_p10: tenth(&mut precisions),
        answerable_covered: mean(&covered),
        answerable_covered_p10: tenth(&mut covered),
        oos_answered: outside / opened.max(1) as f64,
    }
}

fn outcomes(calibrate: &[Judged]) -> impl Iterator<Item = (Domain, Outcome)> {
    let gated = || calibrate.iter().filter(|j| j.gated);
    let own = gated().map(|j| {
        let correct = j.row.answerable && j.row.correct;
        (j.domain, Outcome { confidence: j.row.confidence, correct })
    });
    let asked_without = gated().filter_map(|j| Some((j.domain, j.without?))).step_by(ASK_WITHOUT);
    let wrong =
        asked_without.map(|(domain, confidence)| (domain, Outcome { confidence, correct: false }));
    own.chain(wrong)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The value that a tenth of all do not reach.
fn tenth(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 10).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Confidence `u` is right with probability `u`, but for the last tenth of a part that nothing
    /// answers.
    fn part(n: usize, seed: u64) -> Vec<Judged> {
        let mut dice = SplitMix64::new(seed);
        (0..n)
            .map(|at| {
                let confidence = dice.unit();
                let answerable = at < n * 9 / 10;
                let correct = answerable && dice.unit() < confidence.powf(0.08);
                let confidence = if answerable { confidence } else { confidence / 4.0 };
                let row = ScoredRow { confidence, sent: false, answerable, correct };
                Judged { row, gated: true, domain: Domain::General, without: None }
            })
            .collect()
    }

    #[test]
    fn an_honest_gate_holds_and_a_misled_one_does_not() {
        let promise = Promise { alpha: 0.05, confidence: 0.95 };
        let (calibrate, queries) = (part(1500, 1), part(1500, 2));
        let parts = Parts { calibrate: &calibrate, queries: &queries, promise, start: None };
        let report = divide(&parts, 100, 3);
        assert!(report.opened > 0.9 && report.held > 0.85, "{report:?}");
        assert!(report.answerable_covered > 0.3 && report.precision_p10 > 0.93, "{report:?}");
        assert_eq!(divide(&parts, 100, 3), report, "the seed decides");
        // Unanswerable queries that look sure, and none in calibration to warn of them.
        let only_answerable: Vec<Judged> =
            calibrate.iter().filter(|j| j.row.answerable).copied().collect();
        let mut deceiving = queries.clone();
        deceiving.iter_mut().filter(|j| !j.row.answerable).for_each(|j| j.row.confidence = 0.99);
        let misled = Parts { calibrate: &only_answerable, queries: &deceiving, ..parts };
        let report = divide(&misled, 100, 3);
        assert!(report.held < 0.1 && report.oos_answered > 0.9, "{report:?}");
    }
}
