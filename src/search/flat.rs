//! Exact dense scan: cosines of centred vectors, every row every time.
//!
//! Where only the nearest are wanted, the scan reads `i8` codes and computes again, in `f32`, all
//! rows that the codes' error leaves in question: less to read, and the same result.
//!
//! e5 puts all texts into a narrow cone, so the mean of the indexed vectors is taken off both sides
//! before the cosine; where there is a trained map, it comes after that.

use std::sync::Arc;

use crate::search::adapter::Adapter;
use crate::search::codes::{Code, Codes};
use crate::search::distance::dot;
use crate::search::near::{top_groups, top_groups_above};
use crate::search::vectors::Matrix;

/// The mean of few vectors is mostly those vectors themselves, and one text minus its own mean is
/// nothing at all; the mean of `n` is therefore shrunk by `n / (n + CENTRE_PRIOR)`.
const CENTRE_PRIOR: f32 = 8.0;

/// Rows centred and scaled to length one, with what is needed to do the same to a query.
#[derive(Clone, Debug)]
pub(super) struct FlatIndex {
    centre: Vec<f32>,
    adapter: Option<Arc<Adapter>>,
    rows: Matrix,
    codes: Codes,
}

impl FlatIndex {
    /// Takes the vectors over, since two copies of very many may not fit.
    pub(super) fn new(vectors: Matrix, adapter: Option<Arc<Adapter>>) -> Self {
        let centre = centre_of(&vectors);
        Self::around(vectors, centre, adapter)
    }

    /// As `other` sees vectors, around its centre.
    pub(super) fn beside(vectors: Matrix, other: &Self) -> Self {
        Self::around(vectors, other.centre.clone(), other.adapter.clone())
    }

    fn around(mut vectors: Matrix, centre: Vec<f32>, adapter: Option<Arc<Adapter>>) -> Self {
        vectors.rows_mut().for_each(|row| {
            centre_in_place(row, &centre);
            if let Some(adapter) = &adapter {
                adapter.apply(row);
            }
        });
        let codes = Codes::new(&vectors);
        Self { centre, adapter, rows: vectors, codes }
    }

    pub(super) fn is_adapted(&self) -> bool {
        self.adapter.is_some()
    }

    pub(super) fn dim(&self) -> usize {
        self.rows.dim()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The query as the rows see it: centre taken off, length one.
    pub(super) fn centred(&self, vector: &[f32]) -> Vec<f32> {
        let mut vector = centred(vector, &self.centre);
        if let Some(adapter) = &self.adapter {
            adapter.apply(&mut vector);
        }
        vector
    }

    /// Row `at`, centred, of length one.
    pub(super) fn row(&self, at: usize) -> &[f32] {
        self.rows.row(at)
    }

    pub(super) fn codes(&self) -> &Codes {
        &self.codes
    }

    /// Cosine of a [`FlatIndex::centred`] query with row `at`.
    pub(super) fn score(&self, query: &[f32], at: u32) -> f32 {
        dot(query, self.row(at as usize))
    }

    /// Cosine of a [`FlatIndex::centred`] query with every row, in row order.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f32> {
        self.rows.rows().map(|row| dot(query, row)).collect()
    }

    /// The `k` nearest groups by the nearest row of each, nearest first; exact. A row without a
    /// group is left out; rows of a group must be neighbours.
    pub(super) fn nearest(
        &self,
        query: &[f32],
        k: usize,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Vec<(u32, f32)> {
        let code = Code::new(query);
        let rough: Vec<f32> =
            (0..self.len() as u32).map(|row| self.codes.near(&code, row)).collect();
        let best = top_groups_above(&rough, f32::NEG_INFINITY, k, &group);
        let Some(&(_, worst)) = best.last() else { return Vec::new() };
        // The k-th best may be as much worse than it seems as a lost one may be better.
        let limit = worst - 2.0 * self.codes.bound(&code);
        let kept = (0..).zip(&rough).filter(|(_, score)| **score >= limit);
        let exact = kept.filter_map(|(row, _)| Some((group(row)?, self.score(query, row))));
        top_groups(&exact.collect::<Vec<_>>(), k)
    }
}

/// The shrunk mean of the rows; see [`CENTRE_PRIOR`].
pub(super) fn centre_of(vectors: &Matrix) -> Vec<f32> {
    let mut centre = vec![0.0_f32; vectors.dim()];
    for row in vectors.rows() {
        add_scaled(&mut centre, row, 1.0);
    }
    let scale = 1.0 / (vectors.len() as f32 + CENTRE_PRIOR);
    centre.iter_mut().for_each(|x| *x *= scale);
    centre
}

/// `vector − centre`, scaled to length one. What has no direction to begin with (all zero, or not
/// finite) becomes all zero: equally far from everything, instead of poisoning the order with NaN.
pub(super) fn centred(vector: &[f32], centre: &[f32]) -> Vec<f32> {
    let mut out = vector[..vector.len().min(centre.len())].to_vec();
    centre_in_place(&mut out, centre);
    out
}

fn centre_in_place(vector: &mut [f32], centre: &[f32]) {
    if has_direction(vector) {
        add_scaled(vector, centre, -1.0);
    }
    normalise(vector);
}

/// Scales to length one; what has no direction becomes all zero.
pub(super) fn normalise(vector: &mut [f32]) {
    if has_direction(vector) {
        let length = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= length);
    } else {
        vector.fill(0.0);
    }
}

fn has_direction(vector: &[f32]) -> bool {
    let square = dot(vector, vector);
    square.is_finite() && square > 1e-20
}

/// `to += scale × from`.
pub(super) fn add_scaled(to: &mut [f32], from: &[f32], scale: f32) {
    for (x, y) in to.iter_mut().zip(from) {
        *x += y * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::near::top_k;
    use crate::search::sample::clustered;
    use proptest::prelude::*;

    #[test]
    fn centring_tells_apart_what_a_common_part_hid() {
        // A large shared first component: raw cosines are all close to one.
        let rows: Vec<[f32; 3]> =
            (0..40).map(|i| if i % 2 == 0 { [5.0, 1.0, 0.0] } else { [5.0, 0.0, 1.0] }).collect();
        let matrix = Matrix::from_rows(3, rows.iter().map(|r| &r[..])).unwrap();
        let index = FlatIndex::new(matrix, None);
        let scores = index.scores(&index.centred(&[5.0, 0.9, 0.1]));
        assert!(dot(&rows[0], &rows[1]) / 26.0 > 0.96);
        assert!(scores[0] - scores[1] > 0.5, "{scores:?}");
    }

    #[test]
    fn a_single_row_can_still_be_found() {
        let matrix = Matrix::from_rows(2, [&[0.6, 0.8][..]]).unwrap();
        let index = FlatIndex::new(matrix, None);
        let score = index.scores(&index.centred(&[0.6, 0.8]))[0];
        assert!((score - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_vector_without_direction_is_far_from_everything() {
        let matrix = Matrix::from_rows(2, [&[1.0, 0.0][..], &[0.0, 1.0][..]]).unwrap();
        let index = FlatIndex::new(matrix, None);
        let middle = [index.centre[0], index.centre[1]];
        for odd in [[f32::NAN, 0.0], [f32::INFINITY, 1.0], [0.0, 0.0], middle] {
            assert_eq!(index.scores(&index.centred(&odd)), [0.0, 0.0]);
        }
    }

    proptest! {
        #[test]
        fn the_nearest_are_those_of_all_scores(
            seed in any::<u64>(), count in 1_usize..300, dim in 1_usize..40, k in 0_usize..20,
        ) {
            let rows = clustered(count, dim, seed);
            let wanted = rows.row(count / 2).to_vec();
            let index = FlatIndex::new(rows, None);
            let query = index.centred(&wanted);
            let group = |row: u32| (row % 3 != 1).then_some(row / 5);
            let all = (0..).zip(index.scores(&query));
            let all: Vec<(u32, f32)> = all.filter_map(|(row, s)| Some((group(row)?, s))).collect();
            prop_assert_eq!(index.nearest(&query, k, group), top_groups(&all, k));
            let each: Vec<(u32, f32)> = (0..).zip(index.scores(&query)).collect();
            prop_assert_eq!(index.nearest(&query, k, Some), top_k(each, k));
        }
    }
}
