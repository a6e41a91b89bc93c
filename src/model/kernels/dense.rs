//! Matrices of floats: the weights of files that are not quantised, and the dequantised form that
//! the integer path is measured against.
//!
//! They lie in panels of sixteen outputs as the quantised ones do, one input's sixteen weights side
//! by side. One kernel, compiled for every instruction set, widens a stretch to f32 once and passes
//! a few rows over it; every row adds its inputs in the same order, whatever its neighbours.

use std::cell::RefCell;

use half::{bf16, f16};

use super::activations::Activations;
use super::float::widen;
use super::format::{PANEL, PackError, Packed};
use super::isa::Isa;

/// Inputs of a stretch: widened, 32 KiB.
const STRETCH: usize = 512;
/// Rows that pass over a stretch together: as many sums as there are registers for.
const ROWS: usize = 4;

/// How a float of the file is stored; nothing is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// Number in packed files.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|p| p.code() == code)
    }

    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// One weight out of its bytes.
    fn read(self, weight: &[u8]) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes([weight[0], weight[1], weight[2], weight[3]]),
            Self::F16 => f16::from_le_bytes([weight[0], weight[1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([weight[0], weight[1]]).to_f32(),
        }
    }

    pub(crate) const fn packed_bytes(self, rows: usize, width: usize) -> usize {
        rows.next_multiple_of(PANEL) * width * self.bytes()
    }
}

/// Appends the matrix `[rows, width]`, given little-endian and row by row, to `out`. Rows are filled
/// up with zeros to whole panels.
pub(crate) fn pack_floats(
    precision: Precision,
    rows: usize,
    width: usize,
    file: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), PackError> {
    let bytes = precision.bytes();
    let wanted = rows * width * bytes;
    if file.len() != wanted {
        return Err(PackError::Size { rows, width, got: file.len(), wanted });
    }
    let mut weights = file.chunks_exact(bytes);
    if let Some(at) = weights.position(|weight| !precision.read(weight).is_finite()) {
        return Err(PackError::NotFinite { row: at / width });
    }
    out.reserve(precision.packed_bytes(rows, width));
    for panel in 0..rows.div_ceil(PANEL) {
        for input in 0..width {
            for row in panel * PANEL..(panel + 1) * PANEL {
                let at = (row * width + input) * bytes;
                out.extend(file.get(at..at + bytes).unwrap_or(&[0; 4][..bytes]));
            }
        }
    }
    Ok(())
}

/// A packed matrix of floats, borrowed from where its bytes live. `y = x · Wᵀ`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense<'a> {
    precision: Precision,
    rows: usize,
    width: usize,
    bytes: &'a [u8],
}

impl<'a> Dense<'a> {
    /// `None` when the bytes are not as many as the dimensions ask for.
    pub(crate) fn new(
        precision: Precision,
        rows: usize,
        width: usize,
        bytes: &'a [u8],
    ) -> Option<Self> {
        let whole = width > 0 && bytes.len() == precision.packed_bytes(rows, width);
        whole.then_some(Self { precision, rows, width, bytes })
    }

    /// The weights of one panel, inputs from `first` on, at most a stretch of them.
    fn stretch(&self, panel: usize, first: usize) -> &'a [u8] {
        let step = PANEL * self.precision.bytes();
        let end = self.width.min(first + STRETCH);
        &self.bytes[(panel * self.width + first) * step..(panel * self.width + end) * step]
    }

    /// Widens one row to `out`, `[width]`: a look-up in an embedding table.
    fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let bytes = self.precision.bytes();
        for (input, out) in out.iter_mut().enumerate() {
            let at = ((panel * self.width + input) * PANEL + lane) * bytes;
            *out = self.precision.read(&self.bytes[at..at + bytes]);
        }
    }

    /// Writes the products of one panel with the rows from `first` on, one per element of `sums`.
    pub(super) fn multiply(
        &self,
        isa: Isa,
        panel: usize,
        x: &Activations,
        first: usize,
        sums: &mut [[f32; PANEL]],
    ) {
        debug_assert!(x.keeps_floats, "the rows were kept as codes only");
        sums.fill([0.0; PANEL]);
        let rows = &x.floats[first * x.width..(first + sums.len()) * x.width];
        BENCH.with_borrow_mut(|bench| {
            for from in (0..self.width).step_by(STRETCH) {
                let weights = self.stretch(panel, from);
                let precision = self.precision;
                isa.add_products(Products { precision, weights, rows, from, bench, sums });
            }
        });
    }
}

/// A matrix of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a> {
    Codes(Packed<'a>),
    Floats(Dense<'a>),
}

impl<'a> From<Packed<'a>> for Weights<'a> {
    fn from(packed: Packed<'a>) -> Self {
        Self::Codes(packed)
    }
}

impl Weights<'_> {
    /// Outputs.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Codes(packed) => packed.rows,
            Self::Floats(dense) => dense.rows,
        }
    }

    /// Inputs.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Codes(packed) => packed.width,
            Self::Floats(dense) => dense.width,
        }
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows().div_ceil(PANEL)
    }

    /// Widens one row to `out`, `[width]`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Codes(packed) => packed.row(row, out),
            Self::Floats(dense) => dense.row(row, out),
        }
    }
}

/// A thread's working memory.
pub(crate) struct Bench {
    halves: Vec<f16>,
    wide: Vec<f32>,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench {
        halves: vec![f16::ZERO; STRETCH * PANEL],
        wide: vec![0.0; STRETCH * PANEL],
    });
}

/// A stretch of a panel and the rows that pass over it.
pub(crate) struct Products<'a> {
    precision: Precision,
    /// Of inputs `from..`, as they are stored.
    weights: &'a [u8],
    /// `[sums, width]`.
    rows: &'a [f32],
    from: usize,
    bench: &'a mut Bench,
    sums: &'a mut [[f32; PANEL]],
}

/// Adds the products of a stretch; compiled anew for every instruction set that inlines it.
#[inline(always)]
pub(super) fn add_products(work: Products<'_>) {
    let Products { precision, weights, rows, from, bench, sums } = work;
    let inputs = weights.len() / (PANEL * precision.bytes());
    let wide = &mut bench.wide[..inputs * PANEL];
    match precision {
        Precision::F32 => {
            for (wide, weight) in wide.iter_mut().zip(weights.as_chunks::<4>().0) {
                *wide = f32::from_le_bytes(*weight);
            }
        }
        Precision::F16 => {
            let halves = &mut bench.halves[..inputs * PANEL];
            for (half, weight) in halves.iter_mut().zip(weights.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*weight);
            }
            widen(halves, wide);
        }
        Precision::Bf16 => {
            for (wide, weight) in wide.iter_mut().zip(weights.as_chunks::<2>().0) {
                *wide = f32::from_bits(u32::from(u16::from_le_bytes(*weight)) << 16);
            }
        }
    }
    let wide = wide.as_chunks::<PANEL>().0;
    let width = rows.len() / sums.len();
    let part = |row: usize| &rows[row * width + from..row * width + from + inputs];
    let (fours, ones) = sums.as_chunks_mut::<ROWS>();
    let rest = ROWS * fours.len();
    for (four, sums) in fours.iter_mut().enumerate() {
        tile(wide, std::array::from_fn(|at| part(ROWS * four + at)), sums);
    }
    for (at, sum) in ones.iter_mut().enumerate() {
        tile(wide, [part(rest + at)], std::array::from_mut(sum));
    }
}

#[inline(always)]
fn tile<const R: usize>(wide: &[[f32; PANEL]], x: [&[f32]; R], sums: &mut [[f32; PANEL]; R]) {
    let mut own = *sums;
    for (input, weights) in wide.iter().enumerate() {
        for (sums, x) in own.iter_mut().zip(&x) {
            let x = x[input];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = x.mul_add(*weight, *sum);
            }
        }
    }
    *sums = own;
}

#[cfg(test)]
mod tests {
    use super::super::matmul::{Sink, multiply_on};
    use super::super::pool::Pool;
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 4001) as f32 / 2000.0 - 1.0).collect()
    }

    fn stored(precision: Precision, values: &[f32]) -> Vec<u8> {
        let one = |x: &f32| match precision {
            Precision::F32 => x.to_le_bytes().to_vec(),
            Precision::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            Precision::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(one).collect()
    }

    fn rounded(precision: Precision, x: f32) -> f32 {
        match precision {
            Precision::F32 => x,
            Precision::F16 => f16::from_f32(x).to_f32(),
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    #[test]
    fn every_precision_and_kernel_gives_the_exact_product() {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            for (rows, outputs, width) in [(1, 1, 32), (3, 17, 96), (9, 40, 544), (70, 33, 1536)] {
                let (weights, x) = (values(outputs * width, 1), values(rows * width, 2));
                let mut bytes = Vec::new();
                let file = stored(precision, &weights);
                pack_floats(precision, outputs, width, &file, &mut bytes).unwrap();
                let dense = Dense::new(precision, outputs, width, &bytes).unwrap();
                let mut inputs = Activations { keeps_floats: true, ..Activations::default() };
                inputs.resize(rows, width);
                inputs.floats.copy_from_slice(&x);
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; rows * outputs];
                    let sink = Sink::Store { out: &mut out, bias: None };
                    multiply_on(Pool::own(), *isa, &[Weights::Floats(dense)], &inputs, sink);
                    for (at, got) in out.iter().enumerate() {
                        let (x, w) = (at / outputs * width, at % outputs * width);
                        let (x, w) = (&inputs.floats[x..x + width], &weights[w..w + width]);
                        let (mut wanted, mut size) = (0.0, 0.0);
                        for (x, w) in x.iter().zip(w) {
                            let term = f64::from(*x) * f64::from(rounded(precision, *w));
                            wanted += term;
                            size += term.abs();
                        }
                        let error = (f64::from(*got) - wanted).abs();
                        // At most one rounding a term, each of a sum no larger than all terms.
                        let bound = size * width as f64 * f64::from(f32::EPSILON);
                        assert!(error <= bound, "{precision:?} {isa:?} {rows}×{outputs}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_come_back_and_what_is_wrong_is_refused() {
        let weights = values(18 * 32, 3);
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            assert_eq!(Precision::from_code(precision.code()), Some(precision));
            let mut bytes = Vec::new();
            let file = stored(precision, &weights);
            pack_floats(precision, 18, 32, &file, &mut bytes).unwrap();
            let dense = Dense::new(precision, 18, 32, &bytes).unwrap();
            let mut row = [0.0; 32];
            Weights::Floats(dense).row(17, &mut row);
            let wanted = weights[17 * 32..].iter().map(|x| rounded(precision, *x));
            assert!(wanted.eq(row));
            assert!(pack_floats(precision, 17, 32, &file, &mut bytes).is_err());
            assert!(Dense::new(precision, 18, 33, &bytes).is_none());
            let broken = stored(precision, &[&weights[1..], &[f32::INFINITY]].concat());
            let broken = pack_floats(precision, 18, 32, &broken, &mut bytes);
            assert_eq!(broken, Err(PackError::NotFinite { row: 17 }));
        }
        assert_eq!(Precision::from_code(3), None);
    }
}
