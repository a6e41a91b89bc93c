//! Rows of inputs as the integer products read them: int8 codes, one scale per 128; and, for models
//! with matrices of floats, the rows as they were beside them.
//!
//! Scales of short runs keep the few large channels of a transformer from costing the others their
//! precision; between GGML's 32 (Q8_0) and 256 (Q8_K), 128 costs a product of scales only once in
//! four blocks. A weight is `s·q + m`, so a block's product is `d·(s·Σqx + m·Σx)`; the sums of the
//! codes are kept per 16 and per 32 inputs.

use super::format::BLOCK;

/// Blocks that share a scale.
pub(super) const GROUP: usize = 4;
/// Inputs that share a scale.
pub(super) const GROUP_INPUTS: usize = GROUP * BLOCK;

/// `rows` rows of `width` inputs, quantised.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// `[rows, width]`, −127…127.
    pub(crate) codes: Vec<i8>,
    /// `[rows, ⌈width / 128⌉]`.
    pub(crate) scales: Vec<f32>,
    /// Sums of the codes: `[rows, width / 32, 3]`, first half, second half, both.
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
        self.scales.resize(rows * self.groups(), 0.0);
        self.sums.resize(rows * width / BLOCK, [0.0; 3]);
        self.floats.resize(if self.keeps_floats { rows * width } else { 0 }, 0.0);
    }

    /// Scales of a row.
    pub(super) fn groups(&self) -> usize {
        self.width.div_ceil(GROUP_INPUTS)
    }

    /// The rows one by one, to be filled on any thread.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = ActivationRow<'_>> {
        let blocks = self.width / BLOCK;
        let scales = self.scales.chunks_exact_mut(self.width.div_ceil(GROUP_INPUTS));
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

/// Quantises one row, or whole groups of one; compiled anew for every instruction set that inlines
/// it.
#[inline(always)]
pub(crate) fn quantise_row(x: &[f32], row: &mut ActivationRow<'_>) {
    if !row.floats.is_empty() {
        row.floats.copy_from_slice(x);
    }
    let groups = x.chunks(GROUP_INPUTS).zip(row.codes.chunks_mut(GROUP_INPUTS));
    let described = row.scales.iter_mut().zip(row.sums.chunks_mut(GROUP));
    for ((x, codes), (scale, sums)) in groups.zip(described) {
        // Sizes are ordered as their bits are, and what is not finite is above all: unlike the
        // codes, the scale cannot lose it, and it spreads to every product of the row.
        let mut largest = [0_u32; 16];
        for x in x.chunks_exact(16) {
            for (largest, x) in largest.iter_mut().zip(x) {
                *largest = (*largest).max(x.abs().to_bits());
            }
        }
        let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
        *scale = largest / 127.0;
        // A group of zeros, or of values too small to tell apart, is zero.
        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
        let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
        for ((x, codes), sums) in blocks.zip(sums) {
            quantise_block(x, inverse, codes, sums);
        }
    }
}

#[inline(always)]
fn quantise_block(x: &[f32], inverse: f32, codes: &mut [i8], sums: &mut [f32; 3]) {
    let mut halves = [0_i32; 2];
    for ((x, codes), sum) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).zip(&mut halves) {
        let mut rounded = [0_i32; 16];
        for (rounded, x) in rounded.iter_mut().zip(x) {
            // Adding and keeping the low bits rounds to the nearest, ties to even.
            *rounded = (x.mul_add(inverse, ROUND).to_bits() as i32).wrapping_sub(ROUND_BITS);
        }
        for (code, rounded) in codes.iter_mut().zip(rounded) {
            *code = rounded as i8;
        }
        *sum = rounded.iter().map(|r| i32::from(*r as i8)).sum();
    }
    *sums = [halves[0] as f32, halves[1] as f32, (halves[0] + halves[1]) as f32];
}

/// 1.5 · 2²³: floats of this size are whole numbers.
const ROUND: f32 = 12_582_912.0;
const ROUND_BITS: i32 = ROUND.to_bits() as i32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_scales_and_sums_describe_the_row() {
        // A whole group and a shorter one.
        let x: Vec<f32> = (0..192).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect();
        let mut quantised = Activations::default();
        quantised.resize(1, 192);
        for mut row in quantised.rows_mut() {
            quantise_row(&x, &mut row);
        }
        assert_eq!(quantised.scales.len(), 2);
        for (group, x) in x.chunks(GROUP_INPUTS).enumerate() {
            let scale = quantised.scales[group];
            let codes = &quantised.codes[group * GROUP_INPUTS..][..x.len()];
            assert!(codes.iter().any(|c| c.unsigned_abs() == 127));
            for (x, code) in x.iter().zip(codes) {
                assert!((x - scale * f32::from(*code)).abs() <= scale * 0.5001);
            }
        }
        for (block, codes) in quantised.codes.chunks(BLOCK).enumerate() {
            let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>() as f32;
            let wanted = [sum(&codes[..16]), sum(&codes[16..]), sum(codes)];
            assert_eq!(quantised.sums[block], wanted);
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for poison in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 37, 127, 128, 159] {
                let mut x = [0.5; 160];
                x[at] = poison;
                let mut quantised = Activations::default();
                quantised.resize(1, 160);
                quantised.rows_mut().for_each(|mut row| quantise_row(&x, &mut row));
                let told = quantised.scales[at / GROUP_INPUTS];
                assert!(!told.is_finite(), "{poison} at {at}: {told}");
                assert!(quantised.scales[1 - at / GROUP_INPUTS].is_finite());
            }
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
