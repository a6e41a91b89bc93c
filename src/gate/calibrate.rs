//! From a score to a probability: Platt's sigmoid or isotonic steps, whichever predicts better.

use serde::{Deserialize, Serialize};

use crate::gate::logistic::{Logistic, Row, sigmoid};

/// A score and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    pub score: f64,
    pub correct: bool,
    pub weight: f64,
}

/// A rising map from scores to probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Calibrator {
    /// σ(slope · score + bias), slope ≥ 0.
    Platt { slope: f64, bias: f64 },
    /// Straight lines through `knots` (score, probability), both rising and flat beyond the ends,
    /// mixed with a tenth of Platt's sigmoid so that no two scores share a probability: the
    /// threshold must be able to fall between them.
    Isotonic { knots: Vec<(f64, f64)>, slope: f64, bias: f64 },
}

const FOLDS: usize = 5;
/// Share of the sigmoid in the isotonic map.
const TIE_BREAK: f64 = 0.1;
/// Fewer rows than this cannot tell the two methods apart, and steps overfit sooner.
const MIN_ISOTONIC_ROWS: usize = 200;

impl Calibrator {
    /// Chooses by cross-validated log-loss; Platt where there is no difference.
    pub fn fit(rows: &[Scored]) -> Self {
        if rows.len() < MIN_ISOTONIC_ROWS {
            return Self::platt(rows);
        }
        if cross_validated_loss(rows, Self::isotonic) < cross_validated_loss(rows, Self::platt) {
            Self::isotonic(rows)
        } else {
            Self::platt(rows)
        }
    }

    /// Platt (1999) with his smoothed targets (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), which keep the
    /// sigmoid finite on separable scores. Scores that rank backwards give the base rate.
    pub fn platt(rows: &[Scored]) -> Self {
        let (slope, bias) = fit_sigmoid(rows);
        Self::Platt { slope, bias }
    }

    /// Pool adjacent violators; a block's probability stands at its mean score and is kept
    /// 1/(rows + 2) away from 0 and 1, since no finite sample shows certainty.
    pub fn isotonic(rows: &[Scored]) -> Self {
        let (slope, bias) = fit_sigmoid(rows);
        Self::Isotonic { knots: pool_adjacent_violators(rows), slope, bias }
    }

    /// Probability that a row of this score is correct, between 0 and 1 and never either of them.
    pub fn probability(&self, score: f64) -> f64 {
        let probability = match self {
            Self::Platt { slope, bias } => sigmoid(slope * score + bias),
            Self::Isotonic { knots, slope, bias } => {
                let sigmoid = sigmoid(slope * score + bias);
                (1.0 - TIE_BREAK) * interpolate(knots, score) + TIE_BREAK * sigmoid
            }
        };
        // A slope fitted on scores that lie close together is so steep that the sigmoid is rounded to
        // certainty elsewhere.
        probability.clamp(f64::EPSILON, 1.0 - f64::EPSILON)
    }
}

/// Slope and bias by smoothed maximum likelihood.
fn fit_sigmoid(rows: &[Scored]) -> (f64, f64) {
    let of = |correct| rows.iter().filter(|r| r.correct == correct).map(|r| r.weight).sum();
    let (positive, negative): (f64, f64) = (of(true), of(false));
    let high = (positive + 1.0) / (positive + 2.0);
    let low = 1.0 / (negative + 2.0);
    let target = |r: &Scored| if r.correct { high } else { low };
    let row = |r: &Scored| Row { x: vec![r.score], target: target(r), weight: r.weight };
    let rows: Vec<Row> = rows.iter().map(row).collect();
    let model = Logistic::fit(&rows, 0.0);
    match model.weights.first() {
        Some(&slope) if slope > 0.0 => (slope, model.bias),
        _ => {
            let base = (positive + 1.0) / (positive + negative + 2.0);
            (0.0, (base / (1.0 - base)).ln())
        }
    }
}

/// Mean score and share of correct rows of each block, both rising.
fn pool_adjacent_violators(rows: &[Scored]) -> Vec<(f64, f64)> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| a.score.total_cmp(&b.score));
    let total: f64 = rows.iter().map(|r| r.weight).sum();
    let margin = 1.0 / (total + 2.0);
    let mut blocks: Vec<Block> = Vec::new();
    for row in &rows {
        let mut block = Block::of(row);
        while let Some(last) = blocks
            .pop_if(|last| last.rate() >= block.rate() || last.mean_score() >= block.mean_score())
        {
            block = block.joined(&last);
        }
        blocks.push(block);
    }
    let knot = |b: &Block| (b.mean_score(), b.rate().clamp(margin, 1.0 - margin));
    blocks.iter().map(knot).collect()
}

struct Block {
    weight: f64,
    correct: f64,
    score: f64,
}

impl Block {
    fn of(row: &Scored) -> Self {
        let correct = if row.correct { row.weight } else { 0.0 };
        Self { weight: row.weight, correct, score: row.score * row.weight }
    }

    fn joined(&self, other: &Self) -> Self {
        Self {
            weight: self.weight + other.weight,
            correct: self.correct + other.correct,
            score: self.score + other.score,
        }
    }

    fn rate(&self) -> f64 {
        self.correct / self.weight
    }

    fn mean_score(&self) -> f64 {
        self.score / self.weight
    }
}

fn interpolate(knots: &[(f64, f64)], score: f64) -> f64 {
    let after = knots.partition_point(|k| k.0 <= score);
    let right = knots.get(after);
    let left = after.checked_sub(1).and_then(|i| knots.get(i));
    match (left, right) {
        (Some(l), Some(r)) => l.1 + (r.1 - l.1) * (score - l.0) / (r.0 - l.0),
        (Some(only), None) | (None, Some(only)) => only.1,
        (None, None) => 0.5,
    }
}

/// Mean log-loss over rows that the fit did not see.
fn cross_validated_loss(rows: &[Scored], fit: fn(&[Scored]) -> Calibrator) -> f64 {
    let mut loss = 0.0;
    for fold in 0..FOLDS {
        let kept = rows.iter().enumerate().filter(|(i, _)| i % FOLDS != fold);
        let kept: Vec<Scored> = kept.map(|(_, r)| *r).collect();
        let calibrator = fit(&kept);
        for row in rows.iter().skip(fold).step_by(FOLDS) {
            let p = calibrator.probability(row.score);
            loss -= row.weight * if row.correct { p.ln() } else { (1.0 - p).ln() };
        }
    }
    loss / rows.iter().map(|r| r.weight).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pairs: &[(f64, bool)]) -> Vec<Scored> {
        pairs.iter().map(|&(score, correct)| Scored { score, correct, weight: 1.0 }).collect()
    }

    #[test]
    fn pool_adjacent_violators_by_hand() {
        // 0 1 0 1 1 → 0, then {1, 0} pooled to ½, then {1, 1}.
        let made = rows(&[(1.0, false), (2.0, true), (3.0, false), (4.0, true), (5.0, true)]);
        let margin = 1.0 / 7.0;
        let wanted = vec![(1.0, margin), (2.5, 0.5), (4.5, 1.0 - margin)];
        assert_eq!(pool_adjacent_violators(&made), wanted);
    }

    #[test]
    fn equal_scores_share_one_probability() {
        let made = rows(&[(1.0, false), (1.0, true), (1.0, false), (1.0, true)]);
        assert_eq!(pool_adjacent_violators(&made), vec![(1.0, 0.5)]);
        assert!((Calibrator::platt(&made).probability(1.0) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn platt_finds_the_sigmoid_that_made_the_labels() {
        // At each score, σ(2·score − 1) of 1000 rows are correct.
        let mut made = Vec::new();
        for step in -10..=10 {
            let score = f64::from(step) / 5.0;
            let share = sigmoid(2.0 * score - 1.0);
            made.push(Scored { score, correct: true, weight: 1000.0 * share });
            made.push(Scored { score, correct: false, weight: 1000.0 * (1.0 - share) });
        }
        let Calibrator::Platt { slope, bias } = Calibrator::platt(&made) else {
            panic!("not Platt");
        };
        assert!((slope - 2.0).abs() < 0.02 && (bias + 1.0).abs() < 0.02, "{slope} {bias}");
    }

    #[test]
    fn backward_scores_give_the_base_rate() {
        let made = rows(&[(0.0, true), (1.0, true), (2.0, false), (3.0, false)]);
        let fitted = Calibrator::platt(&made);
        assert!((fitted.probability(0.0) - 0.5).abs() < 1e-9);
        assert_eq!(fitted.probability(0.0), fitted.probability(9.0));
    }

    #[test]
    fn steps_win_where_the_truth_is_a_step() {
        // 10 % below 0.7, 90 % above: no sigmoid of a score in 0..1 has both flats.
        let made: Vec<Scored> = (0..2000)
            .map(|i| {
                let score = f64::from(i) / 2000.0;
                let odd = i % 10 == 3;
                Scored { score, correct: if score < 0.7 { odd } else { !odd }, weight: 1.0 }
            })
            .collect();
        let fitted = Calibrator::fit(&made);
        assert!(matches!(fitted, Calibrator::Isotonic { .. }));
        assert!((fitted.probability(0.3) - 0.1).abs() < 0.05);
        assert!((fitted.probability(0.9) - 0.9).abs() < 0.05);
    }

    #[test]
    fn a_steep_sigmoid_is_no_certainty() {
        let made = rows(&[(0.720_928_244_056_221_4, true), (0.720_844_295_905_224_8, false)]);
        for fitted in [Calibrator::platt(&made), Calibrator::isotonic(&made)] {
            let [low, high] = [0.0, 5.0].map(|score| fitted.probability(score));
            assert!(0.0 < low && low < high && high < 1.0, "{low} {high}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_falls_and_stays_inside(
            pairs in proptest::collection::vec((-5.0..5.0_f64, proptest::bool::ANY), 1..80),
            at in proptest::collection::vec(-6.0..6.0_f64, 2..20),
        ) {
            let made = rows(&pairs);
            let mut at = at;
            at.sort_by(f64::total_cmp);
            for fitted in [Calibrator::platt(&made), Calibrator::isotonic(&made)] {
                let p: Vec<f64> = at.iter().map(|&s| fitted.probability(s)).collect();
                proptest::prop_assert!(p.windows(2).all(|w| w[0] <= w[1] + 1e-12));
                proptest::prop_assert!(p.iter().all(|p| *p > 0.0 && *p < 1.0));
            }
        }
    }
}
