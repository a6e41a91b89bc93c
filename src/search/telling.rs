//! Which messages to ask people about first: those whose labels would tell most about all the others.
//!
//! Active learning by transductive experimental design (Yu, Bi & Tresp 2006): a message is worth as
//! much as its label would lower the doubt about the rest, were labels a Gaussian process over
//! embeddings with the kernel of the vote by likeness (`kin.rs`). What the knowledge's own phrasings
//! say is known beforehand. No label is needed to tell, so the order is the same however the labels
//! fall. One place in three is drawn by lot among all: these labels are like the messages to come, and
//! only they may be kept back for the threshold.

use crate::base::random::SplitMix64;
use crate::search::SearchError;
use crate::search::distance::dot;
use crate::search::flat::{centre_of, centred};
use crate::search::kin::{RIDGE, SHARPNESS, of_vectors};
use crate::search::vectors::Matrix;

/// Messages among which is chosen; doubt is kept for each pair.
pub const MOST_MESSAGES: usize = 4_000;
/// Phrasings that count as known; of more, every so many-th: what they cover is much the same.
const MOST_PHRASINGS: usize = 2_000;
/// One in so many places is drawn by lot.
const LOT: usize = 3;

/// A message to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its place among the messages.
    pub message: usize,
    /// By lot, not because its label would tell much.
    pub drawn: bool,
}

/// `count` of the messages, those to ask about first coming first.
///
/// # Errors
/// [`SearchError::BadInput`] when vectors differ in width.
pub fn first(messages: &[&[f32]], known: &Matrix, count: usize) -> Result<Vec<Asked>, SearchError> {
    let messages = &messages[..messages.len().min(MOST_MESSAGES)];
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut doubt = Doubt::new(messages, known)?;
    let count = count.min(messages.len());
    // Drawn before any choice: from what a choice left over they would be unlike the rest.
    let mut lots: Vec<usize> = (0..messages.len()).collect();
    SplitMix64::new(1).shuffle(&mut lots);
    let mut left = lots.split_off(count / LOT);
    let mut lots = lots.into_iter();
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        let lot = if order.len() % LOT == LOT - 1 { lots.next() } else { None };
        let message = lot.unwrap_or_else(|| left.swap_remove(doubt.most_telling(&left)));
        doubt.resolve(message);
        order.push(Asked { message, drawn: lot.is_some() });
    }
    Ok(order)
}

/// What is still unknown of each pair of messages: a covariance.
struct Doubt {
    rows: Matrix,
}

impl Doubt {
    fn new(messages: &[&[f32]], known: &Matrix) -> Result<Self, SearchError> {
        let dim = messages.first().map_or(0, |m| m.len());
        let stride = known.len().div_ceil(MOST_PHRASINGS).max(1);
        let all = || messages.iter().copied().chain(known.rows().step_by(stride));
        if let Some(odd) = all().find(|row| row.len() != dim) {
            return Err(SearchError::BadInput(format!("a vector {} wide among {dim}", odd.len())));
        }
        let centre = centre_of(&Matrix::from_rows(dim, messages.iter().copied())?);
        let vectors: Vec<Vec<f32>> = all().map(|row| centred(row, &centre)).collect();
        let covariance: Vec<Vec<f32>> = vectors
            .iter()
            .map(|a| vectors.iter().map(|b| of_vectors(a, b, SHARPNESS)).collect())
            .collect();
        let rows = Matrix::from_rows(vectors.len(), covariance.iter().map(Vec::as_slice))?;
        let mut doubt = Self { rows };
        (messages.len()..vectors.len()).for_each(|phrasing| doubt.resolve(phrasing));
        let own: Vec<&[f32]> =
            doubt.rows.rows().take(messages.len()).map(|row| &row[..messages.len()]).collect();
        Ok(Self { rows: Matrix::from_rows(messages.len(), own)? })
    }

    /// Place in `left` of the message whose label would lower the doubt about all messages most.
    fn most_telling(&self, left: &[usize]) -> usize {
        let worth = |message: usize| {
            let row = self.rows.row(message);
            dot(row, row) / (row[message] + RIDGE)
        };
        let by_worth = |a: &usize, b: &usize| worth(left[*a]).total_cmp(&worth(left[*b]));
        (0..left.len()).max_by(by_worth).unwrap_or(0)
    }

    /// The doubt that remains when the message has a label.
    fn resolve(&mut self, message: usize) {
        let told = self.rows.row(message).to_vec();
        let scale = 1.0 / (told[message] + RIDGE);
        for (row, share) in self.rows.rows_mut().zip(&told) {
            let share = share * scale;
            row.iter_mut().zip(&told).for_each(|(doubt, told)| *doubt -= share * told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_first_then_what_is_unlike_it_and_what_is_known_last() {
        // Six alike, two of another kind, and two that the knowledge holds already.
        let crowd = [1.0, 0.02, 0.0, 0.0];
        let rows: Vec<[f32; 4]> = vec![
            crowd,
            [1.0, 0.0, 0.02, 0.0],
            crowd,
            crowd,
            [1.0, 0.01, 0.01, 0.0],
            crowd,
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 1.0, 0.02, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0, 0.02],
        ];
        let messages: Vec<&[f32]> = rows.iter().map(<[f32; 4]>::as_slice).collect();
        let known: Vec<[f32; 4]> = vec![[0.0, 0.0, 1.0, 0.0]; 4];
        let known = Matrix::from_rows(4, known.iter().map(<[f32; 4]>::as_slice)).unwrap();
        let order = first(&messages, &known, 10).unwrap();
        let chosen: Vec<usize> = order.iter().filter(|a| !a.drawn).map(|a| a.message).collect();
        assert!(chosen[0] < 6 && (6..8).contains(&chosen[1]), "{order:?}");
        let drawn: Vec<usize> = (0..10).filter(|at| order[*at].drawn).collect();
        assert_eq!(drawn, [2, 5, 8], "one place in three");
        let mut sorted: Vec<usize> = order.iter().map(|asked| asked.message).collect();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>(), "each once");
        assert_eq!(first(&messages, &known, 99).unwrap().len(), 10);
        assert!(first(&[], &known, 3).unwrap().is_empty());
    }
}
