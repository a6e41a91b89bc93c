//! Figures of a gate on scored rows: what it answers, how often rightly, how honest its confidence is.

use serde::Serialize;

use crate::base::random::SplitMix64;

/// One evaluated message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredRow {
    pub confidence: f32,
    /// It was answered automatically.
    pub sent: bool,
    /// False for a message that no entry answers.
    pub answerable: bool,
    /// True when the best evidence is the right entry.
    pub correct: bool,
}

/// Shares are between 0 and 1; `None` where there is nothing to take a share of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateMetrics {
    pub n: usize,
    pub n_oos: usize,
    /// Automatic replies among all messages.
    pub coverage: f64,
    /// Right ones among the automatic replies.
    pub precision: Option<f64>,
    /// Answerable messages that were automatically and rightly answered.
    pub answerable_covered: Option<f64>,
    /// Unanswerable messages that were answered all the same.
    pub oos_answered: Option<f64>,
    /// Area under the risk–coverage curve: the mean, over all coverages, of the error share.
    pub aurc: f64,
    /// Expected calibration error over ten bins of equal width.
    pub ece: f64,
    /// What the confidences said and what came of it, bin by bin, empty ones left out.
    pub reliability: Vec<Bin>,
    /// At most [`CURVE_POINTS`] pairs of coverage and precision, coverage rising.
    pub curve: Vec<[f64; 2]>,
}

/// Messages of similar confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub n: usize,
    /// Mean over the bin.
    pub confidence: f64,
    /// Share of those whose best evidence was right.
    pub right: f64,
}

/// 95 % intervals of shares: what other messages like these might have given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Intervals {
    pub precision_ci: Option<[f64; 2]>,
    pub answerable_covered_ci: Option<[f64; 2]>,
}

pub const CURVE_POINTS: usize = 50;
const BINS: usize = 10;
const RESAMPLES: usize = 1_000;

pub fn measure(rows: &[ScoredRow]) -> GateMetrics {
    let right = |r: &ScoredRow| r.answerable && r.correct;
    let sent: Vec<&ScoredRow> = rows.iter().filter(|r| r.sent).collect();
    let n_right = sent.iter().filter(|r| right(r)).count();
    let n_oos = rows.iter().filter(|r| !r.answerable).count();
    let oos_sent = sent.iter().filter(|r| !r.answerable).count();
    let steps = risk_coverage(rows);
    let reliability = reliability(rows);
    GateMetrics {
        n: rows.len(),
        n_oos,
        coverage: share(sent.len(), rows.len()).unwrap_or(0.0),
        precision: share(n_right, sent.len()),
        answerable_covered: share(n_right, rows.len() - n_oos),
        oos_answered: share(oos_sent, n_oos),
        aurc: aurc(&steps),
        ece: ece(&reliability),
        reliability,
        curve: curve(&steps),
    }
}

/// Percentile bootstrap (Efron & Tibshirani 1993): messages drawn with replacement, the gate as
/// it is.
pub fn bootstrap(rows: &[ScoredRow]) -> Intervals {
    let mut random = SplitMix64::new(1);
    let (mut precision, mut covered) = (Vec::new(), Vec::new());
    for _ in 0..RESAMPLES {
        let (mut sent, mut right, mut answerable) = (0, 0, 0);
        for _ in rows {
            let row = rows[(random.bits() % rows.len() as u64) as usize];
            sent += usize::from(row.sent);
            right += usize::from(row.sent && row.answerable && row.correct);
            answerable += usize::from(row.answerable);
        }
        precision.extend(share(right, sent));
        covered.extend(share(right, answerable));
    }
    Intervals { precision_ci: middle(precision), answerable_covered_ci: middle(covered) }
}

/// What lies between the lowest and the highest 2.5 %.
fn middle(mut values: Vec<f64>) -> Option<[f64; 2]> {
    values.sort_by(f64::total_cmp);
    let tail = values.len() / 40;
    let high = values.len().checked_sub(1 + tail)?;
    Some([values[tail], values[high]])
}

/// Expected calibration error: Σ over bins of (rows in bin / rows) · |mean confidence − share right|.
fn ece(bins: &[Bin]) -> f64 {
    let n: usize = bins.iter().map(|bin| bin.n).sum();
    let off = |bin: &Bin| bin.n as f64 * (bin.confidence - bin.right).abs();
    bins.iter().map(off).sum::<f64>() / n.max(1) as f64
}

fn reliability(rows: &[ScoredRow]) -> Vec<Bin> {
    let bin_of = |row: &ScoredRow| ((row.confidence * BINS as f32) as usize).min(BINS - 1);
    let bins = (0..BINS).filter_map(|bin| {
        let rows: Vec<&ScoredRow> = rows.iter().filter(|row| bin_of(row) == bin).collect();
        let n = rows.len();
        let right = rows.iter().filter(|row| row.answerable && row.correct).count();
        let confidence = rows.iter().map(|row| f64::from(row.confidence)).sum::<f64>() / n as f64;
        (n > 0).then(|| Bin { n, confidence, right: right as f64 / n as f64 })
    });
    bins.collect()
}

/// The rows at or above one distinct confidence.
struct Step {
    selected: usize,
    right: usize,
    total: usize,
}

impl Step {
    fn coverage(&self) -> f64 {
        self.selected as f64 / self.total as f64
    }

    fn precision(&self) -> f64 {
        self.right as f64 / self.selected as f64
    }
}

/// One step per distinct confidence, falling: equal confidences cannot be told apart.
fn risk_coverage(rows: &[ScoredRow]) -> Vec<Step> {
    let mut sorted: Vec<&ScoredRow> = rows.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut steps = Vec::new();
    let (mut selected, mut right) = (0, 0);
    for group in sorted.chunk_by(|a, b| a.confidence.total_cmp(&b.confidence).is_eq()) {
        selected += group.len();
        right += group.iter().filter(|r| r.answerable && r.correct).count();
        steps.push(Step { selected, right, total: rows.len() });
    }
    steps
}

fn aurc(steps: &[Step]) -> f64 {
    let mut before = 0.0;
    let mut area = 0.0;
    for step in steps {
        area += (step.coverage() - before) * (1.0 - step.precision());
        before = step.coverage();
    }
    area
}

fn curve(steps: &[Step]) -> Vec<[f64; 2]> {
    let points = steps.len().min(CURVE_POINTS);
    let at = |i: usize| &steps[(i + 1) * steps.len() / points - 1];
    (0..points).map(|i| [at(i).coverage(), at(i).precision()]).collect()
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent from 0.7 on.
    fn row(confidence: f32, answerable: bool, correct: bool) -> ScoredRow {
        ScoredRow { confidence, sent: confidence >= 0.7, answerable, correct }
    }

    fn unsent(rows: &[ScoredRow]) -> Vec<ScoredRow> {
        rows.iter().map(|row| ScoredRow { sent: false, ..*row }).collect()
    }

    #[test]
    fn figures_by_hand() {
        let rows = [
            row(0.95, true, true),
            row(0.85, true, false),
            row(0.75, false, false),
            row(0.25, true, true),
        ];
        let m = measure(&rows);
        assert_eq!((m.n, m.n_oos), (4, 1));
        assert_eq!(m.coverage, 0.75);
        assert_eq!(m.precision, Some(1.0 / 3.0));
        assert_eq!(m.answerable_covered, Some(1.0 / 3.0));
        assert_eq!(m.oos_answered, Some(1.0));
        // Error shares at coverage ¼, ½, ¾, 1: 0, ½, ⅔, ½.
        assert!((m.aurc - (0.0 + 0.5 + 2.0 / 3.0 + 0.5) / 4.0).abs() < 1e-12);
        // Each row in a bin of its own: 0.05, 0.85, 0.75, 0.75.
        assert!((m.ece - (0.05 + 0.85 + 0.75 + 0.75) / 4.0).abs() < 1e-6, "{}", m.ece);
        assert_eq!(m.reliability.len(), 4);
        assert_eq!((m.reliability[0].n, m.reliability[0].right), (1, 1.0));
        assert_eq!(m.curve.first(), Some(&[0.25, 1.0]));
        assert_eq!(m.curve.last(), Some(&[1.0, 0.5]));
    }

    #[test]
    fn intervals_are_as_wide_as_the_binomial_says() {
        let rows: Vec<ScoredRow> = (0..400).map(|i| row(0.9, true, i % 10 > 0)).collect();
        let [low, high] = bootstrap(&rows).precision_ci.unwrap();
        // ± 1.96 √(0.9 · 0.1 / 400) = ± 0.0294.
        assert!((low - 0.8706).abs() < 0.008 && (high - 0.9294).abs() < 0.008, "{low} {high}");
        let shut = bootstrap(&unsent(&rows));
        assert_eq!((shut.precision_ci, shut.answerable_covered_ci), (None, Some([0.0, 0.0])));
        assert_eq!(bootstrap(&[]).precision_ci, None);
    }

    #[test]
    fn a_closed_gate_answers_nothing() {
        let m = measure(&unsent(&[row(1.0, true, true)]));
        assert_eq!((m.coverage, m.precision, m.answerable_covered), (0.0, None, Some(0.0)));
        let empty = measure(&[]);
        assert_eq!((empty.n, empty.coverage, empty.aurc, empty.ece), (0, 0.0, 0.0, 0.0));
        assert!(empty.curve.is_empty());
    }

    #[test]
    fn the_curve_is_short_and_equal_confidences_are_one_point() {
        let rows: Vec<ScoredRow> =
            (0..1000).map(|i| row(i as f32 / 1000.0, true, i % 3 > 0)).collect();
        let m = measure(&rows);
        assert_eq!(m.curve.len(), CURVE_POINTS);
        assert!(m.curve.windows(2).all(|w| w[0][0] < w[1][0]));
        let tied: Vec<ScoredRow> = (0..10).map(|i| row(0.5, true, i % 2 == 0)).collect();
        assert_eq!(measure(&tied).curve, vec![[1.0, 0.5]]);
    }
}
