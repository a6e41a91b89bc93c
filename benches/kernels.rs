//! Our kernels one by one, in the shapes of our models: `cargo bench`, or `cargo bench -- attention`
//! for what has that in its name; with `HUIDA_KERNELS=scalar` in front another instruction set.
//!
//! An item is a multiplication with its addition, unless a group says otherwise. Bytes are those of
//! the weights: one row waits for them, many rows for the multipliers.

use std::fmt;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

use huida::model::trial::{Format, Head, Product, Row};

fn main() {
    divan::main();
}

/// One product of a model, with so many rows of inputs.
#[derive(Clone, Copy)]
struct Shape {
    format: Format,
    inputs: usize,
    outputs: usize,
    rows: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, inputs, outputs, rows } = self;
        write!(f, "{format:?} {inputs}→{outputs} × {rows}")
    }
}

/// Each format with each pair of inputs and outputs, for each number of rows.
fn shapes(formats: &[Format], sizes: &[(usize, usize)], rows: &[usize]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for &format in formats {
        for &(inputs, outputs) in sizes {
            shapes.extend(rows.iter().map(|&rows| Shape { format, inputs, outputs, rows }));
        }
    }
    shapes
}

/// Rows of a reply's token, of a token with its draft, of a prompt.
const REPLY_ROWS: [usize; 3] = [1, 6, 180];

#[divan::bench_group(max_time = 0.5)]
mod product {
    use super::*;

    fn run(bencher: Bencher<'_, '_>, Shape { format, inputs, outputs, rows }: Shape) {
        let mut product = Product::new(format, rows, inputs, outputs);
        let bytes = BytesCount::new(product.bytes());
        bencher
            .counter(ItemsCount::new(product.work()))
            .counter(bytes)
            .bench_local(|| product.run());
    }

    #[divan::bench(args = shapes(
        &[Format::Q4_0],
        &[(384, 1152), (384, 1536), (1536, 384)],
        &[1, 20, 256, 2048],
    ))]
    fn e5_small(bencher: Bencher<'_, '_>, shape: Shape) {
        run(bencher, shape);
    }

    #[divan::bench(args = shapes(
        &[Format::Q5_0, Format::Q8_0],
        &[(896, 896), (896, 4864)],
        &REPLY_ROWS,
    ))]
    fn qwen_0_5b(bencher: Bencher<'_, '_>, shape: Shape) {
        run(bencher, shape);
    }

    #[divan::bench(args = shapes(
        &[Format::Q4K, Format::Q6K],
        &[(1536, 8960), (8960, 1536)],
        &REPLY_ROWS,
    ))]
    fn qwen_1_5b(bencher: Bencher<'_, '_>, shape: Shape) {
        run(bencher, shape);
    }
}

/// Items are numbers of the row.
#[divan::bench_group(max_time = 0.2)]
mod row {
    use super::*;

    fn run(bencher: Bencher<'_, '_>, width: usize, function: fn(&mut Row)) {
        let mut row = Row::new(width);
        bencher.counter(ItemsCount::new(width)).bench_local(|| function(&mut row));
    }

    #[divan::bench(args = [384, 896, 1536, 8960])]
    fn quantise(bencher: Bencher<'_, '_>, width: usize) {
        run(bencher, width, Row::quantise);
    }

    #[divan::bench(args = [384])]
    fn layer_norm(bencher: Bencher<'_, '_>, width: usize) {
        run(bencher, width, Row::layer_norm);
    }

    #[divan::bench(args = [896, 1536])]
    fn rms_norm(bencher: Bencher<'_, '_>, width: usize) {
        run(bencher, width, Row::rms_norm);
    }

    #[divan::bench(args = [1536])]
    fn gelu(bencher: Bencher<'_, '_>, width: usize) {
        run(bencher, width, Row::gelu);
    }

    #[divan::bench(args = [4864, 8960])]
    fn swiglu(bencher: Bencher<'_, '_>, width: usize) {
        run(bencher, width, Row::swiglu);
    }

    /// Of all logits.
    #[divan::bench(args = [151_936])]
    fn log_sum_exp(bencher: Bencher<'_, '_>, width: usize) {
        let row = Row::new(width);
        bencher.counter(ItemsCount::new(width)).bench_local(|| row.log_sum_exp());
    }
}

/// One head on one thread; by the number of tokens.
#[divan::bench_group(max_time = 0.5)]
mod attention {
    use super::*;

    const TOKENS: [usize; 3] = [20, 180, 1024];

    fn run(bencher: Bencher<'_, '_>, mut head: Head) {
        bencher.counter(ItemsCount::new(head.work())).bench_local(|| head.run());
    }

    #[divan::bench(args = TOKENS)]
    fn encoder(bencher: Bencher<'_, '_>, tokens: usize) {
        run(bencher, Head::encoder(tokens));
    }

    #[divan::bench(args = TOKENS)]
    fn prompt(bencher: Bencher<'_, '_>, tokens: usize) {
        run(bencher, Head::generator(tokens, tokens));
    }

    #[divan::bench(args = TOKENS)]
    fn one_more_token(bencher: Bencher<'_, '_>, tokens: usize) {
        run(bencher, Head::generator(tokens, 1));
    }
}

/// What decides about tokens without the model; items are tokens.
#[divan::bench_group(max_time = 0.2)]
mod tokens {
    use super::*;
    use huida::base::random::SplitMix64;
    use huida::model::Constraint;
    use huida::model::constraint::{Mask, Next};
    use huida::model::suffix::{Match, SuffixAutomaton};

    const END: u32 = u32::MAX;

    /// A text in which some tokens come again.
    fn made_up(count: usize) -> Vec<u32> {
        let mut random = SplitMix64::new(3);
        (0..count).map(|_| (random.bits() % count as u64) as u32).collect()
    }

    #[divan::bench(args = [180, 1024])]
    fn suffixes_of_a_prompt(bencher: Bencher<'_, '_>, count: usize) {
        let prompt = made_up(count);
        bencher.counter(ItemsCount::new(count)).bench_local(|| SuffixAutomaton::new(&prompt));
    }

    /// A reply that repeats its prompt.
    #[divan::bench(args = [180, 1024])]
    fn following_in_a_prompt(bencher: Bencher<'_, '_>, count: usize) {
        let prompt = made_up(count);
        let suffixes = SuffixAutomaton::new(&prompt);
        let follow = |at, token: &u32| suffixes.step(at, *token);
        bencher
            .counter(ItemsCount::new(count))
            .bench_local(|| prompt.iter().fold(Match::default(), follow));
    }

    /// A reply copied from so many units of sixteen tokens, with three phrases to choose from.
    #[divan::bench(args = [4, 24])]
    fn mask_of_units(bencher: Bencher<'_, '_>, units: usize) {
        const UNIT: usize = 16;
        let pieces = |count: usize, length: usize| -> Vec<Vec<u32>> {
            made_up(count * length).chunks(length).map(<[u32]>::to_vec).collect()
        };
        let constraint = Constraint::Copy { units: Vec::new(), phrases: Vec::new() };
        let mask = || {
            let pieces = [pieces(units, UNIT), pieces(3, 2)];
            Mask::new(&constraint, pieces, &[END], units * UNIT).expect("there is room for a unit")
        };
        let tokens = ItemsCount::new(say_all(mask()));
        bencher.counter(tokens).with_inputs(mask).bench_local_values(say_all);
    }

    /// Goes on until nothing is allowed any more; tokens said.
    fn say_all(mut mask: Mask) -> usize {
        let mut said = 0;
        while let Some(token) = last_allowed(&mask) {
            mask.step(token);
            said += 1;
        }
        said
    }

    fn last_allowed(mask: &Mask) -> Option<u32> {
        match mask.next() {
            Next::Among(tokens) => tokens.iter().rfind(|token| **token != END).copied(),
            Next::Only(token) => Some(token),
            Next::End => None,
        }
    }
}

/// One query with all vectors of the knowledge, exactly; items are vectors.
#[divan::bench_group(max_time = 0.5)]
mod scan {
    use super::*;
    use huida::search::dense::DenseIndex;
    use huida::search::sample::clustered;

    const DIM: usize = 384;
    const COUNTS: [usize; 2] = [1_000, 20_000];

    fn counters<'a, 'b>(bencher: Bencher<'a, 'b>, count: usize, bytes: usize) -> Bencher<'a, 'b> {
        bencher.counter(ItemsCount::new(count)).counter(BytesCount::new(count * DIM * bytes))
    }

    #[divan::bench(args = COUNTS)]
    fn floats(bencher: Bencher<'_, '_>, count: usize) {
        let index = DenseIndex::new(clustered(count, DIM, 7));
        let query = index.row(count / 2);
        counters(bencher, count, 4).bench_local(|| index.scores(query));
    }

    /// The ten nearest by their codes, what the codes leave in question by the floats.
    #[divan::bench(args = COUNTS)]
    fn codes(bencher: Bencher<'_, '_>, count: usize) {
        let index = DenseIndex::new(clustered(count, DIM, 7));
        let query = index.row(count / 2);
        counters(bencher, count, 1).bench_local(|| index.nearest(query, 10, Some));
    }
}
