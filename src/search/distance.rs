//! Inner products of `f32` and of `i8`, compiled for AVX2 and for any machine.
//!
//! The bodies are plain loops over fixed lanes; within a function compiled for AVX2 the compiler
//! makes vector instructions of them, well for `f32`.

#![expect(unsafe_code, reason = "what is compiled for AVX2 may only be called where AVX2 is")]

/// Independent accumulators: several registers full, which hides the latency of an addition.
const LANES: usize = 32;

/// Inner product over the shorter of the two lengths.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { dot_avx2(a, b) };
    }
    dot_lanes(a, b, |sum, x, y| sum + x * y)
}

/// Inner product over the shorter of the two lengths, which holds up to 130,000 columns.
pub(super) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    #[cfg(target_arch = "x86_64")]
    if has_avx512_vnni() {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { dot_i8_avx512(a, b) };
    } else if has_avx2() {
        // SAFETY: as above.
        return unsafe { dot_i8_avx2(a, b) };
    }
    dot_i8_lanes(a, b)
}

/// Asks for `items` to be brought into the cache; a graph's next stop is not where the last was.
#[inline]
pub(super) fn prefetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in items.chunks((64 / size_of::<T>().max(1)).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and never faults; SSE is part of every x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot_lanes(a, b, |sum, x, y| x.mul_add(y, sum))
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Twice as wide, and multiplied and added in one instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_i8_avx512(a: &[i8], b: &[i8]) -> i32 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_loadu_si256, _mm512_add_epi32, _mm512_cvtepi8_epi16,
        _mm512_dpwssd_epi32, _mm512_reduce_add_epi32, _mm512_setzero_si512,
    };
    let shorter = a.len().min(b.len());
    let (a_blocks, a_rest) = a[..shorter].as_chunks::<32>();
    let (b_blocks, b_rest) = b[..shorter].as_chunks::<32>();
    let widened = |block: &[i8; 32]| -> __m512i {
        // SAFETY: the block is as long as what is read, and the read needs no alignment.
        _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(block.as_ptr().cast::<__m256i>()) })
    };
    // Two sums, so that an addition need not wait for the one before.
    let mut sums = [_mm512_setzero_si512(); 2];
    for (at, (x, y)) in a_blocks.iter().zip(b_blocks).enumerate() {
        sums[at % 2] = _mm512_dpwssd_epi32(sums[at % 2], widened(x), widened(y));
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) + dot_i8_lanes(a_rest, b_rest)
}

/// By hand, since the compiler widens only eight codes at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_i8_avx2(a: &[i8], b: &[i8]) -> i32 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16,
        _mm256_madd_epi16, _mm256_setzero_si256, _mm256_storeu_si256,
    };
    let shorter = a.len().min(b.len());
    let (a_blocks, a_rest) = a[..shorter].as_chunks::<16>();
    let (b_blocks, b_rest) = b[..shorter].as_chunks::<16>();
    let widened = |block: &[i8; 16]| -> __m256i {
        // SAFETY: the block is as long as what is read, and the read needs no alignment.
        _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(block.as_ptr().cast::<__m128i>()) })
    };
    let mut sums = _mm256_setzero_si256();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(widened(x), widened(y)));
    }
    let mut lanes = [0_i32; 8];
    // SAFETY: the lanes are as long as what is written, and the write needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
    lanes.iter().sum::<i32>() + dot_i8_lanes(a_rest, b_rest)
}

/// `step` is the caller's, since a fused multiply-add is a slow library call where the machine has
/// no instruction for it.
#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let shorter = a.len().min(b.len());
    let (a_blocks, a_rest) = a[..shorter].as_chunks::<LANES>();
    let (b_blocks, b_rest) = b[..shorter].as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = step(lanes[lane], x[lane], y[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn dot_i8_lanes(a: &[i8], b: &[i8]) -> i32 {
    let shorter = a.len().min(b.len());
    a[..shorter].iter().zip(&b[..shorter]).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::SplitMix64;
    use proptest::prelude::*;

    fn floats(length: usize, random: &mut SplitMix64) -> Vec<f32> {
        (0..length).map(|_| random.unit() * 2.0 - 1.0).collect()
    }

    #[test]
    fn agrees_with_double_precision_at_every_length() {
        let mut random = SplitMix64::new(3);
        for length in (0..200).chain([383, 384, 385, 1024, 1031]) {
            let (a, b) = (floats(length, &mut random), floats(length, &mut random));
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            for found in [dot(&a, &b), dot_lanes(&a, &b, |sum, x, y| sum + x * y)] {
                assert!((f64::from(found) - exact).abs() < 1e-5, "{length}: {found} {exact}");
            }
        }
    }

    #[test]
    fn unequal_lengths_meet_at_the_shorter() {
        let ones = [1.0_f32; 100];
        let codes = [1_i8; 100];
        for shorter in [0, 1, 31, 32, 33, 64, 70] {
            assert_eq!(dot(&ones, &ones[..shorter]), shorter as f32);
            assert_eq!(dot(&ones[..shorter], &ones), shorter as f32);
            assert_eq!(dot_i8(&codes, &codes[..shorter]), shorter as i32);
        }
    }

    proptest! {
        #[test]
        fn codes_give_the_plain_sum(pairs in prop::collection::vec(any::<(i8, i8)>(), 0..500)) {
            let (a, b): (Vec<i8>, Vec<i8>) = pairs.iter().copied().unzip();
            let plain: i64 = pairs.iter().map(|&(x, y)| i64::from(x) * i64::from(y)).sum();
            prop_assert_eq!(i64::from(dot_i8(&a, &b)), plain);
            prop_assert_eq!(i64::from(dot_i8_lanes(&a, &b)), plain);
        }
    }
}
