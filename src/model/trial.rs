//! Single kernels on made-up numbers in the shapes of our models: what `benches/kernels.rs` times.
//!
//! A kernel trusts that its operands fit each other and that the machine has its instructions, so
//! kernels are not for everyone to call. Here each comes with operands that fit.

use half::f16;

use crate::base::random::SplitMix64;
use crate::model::kernels::{
    Activations, Attention, Isa, PAGE, Packed, Page, Sink, made_up, multiply,
};

pub use crate::model::kernels::Format;

/// More bytes than the caches hold: in a model, weights come from memory.
const BEYOND_CACHES: usize = 64 << 20;

/// Rows of inputs with a quantised matrix, `x · Wᵀ`, on all threads.
pub struct Product {
    format: Format,
    inputs: usize,
    outputs: usize,
    /// The same matrix as often as it takes to be out of the caches when its turn comes again.
    matrices: Vec<u8>,
    turn: usize,
    x: Activations,
    out: Vec<f32>,
}

impl Product {
    /// # Panics
    /// When `inputs` is no multiple of 32, or for Q4_K and Q6_K of 256.
    pub fn new(format: Format, rows: usize, inputs: usize, outputs: usize) -> Self {
        assert!(inputs.is_multiple_of(format.inputs()), "{inputs} inputs are not whole blocks");
        let matrix = made_up(format, outputs, inputs);
        let mut x = Activations::default();
        x.resize(rows, inputs);
        let numbers = numbers(rows * inputs);
        for (numbers, mut row) in numbers.chunks_exact(inputs).zip(x.rows_mut()) {
            Isa::detected().quantise(numbers, &mut row);
        }
        let matrices = matrix.repeat(BEYOND_CACHES.div_ceil(matrix.len()));
        Self { format, inputs, outputs, matrices, turn: 0, x, out: vec![0.0; rows * outputs] }
    }

    /// Multiplies.
    pub fn run(&mut self) {
        let bytes = self.bytes();
        let at = self.turn * bytes;
        self.turn = (self.turn + 1) % (self.matrices.len() / bytes);
        let matrix = &self.matrices[at..at + bytes];
        let matrix = Packed::new(self.format, self.outputs, self.inputs, matrix);
        let matrix = matrix.expect("made in this shape");
        multiply(&[matrix], &self.x, Sink::Store { out: &mut self.out, bias: None });
    }

    /// Multiplications, each with an addition.
    pub fn work(&self) -> usize {
        self.x.rows * self.inputs * self.outputs
    }

    /// Of the matrix.
    pub fn bytes(&self) -> usize {
        self.format.packed_bytes(self.outputs, self.inputs)
    }
}

/// A row of floats between two products.
pub struct Row {
    x: Vec<f32>,
    other: Vec<f32>,
    out: Vec<f32>,
    codes: Activations,
}

impl Row {
    /// # Panics
    /// When `width` is no multiple of 32.
    pub fn new(width: usize) -> Self {
        let mut codes = Activations::default();
        codes.resize(1, width);
        Self { x: numbers(width), other: numbers(width), out: vec![0.0; width], codes }
    }

    /// To int8, as the next product reads it.
    pub fn quantise(&mut self) {
        for mut codes in self.codes.rows_mut() {
            Isa::detected().quantise(&self.x, &mut codes);
        }
    }

    /// Layer norm.
    pub fn layer_norm(&mut self) {
        self.in_place(|isa, x, weight| isa.layer_norm(x, weight, weight, 1e-12));
    }

    /// Root-mean-square norm.
    pub fn rms_norm(&mut self) {
        Isa::detected().rms_norm(&self.x, &self.other, 1e-6, &mut self.out);
    }

    /// GELU of the row and a bias.
    pub fn gelu(&mut self) {
        self.in_place(Isa::gelu);
    }

    /// SiLU of the row as the gate of another.
    pub fn swiglu(&mut self) {
        self.in_place(Isa::swiglu);
    }

    /// What makes log-probabilities of logits.
    pub fn log_sum_exp(&self) -> f32 {
        Isa::detected().log_sum_exp(&self.x)
    }

    /// On a copy of the row, which would become something else from call to call.
    fn in_place(&mut self, function: impl FnOnce(Isa, &mut [f32], &[f32])) {
        self.out.copy_from_slice(&self.x);
        function(Isa::detected(), &mut self.out, &self.other);
    }
}

/// One head of attention, on one thread.
pub struct Head {
    dim: usize,
    queries: Vec<f32>,
    visible: Vec<usize>,
    keys: Keys,
    scores: Vec<f32>,
    wide: Vec<f32>,
    out: Vec<f32>,
}

/// Keys and values, page after page.
enum Keys {
    Floats(Vec<f32>),
    Halves(Vec<f16>),
}

impl Head {
    /// As in the encoder: a text whose tokens all see each other.
    pub fn encoder(tokens: usize) -> Self {
        let dim = 32;
        let keys = Keys::Floats(numbers(numbers_of_pages(tokens, dim)));
        Self::new(dim, vec![tokens; tokens], keys)
    }

    /// As in the smaller generator: seven queries of each of the `new` last of `tokens` tokens; a
    /// token sees itself and those before it.
    ///
    /// # Panics
    /// When more are new than there are.
    pub fn generator(tokens: usize, new: usize) -> Self {
        const GROUP: usize = 7;
        let dim = 64;
        assert!(new <= tokens, "{new} new tokens among {tokens}");
        let keys = numbers(numbers_of_pages(tokens, dim)).into_iter().map(f16::from_f32);
        let visible = (tokens - new..tokens).flat_map(|place| [place + 1; GROUP]).collect();
        Self::new(dim, visible, Keys::Halves(keys.collect()))
    }

    fn new(dim: usize, visible: Vec<usize>, keys: Keys) -> Self {
        let rows = visible.len();
        let most = visible.iter().max().map_or(0, |keys| keys.next_multiple_of(PAGE));
        Self {
            dim,
            queries: numbers(rows * dim),
            visible,
            keys,
            scores: vec![0.0; rows * most],
            wide: vec![0.0; PAGE * dim],
            out: vec![0.0; rows * dim],
        }
    }

    /// Mixes the values.
    pub fn run(&mut self) {
        let page = 2 * PAGE * self.dim;
        let pages: Vec<Page<'_>> = match &self.keys {
            Keys::Floats(keys) => keys.chunks_exact(page).map(Page::Floats).collect(),
            Keys::Halves(keys) => keys.chunks_exact(page).map(Page::Halves).collect(),
        };
        Isa::detected().attend(Attention {
            dim: self.dim,
            queries: &self.queries,
            visible: &self.visible,
            pages: &pages,
            scores: &mut self.scores,
            wide: &mut self.wide,
            out: &mut self.out,
        });
    }

    /// Multiplications with keys and values that are seen, each with an addition.
    pub fn work(&self) -> usize {
        2 * self.dim * self.visible.iter().sum::<usize>()
    }
}

/// Numbers of as many pages as hold the keys and values of a head's tokens.
fn numbers_of_pages(tokens: usize, dim: usize) -> usize {
    tokens.next_multiple_of(PAGE) * 2 * dim
}

/// Between −1 and 1.
fn numbers(count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(2);
    (0..count).map(|_| 2.0 * random.unit() - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_computes_something() {
        let some = |out: &[f32]| out.iter().all(|x| x.is_finite()) && out.iter().any(|x| *x != 0.0);
        let mut product = Product::new(Format::Q4_0, 3, 64, 48);
        product.run();
        product.run();
        assert!(some(&product.out) && product.turn == 2);
        assert_eq!((product.work(), product.bytes()), (3 * 64 * 48, 3 * 2 * (32 + 4 * 64)));
        let mut row = Row::new(64);
        row.quantise();
        assert!(row.codes.codes.iter().any(|code| code.unsigned_abs() == 127));
        for function in [Row::layer_norm, Row::rms_norm, Row::gelu, Row::swiglu] {
            row.out.fill(0.0);
            function(&mut row);
            assert!(some(&row.out));
        }
        assert!(row.log_sum_exp() > 0.0);
        for mut head in [Head::encoder(20), Head::generator(20, 3)] {
            head.run();
            assert!(some(&head.out));
        }
        assert_eq!(Head::generator(20, 3).work(), 2 * 64 * 7 * (18 + 19 + 20));
    }
}
