//! The products with AVX-512 VNNI: 64 byte products per instruction, summed in 32 bits.

use std::arch::x86_64::*;

use super::format::{Format, PANEL, QUAD_BYTES, QUADS};
use super::tile::{AHEAD, Inputs, Kernel, Stretch};

pub(super) struct Avx512Vnni;

impl Kernel for Avx512Vnni {
    const ROWS: usize = 8;

    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
        // SAFETY: the caller's promise.
        unsafe { widen(format, superblocks, stretch) }
    }

    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        // SAFETY of all: the caller's promise; `out` has as many rows as are named.
        macro_rules! rows {
            ($($rows:literal)*) => {
                match (out.len(), format.groups()) {
                    $(
                        // SAFETY: as above.
                        ($rows, 1) => unsafe { tile::<$rows, 1>(stretch, x, out) },
                        // SAFETY: as above.
                        ($rows, _) => unsafe { tile::<$rows, 2>(stretch, x, out) },
                    )*
                    // SAFETY: as above.
                    (_, 1) => unsafe { tile::<8, 1>(stretch, x, out) },
                    // SAFETY: as above.
                    _ => unsafe { tile::<8, 2>(stretch, x, out) },
                }
            };
        }
        rows!(1 2 3 4 5 6 7);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8; QUAD_BYTES]) -> __m512i {
    // SAFETY: a register holds 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_floats(floats: &[f32; PANEL]) -> __m512 {
    // SAFETY: a register holds sixteen floats.
    unsafe { _mm512_loadu_ps(floats.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_floats(floats: &mut [f32; PANEL], value: __m512) {
    // SAFETY: as for loading.
    unsafe { _mm512_storeu_ps(floats.as_mut_ptr(), value) }
}

/// `R` rows, `GROUPS` scales per block.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile<const R: usize, const GROUPS: usize>(
    stretch: &Stretch,
    x: Inputs<'_>,
    out: &mut [[f32; PANEL]],
) {
    let blocks = stretch.blocks;
    let codes: [&[[i8; 32]]; R] = std::array::from_fn(|r| x.codes(r, blocks));
    let scales: [&[f32]; R] = std::array::from_fn(|r| x.scales(r, blocks));
    let sums: [&[[f32; 3]]; R] = std::array::from_fn(|r| x.sums(r, blocks));
    let mut acc: [__m512; R] = std::array::from_fn(|r| load_floats(&out[r]));
    for block in 0..blocks {
        for group in 0..GROUPS {
            let mut products = [_mm512_setzero_si512(); R];
            for step in 0..QUADS / GROUPS {
                let quad = group * (QUADS / GROUPS) + step;
                let w = load(&stretch.codes[block][quad]);
                for r in 0..R {
                    let (quads, _) = codes[r][block].as_chunks::<4>();
                    let x = i32::from_le_bytes(quads[quad].map(i8::cast_unsigned));
                    products[r] = _mm512_dpbusd_epi32(products[r], w, _mm512_set1_epi32(x));
                }
            }
            let scale = load_floats(&stretch.scales[block][group]);
            let offset = load_floats(&stretch.offsets[block][group]);
            for r in 0..R {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(scales[r][block]));
                let sum = sums[r][block][if GROUPS == 2 { group } else { 2 }];
                acc[r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(products[r]), acc[r]);
                acc[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sum), acc[r]);
            }
        }
    }
    for r in 0..R {
        store_floats(&mut out[r], acc[r]);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
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
            widen_scales(format, header, block, scales, offsets);
            widen_codes(format, planes, &mut stretch.codes[at]);
            stretch.blocks += 1;
        }
    }
}

/// The sixteen f16 at `at`.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(header: &[u8], at: usize) -> __m512 {
    let bytes = &header[at..at + 2 * PANEL];
    // SAFETY: the slice holds the 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// The sixteen bytes at `at`.
#[target_feature(enable = "avx512f")]
#[inline]
fn bytes(header: &[u8], at: usize) -> __m128i {
    let bytes = &header[at..at + PANEL];
    // SAFETY: the slice holds the 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn widen_scales(
    format: Format,
    header: &[u8],
    block: usize,
    scales: &mut [[f32; PANEL]; 2],
    offsets: &mut [[f32; PANEL]; 2],
) {
    let d = halves(header, 0);
    let times = |factor: f32, x: __m512| _mm512_mul_ps(_mm512_set1_ps(factor), x);
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {
            store_floats(&mut scales[0], d);
            let middle = match format {
                Format::Q4_0 => -8.0,
                Format::Q5_0 => -16.0,
                // The instruction wants unsigned codes: they are raised by 128 below.
                Format::Q8_0 => -128.0,
                Format::Q4K | Format::Q6K => 0.0,
            };
            store_floats(&mut offsets[0], times(middle, d));
        }
        Format::Q4K => {
            let dmin = halves(header, 2 * PANEL);
            let scale = _mm512_cvtepu8_epi32(bytes(header, 4 * PANEL + PANEL * block));
            let min = _mm512_cvtepu8_epi32(bytes(header, 4 * PANEL + PANEL * (8 + block)));
            store_floats(&mut scales[0], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
            let min = _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(min));
            store_floats(&mut offsets[0], times(-1.0, min));
        }
        Format::Q6K => {
            for group in 0..2 {
                let scale = bytes(header, 2 * PANEL + PANEL * (2 * block + group));
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale));
                let scale = _mm512_mul_ps(d, scale);
                store_floats(&mut scales[group], scale);
                store_floats(&mut offsets[group], times(-32.0, scale));
            }
        }
    }
}

/// Puts the planes of one block together.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn widen_codes(format: Format, planes: &[u8], codes: &mut [[u8; QUAD_BYTES]; QUADS]) {
    let (planes, _) = planes.as_chunks::<QUAD_BYTES>();
    let mut store = |quad: usize, value: __m512i| {
        // SAFETY: a quad has room for 64 bytes.
        unsafe { _mm512_storeu_si512(codes[quad].as_mut_ptr().cast(), value) }
    };
    if format.bits() == 8 {
        for (quad, plane) in planes.iter().enumerate() {
            store(quad, _mm512_xor_si512(load(plane), _mm512_set1_epi8(-128)));
        }
        return;
    }
    let low_bits = _mm512_set1_epi8(15);
    for quad in 0..QUADS / 2 {
        let nibbles = load(&planes[quad]);
        let first = _mm512_and_si512(nibbles, low_bits);
        let second = _mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), low_bits);
        let (first, second) = match format.bits() {
            5 => {
                let plane = load(&planes[QUADS / 2]);
                (fifth_bit(first, plane, quad), fifth_bit(second, plane, quad + QUADS / 2))
            }
            6 => {
                let [a, b] = [&planes[QUADS / 2], &planes[QUADS / 2 + 1]].map(|p| load(p));
                (upper_two(first, a, quad), upper_two(second, b, quad))
            }
            _ => (first, second),
        };
        store(quad, first);
        store(quad + QUADS / 2, second);
    }
}

/// Bit `quad` of each byte of `plane` becomes bit 4.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn fifth_bit(low: __m512i, plane: __m512i, quad: usize) -> __m512i {
    // Bits that cross into the neighbouring byte are masked away.
    let moved = if quad <= 4 {
        _mm512_sll_epi16(plane, _mm_cvtsi32_si128(4 - quad as i32))
    } else {
        _mm512_srl_epi16(plane, _mm_cvtsi32_si128(quad as i32 - 4))
    };
    _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(16)))
}

/// Bits `2 · field` and the next of each byte of `plane` become bits 4 and 5.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn upper_two(low: __m512i, plane: __m512i, field: usize) -> __m512i {
    let moved = if field <= 2 {
        _mm512_sll_epi16(plane, _mm_cvtsi32_si128(4 - 2 * field as i32))
    } else {
        _mm512_srl_epi16(plane, _mm_cvtsi32_si128(2))
    };
    _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)))
}
