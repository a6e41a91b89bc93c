//! How a quantised matrix lies in memory: GGML's block formats, regrouped so that one load feeds
//! sixteen outputs.
//!
//! Rows (outputs) are taken sixteen at a time as a *panel*. A panel is a run of *superblocks*, each
//! the panel's share of one GGML block: first the scales of the sixteen rows side by side, then the
//! codes, 32 inputs at a time, in groups of four inputs × sixteen rows (64 bytes: one AVX-512 or
//! two AVX2 registers, four neighbouring bytes per output, as the int8 dot product wants them).
//! Codes of fewer than eight bits are split into planes: a plane of low nibbles and a plane of the
//! bits above. Nothing is rounded: codes and scales are the ones of the file.
//!
//! Block layouts read: `ggml-common.h` of llama.cpp, `block_q4_0`, `block_q5_0`, `block_q8_0`,
//! `block_q4_K`, `block_q6_K`; the dequantisation formulas are those of `ggml-quants.c`.

use half::f16;

use crate::base::random::SplitMix64;

/// Number of this layout, of that of floats (`dense.rs`) and of what is in packed files. Files of another number
/// are packed anew; a layout that changes under the same one would be multiplied as what it is not.
pub(crate) const LAYOUT: u8 = 2;
/// Rows of a panel.
pub(crate) const PANEL: usize = 16;
/// Inputs of a block.
pub(crate) const BLOCK: usize = 32;
/// Groups of four inputs in a block.
pub(crate) const QUADS: usize = BLOCK / 4;
/// Bytes of one group of four inputs over a panel.
pub(crate) const QUAD_BYTES: usize = 4 * PANEL;
/// Bytes of sixteen f16.
const HALVES: usize = 2 * PANEL;

/// The GGML formats that have a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Q4_0,
    Q5_0,
    Q8_0,
    Q4K,
    Q6K,
}

impl Format {
    /// Number in packed files.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Q4_0 => 0,
            Self::Q5_0 => 1,
            Self::Q8_0 => 2,
            Self::Q4K => 3,
            Self::Q6K => 4,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Q4_0, Self::Q5_0, Self::Q8_0, Self::Q4K, Self::Q6K]
            .into_iter()
            .find(|f| f.code() == code)
    }

    /// Bits of a code.
    pub(crate) const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4K => 4,
            Self::Q5_0 => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// Blocks that share a superblock's header.
    pub(crate) const fn blocks(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 1,
            Self::Q4K | Self::Q6K => 8,
        }
    }

    /// Inputs of a superblock; a matrix's width is a multiple of it.
    pub(crate) const fn inputs(self) -> usize {
        self.blocks() * BLOCK
    }

    /// Scales of a block: Q6_K has one per 16 inputs, the others one per 32.
    pub(crate) const fn groups(self) -> usize {
        match self {
            Self::Q6K => 2,
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Q4K => 1,
        }
    }

    /// Bytes before a superblock's codes.
    pub(crate) const fn header_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => HALVES,
            // d, dmin, then 8 scales and 8 minima of 6 bits, a byte each.
            Self::Q4K => 2 * HALVES + 2 * 8 * PANEL,
            // d, then 16 scales, a signed byte each.
            Self::Q6K => HALVES + 16 * PANEL,
        }
    }

    /// Bytes of a block's codes over a panel.
    pub(crate) const fn code_bytes(self) -> usize {
        self.bits() * PANEL * BLOCK / 8
    }

    pub(crate) const fn superblock_bytes(self) -> usize {
        self.header_bytes() + self.blocks() * self.code_bytes()
    }

    /// Bytes of one GGML block in the file.
    const fn file_block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a packed matrix.
    pub(crate) const fn packed_bytes(self, rows: usize, width: usize) -> usize {
        rows.div_ceil(PANEL) * (width / self.inputs()) * self.superblock_bytes()
    }
}

/// One superblock of one row, read out of the file's block.
struct FileBlock {
    /// Unsigned codes; Q8_0's signed ones in their two's complement.
    codes: [u8; 256],
    d: f16,
    dmin: f16,
    /// Of Q4_K: 8 scales and 8 minima. Of Q6_K: 16 signed scales.
    scales: [u8; 16],
}

impl FileBlock {
    fn read(format: Format, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut block = Self { codes: [0; 256], d: f16::ZERO, dmin: f16::ZERO, scales: [0; 16] };
        match format {
            Format::Q4_0 => {
                block.d = half(0);
                for (j, byte) in bytes[2..18].iter().enumerate() {
                    block.codes[j] = byte & 15;
                    block.codes[j + 16] = byte >> 4;
                }
            }
            Format::Q5_0 => {
                block.d = half(0);
                let fifth = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                let bit = |j: usize| ((fifth >> j & 1) << 4) as u8;
                for (j, byte) in bytes[6..22].iter().enumerate() {
                    block.codes[j] = byte & 15 | bit(j);
                    block.codes[j + 16] = byte >> 4 | bit(j + 16);
                }
            }
            Format::Q8_0 => {
                block.d = half(0);
                block.codes[..32].copy_from_slice(&bytes[2..34]);
            }
            Format::Q4K => {
                (block.d, block.dmin) = (half(0), half(2));
                let packed = &bytes[4..16];
                for j in 0..4 {
                    block.scales[j] = packed[j] & 63;
                    block.scales[j + 8] = packed[j + 4] & 63;
                    block.scales[j + 4] = packed[j + 8] & 15 | (packed[j] >> 6) << 4;
                    block.scales[j + 12] = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4;
                }
                for (chunk, nibbles) in bytes[16..144].chunks_exact(32).enumerate() {
                    for (j, byte) in nibbles.iter().enumerate() {
                        block.codes[64 * chunk + j] = byte & 15;
                        block.codes[64 * chunk + 32 + j] = byte >> 4;
                    }
                }
            }
            Format::Q6K => {
                let (low, high) = (&bytes[..128], &bytes[128..192]);
                block.scales.copy_from_slice(&bytes[192..208]);
                block.d = half(208);
                for part in 0..2 {
                    let (low, high) = (&low[64 * part..], &high[32 * part..]);
                    let codes = &mut block.codes[128 * part..];
                    for j in 0..32 {
                        codes[j] = low[j] & 15 | (high[j] & 3) << 4;
                        codes[j + 32] = low[j + 32] & 15 | (high[j] >> 2 & 3) << 4;
                        codes[j + 64] = low[j] >> 4 | (high[j] >> 4 & 3) << 4;
                        codes[j + 96] = low[j + 32] >> 4 | (high[j] >> 6) << 4;
                    }
                }
            }
        }
        block
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

/// Why blocks of a file cannot be packed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PackError {
    #[error("a width of {width} is no multiple of {inputs}")]
    Width { width: usize, inputs: usize },
    #[error("{got} bytes for {rows} rows of {width}, expected {wanted}")]
    Size { rows: usize, width: usize, got: usize, wanted: usize },
    #[error("a weight of row {row} is not a finite number")]
    NotFinite { row: usize },
}

/// Appends the matrix `[rows, width]`, given as the file's blocks row by row, to `out`. Rows are
/// filled up with zeros to whole panels.
pub(crate) fn pack(
    format: Format,
    rows: usize,
    width: usize,
    file: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), PackError> {
    let inputs = format.inputs();
    if width == 0 || !width.is_multiple_of(inputs) {
        return Err(PackError::Width { width, inputs });
    }
    let bytes = format.file_block_bytes();
    let superblocks = width / inputs;
    let wanted = rows * superblocks * bytes;
    if file.len() != wanted {
        return Err(PackError::Size { rows, width, got: file.len(), wanted });
    }
    out.reserve(format.packed_bytes(rows, width));
    for panel in 0..rows.div_ceil(PANEL) {
        for superblock in 0..superblocks {
            let of_row = |lane: usize| {
                let row = panel * PANEL + lane;
                let at = (row * superblocks + superblock) * bytes;
                (row < rows).then(|| FileBlock::read(format, &file[at..at + bytes]))
            };
            let lanes: [Option<FileBlock>; PANEL] = std::array::from_fn(of_row);
            let broken = |lane: &Option<FileBlock>| lane.as_ref().is_some_and(|b| !b.is_finite());
            if let Some(lane) = lanes.iter().position(broken) {
                return Err(PackError::NotFinite { row: panel * PANEL + lane });
            }
            pack_superblock(format, &lanes, out);
        }
    }
    Ok(())
}

fn pack_superblock(format: Format, lanes: &[Option<FileBlock>; PANEL], out: &mut Vec<u8>) {
    let halves = |out: &mut Vec<u8>, of: fn(&FileBlock) -> f16| {
        let value = |lane: &Option<FileBlock>| lane.as_ref().map_or(f16::ZERO, of).to_le_bytes();
        out.extend(lanes.iter().flat_map(value));
    };
    halves(out, |b| b.d);
    if format == Format::Q4K {
        halves(out, |b| b.dmin);
    }
    if matches!(format, Format::Q4K | Format::Q6K) {
        for at in 0..16 {
            out.extend(lanes.iter().map(|lane| lane.as_ref().map_or(0, |b| b.scales[at])));
        }
    }
    for block in 0..format.blocks() {
        let code = |quad: usize, byte: usize| {
            let (lane, input) = (byte / 4, 4 * quad + byte % 4);
            lanes[lane].as_ref().map_or(0, |b| b.codes[BLOCK * block + input])
        };
        pack_codes(format, code, out);
    }
}

/// Writes the planes of one block; `code(quad, byte)` is the code at that place of a quad.
fn pack_codes(format: Format, code: impl Fn(usize, usize) -> u8, out: &mut Vec<u8>) {
    if format.bits() == 8 {
        for quad in 0..QUADS {
            out.extend((0..QUAD_BYTES).map(|byte| code(quad, byte)));
        }
        return;
    }
    // Low nibbles: quad q beside quad q + 4.
    for quad in 0..QUADS / 2 {
        let pair = |byte| code(quad, byte) & 15 | code(quad + QUADS / 2, byte) << 4;
        out.extend((0..QUAD_BYTES).map(pair));
    }
    // Higher bits: as many quads per byte as fit, the first lowest.
    let high = format.bits() - 4;
    if let Some(per_byte) = 8_usize.checked_div(high) {
        for first in (0..QUADS).step_by(per_byte) {
            let gather = |byte| {
                (0..per_byte).fold(0, |sum, i| sum | (code(first + i, byte) >> 4) << (high * i))
            };
            out.extend((0..QUAD_BYTES).map(gather));
        }
    }
}

/// The bytes of a packed matrix with made-up codes and scales, the same on every machine: what
/// kernels are compared and timed with.
pub(crate) fn made_up(format: Format, rows: usize, width: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(1);
    let bytes = format.packed_bytes(rows, width);
    // Any bytes are codes.
    let eight = std::iter::repeat_with(|| random.bits().to_le_bytes());
    let mut bytes: Vec<u8> = eight.flatten().take(bytes).collect();
    for superblock in bytes.chunks_exact_mut(format.superblock_bytes()) {
        // Without their highest exponent bit scales are small and finite.
        superblock[..format.header_bytes()].iter_mut().for_each(|byte| *byte &= 0xBF);
    }
    bytes
}

/// A packed matrix, borrowed from where its bytes live. `y = x · Wᵀ`: `rows` outputs, `width`
/// inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// `None` when the bytes are not as many as the dimensions ask for.
    pub(crate) fn new(format: Format, rows: usize, width: usize, bytes: &'a [u8]) -> Option<Self> {
        let whole = width > 0 && width.is_multiple_of(format.inputs());
        (whole && bytes.len() == format.packed_bytes(rows, width)).then_some(Self {
            format,
            rows,
            width,
            bytes,
        })
    }

    /// The superblocks of one panel.
    pub(crate) fn panel(&self, panel: usize) -> &'a [u8] {
        let bytes = self.width / self.format.inputs() * self.format.superblock_bytes();
        &self.bytes[panel * bytes..(panel + 1) * bytes]
    }

    /// Widens one row to `out`, `[width]`: a look-up in an embedding table.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        let superblocks = panel.chunks_exact(self.format.superblock_bytes());
        for (superblock, out) in superblocks.zip(out.chunks_exact_mut(self.format.inputs())) {
            let view = Superblock { format: self.format, bytes: superblock };
            for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                for (input, out) in out.iter_mut().enumerate() {
                    let group = input * self.format.groups() / BLOCK;
                    let (scale, min) = view.scale(block, group, lane);
                    *out = scale.mul_add(f32::from(view.code(block, input, lane)), min);
                }
            }
        }
    }
}

/// A superblock of a panel, read value by value: what the vector kernels must agree with.
#[derive(Clone, Copy)]
pub(crate) struct Superblock<'a> {
    pub(crate) format: Format,
    pub(crate) bytes: &'a [u8],
}

impl Superblock<'_> {
    fn half(&self, at: usize) -> f32 {
        f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32()
    }

    /// Scale and offset of a group of inputs of one row: a weight is `scale · code + offset`.
    pub(crate) fn scale(&self, block: usize, group: usize, lane: usize) -> (f32, f32) {
        let d = self.half(2 * lane);
        match self.format {
            Format::Q4_0 => (d, -8.0 * d),
            Format::Q5_0 => (d, -16.0 * d),
            Format::Q8_0 => (d, 0.0),
            Format::Q4K => {
                let dmin = self.half(HALVES + 2 * lane);
                let scale = self.bytes[2 * HALVES + PANEL * block + lane];
                let min = self.bytes[2 * HALVES + PANEL * (8 + block) + lane];
                (d * f32::from(scale), -dmin * f32::from(min))
            }
            Format::Q6K => {
                let scale = self.bytes[HALVES + PANEL * (2 * block + group) + lane].cast_signed();
                let scale = d * f32::from(scale);
                (scale, -32.0 * scale)
            }
        }
    }

    /// The planes of a block.
    pub(crate) fn planes(&self, block: usize) -> &[u8] {
        let bytes = self.format.code_bytes();
        let at = self.format.header_bytes() + block * bytes;
        &self.bytes[at..at + bytes]
    }

    pub(crate) fn code(&self, block: usize, input: usize, lane: usize) -> i16 {
        let (quad, byte) = (input / 4, 4 * lane + input % 4);
        let planes = self.planes(block);
        if self.format.bits() == 8 {
            return i16::from(planes[quad * QUAD_BYTES + byte].cast_signed());
        }
        let nibbles = planes[quad % (QUADS / 2) * QUAD_BYTES + byte];
        let low = if quad < QUADS / 2 { nibbles & 15 } else { nibbles >> 4 };
        let high = self.format.bits() - 4;
        let Some(per_byte) = 8_usize.checked_div(high) else { return i16::from(low) };
        let plane = &planes[QUADS / 2 * QUAD_BYTES..];
        let bits = plane[quad / per_byte * QUAD_BYTES + byte] >> (quad % per_byte * high);
        i16::from(low | (bits & ((1 << high) - 1)) << 4)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::dense::{Precision, pack_floats};
    use super::*;
    use crate::base::digest::sha256_hex;

    pub(crate) const ALL: [Format; 5] =
        [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4K, Format::Q6K];

    /// Block bytes with every code, scale and sign, and scales of sensible size.
    pub(crate) fn file_bytes(format: Format, rows: usize, width: usize, seed: u32) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        let mut byte = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        };
        let bytes = format.file_block_bytes();
        let blocks = rows * width / format.inputs();
        let mut out: Vec<u8> = (0..blocks * bytes).map(|_| byte()).collect();
        for block in out.chunks_exact_mut(bytes) {
            let d = f16::from_f32((f32::from(byte()) - 127.5) * 1e-4).to_le_bytes();
            let dmin = f16::from_f32(f32::from(byte()) * 1e-4).to_le_bytes();
            match format {
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => block[..2].copy_from_slice(&d),
                Format::Q4K => {
                    block[..2].copy_from_slice(&d);
                    block[2..4].copy_from_slice(&dmin);
                }
                Format::Q6K => block[208..].copy_from_slice(&d),
            }
        }
        out
    }

    #[test]
    fn another_layout_has_another_number() {
        let packed = |format: Format| {
            let width = 2 * format.inputs();
            let mut out = Vec::new();
            pack(format, 18, width, &file_bytes(format, 18, width, 7), &mut out).unwrap();
            sha256_hex(&out)
        };
        let floats = |precision: Precision| {
            // Finite in each precision.
            let byte = |at: usize| (at * 37 % 61) as u8;
            let file: Vec<u8> = (0..18 * 64 * precision.bytes()).map(byte).collect();
            let mut out = Vec::new();
            pack_floats(precision, 18, 64, &file, &mut out).unwrap();
            sha256_hex(&out)
        };
        let digests = [ALL.map(packed).to_vec(), PRECISIONS.map(floats).to_vec()].concat();
        // New digests want a new number beside them.
        assert_eq!((LAYOUT, digests), (2, GOLDEN.map(str::to_owned).to_vec()));
    }

    const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];
    const GOLDEN: [&str; 8] = [
        "42b4fafeb9997a89bcdf1bd5ef09de7b2d52af6d618fc7c622f363e9eee11a1e",
        "6f12386f45c58e9cf728d51d76c30637c1a5a52b76f26e9e366fc4f0f6f67d9a",
        "03a1a5c88e68c93ba7be2b119031608179bb268f518b6324939f89d3808d7101",
        "c690955427c82b11a5bdfa343093ba63ebad8872c9b4eac6fc90ff95daf9cdcd",
        "bdedc0b0017556720962c08c9ec38c7dfdbfb3afc8945ac3b4106799d1244ccf",
        "52cef7572e1e55a43a9a9a9c367196deb7e426d4be53aee7c05c4aeb03260366",
        "2d5d2aef765250a958885984c34161cc56d0663afe33264b529cf38c8eec1260",
        "2d5d2aef765250a958885984c34161cc56d0663afe33264b529cf38c8eec1260",
    ];

    #[test]
    fn packed_files_number_the_formats_for_good() {
        let codes = ALL.map(Format::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        assert!(ALL.iter().all(|f| Format::from_code(f.code()) == Some(*f)));
        assert_eq!(Format::from_code(5), None);
    }

    #[test]
    fn sizes_that_do_not_fit_and_broken_scales_are_refused() {
        let mut out = Vec::new();
        let width = pack(Format::Q4K, 1, 96, &[], &mut out);
        assert_eq!(width, Err(PackError::Width { width: 96, inputs: 256 }));
        let size = pack(Format::Q4_0, 2, 32, &[0; 35], &mut out);
        assert!(matches!(size, Err(PackError::Size { got: 35, wanted: 36, .. })));
        for format in ALL {
            let mut file = file_bytes(format, 18, format.inputs(), 1);
            let scale =
                file.len() - format.file_block_bytes() + usize::from(format == Format::Q6K) * 208;
            file[scale..scale + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            let broken = pack(format, 18, format.inputs(), &file, &mut out);
            assert_eq!(broken, Err(PackError::NotFinite { row: 17 }), "{format:?}");
        }
        assert!(Packed::new(Format::Q4_0, 2, 32, &[0; 7]).is_none());
        assert!(Packed::new(Format::Q4_0, 2, 0, &[]).is_none());
    }
}
