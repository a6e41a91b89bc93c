//! From hidden rows to logits: exact for every token, or exact only for those that may be the best.
//!
//! The matrix of the vocabulary is more than a third of the bytes that a decoded token reads. Whoever
//! takes the best token needs little of it: a copy in four bits tells every logit roughly, and those
//! near the best of their row are computed again from the matrix itself. What is told of them is bit
//! for bit what the whole product would have told, so the best one is the same; only the sum over all
//! tokens that turns it into a probability holds rough ones, none of which is near the best.

use crate::model::ModelError;
use crate::model::kernels::{Activations, PANEL, Sink, Weights, multiply, multiply_panels};
use crate::model::packed::{Matrix, PackedModel, SCREEN};

/// How far below the best rough logit of its row another one is computed again, in standard
/// deviations of the row. A rough logit is off by less than half of it
/// (`rough_logits_are_off_by_less_than_half_the_margin`), so the best one is never missed.
pub(super) const MARGIN: f32 = 2.0;

/// The output matrix of a model.
pub(super) struct Output {
    exact: Matrix,
    /// The same in four bits, where it has more.
    screen: Option<Matrix>,
}

impl Output {
    /// Finds the matrix `[vocab, hidden]`: its own, or that of the embedding.
    pub(super) fn load(
        packed: &PackedModel,
        vocab: usize,
        hidden: usize,
    ) -> Result<Self, ModelError> {
        let own = packed.has("output.weight");
        let name = if own { "output.weight" } else { "token_embd.weight" };
        let screen = packed.has(SCREEN).then(|| packed.matrix(SCREEN, vocab, hidden));
        Ok(Self { exact: packed.matrix(name, vocab, hidden)?, screen: screen.transpose()? })
    }

    /// Logits of all rows of `x`, `[rows, vocab]`; `rough` allows those that cannot be the best of
    /// their row to be rough.
    pub(super) fn logits(&self, packed: &PackedModel, x: &Activations, rough: bool) -> Vec<f32> {
        let exact = packed.view(&self.exact);
        let mut logits = vec![0.0; x.rows * exact.rows()];
        let screen = self.screen.as_ref().filter(|_| rough);
        let first = screen.map_or(exact, |screen| packed.view(screen));
        multiply(&[first], x, Sink::Store { out: &mut logits, bias: None });
        if screen.is_some() {
            refine(exact, x, &mut logits);
        }
        logits
    }
}

/// Computes again what may be the best of a row, for that row alone: what a row is told does not
/// depend on those beside it.
fn refine(exact: Weights<'_>, x: &Activations, logits: &mut [f32]) {
    let vocab = exact.rows();
    let promising: Vec<Vec<usize>> = logits.chunks_exact(vocab).map(promising_panels).collect();
    let mut panels = promising.concat();
    panels.sort_unstable();
    panels.dedup();
    // Most of it is never touched.
    let mut again = vec![0.0; logits.len()];
    multiply_panels(exact, x, &panels, &mut again);
    let rows = logits.chunks_exact_mut(vocab).zip(again.chunks_exact(vocab));
    for ((row, again), panels) in rows.zip(promising) {
        for panel in panels {
            let columns = panel * PANEL..vocab.min((panel + 1) * PANEL);
            row[columns.clone()].copy_from_slice(&again[columns]);
        }
    }
}

/// The panels of a rough row that may hold its best logit; numbers that are none promise nothing.
fn promising_panels(row: &[f32]) -> Vec<usize> {
    let least = least_promising(row);
    let promises = |panel: &[f32]| panel.iter().any(|logit| *logit >= least);
    (0..).zip(row.chunks(PANEL)).filter_map(|(at, p)| promises(p).then_some(at)).collect()
}

/// The logit from which on one of a rough row may be the best.
fn least_promising(row: &[f32]) -> f32 {
    let (mut sums, mut squares, mut best) = ([0.0_f32; 8], [0.0_f32; 8], [f32::NEG_INFINITY; 8]);
    let (eights, rest) = row.as_chunks::<8>();
    for eight in eights {
        for lane in 0..8 {
            sums[lane] += eight[lane];
            squares[lane] += eight[lane] * eight[lane];
            best[lane] = best[lane].max(eight[lane]);
        }
    }
    let best = best.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let count = (row.len() - rest.len()).max(1) as f32;
    let mean = sums.iter().sum::<f32>() / count;
    let variance = (squares.iter().sum::<f32>() / count - mean * mean).max(0.0);
    best - MARGIN * variance.sqrt()
}
