//! What one instruction set does for the integer products: a panel's weights with a few rows of
//! inputs at a time.
//!
//! For many rows a stretch of the panel is widened to bytes once, short enough to stay in the
//! first-level cache while every row passes over it. For few rows, as when a reply is decoded, the
//! codes are put together in registers on their way from memory: there the bytes of the weights are
//! what takes the time. Both ways do the same arithmetic in the same order, so that a row's result
//! does not depend on how many there are.

use super::activations::{Activations, GROUP};
use super::format::{BLOCK, Format, PANEL, Packed, QUAD_BYTES, QUADS};

/// Blocks of a stretch; a multiple of every format's superblock and of a group of inputs.
pub(super) const STRETCH: usize = 16;
/// How far ahead weights are asked for, bytes: memory would rest while they are multiplied.
pub(super) const AHEAD: usize = 4096;

/// A stretch of a panel with its codes as bytes and its scales as floats.
#[repr(C, align(64))]
pub(super) struct Stretch {
    /// Unsigned for codes below eight bits; for Q8_0 as the instruction set likes them.
    pub(super) codes: [[[u8; QUAD_BYTES]; QUADS]; STRETCH],
    /// Of each group of weights; the second only for formats that have one.
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

/// Some neighbouring rows of activations, some blocks of each.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    x: &'a Activations,
    /// First row and first block, which begins a group.
    row: usize,
    block: usize,
    pub(super) rows: usize,
    pub(super) blocks: usize,
}

impl<'a> Inputs<'a> {
    /// # Panics
    /// When the activations have no such part.
    pub(super) fn new(
        x: &'a Activations,
        [row, rows]: [usize; 2],
        [block, blocks]: [usize; 2],
    ) -> Self {
        assert!(
            row + rows <= x.rows && (block + blocks) * BLOCK <= x.width,
            "outside the activations"
        );
        debug_assert!(block.is_multiple_of(GROUP), "half a group");
        Self { x, row, block, rows, blocks }
    }

    /// The codes of a quad of inputs, the first lowest.
    ///
    /// # Safety
    /// `row` and `block` are below their counts, `quad` below [`QUADS`].
    #[inline(always)]
    pub(super) unsafe fn quad(&self, row: usize, block: usize, quad: usize) -> i32 {
        let at = (self.row + row) * self.x.width + (self.block + block) * BLOCK + 4 * quad;
        // SAFETY: inside the codes, as `new` checked and the caller promises.
        unsafe { self.x.codes.as_ptr().add(at).cast::<i32>().read_unaligned() }
    }

    /// The scale of the `group`th group.
    ///
    /// # Safety
    /// `row` is below its count, and the group has one of the blocks.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, row: usize, group: usize) -> f32 {
        let at = (self.row + row) * self.x.width.div_ceil(GROUP * BLOCK) + self.block / GROUP;
        // SAFETY: as above.
        unsafe { *self.x.scales.get_unchecked(at + group) }
    }

    /// The sum of the codes of a block's first half, second half, or (2) both.
    ///
    /// # Safety
    /// `row` and `block` are below their counts, `part` below 3.
    #[inline(always)]
    pub(super) unsafe fn sum(&self, row: usize, block: usize, part: usize) -> f32 {
        let at = (self.row + row) * (self.x.width / BLOCK) + self.block + block;
        // SAFETY: as above.
        unsafe { *self.x.sums.get_unchecked(at).get_unchecked(part) }
    }
}

/// Implemented once per instruction set, by types without values.
///
/// # Safety
/// The functions may only be called on a machine that has the instructions.
pub(super) trait Kernel {
    /// Most rows of one call.
    const ROWS: usize;

    /// Fills `stretch` from whole superblocks of a panel, at most [`STRETCH`] blocks.
    unsafe fn widen(format: Format, superblocks: &[u8], stretch: &mut Stretch);

    /// Adds the products of the stretch with rows of inputs, as many blocks of each, to `out`.
    unsafe fn tile(format: Format, stretch: &Stretch, x: Inputs<'_>, out: &mut [[f32; PANEL]]);

    /// Adds the products of all superblocks of a panel with rows of inputs to `out`.
    unsafe fn straight(format: Format, panel: &[u8], x: Inputs<'_>, out: &mut [[f32; PANEL]]);
}

/// Adds the products of one panel with the rows of `x` from `first` on, as many as `out` has.
///
/// # Safety
/// The machine has the kernel's instructions.
pub(super) unsafe fn over_panel<K: Kernel>(
    weights: &Packed<'_>,
    panel: usize,
    x: &Activations,
    first: usize,
    stretch: &mut Stretch,
    out: &mut [[f32; PANEL]],
) {
    let (format, bytes, blocks) = (weights.format, weights.panel(panel), weights.width / BLOCK);
    if out.len() <= K::ROWS {
        let inputs = Inputs::new(x, [first, out.len()], [0, blocks]);
        // SAFETY: the caller's promise.
        return unsafe { K::straight(format, bytes, inputs, out) };
    }
    // As even as can be: a last tile of one row would cost nearly as much as a full one.
    let step = out.len().div_ceil(out.len().div_ceil(K::ROWS));
    let stretch_bytes = STRETCH / format.blocks() * format.superblock_bytes();
    for (at, superblocks) in bytes.chunks(stretch_bytes).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { K::widen(format, superblocks, stretch) };
        for (tile, out) in out.chunks_mut(step).enumerate() {
            let rows = [first + tile * step, out.len()];
            let inputs = Inputs::new(x, rows, [at * STRETCH, stretch.blocks]);
            // SAFETY: as above.
            unsafe { K::tile(format, stretch, inputs, out) };
        }
    }
}
