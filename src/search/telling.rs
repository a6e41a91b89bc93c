//! Which messages to ask people about first: those whose labels would tell most about all the others.
//!
//! Active learning by transductive experimental design (Yu, Bi & Tresp 2006): a message is worth as
//! much as its label would lower the doubt about the rest, were labels a Gaussian process over
//! embeddings with the kernel of the vote by likeness (`kin.rs`). What the knowledge's own phrasings
//! say is known beforehand. No label is needed to tell, so the order is the same however the labels
//! fall. One place in three is drawn by lot: these labels are like the messages to come, and it is
//! these that fitting keeps back for the threshold.

use crate::base::random::SplitMix64;
use crate::search::SearchError;
use crate::search::distance::dot;
use crate::search::flat::{centre_of, centred};
use crate::search::kin::RIDGE;
use crate::search::vectors::Matrix;

/// Messages among which is chosen; doubt is kept for each pair.
pub const MOST_MESSAGES: usize = 4_000;
/// One in so many places is drawn by lot.
pub const LOT: usize = 3;

/// Places of `count` of the messages, those to ask about first coming first.
///
/// # Errors
/// [`SearchError::BadInput`] when vectors differ in width.
pub fn first(messages: &[&[f32]], known: &Matrix, count: usize) -> Result<Vec<usize>, SearchError> {
    let messages = &messages[..messages.len().min(MOST_MESSAGES)];
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut doubt = Doubt::new(messages, known)?;
    let mut random = SplitMix64::new(1);
    let mut left: Vec<usize> = (0..messages.len()).collect();
    let mut order = Vec::new();
    while order.len() < count && !left.is_empty() {
        let drawn = order.len() % LOT == LOT - 1;
        let at = if drawn {
            (random.bits() % left.len() as u64) as usize
        } else {
            doubt.most_telling(&left)
        };
        let message = left.swap_remove(at);
        doubt.resolve(message);
        order.push(message);
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
        let all = || messages.iter().copied().chain(known.rows());
        if let Some(odd) = all().find(|row| row.len() != dim) {
            return Err(SearchError::BadInput(format!("a vector {} wide among {dim}", odd.len())));
        }
        let centre = centre_of(&Matrix::from_rows(dim, messages.iter().copied())?);
        let vectors: Vec<Vec<f32>> = all().map(|row| centred(row, &centre)).collect();
        // For rows of length one, |a − b|² is 2 − 2 a·b.
        let likeness = |a: &[f32], b: &[f32]| (2.0 * dot(a, b) - 2.0).exp();
        let covariance: Vec<Vec<f32>> =
            vectors.iter().map(|a| vectors.iter().map(|b| likeness(a, b)).collect()).collect();
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
        assert!(order[0] < 6 && (6..8).contains(&order[1]), "{order:?}");
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>(), "each once");
        assert_eq!(first(&messages, &known, 3).unwrap(), order[..3]);
        assert!(first(&[], &known, 3).unwrap().is_empty());
    }
}
