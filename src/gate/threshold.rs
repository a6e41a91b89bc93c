//! Where automatic replies begin, so that the share of wrong ones keeps a bound.
//!
//! Learn-then-test (Angelopoulos, Bates, Candès, Jordan, Lei 2021) with the exact binomial bound
//! of selection with guaranteed risk (Geifman & El-Yaniv 2017): every threshold t of a fixed grid
//! has the null hypothesis "of the replies with confidence ≥ t, more than α are wrong". Its exact
//! p-value after k errors among n replies is P(Binomial(n, α) ≤ k); p ≤ δ says the same as "the
//! Clopper–Pearson upper bound of the error share at level 1 − δ is ≤ α". Hypotheses are tested
//! from a start down and the first that stands ends the walk, so the whole walk errs with
//! probability ≤ δ without any correction for their number.
//!
//! Where a walk starts must be known before the calibration rows are seen. Strict thresholds select
//! few rows, and a single wrong one there ends the walk, so the best start is the threshold whose
//! proof other rows promise to be easiest ([`likeliest`]). That walk spends most of δ; one from the
//! strict end spends the rest, should the other rows have misled.
//!
//! What it rests on: calibration rows the model never saw, drawn like the messages to come.
//! Thresholds that select too few rows are passed over by count alone; that is exact as long as
//! the true error share does not rise with the confidence.

use serde::{Deserialize, Serialize};

use crate::gate::binomial;

/// A confidence and whether the automatic reply would have been right; never right for a message
/// that no entry answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub confidence: f32,
    pub correct: bool,
}

/// The promise an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// Highest share of wrong automatic replies, α.
    pub alpha: f64,
    /// Probability 1 − δ with which the bound holds.
    pub confidence: f64,
}

impl Default for Promise {
    fn default() -> Self {
        Self { alpha: 0.03, confidence: 0.95 }
    }
}

impl Promise {
    fn delta(self) -> f64 {
        1.0 - self.confidence
    }

    /// Fewest calibration rows with which the promise could be shown at all: every one selected
    /// and none wrong. `None` for an α or confidence outside 0 to 1.
    pub fn rows_needed(self) -> Option<usize> {
        binomial::trials_needed(0, self.alpha, self.delta())
    }
}

/// A fitted threshold and what it was fitted on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Replies with at least this confidence go out.
    pub value: f32,
    pub alpha: f64,
    pub confidence: f64,
    /// Rows at or above the threshold, and how many of them were wrong.
    pub n_selected: usize,
    pub errors: usize,
    /// All rows that it was chosen from.
    pub rows: usize,
    /// False where the bound was not shown on unseen labels.
    pub promised: bool,
}

/// Share of δ that the walk from a [`likeliest`] start spends.
const LIKELY_SHARE: f64 = 0.8;

/// The loosest threshold that keeps the promise, or `None`: then nothing goes out by itself. `start`
/// must come from other rows.
pub fn select(outcomes: &[Outcome], promise: Promise, start: Option<f32>) -> Option<Threshold> {
    let sorted = Sorted::new(outcomes);
    let delta = promise.delta();
    let from_strict = |level| {
        let fewest = first_test_size(outcomes.len(), promise.alpha, level)?;
        sorted.walk(grid(), fewest, promise.alpha, level)
    };
    let value = match start {
        None => from_strict(delta),
        Some(start) => {
            let looser = grid().filter(|value| *value <= start);
            sorted
                .walk(looser, 1, promise.alpha, LIKELY_SHARE * delta)
                .or_else(|| from_strict((1.0 - LIKELY_SHARE) * delta))
        }
    }?;
    Some(sorted.threshold(value, promise, true))
}

/// The threshold whose bound would be easiest to show on `rows` calibration rows, if they were like
/// these; `weights` says how much each of these counts.
pub fn likeliest(
    outcomes: &[Outcome],
    weights: &[f64],
    rows: usize,
    promise: Promise,
) -> Option<f32> {
    let scale = rows as f64 / weights.iter().sum::<f64>();
    let level = |value: &f32| {
        let (mut selected, mut wrong) = (0.0, 0.0);
        for (outcome, weight) in outcomes.iter().zip(weights) {
            if outcome.confidence >= *value {
                selected += weight * scale;
                wrong += if outcome.correct { 0.0 } else { weight * scale };
            }
        }
        binomial::cdf(wrong.ceil() as usize, selected as usize, promise.alpha)
    };
    let levels = grid().map(|value| (value, level(&value))).filter(|(_, level)| *level < 1.0);
    levels.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(value, _)| value)
}

/// What a threshold is taken from where rows are too few or too unlike real messages for a bound.
#[derive(Clone, Copy, Debug)]
pub struct Unproven<'a> {
    pub seen: &'a [Outcome],
    /// How much each of them counts.
    pub weights: &'a [f64],
    /// The mean of 1 − confidence may come to so much.
    pub risk: f64,
}

/// The loosest threshold above which the mean of 1 − confidence stays within the risk, if `unseen`
/// outcomes do not speak against it. Never promised.
///
/// Few unseen rows must refute the promise to close the gate. Twice [`Promise::rows_needed`] say
/// more: the threshold is then the loosest at which no more than α of them are wrong as well.
pub fn unproven(from: &Unproven<'_>, unseen: &[Outcome], promise: Promise) -> Option<Threshold> {
    let within = |value: &f32| {
        let (mut wrong, mut total) = (0.0, 0.0);
        for (outcome, weight) in from.seen.iter().zip(from.weights) {
            if outcome.confidence >= *value {
                wrong += weight * (1.0 - f64::from(outcome.confidence));
                total += weight;
            }
        }
        total > 0.0 && wrong <= from.risk * total
    };
    let rows_needed = promise.rows_needed()?;
    let sorted = Sorted::new(unseen);
    let value = if unseen.len() < 2 * rows_needed {
        let loosest = grid().filter(within).last()?;
        Some(loosest).filter(|value| !sorted.refutes(*value, promise))
    } else {
        let shown = |value: &f32| {
            let (n_selected, errors) = sorted.at_or_above(*value);
            n_selected >= rows_needed && errors as f64 <= promise.alpha * n_selected as f64
        };
        grid().filter(within).filter(shown).last()
    }?;
    Some(Sorted::new(from.seen).threshold(value, promise, false))
}

/// Thresholds from strict to loose, in even steps of log-odds since confidences crowd near 1;
/// known before any row is seen.
fn grid() -> impl Iterator<Item = f32> {
    (-60..=180).rev().map(|step| {
        let log_odds = f64::from(step) / 20.0;
        (1.0 / (1.0 + (-log_odds).exp())) as f32
    })
}

/// Rows that the first tested threshold must select. One error should not end the walk at its
/// first step, so it waits for enough rows to bear one, unless that takes more than half of them.
fn first_test_size(rows: usize, alpha: f64, level: f64) -> Option<usize> {
    let clean = binomial::trials_needed(0, alpha, level)?;
    let one_error = binomial::trials_needed(1, alpha, level)?;
    Some(one_error.min(clean.max(rows / 2)))
}

/// Outcomes by falling confidence, with running error counts.
struct Sorted {
    confidences: Vec<f32>,
    /// `errors[n]`: wrong ones among the `n` most confident.
    errors: Vec<usize>,
}

impl Sorted {
    fn new(outcomes: &[Outcome]) -> Self {
        let mut outcomes = outcomes.to_vec();
        outcomes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        let mut errors = vec![0];
        let mut count = 0;
        for outcome in &outcomes {
            count += usize::from(!outcome.correct);
            errors.push(count);
        }
        Self { confidences: outcomes.iter().map(|o| o.confidence).collect(), errors }
    }

    /// The last of falling values whose bound is shown before one fails; values that select fewer
    /// than `fewest` rows are passed over.
    fn walk(
        &self,
        values: impl Iterator<Item = f32>,
        fewest: usize,
        alpha: f64,
        level: f64,
    ) -> Option<f32> {
        let mut chosen = None;
        for value in values {
            let (n_selected, errors) = self.at_or_above(value);
            if n_selected < fewest {
                continue;
            }
            if binomial::cdf(errors, n_selected, alpha) > level {
                break;
            }
            chosen = Some(value);
        }
        chosen
    }

    /// True when the outcomes refute "at most α of the replies at or above `value` are wrong".
    fn refutes(&self, value: f32, promise: Promise) -> bool {
        let (n_selected, errors) = self.at_or_above(value);
        binomial::upper_tail(errors, n_selected, promise.alpha) <= promise.delta()
    }

    /// Rows with confidence ≥ `value` and the wrong ones among them; equal confidences stay together.
    fn at_or_above(&self, value: f32) -> (usize, usize) {
        let n = self.confidences.partition_point(|c| *c >= value);
        (n, self.errors[n])
    }

    fn threshold(&self, value: f32, promise: Promise, promised: bool) -> Threshold {
        let (n_selected, errors) = self.at_or_above(value);
        let rows = self.confidences.len();
        let Promise { alpha, confidence } = promise;
        Threshold { value, alpha, confidence, n_selected, errors, rows, promised }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::SplitMix64;

    fn outcome(confidence: f32, correct: bool) -> Outcome {
        Outcome { confidence, correct }
    }

    #[test]
    fn too_few_rows_promise_nothing() {
        let clean: Vec<Outcome> = (0..60).map(|_| outcome(0.99, true)).collect();
        assert_eq!(select(&clean, Promise::default(), None), None);
        assert_eq!(Promise::default().rows_needed(), Some(99));
        let enough: Vec<Outcome> = (0..99).map(|_| outcome(0.99, true)).collect();
        let threshold = select(&enough, Promise::default(), None).expect("99 clean rows show 3 %");
        assert_eq!((threshold.n_selected, threshold.errors), (99, 0));
        assert!(threshold.promised && threshold.rows == 99);
    }

    #[test]
    fn equal_confidences_are_taken_or_left_together() {
        // 200 clean rows, then 100 equal ones of which every second is wrong.
        let mut rows: Vec<Outcome> = (0..200).map(|_| outcome(0.95, true)).collect();
        rows.extend((0..100).map(|i| outcome(0.80, i % 2 == 0)));
        let threshold = select(&rows, Promise::default(), None).expect("the clean rows suffice");
        assert_eq!((threshold.n_selected, threshold.errors), (200, 0));
        assert!(threshold.value > 0.80 && threshold.value <= 0.95);
    }

    #[test]
    fn a_bad_top_closes_the_gate() {
        // The most confident fifth is wrong half of the time: looser thresholds are never reached,
        // though the whole would pass at α = 0.2.
        let mut rows: Vec<Outcome> = (0..200).map(|i| outcome(0.99, i % 2 == 0)).collect();
        rows.extend((0..800).map(|_| outcome(0.5, true)));
        assert_eq!(select(&rows, Promise { alpha: 0.2, confidence: 0.95 }, None), None);
    }

    #[test]
    fn nonsense_promises_are_never_kept() {
        let rows: Vec<Outcome> = (0..500).map(|_| outcome(0.9, true)).collect();
        for (alpha, confidence) in [(0.0, 0.95), (1.0, 0.95), (0.03, 1.0), (0.03, 0.0)] {
            assert_eq!(select(&rows, Promise { alpha, confidence }, None), None);
        }
        assert_eq!(select(&[], Promise::default(), None), None);
    }

    #[test]
    fn refuted_only_by_clearly_too_many_errors() {
        let promise = Promise { alpha: 0.1, confidence: 0.95 };
        let rows = |wrong: usize| -> Sorted {
            Sorted::new(&(0..30).map(|i| outcome(0.9, i >= wrong)).collect::<Vec<_>>())
        };
        assert!(!rows(4).refutes(0.8, promise), "4 of 30 happen often enough at 10 %");
        assert!(rows(8).refutes(0.8, promise));
        assert!(!rows(30).refutes(0.95, promise), "nothing is selected there");
    }

    #[test]
    fn expected_risk_opens_to_the_stated_mean() {
        let rows: Vec<Outcome> = (0..100).map(|i| outcome(1.0 - i as f32 / 100.0, true)).collect();
        let from = Unproven { seen: &rows, weights: &[1.0; 100], risk: 0.06 };
        let found = unproven(&from, &[], Promise::default()).expect("the top is safe");
        // 1 − c runs 0, 0.01, …: the mean of the first n is (n − 1)/200 ≤ 0.06 up to n = 13.
        assert!((11..=13).contains(&found.n_selected), "{}", found.n_selected);
        assert!(!found.promised);
    }

    #[test]
    fn many_unseen_rows_move_an_unproven_threshold_to_where_they_agree() {
        let promise = Promise { alpha: 0.1, confidence: 0.95 };
        let seen: Vec<Outcome> = (0..100).map(|i| outcome(1.0 - i as f32 / 500.0, true)).collect();
        let from = Unproven { seen: &seen, weights: &[1.0; 100], risk: 0.09 };
        let open = |unseen: &[Outcome]| unproven(&from, unseen, promise);
        let loosest = open(&[]).expect("nothing speaks against it").value;
        // The lower half of the unseen is wrong in a third of the cases, the upper half never.
        let unseen: Vec<Outcome> =
            (0..200).map(|i| outcome(1.0 - i as f32 / 1000.0, i < 100 || i % 3 > 0)).collect();
        let found = open(&unseen).expect("the upper half agrees");
        assert!(found.value > loosest && !found.promised, "{} {loosest}", found.value);
        let contrary: Vec<Outcome> =
            unseen.iter().map(|o| Outcome { correct: false, ..*o }).collect();
        assert_eq!(open(&contrary), None);
    }

    /// The true error share above the threshold exceeds α in at most δ of the draws.
    #[test]
    fn the_promise_holds_over_many_draws() {
        const DRAWS: usize = 400;
        let promise = Promise { alpha: 0.05, confidence: 0.9 };
        // Confidence u ~ U(0, 1) is right with probability u^0.3: overconfident rows exist, and
        // the error share above t is known in closed form:
        // 1 − ∫ₜ¹ u^0.3 du / (1 − t) = 1 − (1 − t^1.3) / (1.3 (1 − t)).
        let risk = |t: f64| 1.0 - (1.0 - t.powf(1.3)) / (1.3 * (1.0 - t));
        let mut dice = SplitMix64::new(7);
        let mut draw = |n: usize| -> Vec<Outcome> {
            (0..n)
                .map(|_| {
                    let u = f64::from(dice.unit());
                    outcome(u as f32, f64::from(dice.unit()) < u.powf(0.3))
                })
                .collect()
        };
        for hinted in [false, true] {
            let (mut broken, mut opened) = (0, 0);
            for _ in 0..DRAWS {
                let (rows, others) = (draw(1500), draw(500));
                let start = likeliest(&others, &[1.0; 500], rows.len(), promise);
                if let Some(threshold) = select(&rows, promise, start.filter(|_| hinted)) {
                    opened += 1;
                    broken += usize::from(risk(f64::from(threshold.value)) > promise.alpha);
                }
            }
            assert!(opened > DRAWS / 2, "the test would be empty: {opened}");
            // Slack: that many broken draws or more happen with probability < 1 % at rate δ.
            let p_value = binomial::upper_tail(broken, DRAWS, promise.delta());
            assert!(p_value > 0.01, "{broken} of {DRAWS} draws broke the promise");
        }
    }

    #[test]
    fn a_misleading_start_leaves_a_walk_that_bears_one_error() {
        // Even confidences, the most confident one wrong; a start far below all rows is no help.
        let rows: Vec<Outcome> =
            (0..600).map(|i| outcome(0.99 - i as f32 / 1200.0, i > 0)).collect();
        let promise = Promise::default();
        let found = select(&rows, promise, Some(0.05)).expect("599 of 600 are right");
        assert!(found.promised && found.n_selected >= 219, "{found:?}");
    }

    #[test]
    fn a_likely_start_is_not_ended_by_one_wrong_row_at_the_top() {
        // The two most confident of 400 rows are wrong: the first half cannot show 3 %, all can.
        let rows: Vec<Outcome> =
            (0..400).map(|i| outcome(0.99 - i as f32 / 1000.0, i > 3)).collect();
        let promise = Promise::default();
        assert_eq!(select(&rows, promise, None), None);
        let start = likeliest(&rows, &[1.0; 400], 400, promise).expect("all rows are best");
        let threshold = select(&rows, promise, Some(start)).expect("4 of 400 show 3 %");
        assert_eq!((threshold.n_selected, threshold.errors), (400, 4));
        let misled = select(&rows, promise, Some(0.985));
        assert_eq!(misled, None, "a start that does not hold is no start");
    }
}
