//! The products in plain Rust: what runs where no vector unit is known, and what the vector kernels
//! are compared with.

use super::activations::GROUP;
use super::format::{BLOCK, Format, PANEL, QUADS, Superblock};
use super::tile::{Inputs, Kernel, Stretch};

pub(super) struct Scalar;

/// Where the products take a panel's weights from.
trait Weights {
    /// The code of one input of one output.
    fn code(&self, block: usize, input: usize, lane: usize) -> i32;
    /// Scale and offset of a group of weights of one output.
    fn scale(&self, block: usize, group: usize, lane: usize) -> (f32, f32);
}

struct Widened<'a> {
    stretch: &'a Stretch,
    signed: bool,
}

impl Weights for Widened<'_> {
    fn code(&self, block: usize, input: usize, lane: usize) -> i32 {
        let code = self.stretch.codes[block][input / 4][4 * lane + input % 4];
        if self.signed { i32::from(code.cast_signed()) } else { i32::from(code) }
    }

    fn scale(&self, block: usize, group: usize, lane: usize) -> (f32, f32) {
        (self.stretch.scales[block][group][lane], self.stretch.offsets[block][group][lane])
    }
}

struct Narrow<'a> {
    format: Format,
    superblocks: &'a [u8],
}

impl<'a> Narrow<'a> {
    /// The superblock of a block, and its number there.
    fn superblock(&self, block: usize) -> (Superblock<'a>, usize) {
        let bytes = self.format.superblock_bytes();
        let at = block / self.format.blocks() * bytes;
        let bytes = &self.superblocks[at..at + bytes];
        (Superblock { format: self.format, bytes }, block % self.format.blocks())
    }
}

impl Weights for Narrow<'_> {
    fn code(&self, block: usize, input: usize, lane: usize) -> i32 {
        let (superblock, block) = self.superblock(block);
        i32::from(superblock.code(block, input, lane))
    }

    fn scale(&self, block: usize, group: usize, lane: usize) -> (f32, f32) {
        let (superblock, block) = self.superblock(block);
        superblock.scale(block, group, lane)
    }
}

impl Kernel for Scalar {
    const ROWS: usize = 1;

    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
        let narrow = Narrow { format, superblocks };
        stretch.blocks = superblocks.len() / format.superblock_bytes() * format.blocks();
        for block in 0..stretch.blocks {
            for (input, lane) in (0..BLOCK).flat_map(|i| (0..PANEL).map(move |l| (i, l))) {
                let code = narrow.code(block, input, lane) as u8;
                stretch.codes[block][input / 4][4 * lane + input % 4] = code;
            }
            for (group, lane) in (0..format.groups()).flat_map(|g| (0..PANEL).map(move |l| (g, l)))
            {
                let (scale, offset) = narrow.scale(block, group, lane);
                stretch.scales[block][group][lane] = scale;
                stretch.offsets[block][group][lane] = offset;
            }
        }
    }

    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        products(format, &Widened { stretch, signed: format.bits() == 8 }, x, out);
    }

    unsafe fn straight(format: Format, panel: &[u8], x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        products(format, &Narrow { format, superblocks: panel }, x, out);
    }
}

fn products(format: Format, weights: &impl Weights, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
    let groups = format.groups();
    assert!(x.rows == out.len(), "a row too few");
    for (row, out) in out.iter_mut().enumerate() {
        for first in (0..x.blocks).step_by(GROUP) {
            let mut sums = [0.0_f32; PANEL];
            let blocks = first..x.blocks.min(first + GROUP);
            for (block, group) in blocks.flat_map(|b| (0..groups).map(move |g| (b, g))) {
                let quads = QUADS / groups * group..QUADS / groups * (group + 1);
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let mut product = 0;
                    for quad in quads.clone() {
                        // SAFETY: row, block and quad are of `x`.
                        let codes = unsafe { x.quad(row, block, quad) }.to_le_bytes();
                        for (i, code) in codes.into_iter().enumerate() {
                            let weight = weights.code(block, 4 * quad + i, lane);
                            product += weight * i32::from(code.cast_signed());
                        }
                    }
                    let (scale, offset) = weights.scale(block, group, lane);
                    // SAFETY: as above.
                    let codes = unsafe { x.sum(row, block, if groups == 2 { group } else { 2 }) };
                    *sum = offset.mul_add(codes, *sum);
                    *sum = scale.mul_add(product as f32, *sum);
                }
            }
            // SAFETY: as above.
            let scale = unsafe { x.scale(row, first / GROUP) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.mul_add(scale, *out));
        }
    }
}
