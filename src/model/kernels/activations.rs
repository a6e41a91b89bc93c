//! Rows of inputs as the integer products read them: int8 codes, one scale per 32; and, for models
//! with matrices of floats, the rows as they were beside them.
//!
//! Per-block scales as in GGML's Q8_0 keep the few large channels of a transformer from costing the
//! others their precision. A weight is `s·q + m`, so a block's product is
//! `d·(s·Σqx + m·Σx)`; the sums of the codes, times `d`, are kept per 16 and per 32 inputs.

use super::format::BLOCK;

/// `rows` rows of `width` inputs, quantised.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// `[rows, width]`, −127…127.
    pub(crate) codes: Vec<i8>,
    /// `[rows, width / 32]`.
    pub(crate) scales: Vec<f32>,
    /// Scale times the sum of the codes: `[rows, width / 32, 3]`, first half, second half, both.
    pub(crate) sums: Vec<[f32; 3]>,
    /// `[rows, width]` where they are kept, else empty.
    pub(crate) floats: Vec<f32>,
    pub(crate) keeps_floats: bool,
}

/// One row to be written.
pub(crate) struct ActivationRow<'a> {
    pub(crate) codes: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [[f32; 3]],
    /// Empty where no floats are kept.
    pub(crate) floats: &'a mut [f32],
}

impl Activations {
    /// Makes room; what was held is garbage afterwards.
    pub(crate) fn resize(&mut self, rows: usize, width: usize) {
        debug_assert!(width.is_multiple_of(BLOCK), "a width of {width}");
        (self.rows, self.width) = (rows, width);
        self.codes.resize(rows * width, 0);
        self.scales.resize(rows * width / BLOCK, 0.0);
        self.sums.resize(rows * width / BLOCK, [0.0; 3]);
        self.floats.resize(if self.keeps_floats { rows * width } else { 0 }, 0.0);
    }

    /// The rows one by one, to be filled on any thread.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = ActivationRow<'_>> {
        let blocks = self.width / BLOCK;
        let scales = self.scales.chunks_exact_mut(blocks);
        let scales_and_sums = scales.zip(self.sums.chunks_exact_mut(blocks));
        let codes = self.codes.chunks_exact_mut(self.width);
        let kept = if self.keeps_floats { self.width } else { 0 };
        let mut rest = self.floats.as_mut_slice();
        codes.zip(scales_and_sums).map(move |(codes, (scales, sums))| {
            let floats;
            (floats, rest) = std::mem::take(&mut rest).split_at_mut(kept);
            ActivationRow { codes, scales, sums, floats }
        })
    }
}

/// Quantises one row; compiled anew for every instruction set that inlines it.
#[inline(always)]
pub(crate) fn quantise_row(x: &[f32], row: &mut ActivationRow<'_>) {
    if !row.floats.is_empty() {
        row.floats.copy_from_slice(x);
    }
    let blocks = x.chunks_exact(BLOCK).zip(row.codes.chunks_exact_mut(BLOCK));
    for ((x, codes), (scale, sums)) in blocks.zip(row.scales.iter_mut().zip(row.sums.iter_mut())) {
        let mut largest = [0.0_f32; 8];
        for x in x.chunks_exact(8) {
            for (largest, x) in largest.iter_mut().zip(x) {
                *largest = largest.max(x.abs());
            }
        }
        let largest = largest.into_iter().fold(0.0_f32, f32::max);
        *scale = largest / 127.0;
        // A block of zeros, or of values too small to tell apart, is zero.
        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
        let mut halves = [0_i32; 2];
        for ((x, codes), sum) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).zip(&mut halves)
        {
            let mut rounded = [0_i32; 16];
            for (rounded, x) in rounded.iter_mut().zip(x) {
                // Adding and keeping the low bits rounds to the nearest, ties to even.
                *rounded = (x.mul_add(inverse, ROUND).to_bits() as i32).wrapping_sub(ROUND_BITS);
            }
            for (code, rounded) in codes.iter_mut().zip(rounded) {
                *code = rounded as i8;
            }
            *sum = rounded.iter().sum();
        }
        let [first, second] = halves.map(|sum| *scale * sum as f32);
        *sums = [first, second, *scale * (halves[0] + halves[1]) as f32];
    }
}

/// 1.5 · 2²³: floats of this size are whole numbers.
const ROUND: f32 = 12_582_912.0;
const ROUND_BITS: i32 = ROUND.to_bits() as i32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_scales_and_sums_describe_the_row() {
        let x: Vec<f32> = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect();
        let mut quantised = Activations::default();
        quantised.resize(1, 64);
        for mut row in quantised.rows_mut() {
            quantise_row(&x, &mut row);
        }
        for (block, x) in x.chunks(BLOCK).enumerate() {
            let scale = quantised.scales[block];
            let codes = &quantised.codes[block * BLOCK..(block + 1) * BLOCK];
            assert!(codes.iter().any(|c| c.unsigned_abs() == 127));
            for (x, code) in x.iter().zip(codes) {
                assert!((x - scale * f32::from(*code)).abs() <= scale * 0.5001);
            }
            let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>() as f32;
            let wanted = [sum(&codes[..16]), sum(&codes[16..]), sum(codes)].map(|s| scale * s);
            assert_eq!(quantised.sums[block], wanted);
        }
    }

    #[test]
    fn zeros_and_tiny_values_are_zero() {
        let mut quantised = Activations::default();
        quantised.resize(1, 64);
        let mut x = [0.0; 64];
        x[40] = 1e-38;
        for mut row in quantised.rows_mut() {
            quantise_row(&x, &mut row);
        }
        assert!(quantised.codes.iter().all(|&c| c == 0));
        assert!(quantised.sums.iter().flatten().all(|&s| s == 0.0));
    }
}
