//! Made-up vectors for benchmarks and tests, the same from a seed on every machine.

use crate::base::random::SplitMix64;
use crate::search::flat::{add_scaled, normalise};
use crate::search::vectors::Matrix;

/// Directions that rows differ in. Embeddings of texts fill far fewer dimensions than they have.
const AXES: usize = 32;
/// Rows of the smallest and of the largest topic; sizes between them are equally likely by order of
/// magnitude, so that some topics are far larger than what a search in a graph looks at.
const SMALLEST: f32 = 10.0;
const LARGEST: f32 = 3_000.0;
/// Topics of one subject, which overlap.
const SUBJECT: usize = 8;
/// How far topics lie from their subject and rows from their topic, subjects being at 1.
const TOPIC: f32 = 0.6;
const ROW: f32 = 0.6;
/// What each row has outside the axes.
const NOISE: f32 = 0.3;

/// `count` rows of length one; rows of a topic are neighbours, as in a file of knowledge.
///
/// # Panics
/// For a width of nothing.
pub fn clustered(count: usize, dim: usize, seed: u64) -> Matrix {
    let mut random = SplitMix64::new(seed);
    let axes: Vec<Vec<f32>> = (0..AXES).map(|_| direction(dim, &mut random)).collect();
    let mut rows = Matrix::zeros(dim, count);
    let (mut subject, mut topic) = (Vec::new(), Vec::new());
    let (mut topics, mut left) = (0, 0);
    for row in rows.rows_mut() {
        if left == 0 {
            if topics % SUBJECT == 0 {
                subject = around(&[0.0; AXES], 1.0, &mut random);
            }
            topic = around(&subject, TOPIC, &mut random);
            left = (SMALLEST * (LARGEST / SMALLEST).powf(random.unit())) as usize;
            topics += 1;
        }
        left -= 1;
        for (axis, place) in axes.iter().zip(around(&topic, ROW, &mut random)) {
            add_scaled(row, axis, place);
        }
        normalise(row);
        add_scaled(row, &direction(dim, &mut random), NOISE);
        normalise(row);
    }
    rows
}

/// A place about `centre` as far as `spread`, evenly in every direction.
fn around(centre: &[f32], spread: f32, random: &mut SplitMix64) -> Vec<f32> {
    let off = direction(centre.len(), random);
    centre.iter().zip(off).map(|(c, o)| c + spread * o).collect()
}

fn direction(dim: usize, random: &mut SplitMix64) -> Vec<f32> {
    // A sum of evenly spread numbers is near enough to a normal one to prefer no axis.
    let mut vector: Vec<f32> =
        (0..dim).map(|_| (0..4).map(|_| random.unit() - 0.5).sum()).collect();
    normalise(&mut vector);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::distance::dot;

    #[test]
    fn rows_have_length_one_and_are_nearest_to_their_own_topic() {
        let rows = clustered(4000, 24, 1);
        assert!(rows.rows().all(|row| (dot(row, row) - 1.0).abs() < 1e-5));
        let mean = |apart: usize| {
            let pairs = rows.rows().zip(rows.rows().skip(apart)).map(|(a, b)| dot(a, b));
            pairs.sum::<f32>() / (rows.len() - apart) as f32
        };
        assert!(mean(1) > 0.1 + mean(2000), "{} {}", mean(1), mean(2000));
    }
}
