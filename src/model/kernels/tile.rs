//! What one instruction set does for the integer products: widen a stretch of a panel once, then
//! multiply it with a few rows at a time.
//!
//! A stretch is short enough that its bytes stay in the first-level cache while every row passes
//! over it, so the planes are put together once per stretch and not once per row.

use super::activations::Activations;
use super::format::{BLOCK, Format, PANEL, QUAD_BYTES, QUADS};

/// Blocks of a stretch; a multiple of every format's superblock.
pub(super) const STRETCH: usize = 16;
/// How far ahead weights are asked for, bytes: memory would rest while a stretch is multiplied.
pub(super) const AHEAD: usize = 4096;

/// A stretch of a panel with its codes as bytes and its scales as floats.
#[repr(C, align(64))]
pub(super) struct Stretch {
    /// Unsigned for codes below eight bits; for Q8_0 as the instruction set likes them.
    pub(super) codes: [[[u8; QUAD_BYTES]; QUADS]; STRETCH],
    /// Of each group of inputs; the second group only for formats that have one.
    pub(super) scales: [[[f32; PANEL]; 2]; STRETCH],
    pub(super) offsets: [[[f32; PANEL]; 2]; STRETCH],
    /// Blocks that are filled.
    pub(super) blocks: usize,
}

impl Stretch {
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self {
            codes: [[[0; QUAD_BYTES]; QUADS]; STRETCH],
            scales: [[[0.0; PANEL]; 2]; STRETCH],
            offsets: [[[0.0; PANEL]; 2]; STRETCH],
            blocks: 0,
        })
    }
}

/// Some neighbouring rows of activations from one block on.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) x: &'a Activations,
    /// First row and first block.
    pub(super) row: usize,
    pub(super) block: usize,
}

impl<'a> Inputs<'a> {
    /// The codes of `blocks` blocks of the `at`th row.
    #[inline(always)]
    pub(super) fn codes(&self, at: usize, blocks: usize) -> &'a [[i8; BLOCK]] {
        let start = (self.row + at) * self.x.width + self.block * BLOCK;
        self.x.codes[start..start + blocks * BLOCK].as_chunks().0
    }

    #[inline(always)]
    fn at(&self, at: usize) -> usize {
        (self.row + at) * (self.x.width / BLOCK) + self.block
    }

    #[inline(always)]
    pub(super) fn scales(&self, at: usize, blocks: usize) -> &'a [f32] {
        &self.x.scales[self.at(at)..self.at(at) + blocks]
    }

    #[inline(always)]
    pub(super) fn sums(&self, at: usize, blocks: usize) -> &'a [[f32; 3]] {
        &self.x.sums[self.at(at)..self.at(at) + blocks]
    }
}

/// Implemented once per instruction set, by types without values.
///
/// # Safety
/// The functions may only be called on a machine that has the instructions.
pub(super) trait Kernel {
    /// Most rows of one call of [`Kernel::tile`].
    const ROWS: usize;

    /// Fills `stretch` from whole superblocks of a panel, at most [`STRETCH`] blocks.
    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch);

    /// Adds the products of the stretch with `out.len()` rows to `out`.
    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]);
}
