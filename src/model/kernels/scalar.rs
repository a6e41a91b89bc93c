//! The products in plain Rust: what runs where no vector unit is known, and what the vector kernels
//! are compared with.

use super::format::{BLOCK, Format, PANEL, QUADS, Superblock};
use super::tile::{Inputs, Kernel, Stretch};

pub(super) struct Scalar;

impl Kernel for Scalar {
    const ROWS: usize = 1;

    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch) {
        stretch.blocks = 0;
        for bytes in superblocks.chunks_exact(format.superblock_bytes()) {
            let superblock = Superblock { format, bytes };
            for block in 0..format.blocks() {
                let at = stretch.blocks;
                for (input, lane) in (0..BLOCK).flat_map(|i| (0..PANEL).map(move |l| (i, l))) {
                    let code = superblock.code(block, input, lane) as u8;
                    stretch.codes[at][input / 4][4 * lane + input % 4] = code;
                }
                for (group, lane) in
                    (0..format.groups()).flat_map(|g| (0..PANEL).map(move |l| (g, l)))
                {
                    let (scale, offset) = superblock.scale(block, group, lane);
                    stretch.scales[at][group][lane] = scale;
                    stretch.offsets[at][group][lane] = offset;
                }
                stretch.blocks += 1;
            }
        }
    }

    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]) {
        let groups = format.groups();
        let signed = format.bits() == 8;
        for (row, out) in out.iter_mut().enumerate() {
            let codes = x.codes(row, stretch.blocks);
            let (scales, sums) = (x.scales(row, stretch.blocks), x.sums(row, stretch.blocks));
            for block in 0..stretch.blocks {
                for group in 0..groups {
                    let quads = QUADS / groups * group..QUADS / groups * (group + 1);
                    let sum = sums[block][if groups == 2 { group } else { 2 }];
                    for (lane, out) in out.iter_mut().enumerate() {
                        let mut product = 0;
                        for (quad, i) in quads.clone().flat_map(|q| (0..4).map(move |i| (q, i))) {
                            let w = stretch.codes[block][quad][4 * lane + i];
                            let w = if signed { i32::from(w.cast_signed()) } else { i32::from(w) };
                            product += w * i32::from(codes[block][4 * quad + i]);
                        }
                        let scale = stretch.scales[block][group][lane] * scales[block];
                        *out = scale.mul_add(product as f32, *out);
                        *out = stretch.offsets[block][group][lane].mul_add(sum, *out);
                    }
                }
            }
        }
    }
}
