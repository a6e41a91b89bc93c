//! `x · Wᵀ` over threads: panels are the tasks, and what follows the product is done while the
//! result is in the cache.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{ActivationRow, Activations, GROUP, GROUP_INPUTS};
use super::dense::Weights;
use super::format::{BLOCK, Format, PANEL, Packed, made_up};
use super::isa::Isa;
use super::pool::Pool;
use super::shared::SharedRows;
use super::tile::{Stretch, over_panel};
use crate::base::random::SplitMix64;

/// Rows that pass over a widened stretch before the next one: more would push it out of the cache.
/// A multiple of every kernel's rows.
const PASS_ROWS: usize = 132;
/// Panels of a task whose sums are stored: few, so that the last task ends when the others do.
const STORED_PANELS: usize = 2;
/// Panels of a task whose sums become activations: together one group.
const GROUP_PANELS: usize = GROUP_INPUTS / PANEL;

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
    multiply_on(Pool::own(), Isa::detected(), weights, x, sink);
}

/// The columns of some panels of one matrix, ascending; the others of `out`, `[rows, outputs]`, stay
/// as they are.
pub(crate) fn multiply_panels(
    weights: Weights<'_>,
    x: &Activations,
    panels: &[usize],
    out: &mut [f32],
) {
    // Two tasks with the same columns would write over each other.
    assert!(panels.is_sorted_by(|a, b| a < b), "panels are named twice or out of order");
    assert!(weights.width() == x.width, "widths differ");
    let rows = SharedRows::new(out, weights.rows());
    let out = Out::Floats(Floats { rows, bias: None, add: false });
    let job = Job { isa: Isa::detected(), weights: &[weights], x, out };
    let task = |panel: usize| Task { matrix: 0, panel, panels: 1, column: panel * PANEL };
    Pool::own().run(panels.len(), &|at| job.work(task(panels[at])));
}

pub(super) fn multiply_on<'a, W: Copy + Into<Weights<'a>>>(
    pool: &Pool,
    isa: Isa,
    weights: &[W],
    x: &Activations,
    sink: Sink<'_>,
) {
    let weights: Vec<Weights<'_>> = weights.iter().map(|w| (*w).into()).collect();
    assert!(weights.iter().all(|w| w.width() == x.width), "widths differ");
    let columns = weights.iter().map(Weights::rows).sum::<usize>();
    let (rows, ways) = (x.rows, weights.len());
    let out = match sink {
        Sink::Store { out, bias } => {
            Out::Floats(Floats { rows: SharedRows::new(out, columns), bias, add: false })
        }
        Sink::Add { out, bias } => {
            Out::Floats(Floats { rows: SharedRows::new(out, columns), bias, add: true })
        }
        Sink::Gelu { out, bias } => {
            assert!(ways == 1 && columns.is_multiple_of(BLOCK), "not one matrix of whole blocks");
            out.resize(rows, columns);
            Out::Gelu { rows: SharedActivations::new(out), bias }
        }
        Sink::SwiGlu { out } => {
            let alike = ways == 2 && weights[0].rows() == weights[1].rows();
            assert!(alike && weights[0].rows().is_multiple_of(BLOCK), "not a gate and its input");
            out.resize(rows, weights[0].rows());
            Out::SwiGlu { rows: SharedActivations::new(out) }
        }
    };
    let job = Job { isa, weights: &weights, x, out };
    let tasks: Vec<Task> = job.tasks();
    pool.run(tasks.len(), &|at| job.work(tasks[at]));
}

/// Some neighbouring panels of one matrix.
#[derive(Clone, Copy)]
struct Task {
    matrix: usize,
    panel: usize,
    panels: usize,
    /// Column of the first panel in the output.
    column: usize,
}

impl Task {
    fn panels(self) -> impl Iterator<Item = Panel> {
        let Self { matrix, panel, panels, column } = self;
        (0..panels).map(move |at| Panel { matrix, panel: panel + at, column: column + at * PANEL })
    }
}

/// One panel of one matrix and its first column in the output.
#[derive(Clone, Copy)]
struct Panel {
    matrix: usize,
    panel: usize,
    column: usize,
}

/// Where a task writes; tasks write disjoint columns.
enum Out<'a> {
    Floats(Floats<'a>),
    Gelu { rows: SharedActivations<'a>, bias: &'a [f32] },
    SwiGlu { rows: SharedActivations<'a> },
}

struct Floats<'a> {
    rows: SharedRows<'a, f32>,
    bias: Option<&'a [f32]>,
    /// To what is there, or in its place.
    add: bool,
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
        let (blocks, groups) = (out.width / BLOCK, out.groups());
        Self {
            codes: SharedRows::new(&mut out.codes, out.width),
            scales: SharedRows::new(&mut out.scales, groups),
            sums: SharedRows::new(&mut out.sums, blocks),
            floats: out.keeps_floats.then(|| SharedRows::new(&mut out.floats, out.width)),
        }
    }

    /// # Safety
    /// The caller alone writes this group.
    unsafe fn quantise(&self, isa: Isa, row: usize, group: usize, values: &[f32]) {
        let blocks = values.len() / BLOCK;
        // SAFETY: the caller's promise.
        let mut out = unsafe {
            ActivationRow {
                codes: self.codes.part(row, group * GROUP_INPUTS, values.len()),
                scales: self.scales.part(row, group, 1),
                sums: self.sums.part(row, group * GROUP, blocks),
                floats: match &self.floats {
                    Some(floats) => floats.part(row, group * GROUP_INPUTS, values.len()),
                    None => &mut [],
                },
            }
        };
        isa.quantise(values, &mut out);
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
    /// One panel's columns, close together: they are added to again and again.
    sums: Vec<[f32; PANEL]>,
    /// A group of columns, twice for a gate and its input.
    columns: [Vec<[f32; GROUP_INPUTS]>; 2],
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench {
        stretch: Stretch::boxed(),
        sums: vec![[0.0; PANEL]; PASS_ROWS],
        columns: std::array::from_fn(|_| vec![[0.0; GROUP_INPUTS]; PASS_ROWS]),
    });
}

impl Job<'_> {
    fn tasks(&self) -> Vec<Task> {
        let per_task = match self.out {
            Out::Floats(_) => STORED_PANELS,
            Out::Gelu { .. } | Out::SwiGlu { .. } => GROUP_PANELS,
        };
        let mut tasks = Vec::new();
        let mut column = 0;
        for (matrix, weights) in self.weights.iter().enumerate() {
            for panel in (0..weights.panels()).step_by(per_task) {
                let panels = per_task.min(weights.panels() - panel);
                tasks.push(Task { matrix, panel, panels, column: column + panel * PANEL });
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
                let rows = first..self.x.rows.min(first + PASS_ROWS);
                match &self.out {
                    Out::Floats(out) => {
                        for panel in task.panels() {
                            self.sum(panel, rows.clone(), bench);
                            self.store(panel, rows.clone(), &bench.sums, out);
                        }
                    }
                    Out::Gelu { rows: out, bias } => {
                        self.collect(task, 0, rows.clone(), bench);
                        let bias = &bias[task.column..];
                        self.quantise(task, rows, bench, out, |x, _| self.isa.gelu(x, bias));
                    }
                    Out::SwiGlu { rows: out } => {
                        self.collect(task, 0, rows.clone(), bench);
                        self.collect(task, 1, rows.clone(), bench);
                        self.quantise(task, rows, bench, out, |x, gated| self.isa.swiglu(x, gated));
                    }
                }
            }
        });
    }

    /// Writes one panel's sums to where they belong.
    fn store(&self, panel: Panel, rows: Range<usize>, sums: &[[f32; PANEL]], out: &Floats<'_>) {
        let width = PANEL.min(self.weights[panel.matrix].rows() - panel.panel * PANEL);
        let mut biases = [0.0; PANEL];
        if let Some(bias) = out.bias {
            biases[..width].copy_from_slice(&bias[panel.column..panel.column + width]);
        }
        for (row, sums) in rows.zip(sums) {
            // SAFETY: this task alone writes these columns.
            let to = unsafe { out.rows.part(row, panel.column, width) };
            let mut columns = *sums;
            columns.iter_mut().zip(biases).for_each(|(y, bias)| *y += bias);
            if out.add {
                columns.iter_mut().zip(&*to).for_each(|(y, to)| *y += to);
            }
            match to.as_chunks_mut() {
                ([whole], _) => *whole = columns,
                _ => to.copy_from_slice(&columns[..width]),
            }
        }
    }

    /// The sums of all panels of a task side by side; `way` is 1 for what a gate's columns are
    /// multiplied with.
    fn collect(&self, task: Task, way: usize, rows: Range<usize>, bench: &mut Bench) {
        for (at, panel) in task.panels().enumerate() {
            self.sum(Panel { matrix: way, ..panel }, rows.clone(), bench);
            let columns = bench.columns[way].iter_mut().zip(&bench.sums);
            for (columns, sums) in columns.take(rows.len()) {
                columns.as_chunks_mut().0[at] = *sums;
            }
        }
    }

    /// Makes activations of collected columns.
    fn quantise(
        &self,
        task: Task,
        rows: Range<usize>,
        bench: &mut Bench,
        out: &SharedActivations<'_>,
        finish: impl Fn(&mut [f32], &[f32]),
    ) {
        let [columns, gated] = &mut bench.columns;
        let (width, group) = (task.panels * PANEL, task.column / GROUP_INPUTS);
        for (row, (columns, gated)) in rows.zip(columns.iter_mut().zip(gated)) {
            let columns = &mut columns[..width];
            finish(columns, &gated[..width]);
            // SAFETY: this task alone writes this group.
            unsafe { out.quantise(self.isa, row, group, columns) };
        }
    }

    /// The products of one panel with some rows.
    fn sum(&self, panel: Panel, rows: Range<usize>, bench: &mut Bench) {
        let Panel { matrix, panel, .. } = panel;
        let (x, first) = (self.x, rows.start);
        let Bench { stretch, sums, .. } = bench;
        let sums = &mut sums[..rows.len()];
        sums.fill([0.0; PANEL]);
        let weights = match &self.weights[matrix] {
            Weights::Codes(weights) => weights,
            Weights::Floats(weights) => return weights.multiply(self.isa, panel, x, first, sums),
        };
        // SAFETY: `Isa` is a value only where the machine has the instructions.
        unsafe {
            match self.isa {
                Isa::Scalar => {
                    over_panel::<super::scalar::Scalar>(weights, panel, x, first, stretch, sums);
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(_) => {
                    over_panel::<super::avx2::Avx2>(weights, panel, x, first, stretch, sums);
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni(_) => {
                    over_panel::<super::avx512::Avx512Vnni>(
                        weights, panel, x, first, stretch, sums,
                    );
                }
            }
        }
    }
}

/// Compares an instruction set's products with the scalar ones on a small matrix of every format,
/// for few rows and for many. Done once per process: a processor, an emulator or a compiler that
/// gets one of these instructions wrong is found here and not in a customer's reply.
pub(super) fn agrees_with_scalar(isa: Isa) -> bool {
    if isa == Isa::Scalar {
        return true;
    }
    let (outputs, width) = (24, 256);
    let mut random = SplitMix64::new(1);
    [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4K, Format::Q6K].into_iter().all(|format| {
        let bytes = made_up(format, outputs, width);
        let Some(weights) = Packed::new(format, outputs, width, &bytes) else { return false };
        [3, 14].into_iter().all(|rows| {
            let x: Vec<f32> = (0..rows * width).map(|_| 255.0 * random.unit() - 127.5).collect();
            agree(isa, &weights, &x, rows)
        })
    })
}

fn agree(isa: Isa, weights: &Packed<'_>, x: &[f32], rows: usize) -> bool {
    let mut activations = Activations::default();
    activations.resize(rows, weights.width);
    for (x, mut row) in x.chunks_exact(weights.width).zip(activations.rows_mut()) {
        Isa::Scalar.quantise(x, &mut row);
    }
    let product = |isa| {
        let mut out = vec![0.0; rows * weights.rows];
        let sink = Sink::Store { out: &mut out, bias: None };
        multiply_on(&Pool::alone(), isa, &[*weights], &activations, sink);
        out
    };
    let (ours, scalar) = (product(isa), product(Isa::Scalar));
    let size = scalar.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    ours.iter().zip(&scalar).all(|(a, b)| (a - b).abs() <= 1e-5 * size)
}

#[cfg(test)]
mod tests;
