//! The products with AVX2, FMA and F16C: 32 byte products per instruction.
//!
//! `vpmaddubsw` adds pairs of byte products in 16 bits. Codes of few bits leave room there for
//! several pairs before they must be widened to 32 bits, which is what makes four bits nearly twice
//! as fast as eight: 8 · 2 · 15 · 127 and 4 · 2 · 31 · 127 and 2 · 2 · 63 · 127 stay below 2¹⁵.

use std::arch::x86_64::*;

use super::format::{Format, PANEL, QUAD_BYTES, QUADS};
use super::tile::{AHEAD, Inputs, Kernel, Stretch};

pub(super) struct Avx2;

impl Kernel for Avx2 {
    const ROWS: usize = 3;

    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
        // SAFETY: the caller's promise.
        unsafe { widen(format, superblocks, stretch) }
    }

    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        match out.len() {
            // SAFETY: the caller's promise; `out` has as many rows as are named.
            1 => unsafe { tile_of::<1>(format, stretch, x, out) },
            // SAFETY: as above.
            2 => unsafe { tile_of::<2>(format, stretch, x, out) },
            // SAFETY: as above.
            _ => unsafe { tile_of::<3>(format, stretch, x, out) },
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_of<const R: usize>(
    format: Format,
    stretch: &Stretch,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    match format {
        Format::Q4_0 | Format::Q4K => tile::<R, 4>(stretch, x, out),
        Format::Q5_0 => tile::<R, 5>(stretch, x, out),
        Format::Q6K => tile::<R, 6>(stretch, x, out),
        Format::Q8_0 => tile_signed::<R>(stretch, x, out),
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; QUAD_BYTES], half: usize) -> __m256i {
    // SAFETY: 32 bytes from the start or the middle of 64.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_floats(floats: &[f32; PANEL], half: usize) -> __m256 {
    // SAFETY: eight floats from the start or the middle of sixteen.
    unsafe { _mm256_loadu_ps(floats.as_ptr().add(8 * half)) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_floats(floats: &mut [f32; PANEL], half: usize, value: __m256) {
    // SAFETY: as for loading.
    unsafe { _mm256_storeu_ps(floats.as_mut_ptr().add(8 * half), value) }
}

/// Four neighbouring codes of a row in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(codes: &[i8; 32], quad: usize) -> __m256i {
    let (quads, _) = codes.as_chunks::<4>();
    _mm256_set1_epi32(i32::from_le_bytes(quads[quad].map(i8::cast_unsigned)))
}

/// Half a block of a row, four quads, in both halves of a register.
#[target_feature(enable = "avx2")]
#[inline]
fn load_twice(codes: &[i8; 32], half_block: usize) -> __m256i {
    // SAFETY: 16 bytes from the start or the middle of 32.
    let half = unsafe { _mm_loadu_si128(codes.as_ptr().add(16 * half_block).cast()) };
    _mm256_broadcastsi128_si256(half)
}

/// Products of four quads of sixteen outputs with half a block of one row, in pairs: both halves
/// of the outputs, quads 0 and 1 beside quads 2 and 3.
///
/// The quads come by shuffles from one load: a broadcast from memory would keep the load ports busy
/// for as long as the products take.
#[target_feature(enable = "avx2")]
#[inline]
fn four_quads(w: &[[__m256i; 2]; 4], x: __m256i) -> [[__m256i; 2]; 2] {
    let x = [
        _mm256_shuffle_epi32::<0x00>(x),
        _mm256_shuffle_epi32::<0x55>(x),
        _mm256_shuffle_epi32::<0xAA>(x),
        _mm256_shuffle_epi32::<0xFF>(x),
    ];
    let pair = |half: usize, first: usize| {
        _mm256_add_epi16(
            _mm256_maddubs_epi16(w[first][half], x[first]),
            _mm256_maddubs_epi16(w[first + 1][half], x[first + 1]),
        )
    };
    [[pair(0, 0), pair(0, 2)], [pair(1, 0), pair(1, 2)]]
}

/// `R` rows of codes of `BITS` bits.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tile<const R: usize, const BITS: usize>(
    stretch: &Stretch,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    let blocks = stretch.blocks;
    let codes: [&[[i8; 32]]; R] = std::array::from_fn(|r| &x.codes(r, blocks)[..blocks]);
    let scales: [&[f32]; R] = std::array::from_fn(|r| &x.scales(r, blocks)[..blocks]);
    let sums: [&[[f32; 3]]; R] = std::array::from_fn(|r| &x.sums(r, blocks)[..blocks]);
    let ones = _mm256_set1_epi16(1);
    let mut acc: [[__m256; 2]; R] =
        std::array::from_fn(|r| [load_floats(&out[r], 0), load_floats(&out[r], 1)]);
    for (block, weights) in stretch.codes[..blocks].iter().enumerate() {
        let mut products = [[_mm256_setzero_si256(); 2]; R];
        for half_block in 0..2 {
            let w: [[__m256i; 2]; 4] = std::array::from_fn(|q| {
                let w = &weights[4 * half_block + q];
                [load(w, 0), load(w, 1)]
            });
            for r in 0..R {
                let pairs = four_quads(&w, load_twice(&codes[r][block], half_block));
                for half in 0..2 {
                    let [a, b] = pairs[half];
                    let products = &mut products[r][half];
                    match BITS {
                        // Sixteen bits hold the whole block.
                        4 => *products = _mm256_add_epi16(*products, _mm256_add_epi16(a, b)),
                        // … half of it …
                        5 => {
                            let half = _mm256_madd_epi16(_mm256_add_epi16(a, b), ones);
                            *products = _mm256_add_epi32(*products, half);
                        }
                        // … a quarter, and half a block is a group.
                        _ => {
                            let a = _mm256_madd_epi16(a, ones);
                            let group = _mm256_add_epi32(a, _mm256_madd_epi16(b, ones));
                            let scale = load_floats(&stretch.scales[block][half_block], half);
                            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(scales[r][block]));
                            let offset = load_floats(&stretch.offsets[block][half_block], half);
                            let sum = _mm256_set1_ps(sums[r][block][half_block]);
                            let acc = &mut acc[r][half];
                            *acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(group), *acc);
                            *acc = _mm256_fmadd_ps(offset, sum, *acc);
                        }
                    }
                }
            }
        }
        if BITS < 6 {
            for half in 0..2 {
                let scale = load_floats(&stretch.scales[block][0], half);
                let offset = load_floats(&stretch.offsets[block][0], half);
                for r in 0..R {
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(scales[r][block]));
                    let sum = _mm256_set1_ps(sums[r][block][2]);
                    let product = match BITS {
                        4 => _mm256_madd_epi16(products[r][half], ones),
                        _ => products[r][half],
                    };
                    let acc = &mut acc[r][half];
                    *acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(product), *acc);
                    *acc = _mm256_fmadd_ps(offset, sum, *acc);
                }
            }
        }
    }
    for r in 0..R {
        store_floats(&mut out[r], 0, acc[r][0]);
        store_floats(&mut out[r], 1, acc[r][1]);
    }
}

/// For signed bytes on both sides: the weight's sign moves to the input.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tile_signed<const R: usize>(stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
    let blocks = stretch.blocks;
    let codes: [&[[i8; 32]]; R] = std::array::from_fn(|r| x.codes(r, blocks));
    let scales: [&[f32]; R] = std::array::from_fn(|r| x.scales(r, blocks));
    let ones = _mm256_set1_epi16(1);
    let mut acc: [[__m256; 2]; R] =
        std::array::from_fn(|r| [load_floats(&out[r], 0), load_floats(&out[r], 1)]);
    for block in 0..blocks {
        let mut products = [[_mm256_setzero_si256(); 2]; R];
        for quad in 0..QUADS {
            let w = &stretch.codes[block][quad];
            let w = [load(w, 0), load(w, 1)];
            let magnitude = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for r in 0..R {
                let x = broadcast(&codes[r][block], quad);
                for half in 0..2 {
                    let signed = _mm256_sign_epi8(x, w[half]);
                    let pairs = _mm256_maddubs_epi16(magnitude[half], signed);
                    let wide = _mm256_madd_epi16(pairs, ones);
                    products[r][half] = _mm256_add_epi32(products[r][half], wide);
                }
            }
        }
        for half in 0..2 {
            let scale = load_floats(&stretch.scales[block][0], half);
            for r in 0..R {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(scales[r][block]));
                let product = _mm256_cvtepi32_ps(products[r][half]);
                acc[r][half] = _mm256_fmadd_ps(scale, product, acc[r][half]);
            }
        }
    }
    for r in 0..R {
        store_floats(&mut out[r], 0, acc[r][0]);
        store_floats(&mut out[r], 1, acc[r][1]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
    stretch.blocks = 0;
    for superblock in superblocks.chunks_exact(format.superblock_bytes()) {
        for line in (0..superblock.len()).step_by(64) {
            let ahead = superblock.as_ptr().wrapping_add(line + AHEAD);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        }
        let (header, codes) = superblock.split_at(format.header_bytes());
        for (block, planes) in codes.chunks_exact(format.code_bytes()).enumerate() {
            let at = stretch.blocks;
            let (scales, offsets) = (&mut stretch.scales[at], &mut stretch.offsets[at]);
            for half in 0..2 {
                widen_scales(format, header, block, half, scales, offsets);
                widen_codes(format, planes, half, &mut stretch.codes[at]);
            }
            stretch.blocks += 1;
        }
    }
}

/// Eight f16 of the sixteen at `at`.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn halves(header: &[u8], at: usize, half: usize) -> __m256 {
    let bytes = &header[at + 16 * half..at + 16 * half + 16];
    // SAFETY: the slice holds the 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Eight bytes of the sixteen at `at`, in the low half of a register.
#[target_feature(enable = "avx2")]
#[inline]
fn eight_bytes(header: &[u8], at: usize, half: usize) -> __m128i {
    let bytes = &header[at + 8 * half..at + 8 * half + 8];
    // SAFETY: the slice holds the 8 bytes.
    unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_scales(
    format: Format,
    header: &[u8],
    block: usize,
    half: usize,
    scales: &mut [[f32; PANEL]; 2],
    offsets: &mut [[f32; PANEL]; 2],
) {
    let d = halves(header, 0, half);
    let times = |factor: f32, x: __m256| _mm256_mul_ps(_mm256_set1_ps(factor), x);
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {
            store_floats(&mut scales[0], half, d);
            let middle = match format {
                Format::Q4_0 => -8.0,
                Format::Q5_0 => -16.0,
                Format::Q8_0 | Format::Q4K | Format::Q6K => 0.0,
            };
            store_floats(&mut offsets[0], half, times(middle, d));
        }
        Format::Q4K => {
            let dmin = halves(header, 2 * PANEL, half);
            let scale = eight_bytes(header, 4 * PANEL + PANEL * block, half);
            let min = eight_bytes(header, 4 * PANEL + PANEL * (8 + block), half);
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(scale));
            let min = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(min));
            store_floats(&mut scales[0], half, _mm256_mul_ps(d, scale));
            store_floats(&mut offsets[0], half, times(-1.0, _mm256_mul_ps(dmin, min)));
        }
        Format::Q6K => {
            for group in 0..2 {
                let scale = eight_bytes(header, 2 * PANEL + PANEL * (2 * block + group), half);
                let scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scale));
                let scale = _mm256_mul_ps(d, scale);
                store_floats(&mut scales[group], half, scale);
                store_floats(&mut offsets[group], half, times(-32.0, scale));
            }
        }
    }
}

/// Puts the planes of one block together, for eight of the sixteen rows.
#[target_feature(enable = "avx2")]
#[inline]
fn widen_codes(format: Format, planes: &[u8], half: usize, codes: &mut [[u8; QUAD_BYTES]; QUADS]) {
    let (planes, _) = planes.as_chunks::<QUAD_BYTES>();
    let mut store = |quad: usize, value: __m256i| {
        let to = &mut codes[quad][32 * half..32 * half + 32];
        // SAFETY: the slice has room for 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
    };
    if format.bits() == 8 {
        for (quad, plane) in planes.iter().enumerate() {
            store(quad, load(plane, half));
        }
        return;
    }
    let low_bits = _mm256_set1_epi8(15);
    for quad in 0..QUADS / 2 {
        let nibbles = load(&planes[quad], half);
        let first = _mm256_and_si256(nibbles, low_bits);
        let second = _mm256_and_si256(_mm256_srli_epi16::<4>(nibbles), low_bits);
        let (first, second) = match format.bits() {
            5 => {
                let plane = load(&planes[QUADS / 2], half);
                (fifth_bit(first, plane, quad), fifth_bit(second, plane, quad + QUADS / 2))
            }
            6 => {
                let [a, b] = [&planes[QUADS / 2], &planes[QUADS / 2 + 1]].map(|p| load(p, half));
                (upper_two(first, a, quad), upper_two(second, b, quad))
            }
            _ => (first, second),
        };
        store(quad, first);
        store(quad + QUADS / 2, second);
    }
}

/// Bit `quad` of each byte of `plane` becomes bit 4.
#[target_feature(enable = "avx2")]
#[inline]
fn fifth_bit(low: __m256i, plane: __m256i, quad: usize) -> __m256i {
    // Bits that cross into the neighbouring byte are masked away.
    let moved = if quad <= 4 {
        _mm256_sll_epi16(plane, _mm_cvtsi32_si128(4 - quad as i32))
    } else {
        _mm256_srl_epi16(plane, _mm_cvtsi32_si128(quad as i32 - 4))
    };
    _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(16)))
}

/// Bits `2 · field` and the next of each byte of `plane` become bits 4 and 5.
#[target_feature(enable = "avx2")]
#[inline]
fn upper_two(low: __m256i, plane: __m256i, field: usize) -> __m256i {
    let moved = if field <= 2 {
        _mm256_sll_epi16(plane, _mm_cvtsi32_si128(4 - 2 * field as i32))
    } else {
        _mm256_srl_epi16(plane, _mm_cvtsi32_si128(2))
    };
    _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(0x30)))
}
