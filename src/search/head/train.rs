//! Fits a head's weights: minibatch AdaGrad, which stops where examples held back say so.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::random::SplitMix64;
use crate::search::flat::add_scaled;
use crate::search::head::{Features, Head, softmax};

/// Step of AdaGrad before its own scaling.
const STEP: f32 = 0.05;
const BATCH: usize = 16;
/// Epochs without a better inner loss after which training stops.
const PATIENCE: usize = 3;
/// Fewer inner examples than this say nothing about when to stop.
const LEAST_INNER: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    pub seed: u64,
    /// Weight of the examples against the penalty ½‖w‖², as `C` in liblinear and scikit-learn.
    pub strength: f32,
    /// Most passes over the examples; also their number when there are too few to hold any back.
    pub epochs: usize,
    /// Share of the examples held back to find out when to stop; the fit then runs on all.
    pub inner_share: f32,
    /// Examples weigh (mean class size ÷ own class size) to this power: 0 all alike, 1 balanced.
    pub balance: f32,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { seed: 1, strength: 30.0, epochs: 30, inner_share: 0.1, balance: 0.0 }
    }
}

/// An example as features, and how much it counts.
pub(super) struct Encoded {
    pub(super) features: Features,
    pub(super) class: usize,
    pub(super) weight: f32,
}

/// Weights for the features of `head`, one row per feature: first the number of passes is found
/// with some examples held back, then all are learned from.
pub(super) fn train(head: &Head, encoded: &[Encoded], options: &FitOptions) -> Vec<f32> {
    let mut random = SplitMix64::new(options.seed);
    let inner = inner_split(encoded, options.inner_share, &mut random);
    let kept: Vec<usize> = (0..encoded.len()).filter(|at| !inner.contains(at)).collect();
    let mut epochs = options.epochs;
    if inner.len() >= LEAST_INNER {
        let mut trial = Trainer::new(head, encoded, kept, options);
        let mut best = f32::INFINITY;
        epochs = 0;
        for epoch in 1..=options.epochs {
            trial.epoch(&mut random);
            let loss = trial.loss(&inner);
            if loss < best {
                (best, epochs) = (loss, epoch);
            } else if epoch >= epochs + PATIENCE {
                break;
            }
        }
    }
    let mut trainer = Trainer::new(head, encoded, (0..encoded.len()).collect(), options);
    for _ in 0..epochs {
        trainer.epoch(&mut random);
    }
    trainer.weights
}

/// Minibatch AdaGrad (Duchi, Hazan & Singer 2011) over some of the examples.
struct Trainer<'a> {
    examples: &'a [Encoded],
    /// Which of them are trained on; shuffled each epoch.
    order: Vec<usize>,
    classes: usize,
    /// Penalty per row and batch. Only rows that a batch touches are updated; a row met in every
    /// tenth batch pays ten times as much there.
    penalty: Vec<f32>,
    weights: Vec<f32>,
    /// Sums of squared slopes, by which AdaGrad shortens the steps.
    squares: Vec<f32>,
}

impl<'a> Trainer<'a> {
    fn new(head: &Head, examples: &'a [Encoded], order: Vec<usize>, options: &FitOptions) -> Self {
        let (classes, dim) = (head.classes.len(), head.dim());
        let rows = dim + head.terms.len() + 1;
        let count = order.len().max(1) as f32;
        let mut met = vec![0.0_f32; rows];
        met[..dim].fill(count);
        for &at in &order {
            examples[at].features.sparse.iter().for_each(|&(row, _)| met[row] += 1.0);
        }
        let base = 1.0 / (options.strength * count);
        let in_batch = |met: f32| 1.0 - (1.0 - met / count).powi(BATCH as i32);
        let mut penalty: Vec<f32> =
            met.iter().map(|&m| if m > 0.0 { base / in_batch(m) } else { 0.0 }).collect();
        // The constant stands for how common a class is; pulling it to 0 would be a belief.
        penalty[rows - 1] = 0.0;
        let weights = vec![0.0; rows * classes];
        Self { examples, order, classes, penalty, squares: weights.clone(), weights }
    }

    fn epoch(&mut self, random: &mut SplitMix64) {
        random.shuffle(&mut self.order);
        let order = std::mem::take(&mut self.order);
        for batch in order.chunks(BATCH) {
            let examples = self.examples;
            self.step(&batch.iter().map(|&at| &examples[at]).collect::<Vec<_>>());
        }
        self.order = order;
    }

    /// One step down the slope of a batch, row by row, so that a row is in cache for all of it.
    fn step(&mut self, batch: &[&Encoded]) {
        let share = 1.0 / batch.len() as f32;
        let mut errors = self.predict(batch);
        for (error, example) in errors.chunks_exact_mut(self.classes).zip(batch) {
            error[example.class] -= 1.0;
            error.iter_mut().for_each(|e| *e *= example.weight * share);
        }
        let error_of = |at: usize| &errors[at * self.classes..(at + 1) * self.classes];
        let mut slope = vec![0.0_f32; self.classes];
        let mut touched: Vec<(usize, usize, f32)> = Vec::new();
        for (at, example) in batch.iter().enumerate() {
            touched.extend(example.features.sparse.iter().map(|&(row, value)| (row, at, value)));
        }
        touched.sort_unstable_by_key(|&(row, at, _)| (row, at));
        for row in 0..batch[0].features.dense.len() {
            slope.fill(0.0);
            for (at, example) in batch.iter().enumerate() {
                add_scaled(&mut slope, error_of(at), example.features.dense[row]);
            }
            update(&mut self.weights, &mut self.squares, row, self.penalty[row], &slope);
        }
        for same in touched.chunk_by(|a, b| a.0 == b.0) {
            slope.fill(0.0);
            same.iter().for_each(|&(_, at, value)| add_scaled(&mut slope, error_of(at), value));
            let row = same[0].0;
            update(&mut self.weights, &mut self.squares, row, self.penalty[row], &slope);
        }
    }

    /// Probabilities of the classes for each example, one example after the other.
    fn predict(&self, batch: &[&Encoded]) -> Vec<f32> {
        let mut scores = vec![0.0; batch.len() * self.classes];
        let dim = batch.first().map_or(0, |e| e.features.dense.len());
        let row = |at: usize| &self.weights[at * self.classes..(at + 1) * self.classes];
        for at in 0..dim {
            for (scores, example) in scores.chunks_exact_mut(self.classes).zip(batch) {
                add_scaled(scores, row(at), example.features.dense[at]);
            }
        }
        for (scores, example) in scores.chunks_exact_mut(self.classes).zip(batch) {
            example
                .features
                .sparse
                .iter()
                .for_each(|&(at, value)| add_scaled(scores, row(at), value));
            softmax(scores);
        }
        scores
    }

    /// Mean negative log-likelihood of some examples.
    fn loss(&self, of: &BTreeSet<usize>) -> f32 {
        let examples: Vec<&Encoded> = of.iter().map(|&at| &self.examples[at]).collect();
        let (mut loss, mut total) = (0.0, 0.0);
        for (p, example) in self.predict(&examples).chunks_exact(self.classes).zip(&examples) {
            loss -= example.weight * p[example.class].max(1e-9).ln();
            total += example.weight;
        }
        loss / total
    }
}

/// AdaGrad's step for one row of weights.
fn update(weights: &mut [f32], squares: &mut [f32], row: usize, penalty: f32, slope: &[f32]) {
    let here = row * slope.len()..(row + 1) * slope.len();
    let (weights, squares) = (&mut weights[here.clone()], &mut squares[here]);
    for ((weight, square), slope) in weights.iter_mut().zip(squares).zip(slope) {
        let slope = slope + penalty * *weight;
        *square += slope * slope;
        *weight -= STEP * slope / (square.sqrt() + 1e-8);
    }
}

/// Examples to hold back; a class keeps at least two of its own.
fn inner_split(examples: &[Encoded], share: f32, random: &mut SplitMix64) -> BTreeSet<usize> {
    let mut left: BTreeMap<usize, usize> = BTreeMap::new();
    examples.iter().for_each(|e| *left.entry(e.class).or_default() += 1);
    let mut order: Vec<usize> = (0..examples.len()).collect();
    random.shuffle(&mut order);
    let wanted = (examples.len() as f32 * share) as usize;
    let mut inner = BTreeSet::new();
    for at in order {
        let left = left.entry(examples[at].class).or_default();
        if inner.len() < wanted && *left > 2 {
            *left -= 1;
            inner.insert(at);
        }
    }
    inner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_back_examples_leave_every_class_two() {
        let encoded: Vec<Encoded> = (0..100)
            .map(|at| Encoded {
                features: Features { dense: vec![], sparse: vec![] },
                class: if at < 95 { at % 2 } else { 2 + at % 3 },
                weight: 1.0,
            })
            .collect();
        let inner = inner_split(&encoded, 0.5, &mut SplitMix64::new(3));
        assert_eq!(inner.len(), 50);
        assert!(inner.iter().all(|&at| at < 95), "{inner:?}");
    }
}
