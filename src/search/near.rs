//! Rows by how near they are, and the best of many.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A row and how near it is; the greater the nearer, and of equal ones the first.
#[derive(Clone, Copy)]
pub(super) struct Near {
    pub(super) score: f32,
    pub(super) row: u32,
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Near {}

/// The `k` best of `scored`, best first; equal scores stand in the order of their numbers.
pub(super) fn top_k(scored: impl IntoIterator<Item = (u32, f32)>, k: usize) -> Vec<(u32, f32)> {
    // The heap's greatest is the worst kept, so that it is the one at hand when a better comes.
    let mut heap: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
    for (row, score) in scored {
        let item = Near { score, row };
        if heap.len() < k {
            heap.push(Reverse(item));
        } else if let Some(mut worst) = heap.peek_mut()
            && item > worst.0
        {
            *worst = Reverse(item);
        }
    }
    heap.into_sorted_vec().into_iter().map(|Reverse(near)| (near.row, near.score)).collect()
}

/// The `k` best groups of the rows above `least`, as [`top_groups`]. What group a row belongs to is
/// asked only of rows that can be among them: asking costs more than comparing.
pub(super) fn top_groups_above(
    scores: &[f32],
    least: f32,
    k: usize,
    group: impl Fn(u32) -> Option<u32>,
) -> Vec<(u32, f32)> {
    let mut heap: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
    let (mut open, mut bar): (Option<Near>, f32) = (None, least);
    // Of equal scores the first group stays, so that a later row must be better than the worst kept.
    let mut close = |done: Option<Near>| {
        let Some(done) = done else { return least };
        if heap.len() < k {
            heap.push(Reverse(done));
        } else if let Some(mut worst) = heap.peek_mut()
            && done > worst.0
        {
            *worst = Reverse(done);
        }
        if heap.len() < k { least } else { heap.peek().map_or(least, |worst| worst.0.score) }
    };
    for (row, &score) in (0..).zip(scores) {
        // No number is above nothing, and is left out.
        let Some(row) = (score > bar).then(|| group(row)).flatten() else { continue };
        match &mut open {
            Some(best) if best.row == row => best.score = best.score.max(score),
            _ => bar = close(open.replace(Near { score, row })),
        }
    }
    close(open);
    heap.into_sorted_vec().into_iter().map(|Reverse(near)| (near.row, near.score)).collect()
}

/// The `k` best groups by the best score in each. Members of a group must be neighbours.
pub(super) fn top_groups(scored: &[(u32, f32)], k: usize) -> Vec<(u32, f32)> {
    let groups = scored.chunk_by(|a, b| a.0 == b.0);
    let best = groups.map(|g| (g[0].0, g.iter().fold(f32::NEG_INFINITY, |m, s| m.max(s.1))));
    top_k(best, k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_stand_in_order() {
        let scored = [(3, 0.5), (1, 0.5), (2, 0.9), (0, 0.5)];
        assert_eq!(top_k(scored, 3), [(2, 0.9), (0, 0.5), (1, 0.5)]);
        assert_eq!(top_k(scored, 0), []);
        assert_eq!(top_k(scored, 9).len(), 4);
    }

    #[test]
    fn a_group_counts_once_and_by_its_best() {
        let scored = [(4, 0.1), (4, 0.9), (7, 0.5), (8, 0.3), (8, 0.2), (9, -1.0)];
        assert_eq!(top_groups(&scored, 3), [(4, 0.9), (7, 0.5), (8, 0.3)]);
        assert_eq!(top_groups(&[], 3), []);
    }

    proptest! {
        #[test]
        fn what_is_asked_late_is_what_all_give(
            scores in prop::collection::vec(-4_i8..4, 0..60), k in 0_usize..20, least in -5_i8..4,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let group = |row: u32| (row % 5 != 1).then_some(row / 3);
            let above = (0..).zip(&scores).filter(|(_, score)| **score > f32::from(least));
            let all: Vec<_> = above.filter_map(|(row, s)| Some((group(row)?, *s))).collect();
            let found = top_groups_above(&scores, f32::from(least), k, group);
            prop_assert_eq!(found, top_groups(&all, k));
        }

        #[test]
        fn top_k_is_a_cut_sort(scores in prop::collection::vec(-4_i8..4, 0..60), k in 0_usize..70) {
            let scored: Vec<(u32, f32)> =
                scores.iter().enumerate().map(|(i, &s)| (i as u32, f32::from(s))).collect();
            let mut sorted = scored.clone();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            sorted.truncate(k);
            prop_assert_eq!(top_k(scored, k), sorted);
        }
    }
}
