//! The products with AVX-512 VNNI: 64 byte products per instruction, summed in 32 bits.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::activations::GROUP;
use super::format::{Format, PANEL, QUAD_BYTES, QUADS};
use super::tile::{AHEAD, Inputs, Kernel, STRETCH, Stretch};

pub(super) struct Avx512Vnni;

impl Kernel for Avx512Vnni {
    const ROWS: usize = 12;

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

/// Where the products take a panel's weights from.
///
/// # Safety
/// The machine has AVX-512 F, BW and VNNI; `block` is one of the weights', `quad` below [`QUADS`],
/// `group` below 2.
trait Weights {
    /// The codes of a quad of inputs, unsigned.
    unsafe fn codes(&self, block: usize, quad: usize) -> __m512i;
    /// Scales and offsets of a group of weights.
    unsafe fn scales(&self, block: usize, group: usize) -> [__m512; 2];
    /// Asks for what comes later.
    unsafe fn prefetch(&self, block: usize);
}

/// Weights that were widened.
struct Widened<'a>(&'a Stretch);

impl Weights for Widened<'_> {
    #[inline(always)]
    unsafe fn codes(&self, block: usize, quad: usize) -> __m512i {
        // SAFETY: the caller's promise; a quad has 64 bytes.
        unsafe {
            let bytes = self.0.codes.get_unchecked(block).get_unchecked(quad);
            _mm512_loadu_si512(bytes.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn scales(&self, block: usize, group: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise; a row has sixteen floats.
        unsafe {
            let of = |floats: &[[[f32; PANEL]; 2]; STRETCH]| {
                _mm512_loadu_ps(floats.get_unchecked(block).get_unchecked(group).as_ptr())
            };
            [of(&self.0.scales), of(&self.0.offsets)]
        }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, _block: usize) {}
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn by_rows<W: Weights>(
    format: Format,
    weights: &W,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    // SAFETY of all: the caller's promise; `out` has as many rows as are named.
    macro_rules! rows {
        ($($rows:literal)*) => {
            match (format.groups(), out.len()) {
                $(
                    // SAFETY: as above.
                    (1, $rows) => unsafe { products::<W, $rows, 1>(weights, x, out) },
                    // SAFETY: as above.
                    (_, $rows) => unsafe { products::<W, $rows, 2>(weights, x, out) },
                )*
                (_, rows) => unreachable!("{rows} rows in one call"),
            }
        };
    }
    rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Adds the products of `R` rows with weights that have `GROUPS` scales per block to `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn products<W: Weights, const R: usize, const GROUPS: usize>(
    weights: &W,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    assert!(x.rows == R && out.len() == R, "a row too few");
    for first in (0..x.blocks).step_by(GROUP) {
        let mut sums = [_mm512_setzero_ps(); R];
        for block in first..x.blocks.min(first + GROUP) {
            // SAFETY: the caller's promise; block and rows are of `x`.
            unsafe {
                weights.prefetch(block);
                add_block::<W, R, GROUPS>(weights, block, x, &mut sums);
            }
        }
        for r in 0..R {
            // SAFETY: `r` is below the rows, and the group has a block.
            let scale = _mm512_set1_ps(unsafe { x.scale(r, first / GROUP) });
            // SAFETY: as above; a register holds sixteen floats.
            unsafe {
                let out = out[r].as_mut_ptr();
                _mm512_storeu_ps(out, _mm512_fmadd_ps(sums[r], scale, _mm512_loadu_ps(out)));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_block<W: Weights, const R: usize, const GROUPS: usize>(
    weights: &W,
    block: usize,
    x: Inputs<'_>,
    sums: &mut [__m512; R],
) {
    for group in 0..GROUPS {
        let mut products = [_mm512_setzero_si512(); R];
        for step in 0..QUADS / GROUPS {
            let quad = group * (QUADS / GROUPS) + step;
            // SAFETY: the caller's promise.
            let w = unsafe { weights.codes(block, quad) };
            for (r, product) in products.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let x = _mm512_set1_epi32(unsafe { x.quad(r, block, quad) });
                *product = _mm512_dpbusd_epi32(*product, w, x);
            }
        }
        // SAFETY: the caller's promise.
        let [scales, offsets] = unsafe { weights.scales(block, group) };
        for r in 0..R {
            let part = if GROUPS == 2 { group } else { 2 };
            // SAFETY: the caller's promise.
            let codes = _mm512_set1_ps(unsafe { x.sum(r, block, part) });
            sums[r] = _mm512_fmadd_ps(offsets, codes, sums[r]);
            sums[r] = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(products[r]), sums[r]);
        }
    }
}

/// How codes and scales of a format are read out of its superblocks, sixteen outputs at a time.
///
/// # Safety
/// As for [`Weights`]; `header` and `planes` begin a header and a block's codes of this format.
trait Unpack {
    const FORMAT: Format;
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i;
    unsafe fn scales(header: *const u8, block: usize, group: usize) -> [__m512; 2];
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
    unsafe fn codes(&self, block: usize, quad: usize) -> __m512i {
        let at = U::FORMAT.header_bytes() + block % U::FORMAT.blocks() * U::FORMAT.code_bytes();
        // SAFETY: the caller's promise.
        unsafe { U::codes(self.superblock(block).add(at), quad) }
    }

    #[inline(always)]
    unsafe fn scales(&self, block: usize, group: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { U::scales(self.superblock(block), block % U::FORMAT.blocks(), group) }
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
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { nibbles(planes, quad) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { around(-8.0, halves(header)) }
    }
}

impl Unpack for Q5_0 {
    const FORMAT: Format = Format::Q5_0;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i {
        // SAFETY: the caller's promise; bits that cross into a neighbouring byte are masked away.
        unsafe {
            let fifth = plane(planes, QUADS / 2);
            let moved = match quad {
                0 => _mm512_slli_epi16::<4>(fifth),
                1 => _mm512_slli_epi16::<3>(fifth),
                2 => _mm512_slli_epi16::<2>(fifth),
                3 => _mm512_slli_epi16::<1>(fifth),
                4 => fifth,
                5 => _mm512_srli_epi16::<1>(fifth),
                6 => _mm512_srli_epi16::<2>(fifth),
                _ => _mm512_srli_epi16::<3>(fifth),
            };
            let bit = _mm512_and_si512(moved, _mm512_set1_epi8(16));
            _mm512_or_si512(nibbles(planes, quad), bit)
        }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { around(-16.0, halves(header)) }
    }
}

impl Unpack for Q8_0 {
    const FORMAT: Format = Format::Q8_0;

    /// The instruction wants unsigned codes: they are raised by 128.
    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_xor_si512(plane(planes, quad), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, _: usize, _: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { around(-128.0, halves(header)) }
    }
}

impl Unpack for Q4K {
    const FORMAT: Format = Format::Q4K;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { nibbles(planes, quad) }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, block: usize, _: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let byte = |at: usize| {
                let bytes = sixteen_bytes(header.add(4 * PANEL + PANEL * at));
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
            };
            let scale = _mm512_mul_ps(halves(header), byte(block));
            let min = _mm512_mul_ps(halves(header.add(2 * PANEL)), byte(8 + block));
            [scale, _mm512_sub_ps(_mm512_setzero_ps(), min)]
        }
    }
}

impl Unpack for Q6K {
    const FORMAT: Format = Format::Q6K;

    #[inline(always)]
    unsafe fn codes(planes: *const u8, quad: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let upper = plane(planes, QUADS / 2 + quad / 4);
            let moved = match quad % 4 {
                0 => _mm512_slli_epi16::<4>(upper),
                1 => _mm512_slli_epi16::<2>(upper),
                2 => upper,
                _ => _mm512_srli_epi16::<2>(upper),
            };
            let bits = _mm512_and_si512(moved, _mm512_set1_epi8(0x30));
            _mm512_or_si512(nibbles(planes, quad), bits)
        }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, block: usize, group: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = sixteen_bytes(header.add(2 * PANEL + PANEL * (2 * block + group)));
            let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
            around(-32.0, _mm512_mul_ps(halves(header), scale))
        }
    }
}

/// Scales, and offsets of codes that count from `middle`.
#[inline(always)]
unsafe fn around(middle: f32, scales: __m512) -> [__m512; 2] {
    // SAFETY: the caller has the instructions.
    unsafe { [scales, _mm512_mul_ps(_mm512_set1_ps(middle), scales)] }
}

/// The `at`th plane.
#[inline(always)]
unsafe fn plane(planes: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(planes.add(at * QUAD_BYTES).cast()) }
}

/// The low four bits of a quad's codes.
#[inline(always)]
unsafe fn nibbles(planes: *const u8, quad: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let both = plane(planes, quad % (QUADS / 2));
        let nibbles = if quad < QUADS / 2 { both } else { _mm512_srli_epi16::<4>(both) };
        _mm512_and_si512(nibbles, _mm512_set1_epi8(15))
    }
}

/// Sixteen f16.
#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

#[inline(always)]
unsafe fn sixteen_bytes(at: *const u8) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(at.cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
    match format {
        Format::Q4_0 => widen_of(&Narrow::<Q4_0>::new(superblocks), stretch),
        Format::Q5_0 => widen_of(&Narrow::<Q5_0>::new(superblocks), stretch),
        Format::Q8_0 => widen_of(&Narrow::<Q8_0>::new(superblocks), stretch),
        Format::Q4K => widen_of(&Narrow::<Q4K>::new(superblocks), stretch),
        Format::Q6K => widen_of(&Narrow::<Q6K>::new(superblocks), stretch),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn widen_of<U: Unpack>(narrow: &Narrow<'_, U>, stretch: &mut Stretch) {
    let superblocks = narrow.superblocks.len() / U::FORMAT.superblock_bytes();
    stretch.blocks = superblocks * U::FORMAT.blocks();
    for block in 0..stretch.blocks {
        let codes = &mut stretch.codes[block];
        let (scales, offsets) = (&mut stretch.scales[block], &mut stretch.offsets[block]);
        // SAFETY: the block is one of these superblocks'; quads have 64 bytes, rows of scales
        // sixteen floats.
        unsafe {
            narrow.prefetch(block);
            for (quad, codes) in codes.iter_mut().enumerate() {
                _mm512_storeu_si512(codes.as_mut_ptr().cast(), narrow.codes(block, quad));
            }
            for group in 0..U::FORMAT.groups() {
                let [scale, offset] = narrow.scales(block, group);
                _mm512_storeu_ps(scales[group].as_mut_ptr(), scale);
                _mm512_storeu_ps(offsets[group].as_mut_ptr(), offset);
            }
        }
    }
}
