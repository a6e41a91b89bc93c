//! What weighs the features: a plain sum or trees, whichever judges messages better that it has not
//! seen.

use serde::{Deserialize, Serialize};

use crate::gate::logistic::{Logistic, Row, cross_entropy};
use crate::gate::trees::Boosted;

/// Fewer rows than this grow no trees worth trying.
const MIN_ROWS_FOR_TREES: usize = 500;
const FOLDS: usize = 5;
/// Penalties to choose from by cross-validation, strongest first.
const PENALTIES: [f64; 5] = [30.0, 10.0, 3.0, 1.0, 0.3];

/// From standardised inputs to log-odds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    Sum(Logistic),
    Trees(Boosted),
}

impl Judge {
    pub(super) fn score(&self, x: &[f64]) -> f64 {
        match self {
            Self::Sum(sum) => sum.score(x),
            Self::Trees(trees) => trees.score(x),
        }
    }

    pub(super) fn contributions(&self, x: &[f64]) -> Vec<f64> {
        match self {
            Self::Sum(sum) => sum.weights.iter().zip(x).map(|(w, x)| w * x).collect(),
            Self::Trees(trees) => trees.contributions(x),
        }
    }

    pub(super) fn is_sound(&self, width: usize) -> bool {
        match self {
            Self::Sum(sum) => sum.weights.len() == width,
            Self::Trees(trees) => trees.is_sound(width),
        }
    }

    /// The judge with the least cross-validated loss, and the out-of-fold scores of its kind.
    pub(super) fn choose(rows: &[Row]) -> (Self, Vec<f64>) {
        let sum = |penalty: f64| -> Fit {
            Box::new(move |rows| Judge::Sum(Logistic::fit(rows, penalty)))
        };
        let trees: Fit = Box::new(|rows| Judge::Trees(Boosted::fit(rows)));
        let trees = (rows.len() >= MIN_ROWS_FOR_TREES).then_some(trees);
        let mut best: Option<(f64, Fit, Vec<f64>)> = None;
        for fit in PENALTIES.map(sum).into_iter().chain(trees) {
            let scores = out_of_fold_scores(rows, fit.as_ref());
            let one = |(s, r): (&f64, &Row)| r.weight * cross_entropy(*s, r.target);
            let loss: f64 = scores.iter().zip(rows).map(one).sum();
            if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
                best = Some((loss, fit, scores));
            }
        }
        match best {
            Some((_, fit, scores)) => (fit(rows), scores),
            None => (sum(PENALTIES[0])(rows), vec![0.0; rows.len()]),
        }
    }
}

/// How a judge of one kind is fitted.
type Fit = Box<dyn Fn(&[Row]) -> Judge>;

fn out_of_fold_scores(rows: &[Row], fit: &dyn Fn(&[Row]) -> Judge) -> Vec<f64> {
    let mut scores = vec![0.0; rows.len()];
    for fold in 0..FOLDS {
        let kept: Vec<Row> = rows
            .iter()
            .enumerate()
            .filter(|(i, _)| i % FOLDS != fold)
            .map(|(_, r)| r.clone())
            .collect();
        let judge = fit(&kept);
        for i in (fold..rows.len()).step_by(FOLDS) {
            scores[i] = judge.score(&rows[i].x);
        }
    }
    scores
}
