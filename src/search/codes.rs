//! Vectors as `i8` codes with a scale each: a quarter of the memory to read, and a bound on what
//! that may cost.

use crate::search::distance::{dot, dot_i8, prefetch};
use crate::search::vectors::Matrix;

const LARGEST: f32 = 127.0;

/// One vector: `scale × values` stands for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    values: Vec<i8>,
    scale: f32,
    /// Length of the difference between the vector and what stands for it.
    error: f32,
    /// Length of what stands for it.
    length: f32,
}

impl Code {
    pub(super) fn new(vector: &[f32]) -> Self {
        let largest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = largest / LARGEST;
        if scale == 0.0 {
            return Self { values: vec![0; vector.len()], ..Self::default() };
        }
        let values: Vec<i8> =
            vector.iter().map(|x| (x / scale).round().clamp(-LARGEST, LARGEST) as i8).collect();
        let shown: Vec<f32> = values.iter().map(|&v| f32::from(v) * scale).collect();
        let difference: Vec<f32> = shown.iter().zip(vector).map(|(s, x)| s - x).collect();
        let length = |v: &[f32]| dot(v, v).sqrt();
        Self { values, scale, error: length(&difference), length: length(&shown) }
    }
}

/// The codes of a matrix's rows.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    dim: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    /// The greatest error of a row.
    error: f32,
}

impl Codes {
    pub(super) fn new(rows: &Matrix) -> Self {
        let mut values = Vec::with_capacity(rows.len() * rows.dim());
        let mut scales = Vec::with_capacity(rows.len());
        let mut error = 0.0_f32;
        for row in rows.rows() {
            let code = Code::new(row);
            values.extend_from_slice(&code.values);
            scales.push(code.scale);
            error = error.max(code.error);
        }
        Self { dim: rows.dim(), values, scales, error }
    }

    pub(super) fn len(&self) -> usize {
        self.scales.len()
    }

    /// Bytes of memory for each row.
    pub(super) fn bytes_per_row(&self) -> usize {
        self.dim + size_of::<f32>()
    }

    /// Equal for rows that nothing tells apart here.
    pub(super) fn identity(&self, row: u32) -> (&[i8], u32) {
        (self.values(row), self.scales[row as usize].to_bits())
    }

    fn values(&self, row: u32) -> &[i8] {
        &self.values[row as usize * self.dim..][..self.dim]
    }

    /// The inner product of what stands for the query and for the row.
    pub(super) fn near(&self, query: &Code, row: u32) -> f32 {
        dot_i8(&query.values, self.values(row)) as f32 * query.scale * self.scales[row as usize]
    }

    pub(super) fn between(&self, a: u32, b: u32) -> f32 {
        let product = dot_i8(self.values(a), self.values(b)) as f32;
        product * self.scales[a as usize] * self.scales[b as usize]
    }

    /// How far [`Codes::near`] can be from the true inner product with rows of length one, by
    /// Cauchy and Schwarz: |q·x − q'·x'| ≤ |q − q'|·|x| + |q'|·|x − x'|.
    pub(super) fn bound(&self, query: &Code) -> f32 {
        const ROUNDING: f32 = 1e-5;
        query.error + query.length * self.error + ROUNDING
    }

    pub(super) fn prefetch(&self, row: u32) {
        prefetch(self.values(row));
        prefetch(&self.scales[row as usize..][..1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::flat::normalise;
    use proptest::prelude::*;

    #[test]
    fn nothing_stays_nothing() {
        let rows = Matrix::from_rows(3, [&[0.0_f32; 3][..], &[1.0, 0.0, 0.0]]).unwrap();
        let codes = Codes::new(&rows);
        assert_eq!(codes.near(&Code::new(&[0.0; 3]), 1), 0.0);
        assert_eq!(codes.between(0, 1), 0.0);
        assert!((codes.near(&Code::new(&[1.0, 0.0, 0.0]), 1) - 1.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn the_bound_holds(pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..100)) {
            let (mut a, mut b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            normalise(&mut a);
            normalise(&mut b);
            let codes = Codes::new(&Matrix::from_rows(b.len(), [b.as_slice()]).unwrap());
            let query = Code::new(&a);
            prop_assert!((codes.near(&query, 0) - dot(&a, &b)).abs() <= codes.bound(&query));
        }
    }
}
