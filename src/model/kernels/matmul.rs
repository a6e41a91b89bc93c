//! `x · Wᵀ` over threads: panels are the tasks, and what follows the product is done while the
//! result is in the cache.

use std::cell::RefCell;

use super::activations::Activations;
use super::dense::Weights;
use super::format::{BLOCK, Format, PANEL, Packed};
use super::isa::Isa;
use super::pool::Pool;
use super::shared::SharedRows;
use super::tile::{Inputs, Kernel, STRETCH, Stretch};

/// Rows that pass over a widened stretch before the next one: more would push it out of the cache.
const PASS_ROWS: usize = 64;
/// Panels of a task: together one block of the activations that the next product reads.
const TASK_PANELS: usize = BLOCK / PANEL;

/// What becomes of a product's columns.
pub(crate) enum Sink<'a> {
    /// `out = y (+ bias)`; `out` is `[rows, outputs]`.
    Store { out: &'a mut [f32], bias: Option<&'a [f32]> },
    /// `out += y (+ bias)`: the residual stream.
    Add { out: &'a mut [f32], bias: Option<&'a [f32]> },
    /// `gelu(y + bias)` as the next product's input.
    Gelu { out: &'a mut Activations, bias: &'a [f32] },
    /// `silu(y₀) · y₁` of two matrices as the next product's input.
    SwiGlu { out: &'a mut Activations },
}

/// The products of a region: matrices that read the same rows, their outputs side by side (for
/// [`Sink::SwiGlu`]: two of the same size, combined).
pub(crate) fn multiply<'a, W: Copy + Into<Weights<'a>>>(
    weights: &[W],
    x: &Activations,
    sink: Sink<'_>,
) {
    multiply_on(Pool::global(), Isa::detected(), weights, x, sink);
}

pub(super) fn multiply_on<'a, W: Copy + Into<Weights<'a>>>(
    pool: &Pool,
    isa: Isa,
    weights: &[W],
    x: &Activations,
    sink: Sink<'_>,
) {
    let weights: Vec<Weights<'_>> = weights.iter().map(|w| (*w).into()).collect();
    debug_assert!(weights.iter().all(|w| w.width() == x.width), "widths differ");
    let columns = weights.iter().map(Weights::rows).sum::<usize>();
    let (rows, ways) = (x.rows, weights.len());
    let out = match sink {
        Sink::Store { out, bias } => {
            Out::Floats { rows: SharedRows::new(out, columns), bias, add: false }
        }
        Sink::Add { out, bias } => {
            Out::Floats { rows: SharedRows::new(out, columns), bias, add: true }
        }
        Sink::Gelu { out, bias } => {
            out.resize(rows, columns);
            Out::Gelu { rows: SharedActivations::new(out), bias }
        }
        Sink::SwiGlu { out } => {
            assert!(
                ways == 2 && weights[0].rows() == weights[1].rows(),
                "not a gate and its input"
            );
            out.resize(rows, weights[0].rows());
            Out::SwiGlu { rows: SharedActivations::new(out) }
        }
    };
    let job = Job { isa, weights: &weights, x, out };
    let tasks: Vec<Task> = job.tasks();
    pool.run(tasks.len(), &|at| job.work(tasks[at]));
}

/// Up to [`TASK_PANELS`] panels of one matrix.
#[derive(Clone, Copy)]
struct Task {
    matrix: usize,
    panel: usize,
    /// Column of the first panel in the output.
    column: usize,
}

/// Where a task writes; tasks write disjoint columns.
enum Out<'a> {
    Floats { rows: SharedRows<'a, f32>, bias: Option<&'a [f32]>, add: bool },
    Gelu { rows: SharedActivations<'a>, bias: &'a [f32] },
    SwiGlu { rows: SharedActivations<'a> },
}

struct SharedActivations<'a> {
    codes: SharedRows<'a, i8>,
    scales: SharedRows<'a, f32>,
    sums: SharedRows<'a, [f32; 3]>,
    /// Where they are kept.
    floats: Option<SharedRows<'a, f32>>,
}

impl<'a> SharedActivations<'a> {
    fn new(out: &'a mut Activations) -> Self {
        let blocks = out.width / BLOCK;
        Self {
            codes: SharedRows::new(&mut out.codes, out.width),
            scales: SharedRows::new(&mut out.scales, blocks),
            sums: SharedRows::new(&mut out.sums, blocks),
            floats: out.keeps_floats.then(|| SharedRows::new(&mut out.floats, out.width)),
        }
    }
}

struct Job<'a> {
    isa: Isa,
    weights: &'a [Weights<'a>],
    x: &'a Activations,
    out: Out<'a>,
}

/// A thread's working memory.
struct Bench {
    stretch: Box<Stretch>,
    /// `[panel, row]`, twice for a gate and its input.
    sums: [[[[f32; PANEL]; PASS_ROWS]; TASK_PANELS]; 2],
}

thread_local! {
    static BENCH: RefCell<Box<Bench>> = RefCell::new(Box::new(Bench {
        stretch: Stretch::boxed(),
        sums: [[[[0.0; PANEL]; PASS_ROWS]; TASK_PANELS]; 2],
    }));
}

impl Job<'_> {
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut column = 0;
        for (matrix, weights) in self.weights.iter().enumerate() {
            for panel in (0..weights.panels()).step_by(TASK_PANELS) {
                tasks.push(Task { matrix, panel, column: column + panel * PANEL });
            }
            column += weights.rows();
            if matches!(self.out, Out::SwiGlu { .. }) {
                break;
            }
        }
        tasks
    }

    fn work(&self, task: Task) {
        BENCH.with_borrow_mut(|bench| {
            for first in (0..self.x.rows).step_by(PASS_ROWS) {
                let rows = PASS_ROWS.min(self.x.rows - first);
                self.sum(
                    task.matrix,
                    task.panel,
                    first,
                    rows,
                    &mut bench.stretch,
                    &mut bench.sums[0],
                );
                if matches!(self.out, Out::SwiGlu { .. }) {
                    self.sum(1, task.panel, first, rows, &mut bench.stretch, &mut bench.sums[1]);
                }
                let width = (self.weights[task.matrix].rows() - task.panel * PANEL).min(BLOCK);
                for row in 0..rows {
                    self.finish(task.column, width, first + row, row, &mut bench.sums);
                }
            }
        });
    }

    /// The products of up to [`TASK_PANELS`] panels with some rows.
    fn sum(
        &self,
        matrix: usize,
        panel: usize,
        first: usize,
        rows: usize,
        stretch: &mut Stretch,
        sums: &mut [[[f32; PANEL]; PASS_ROWS]; TASK_PANELS],
    ) {
        let end = self.weights[matrix].panels().min(panel + TASK_PANELS);
        for (panel, sums) in (panel..end).zip(sums) {
            let sums = &mut sums[..rows];
            let weights = match &self.weights[matrix] {
                Weights::Codes(weights) => weights,
                Weights::Floats(weights) => {
                    weights.multiply(self.isa, panel, self.x, first, sums);
                    continue;
                }
            };
            sums.fill([0.0; PANEL]);
            // SAFETY: `Isa` is a value only where the machine has the instructions.
            unsafe {
                match self.isa {
                    Isa::Scalar => over_panel::<super::scalar::Scalar>(
                        weights, panel, self.x, first, stretch, sums,
                    ),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => over_panel::<super::avx2::Avx2>(
                        weights, panel, self.x, first, stretch, sums,
                    ),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Vnni => over_panel::<super::avx512::Avx512Vnni>(
                        weights, panel, self.x, first, stretch, sums,
                    ),
                }
            }
        }
    }

    /// Writes `width` finished columns of one row.
    fn finish(
        &self,
        column: usize,
        width: usize,
        row: usize,
        at: usize,
        sums: &mut [[[[f32; PANEL]; PASS_ROWS]; TASK_PANELS]; 2],
    ) {
        let mut columns = [[0.0_f32; BLOCK]; 2];
        for (columns, sums) in columns.iter_mut().zip(sums) {
            for (columns, sums) in columns.chunks_exact_mut(PANEL).zip(sums) {
                columns.copy_from_slice(&sums[at]);
            }
        }
        let [mut y, gated] = columns;
        match &self.out {
            Out::Floats { rows, bias, add } => {
                // SAFETY: this task alone writes these columns.
                let out = unsafe { rows.part(row, column, width) };
                if let Some(bias) = bias {
                    y.iter_mut().zip(&bias[column..]).take(width).for_each(|(y, b)| *y += b);
                }
                if *add {
                    out.iter_mut().zip(y).for_each(|(out, y)| *out += y);
                } else {
                    out.copy_from_slice(&y[..width]);
                }
            }
            Out::Gelu { rows, bias } => {
                self.isa.gelu(&mut y, &bias[column..column + BLOCK]);
                self.quantise(rows, row, column, &y);
            }
            Out::SwiGlu { rows } => {
                self.isa.swiglu(&mut y, &gated);
                self.quantise(rows, row, column, &y);
            }
        }
    }

    fn quantise(&self, rows: &SharedActivations<'_>, row: usize, column: usize, y: &[f32]) {
        // SAFETY: this task alone writes this block.
        let mut out = unsafe {
            super::activations::ActivationRow {
                codes: rows.codes.part(row, column, BLOCK),
                scales: rows.scales.part(row, column / BLOCK, 1),
                sums: rows.sums.part(row, column / BLOCK, 1),
                floats: rows.floats.as_ref().map_or(&mut [][..], |f| f.part(row, column, BLOCK)),
            }
        };
        self.isa.quantise(y, &mut out);
    }
}

/// # Safety
/// The machine has the kernel's instructions.
unsafe fn over_panel<K: Kernel>(
    weights: &Packed<'_>,
    panel: usize,
    x: &Activations,
    first: usize,
    stretch: &mut Stretch,
    sums: &mut [[f32; PANEL]],
) {
    let bytes = STRETCH / weights.format.blocks() * weights.format.superblock_bytes();
    for (at, superblocks) in weights.panel(panel).chunks(bytes).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { K::widen(weights.format, superblocks, stretch) };
        for (tile, out) in sums.chunks_mut(K::ROWS).enumerate() {
            let inputs = Inputs { x, row: first + tile * K::ROWS, block: at * STRETCH };
            // SAFETY: as above.
            unsafe { K::tile(weights.format, stretch, inputs, out) };
        }
    }
}

/// Compares an instruction set's products with the scalar ones on a small matrix of every format.
/// Done once per process: a processor, an emulator or a compiler that gets one of these
/// instructions wrong is found here and not in a customer's reply.
pub(super) fn agrees_with_scalar(isa: Isa) -> bool {
    if isa == Isa::Scalar {
        return true;
    }
    let pool = Pool::alone();
    let (rows, outputs, width) = (11, 24, 256);
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let x: Vec<f32> = (0..rows * width).map(|_| f32::from(byte()) - 127.5).collect();
    let mut activations = Activations::default();
    activations.resize(rows, width);
    for (x, mut row) in x.chunks_exact(width).zip(activations.rows_mut()) {
        Isa::Scalar.quantise(x, &mut row);
    }
    [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4K, Format::Q6K].into_iter().all(|format| {
        // Any bytes are codes; scales are kept small and finite by clearing high exponent bits.
        let bytes: Vec<u8> =
            (0..format.packed_bytes(outputs, width)).map(|_| byte() & 0xBF).collect();
        let Some(weights) = Packed::new(format, outputs, width, &bytes) else { return false };
        let product = |isa| {
            let mut out = vec![0.0; rows * outputs];
            let sink = Sink::Store { out: &mut out, bias: None };
            multiply_on(&pool, isa, &[weights], &activations, sink);
            out
        };
        let (ours, scalar) = (product(isa), product(Isa::Scalar));
        let size = scalar.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
        ours.iter().zip(&scalar).all(|(a, b)| (a - b).abs() <= 1e-5 * size)
    })
}

#[cfg(test)]
mod tests;
