//! Cholesky's factor of a large symmetric matrix and what it solves, by blocks, on all processors.

use std::thread;

use crate::search::SearchError;
use crate::search::distance::dot;
use crate::search::flat::add_scaled;

/// Rows that a thread factors together: each finished row is fetched once for all of them.
const BLOCK: usize = 64;
/// Finished rows at a time, and columns of them: 16 KB stay in the first-level cache.
const DONE: usize = 4;
const STRETCH: usize = 1024;

/// `L` with `L Lᵀ` a symmetric positive matrix; row `i` has `i + 1` numbers.
pub(super) struct Factor {
    rows: Vec<Vec<f32>>,
}

impl Factor {
    /// Factors a matrix, given by its lower half; in place.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] when the matrix is not positive.
    pub(super) fn of(mut rows: Vec<Vec<f32>>) -> Result<Self, SearchError> {
        let together = BLOCK * thread::available_parallelism().map_or(1, usize::from);
        for start in (0..rows.len()).step_by(together) {
            let end = rows.len().min(start + together);
            let (done, rest) = rows.split_at_mut(start);
            let fresh = &mut rest[..end - start];
            let done = &*done;
            thread::scope(|scope| {
                for block in fresh.chunks_mut(BLOCK) {
                    scope.spawn(move || reduce(block, done));
                }
            });
            for at in 0..fresh.len() {
                let (before, here) = fresh.split_at_mut(at);
                finish(&mut here[0], start, before)?;
            }
        }
        Ok(Self { rows })
    }

    /// Solves `L Lᵀ x = b` for each column `b`, in place. A column shorter than the matrix is solved
    /// for as many of its leading rows and columns, whose factor the leading part of `L` is.
    pub(super) fn solve(&self, columns: &mut [Vec<f32>]) {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = columns.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            for columns in columns.chunks_mut(share) {
                scope.spawn(move || self.solve_some(columns));
            }
        });
    }

    fn solve_some(&self, columns: &mut [Vec<f32>]) {
        for (at, row) in self.rows.iter().enumerate() {
            for column in columns.iter_mut().filter(|column| column.len() > at) {
                column[at] = (column[at] - dot(&row[..at], &column[..at])) / row[at];
            }
        }
        for (at, row) in self.rows.iter().enumerate().rev() {
            for column in columns.iter_mut().filter(|column| column.len() > at) {
                column[at] /= row[at];
                let (before, here) = column.split_at_mut(at);
                add_scaled(before, row, -here[0]);
            }
        }
    }
}

/// The columns of a block of rows that finished rows decide.
fn reduce(block: &mut [Vec<f32>], done: &[Vec<f32>]) {
    let mut first = 0;
    for others in done.chunks(DONE) {
        let mut sums = vec![[0.0_f32; DONE]; block.len()];
        for from in (0..first).step_by(STRETCH) {
            let columns = from..first.min(from + STRETCH);
            for (row, sums) in block.iter().zip(&mut sums) {
                for (other, sum) in others.iter().zip(sums) {
                    *sum += dot(&row[columns.clone()], &other[columns.clone()]);
                }
            }
        }
        for (row, sums) in block.iter_mut().zip(&sums) {
            for ((at, other), sum) in (first..).zip(others).zip(sums) {
                let rest = row[at] - sum - dot(&row[first..at], &other[first..at]);
                row[at] = rest / other[at];
            }
        }
        first += others.len();
    }
}

/// The last columns of a row: those of the rows before it that were not finished, and its own.
fn finish(row: &mut [f32], start: usize, before: &[Vec<f32>]) -> Result<(), SearchError> {
    for (at, other) in (start..).zip(before) {
        row[at] = (row[at] - dot(&row[..at], &other[..at])) / other[at];
    }
    let own = start + before.len();
    let left = row[own] - dot(&row[..own], &row[..own]);
    if left.is_nan() || left <= 0.0 {
        return Err(SearchError::BadInput("likenesses that contradict each other".into()));
    }
    row[own] = left.sqrt();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::SplitMix64;
    use proptest::prelude::*;

    /// `A Aᵀ + 1`, which is symmetric and positive.
    fn positive(size: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = SplitMix64::new(seed);
        let a: Vec<Vec<f32>> =
            (0..size).map(|_| (0..9).map(|_| random.unit() * 2.0 - 1.0).collect()).collect();
        let entry = |i: usize, j: usize| dot(&a[i], &a[j]) + f32::from(u8::from(i == j));
        (0..size).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect()
    }

    fn entry(lower: &[Vec<f32>], i: usize, j: usize) -> f32 {
        lower[i.max(j)][i.min(j)]
    }

    fn assert_solved(size: usize, leading: usize, seed: u64) {
        let matrix = positive(size, seed);
        let factor = Factor::of(matrix.clone()).unwrap();
        let mut random = SplitMix64::new(seed + 1);
        let wanted: Vec<Vec<f32>> =
            (0..3).map(|_| (0..leading).map(|_| random.unit()).collect()).collect();
        let mut found = wanted.clone();
        factor.solve(&mut found);
        for (wanted, found) in wanted.iter().zip(&found) {
            for (row, wanted) in wanted.iter().enumerate() {
                let back: f32 = (0..leading).map(|k| entry(&matrix, row, k) * found[k]).sum();
                assert!((back - wanted).abs() < 1e-3, "{size} {leading}: {back} {wanted}");
            }
        }
    }

    #[test]
    fn solves_across_blocks_and_for_a_leading_part() {
        for (size, leading) in [(1, 1), (BLOCK, BLOCK), (3 * BLOCK + 7, 3 * BLOCK + 7), (300, 131)]
        {
            assert_solved(size, leading, 5);
        }
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        for diagonal in [0.0, -1.0, f32::NAN] {
            let rows = vec![vec![1.0], vec![0.0, diagonal]];
            assert!(matches!(Factor::of(rows), Err(SearchError::BadInput(_))));
        }
    }

    proptest! {
        #[test]
        fn what_is_solved_solves(size in 1_usize..40, part in 0_usize..40, seed in 0_u64..1000) {
            assert_solved(size, part.min(size), seed);
        }
    }
}
