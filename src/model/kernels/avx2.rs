//! The products with AVX2, FMA and F16C: 32 byte products per instruction.
//!
//! `vpmaddubsw` adds pairs of byte products in 16 bits. Codes of few bits leave room there for
//! several pairs before they must be widened to 32 bits, which is what makes four bits nearly twice
//! as fast as eight: 8 · 2 · 15 · 127 and 4 · 2 · 31 · 127 and 2 · 2 · 63 · 127 stay below 2¹⁵.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::activations::GROUP;
use super::format::{Format, PANEL, QUAD_BYTES, QUADS};
use super::tile::{AHEAD, Inputs, Kernel, STRETCH, Stretch};

pub(super) struct Avx2;

impl Kernel for Avx2 {
    /// One register of sums per row leaves enough for weights and inputs.
    const ROWS: usize = 6;

    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
        // SAFETY: the caller's promise.
        unsafe { widen(format, superblocks, stretch) }
    }

    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        assert!(x.blocks <= stretch.blocks && x.blocks <= STRETCH, "more inputs than weights");
        // SAFETY: the caller's promise; the stretch has the blocks.
        unsafe { by_rows(format, &Widened(stretch), x, out) }
    }

    unsafe fn straight(format: Format, panel: &[u8], x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        let blocks = panel.len() / format.superblock_bytes() * format.blocks();
        assert!(x.blocks <= blocks, "more inputs than weights");
        // SAFETY of all: the caller's promise; the panel has the blocks.
        match format {
            // SAFETY: as above.
            Format::Q4_0 => unsafe { by_rows(format, &Narrow::<Q4_0>::new(panel), x, out) },
            // SAFETY: as above.
            Format::Q5_0 => unsafe { by_rows(format, &Narrow::<Q5_0>::new(panel), x, out) },
            // SAFETY: as above.
            Format::Q8_0 => unsafe { by_rows(format, &Narrow::<Q8_0>::new(panel), x, out) },
            // SAFETY: as above.
            Format::Q4K => unsafe { by_rows(format, &Narrow::<Q4K>::new(panel), x, out) },
            // SAFETY: as above.
            Format::Q6K => unsafe { by_rows(format, &Narrow::<Q6K>::new(panel), x, out) },
        }
    }
}

/// Where the products take a panel's weights from. `half` says which eight of the sixteen outputs.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; `block` is one of the weights', `quad` below [`QUADS`],
/// `group` and `half` below 2.
trait Weights {
    /// The codes of a quad of inputs.
    unsafe fn codes(&self, block: usize, quad: usize, half: usize) -> __m256i;
    /// Scales and offsets of a group of weights.
    unsafe fn scales(&self, block: usize, group: usize, half: usize) -> [__m256; 2];
    /// Asks for what comes later.
    unsafe fn prefetch(&self, block: usize);
}

/// Weights that were widened.
struct Widened<'a>(&'a Stretch);

impl Weights for Widened<'_> {
    #[inline(always)]
    unsafe fn codes(&self, block: usize, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { load(self.0.codes.get_unchecked(block).get_unchecked(quad), half) }
    }

    #[inline(always)]
    unsafe fn scales(&self, block: usize, group: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let of = |floats: &[[[f32; PANEL]; 2]; STRETCH]| {
                let floats = floats.get_unchecked(block).get_unchecked(group);
                _mm256_loadu_ps(floats.as_ptr().add(8 * half))
            };
            [of(&self.0.scales), of(&self.0.offsets)]
        }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, _block: usize) {}
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<W: Weights>(
    format: Format,
    weights: &W,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    // SAFETY of all: the caller's promise; `out` has as many rows as are named.
    macro_rules! rows {
        ($($rows:literal)*) => {
            match (format.bits(), out.len()) {
                $(
                    // SAFETY: as above.
                    (4, $rows) => unsafe { products::<W, $rows, 4>(weights, x, out) },
                    // SAFETY: as above.
                    (5, $rows) => unsafe { products::<W, $rows, 5>(weights, x, out) },
                    // SAFETY: as above.
                    (6, $rows) => unsafe { products::<W, $rows, 6>(weights, x, out) },
                    // SAFETY: as above.
                    (_, $rows) => unsafe { products::<W, $rows, 8>(weights, x, out) },
                )*
                (_, rows) => unreachable!("{rows} rows in one call"),
            }
        };
    }
    rows!(1 2 3 4 5 6);
}

/// Adds the products of `R` rows with weights of `BITS` bits to `out`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<W: Weights, const R: usize, const BITS: usize>(
    weights: &W,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    assert!(x.rows == R && out.len() == R, "a row too few");
    for first in (0..x.blocks).step_by(GROUP) {
        for half in 0..2 {
            let mut sums = [_mm256_setzero_ps(); R];
            for block in first..x.blocks.min(first + GROUP) {
                // SAFETY: the caller's promise; block and rows are of `x`.
                unsafe {
                    if half == 0 {
                        weights.prefetch(block);
                    }
                    match BITS {
                        4 | 5 => add_block::<W, R, BITS>(weights, block, half, x, &mut sums),
                        6 => add_block_of_six::<W, R>(weights, block, half, x, &mut sums),
                        _ => add_block_of_eight::<W, R>(weights, block, half, x, &mut sums),
                    }
                }
            }
            for r in 0..R {
                // SAFETY: `r` is below the rows, and the group has a block.
                let scale = _mm256_set1_ps(unsafe { x.scale(r, first / GROUP) });
                // SAFETY: eight floats from the start or the middle of sixteen.
                unsafe {
                    let out = out[r].as_mut_ptr().add(8 * half);
                    _mm256_storeu_ps(out, _mm256_fmadd_ps(sums[r], scale, _mm256_loadu_ps(out)));
                }
            }
        }
    }
}

/// Writes `body` out once for every quad: a loop would not always be unrolled, and choosing the bits
/// of a quad must cost nothing.
macro_rules! for_quads {
    ($quad:ident in $($number:literal)*; $body:expr) => {
        $({ const $quad: usize = $number; $body })*
    };
}

/// One block of codes of four or five bits: sixteen bits hold the sums of all of it, or of half.
/// Quads that share a plane of nibbles follow each other.
#[inline(always)]
unsafe fn add_block<W: Weights, const R: usize, const BITS: usize>(
    weights: &W,
    block: usize,
    half: usize,
    x: Inputs<'_>,
    sums: &mut [__m256; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut pairs = [_mm256_setzero_si256(); R];
        for_quads!(QUAD in 0 4 1 5; add_quad::<W, R, QUAD>(weights, block, half, x, &mut pairs));
        let mut products = [_mm256_setzero_si256(); R];
        if BITS == 5 {
            for r in 0..R {
                products[r] = in_turn(_mm256_madd_epi16(pairs[r], ones));
            }
            pairs = [_mm256_setzero_si256(); R];
        }
        for_quads!(QUAD in 2 6 3 7; add_quad::<W, R, QUAD>(weights, block, half, x, &mut pairs));
        let [scales, offsets] = weights.scales(block, 0, half);
        for r in 0..R {
            let product = _mm256_add_epi32(products[r], _mm256_madd_epi16(pairs[r], ones));
            let codes = _mm256_set1_ps(x.sum(r, block, 2));
            sums[r] = _mm256_fmadd_ps(offsets, codes, sums[r]);
            sums[r] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(product), sums[r]);
        }
    }
}

/// Adds the products of one quad to sums of sixteen bits.
#[inline(always)]
unsafe fn add_quad<W: Weights, const R: usize, const QUAD: usize>(
    weights: &W,
    block: usize,
    half: usize,
    x: Inputs<'_>,
    pairs: &mut [__m256i; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = weights.codes(block, QUAD, half);
        for (r, pairs) in pairs.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(x.quad(r, block, QUAD));
            *pairs = in_turn(_mm256_add_epi16(*pairs, _mm256_maddubs_epi16(w, x)));
        }
    }
}

/// One block of codes of six bits, which come with two scales.
#[inline(always)]
unsafe fn add_block_of_six<W: Weights, const R: usize>(
    weights: &W,
    block: usize,
    half: usize,
    x: Inputs<'_>,
    sums: &mut [__m256; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        for_quads!(GROUP in 0 1; {
            let mut products = [_mm256_setzero_si256(); R];
            for_quads!(PAIR in 0 1; {
                const FIRST: usize = 4 * GROUP + 2 * PAIR;
                let w = [weights.codes(block, FIRST, half), weights.codes(block, FIRST + 1, half)];
                for (r, products) in products.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(x.quad(r, block, FIRST));
                    let b = _mm256_set1_epi32(x.quad(r, block, FIRST + 1));
                    let pairs = _mm256_maddubs_epi16(w[0], a);
                    let pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[1], b));
                    let wide = _mm256_madd_epi16(pairs, ones);
                    *products = in_turn(_mm256_add_epi32(*products, wide));
                }
            });
            let [scales, offsets] = weights.scales(block, GROUP, half);
            for r in 0..R {
                let codes = _mm256_set1_ps(x.sum(r, block, GROUP));
                sums[r] = _mm256_fmadd_ps(offsets, codes, sums[r]);
                sums[r] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(products[r]), sums[r]);
            }
        });
    }
}

/// One block of signed bytes, which hand their sign to the input.
#[inline(always)]
unsafe fn add_block_of_eight<W: Weights, const R: usize>(
    weights: &W,
    block: usize,
    half: usize,
    x: Inputs<'_>,
    sums: &mut [__m256; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut products = [_mm256_setzero_si256(); R];
        for_quads!(QUAD in 0 1 2 3 4 5 6 7; {
            let w = weights.codes(block, QUAD, half);
            let magnitude = _mm256_abs_epi8(w);
            for (r, products) in products.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(x.quad(r, block, QUAD));
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
                *products = in_turn(_mm256_add_epi32(*products, _mm256_madd_epi16(pairs, ones)));
            }
        });
        let [scales, _] = weights.scales(block, 0, half);
        for r in 0..R {
            sums[r] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(products[r]), sums[r]);
        }
    }
}

/// The value, out of the compiler's sight: regrouping these sums costs more registers than there are.
#[target_feature(enable = "avx2")]
#[inline]
fn in_turn(mut value: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// Half of 64 bytes.
///
/// # Safety
/// `half` is below 2.
#[inline(always)]
unsafe fn load(bytes: &[u8; QUAD_BYTES], half: usize) -> __m256i {
    // SAFETY: 32 bytes from the start or the middle of 64.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast()) }
}

/// How codes and scales of a format are read out of its superblocks, eight outputs at a time.
///
/// # Safety
/// As for [`Weights`]; `header` and `planes` begin a header and a block's codes of this format.
trait Unpack {
    const FORMAT: Format;
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i;
    unsafe fn scales(header: *const u8, block: usize, group: usize, half: usize) -> [__m256; 2];
}

/// Weights as they lie in memory.
struct Narrow<'a, U> {
    superblocks: &'a [u8],
    format: PhantomData<U>,
}

impl<'a, U: Unpack> Narrow<'a, U> {
    fn new(superblocks: &'a [u8]) -> Self {
        Self { superblocks, format: PhantomData }
    }

    /// Where the superblock of a block begins.
    #[inline(always)]
    unsafe fn superblock(&self, block: usize) -> *const u8 {
        let at = block / U::FORMAT.blocks() * U::FORMAT.superblock_bytes();
        // SAFETY: `block` is one of these superblocks'.
        unsafe { self.superblocks.as_ptr().add(at) }
    }
}

impl<U: Unpack> Weights for Narrow<'_, U> {
    #[inline(always)]
    unsafe fn codes(&self, block: usize, quad: usize, half: usize) -> __m256i {
        let at = U::FORMAT.header_bytes() + block % U::FORMAT.blocks() * U::FORMAT.code_bytes();
        // SAFETY: the caller's promise.
        unsafe { U::codes(self.superblock(block).add(at), quad, half) }
    }

    #[inline(always)]
    unsafe fn scales(&self, block: usize, group: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { U::scales(self.superblock(block), block % U::FORMAT.blocks(), group, half) }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, block: usize) {
        // SAFETY: the caller's promise; an address is only asked for.
        let at = unsafe { self.superblock(block) };
        let share = U::FORMAT.superblock_bytes() / U::FORMAT.blocks();
        let first = block % U::FORMAT.blocks() * share;
        for line in (first..first + share).step_by(64) {
            // SAFETY: nothing is read.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line + AHEAD).cast()) };
        }
    }
}

struct Q4_0;
struct Q5_0;
struct Q8_0;
struct Q4K;
struct Q6K;

impl Unpack for Q4_0 {
    const FORMAT: Format = Format::Q4_0;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { nibbles(planes, quad, half) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { around(-8.0, halves(header, half)) }
    }
}

impl Unpack for Q5_0 {
    const FORMAT: Format = Format::Q5_0;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise; bits that cross into a neighbouring byte are masked away.
        unsafe {
            let fifth = plane(planes, QUADS / 2, half);
            let moved = match quad {
                0 => _mm256_slli_epi16::<4>(fifth),
                1 => _mm256_slli_epi16::<3>(fifth),
                2 => _mm256_slli_epi16::<2>(fifth),
                3 => _mm256_slli_epi16::<1>(fifth),
                4 => fifth,
                5 => _mm256_srli_epi16::<1>(fifth),
                6 => _mm256_srli_epi16::<2>(fifth),
                _ => _mm256_srli_epi16::<3>(fifth),
            };
            let bit = _mm256_and_si256(moved, _mm256_set1_epi8(16));
            _mm256_or_si256(nibbles(planes, quad, half), bit)
        }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { around(-16.0, halves(header, half)) }
    }
}

impl Unpack for Q8_0 {
    const FORMAT: Format = Format::Q8_0;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { plane(planes, quad, half) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [halves(header, half), _mm256_setzero_ps()] }
    }
}

impl Unpack for Q4K {
    const FORMAT: Format = Format::Q4K;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { nibbles(planes, quad, half) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, block: usize, _: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let byte = |at: usize| {
                let bytes = eight_bytes(header.add(4 * PANEL + PANEL * at), half);
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
            };
            let scale = _mm256_mul_ps(halves(header, half), byte(block));
            let min = _mm256_mul_ps(halves(header.add(2 * PANEL), half), byte(8 + block));
            [scale, _mm256_sub_ps(_mm256_setzero_ps(), min)]
        }
    }
}

impl Unpack for Q6K {
    const FORMAT: Format = Format::Q6K;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let upper = plane(planes, QUADS / 2 + quad / 4, half);
            let moved = match quad % 4 {
                0 => _mm256_slli_epi16::<4>(upper),
                1 => _mm256_slli_epi16::<2>(upper),
                2 => upper,
                _ => _mm256_srli_epi16::<2>(upper),
            };
            let bits = _mm256_and_si256(moved, _mm256_set1_epi8(0x30));
            _mm256_or_si256(nibbles(planes, quad, half), bits)
        }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, block: usize, group: usize, half: usize) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = eight_bytes(header.add(2 * PANEL + PANEL * (2 * block + group)), half);
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            around(-32.0, _mm256_mul_ps(halves(header, half), scale))
        }
    }
}

/// Scales, and offsets of codes that count from `middle`.
#[inline(always)]
unsafe fn around(middle: f32, scales: __m256) -> [__m256; 2] {
    // SAFETY: the caller has the instructions.
    unsafe { [scales, _mm256_mul_ps(_mm256_set1_ps(middle), scales)] }
}

/// Half of the `at`th plane.
#[inline(always)]
unsafe fn plane(planes: *const u8, at: usize, half: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(planes.add(at * QUAD_BYTES + 32 * half).cast()) }
}

/// The low four bits of a quad's codes.
#[inline(always)]
unsafe fn nibbles(planes: *const u8, quad: usize, half: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let both = plane(planes, quad % (QUADS / 2), half);
        let nibbles = if quad < QUADS / 2 { both } else { _mm256_srli_epi16::<4>(both) };
        _mm256_and_si256(nibbles, _mm256_set1_epi8(15))
    }
}

/// Eight of sixteen f16.
#[inline(always)]
unsafe fn halves(at: *const u8, half: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * half).cast())) }
}

/// Eight of sixteen bytes, in the low half of a register.
#[inline(always)]
unsafe fn eight_bytes(at: *const u8, half: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadl_epi64(at.add(8 * half).cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
    match format {
        Format::Q4_0 => widen_of(&Narrow::<Q4_0>::new(superblocks), stretch),
        Format::Q5_0 => widen_of(&Narrow::<Q5_0>::new(superblocks), stretch),
        Format::Q8_0 => widen_of(&Narrow::<Q8_0>::new(superblocks), stretch),
        Format::Q4K => widen_of(&Narrow::<Q4K>::new(superblocks), stretch),
        Format::Q6K => widen_of(&Narrow::<Q6K>::new(superblocks), stretch),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn widen_of<U: Unpack>(narrow: &Narrow<'_, U>, stretch: &mut Stretch) {
    let superblocks = narrow.superblocks.len() / U::FORMAT.superblock_bytes();
    stretch.blocks = superblocks * U::FORMAT.blocks();
    for block in 0..stretch.blocks {
        let codes = &mut stretch.codes[block];
        let (scales, offsets) = (&mut stretch.scales[block], &mut stretch.offsets[block]);
        for half in 0..2 {
            // SAFETY: the block is one of these superblocks'; quads have 64 bytes, rows of scales
            // sixteen floats.
            unsafe {
                if half == 0 {
                    narrow.prefetch(block);
                }
                for_quads!(QUAD in 0 4 1 5 2 6 3 7; {
                    let to = codes[QUAD].as_mut_ptr().add(32 * half).cast();
                    _mm256_storeu_si256(to, narrow.codes(block, QUAD, half));
                });
                for group in 0..U::FORMAT.groups() {
                    let [scale, offset] = narrow.scales(block, group, half);
                    _mm256_storeu_ps(scales[group].as_mut_ptr().add(8 * half), scale);
                    _mm256_storeu_ps(offsets[group].as_mut_ptr().add(8 * half), offset);
                }
            }
        }
    }
}
