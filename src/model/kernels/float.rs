//! Float functions between the products, written so that the compiler turns their inner loops into
//! vector code for whatever instruction set inlines them.

use half::f16;

/// Keys of a page of the cache.
pub(crate) const PAGE: usize = 16;
/// Values a vector accumulator holds: enough independent sums to keep the multipliers busy.
const LANES: usize = 16;

/// `x = gelu(x + bias)`, the exact form: x · Φ(x).
#[inline(always)]
pub(super) fn gelu(x: &mut [f32], bias: &[f32]) {
    for (x, bias) in x.iter_mut().zip(bias) {
        let y = *x + bias;
        *x = 0.5 * y * (1.0 + erf(y * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// `gate = silu(gate) · x`.
#[inline(always)]
pub(super) fn swiglu(gate: &mut [f32], x: &[f32]) {
    for (gate, x) in gate.iter_mut().zip(x) {
        *gate = *gate / (1.0 + exp(-*gate)) * x;
    }
}

/// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: error below 1.5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / 0.327_591_1_f32.mul_add(a, 1.0);
    let p = 1.061_405_4_f32.mul_add(t, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6) * t;
    (1.0 - p * exp(-a * a)).copysign(x)
}

/// eˣ to about two units in the last place; 0 below −87, clamped above 88.
///
/// x = n ln 2 + r with |r| ≤ ½ ln 2; eʳ by its Taylor series to the sixth power, 2ⁿ by the
/// exponent's bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that r is exact.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = (1.0_f32 / 720.0).mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 1.0);
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = p * f32::from_bits(power);
    if x < -87.0 { 0.0 } else { value }
}

/// Sum of `f` over `x` and `y`, by lanes.
#[inline(always)]
fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = if *x > *most { *x } else { *most };
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.
#[inline(always)]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_by(x, |x| x * x) / x.len() as f32;
    let scale = (mean + eps).sqrt().recip();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Ba et al. 2016 (arXiv 1607.06450).
#[inline(always)]
pub(super) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = sum_by(x, |x| x) / n;
    let variance = sum_by(x, |x| (x - mean) * (x - mean)) / n;
    let scale = (variance + eps).sqrt().recip();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = ((*x - mean) * scale).mul_add(*weight, *bias);
    }
}

/// Rotary positions in the layout of Qwen and GPT-NeoX: the first half of each head against the
/// second. `cos` and `sin` are those of one position, `[dim / 2]`; `x` is a row of heads.
#[inline(always)]
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in x.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            first[i] = a * cos[i] - b * sin[i];
            second[i] = a * sin[i] + b * cos[i];
        }
    }
}

#[inline(always)]
pub(super) fn log_sum_exp(x: &[f32]) -> f32 {
    let most = largest(x);
    most + sum_by(x, |x| exp(x - most)).ln()
}

/// Sixteen keys and values of one head: halves, or floats where nothing is to be saved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Page<'a> {
    Halves(&'a [f16]),
    Floats(&'a [f32]),
}

impl Page<'_> {
    /// The keys or the values of the page in floats, in `buffer` if need be.
    #[inline(always)]
    fn wide<'a>(&'a self, values: bool, dim: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let part = usize::from(values) * dim * PAGE..(1 + usize::from(values)) * dim * PAGE;
        match self {
            Self::Halves(page) => {
                let buffer = &mut buffer[..dim * PAGE];
                widen(&page[part], buffer);
                buffer
            }
            Self::Floats(page) => &page[part],
        }
    }
}

/// Queries of one key head against the pages of a sequence.
pub(crate) struct Attention<'a> {
    /// Width of a head; a multiple of 16.
    pub(crate) dim: usize,
    /// `[rows, dim]`, already divided by √dim.
    pub(crate) queries: &'a [f32],
    /// Of each query, how many of the keys it sees, from the first on; not 0.
    pub(crate) visible: &'a [usize],
    /// Per [`PAGE`] keys: the keys `[dim, PAGE]`, then the values `[PAGE, dim]`.
    pub(crate) pages: &'a [Page<'a>],
    /// Working memory: `[rows, pages · PAGE]`, and one widened half page (none for floats).
    pub(crate) scores: &'a mut [f32],
    pub(crate) wide: &'a mut [f32],
    /// `[rows, dim]`.
    pub(crate) out: &'a mut [f32],
}

/// Rows that share a widened page in registers.
const ROWS: usize = 4;

/// Softmax attention, page by page: scores of all rows, their softmax, then the mixed values. A
/// page is widened once for all rows.
#[inline(always)]
pub(super) fn attend(work: Attention<'_>) {
    let Attention { dim, queries, visible, pages, scores, wide, out } = work;
    let rows = visible.len();
    let stride = pages.len() * PAGE;
    let tiles = |at: usize| (at, ROWS.min(rows - at));
    for (number, page) in pages.iter().enumerate() {
        let wide = page.wide(false, dim, wide);
        for (row, count) in (0..rows).step_by(ROWS).map(tiles) {
            let queries = &queries[row * dim..(row + count) * dim];
            let sums = if count == ROWS {
                dots::<ROWS>(queries, wide, dim)
            } else {
                let mut sums = [[0.0; PAGE]; ROWS];
                for (sums, query) in sums.iter_mut().zip(queries.chunks_exact(dim)) {
                    [*sums] = dots::<1>(query, wide, dim);
                }
                sums
            };
            for (row, sums) in (row..row + count).zip(sums) {
                let at = row * stride + number * PAGE;
                scores[at..at + PAGE].copy_from_slice(&sums);
            }
        }
    }
    for (scores, visible) in scores.chunks_exact_mut(stride).zip(visible) {
        let (seen, hidden) = scores.split_at_mut(*visible);
        softmax(seen);
        hidden.fill(0.0);
    }
    out.fill(0.0);
    for (number, page) in pages.iter().enumerate() {
        let wide = page.wide(true, dim, wide);
        for (row, count) in (0..rows).step_by(ROWS).map(tiles) {
            let out = &mut out[row * dim..(row + count) * dim];
            let shares = &scores[row * stride..(row + count) * stride];
            if count == ROWS {
                mix::<ROWS>(shares, number * PAGE, stride, wide, dim, out);
            } else {
                for (out, shares) in out.chunks_exact_mut(dim).zip(shares.chunks_exact(stride)) {
                    mix::<1>(shares, number * PAGE, stride, wide, dim, out);
                }
            }
        }
    }
}

/// Products of `R` queries with the sixteen keys of a page.
#[inline(always)]
fn dots<const R: usize>(queries: &[f32], keys: &[f32], dim: usize) -> [[f32; PAGE]; R] {
    let mut sums = [[0.0_f32; PAGE]; R];
    let (keys, _) = keys.as_chunks::<PAGE>();
    for (d, keys) in keys.iter().enumerate() {
        for r in 0..R {
            let query = queries[r * dim + d];
            for (sum, key) in sums[r].iter_mut().zip(keys) {
                *sum = query.mul_add(*key, *sum);
            }
        }
    }
    sums
}

/// Adds a page's values, each by its share, to `R` rows of `out`.
#[inline(always)]
fn mix<const R: usize>(
    shares: &[f32],
    first: usize,
    stride: usize,
    values: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    for column in (0..dim).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; R];
        for r in 0..R {
            sums[r].copy_from_slice(&out[r * dim + column..r * dim + column + LANES]);
        }
        for key in 0..PAGE {
            let values = &values[key * dim + column..key * dim + column + LANES];
            for r in 0..R {
                let share = shares[r * stride + first + key];
                for (sum, value) in sums[r].iter_mut().zip(values) {
                    *sum = share.mul_add(*value, *sum);
                }
            }
        }
        for r in 0..R {
            out[r * dim + column..r * dim + column + LANES].copy_from_slice(&sums[r]);
        }
    }
}

#[inline(always)]
fn softmax(x: &mut [f32]) {
    let most = largest(x);
    for x in x.iter_mut() {
        *x = exp(*x - most);
    }
    let scale = sum_by(x, |x| x).recip();
    for x in x.iter_mut() {
        *x *= scale;
    }
}

/// Finite f16 to f32: the bits moved into place and the exponent's bias mended by a product, which
/// also makes subnormals right.
#[inline(always)]
pub(super) fn widen(from: &[f16], to: &mut [f32]) {
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    for (to, from) in to.iter_mut().zip(from) {
        let bits = u32::from(from.to_bits());
        let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * BIAS;
        *to = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0) * 2.0).collect()
    }

    #[test]
    fn exp_and_erf_are_close_to_double_precision() {
        for i in -9_000..9_000 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact.max(1e-37);
            assert!(!(-87.0..=88.0).contains(&x) || error < 3e-7, "exp({x}) is off by {error}");
        }
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY)), (0.0, 0.0));
        for (x, exact) in [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (2.0, 0.995_322_3)]
        {
            assert!((erf(x) - exact).abs() < 5e-7 && (erf(-x) + exact).abs() < 5e-7);
        }
    }

    /// Abramowitz and Stegun 7.1.5, summed until nothing is added.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn gelu_is_the_exact_form() {
        for i in -400..400 {
            let y = i as f32 * 0.01;
            let mut got = [y - 0.5];
            gelu(&mut got, &[0.5]);
            let y = f64::from(y);
            let wanted = 0.5 * y * (1.0 + exact_erf(y / std::f64::consts::SQRT_2));
            assert!((f64::from(got[0]) - wanted).abs() < 2e-6, "gelu({y}) is {}", got[0]);
        }
    }

    #[test]
    fn halves_widen_exactly() {
        for bits in (0..=u16::MAX).map(f16::from_bits).filter(|h| h.is_finite()) {
            let mut wide = [0.0];
            widen(&[bits], &mut wide);
            assert_eq!(wide[0].to_bits(), bits.to_f32().to_bits());
        }
    }

    #[test]
    fn norms_are_their_formulas() {
        let (x, weight, bias) = (values(100, 1), values(100, 2), values(100, 3));
        let mut out = vec![0.0; 100];
        rms_norm(&x, &weight, 1e-6, &mut out);
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 100.0;
        for i in 0..100 {
            let exact = f64::from(x[i]) / (mean + 1e-6).sqrt() * f64::from(weight[i]);
            assert!((f64::from(out[i]) - exact).abs() < 1e-5);
        }
        let mut y = x.clone();
        layer_norm(&mut y, &weight, &bias, 1e-12);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 100.0;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 100.0;
        for i in 0..100 {
            let exact = (f64::from(x[i]) - mean) / variance.sqrt() * f64::from(weight[i])
                + f64::from(bias[i]);
            assert!((f64::from(y[i]) - exact).abs() < 1e-5);
        }
    }

    #[test]
    fn attention_is_softmax_of_what_is_visible() {
        let (dim, keys, rows) = (32, 37, 6);
        let halves = |x: Vec<f32>| x.into_iter().map(f16::from_f32).collect::<Vec<_>>();
        let (k, v) = (halves(values(keys * dim, 4)), halves(values(keys * dim, 5)));
        let queries = values(rows * dim, 6);
        let visible = [1, 16, 17, 37, 20, 5];
        let mut pages = vec![vec![f16::ZERO; 2 * dim * PAGE]; keys.div_ceil(PAGE)];
        for key in 0..keys {
            let page = &mut pages[key / PAGE];
            for d in 0..dim {
                page[d * PAGE + key % PAGE] = k[key * dim + d];
                page[(PAGE + key % PAGE) * dim + d] = v[key * dim + d];
            }
        }
        let pages: Vec<Page<'_>> = pages.iter().map(|page| Page::Halves(page)).collect();
        let mut out = vec![9.0; rows * dim];
        attend(Attention {
            dim,
            queries: &queries,
            visible: &visible,
            pages: &pages,
            scores: &mut vec![9.0; rows * pages.len() * PAGE],
            wide: &mut vec![0.0; dim * PAGE],
            out: &mut out,
        });
        for row in 0..rows {
            let dot = |key: usize| -> f64 {
                (0..dim)
                    .map(|d| f64::from(queries[row * dim + d]) * f64::from(k[key * dim + d]))
                    .sum()
            };
            let weights: Vec<f64> = (0..visible[row]).map(|key| dot(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let mixed: f64 = weights
                    .iter()
                    .enumerate()
                    .map(|(key, w)| w / total * f64::from(v[key * dim + d]))
                    .sum();
                assert!((f64::from(out[row * dim + d]) - mixed).abs() < 1e-4, "row {row}");
            }
        }
    }
}
