//! Our BERT encoder: token ids to a vector per sequence, batches without any padding.
//!
//! The tokens of all sequences of a batch lie one after the other, so everything that works token
//! by token (projections, norms, feed-forward) never touches padding; attention, which must stay
//! inside a sequence, is a task per sequence and head.
//! Architecture: Devlin et al. 2018 (arXiv:1810.04805); tensor names as llama.cpp writes them.

use std::cell::RefCell;

use crate::model::gguf::GgufFile;
use crate::model::kernels::{
    Activations, Attention, Isa, PAGE, Page, Sink, multiply, over_parts, over_rows,
};
use crate::model::packed::{Matrix, PackedModel};
use crate::model::{Control, ModelError};

/// Layers of anything that is still a small encoder; a larger number is a broken file.
const MAX_LAYERS: usize = 256;

/// How the vectors of a sequence's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// The first token's, which stands for the whole in models trained so.
    First,
}

/// Dimensions, from the file's metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BertConfig {
    pub layers: usize,
    /// Width of a token's vector and of the result.
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    /// Longest sequence, tokens.
    pub window: usize,
    pub vocab: usize,
    pub types: usize,
    pub eps: f32,
}

pub struct Bert {
    config: BertConfig,
    packed: PackedModel,
    words: Matrix,
    /// Position vectors with the one token type that is in use added, `[window, hidden]`.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key, value.
    qkv: [Matrix; 3],
    qkv_bias: Vec<f32>,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Linear {
    weight: Matrix,
    bias: Vec<f32>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

/// Buffers of a pass, reused by the next one.
#[derive(Default)]
pub(crate) struct Workspace {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    qkv: Vec<f32>,
    /// What attention mixed, one piece per sequence and head.
    heads: Vec<f32>,
    /// Of each row: where its first head's piece of `heads` is, and the step to the next head.
    rows: Vec<(usize, usize)>,
    inputs: Activations,
    inner: Activations,
}

impl Norm {
    fn load(packed: &PackedModel, name: &str, config: &BertConfig) -> Result<Self, ModelError> {
        let weight = packed.floats(&format!("{name}.weight"), 1, config.hidden)?;
        let bias = packed.floats(&format!("{name}.bias"), 1, config.hidden)?;
        Ok(Self { weight, bias, eps: config.eps })
    }

    /// Norms every row of `x` and quantises it for the next product.
    fn forward(&self, x: &mut [f32], inputs: &mut Activations) {
        let (width, isa) = (self.weight.len(), Isa::detected());
        inputs.resize(x.len() / width, width);
        over_rows(x, inputs, |_, x, inputs| {
            isa.layer_norm(x, &self.weight, &self.bias, self.eps);
            isa.quantise(x, inputs);
        });
    }
}

impl BertConfig {
    fn read(gguf: &GgufFile) -> Result<Self, ModelError> {
        let architecture = gguf.text("general.architecture")?;
        if architecture != "bert" {
            return Err(gguf.corrupt(format_args!("architecture `{architecture}` is not bert")));
        }
        let config = Self {
            layers: gguf.count("bert.block_count")?,
            hidden: gguf.count("bert.embedding_length")?,
            ffn: gguf.count("bert.feed_forward_length")?,
            heads: gguf.count("bert.attention.head_count")?,
            window: gguf.count("bert.context_length")?,
            vocab: gguf.shape("token_embd.weight")?[0],
            types: gguf.count("tokenizer.ggml.token_type_count")?,
            eps: gguf.float("bert.attention.layer_norm_epsilon")?,
        };
        // Heads of whole vectors, which the attention kernel reads.
        let whole = config.heads > 0 && config.hidden.is_multiple_of(config.heads * PAGE);
        if !whole || config.layers > MAX_LAYERS || config.window < 2 || config.types == 0 {
            return Err(gguf.corrupt(format_args!("dimensions make no sense: {config:?}")));
        }
        Ok(config)
    }
}

impl Bert {
    /// Finds the weights that the header describes.
    pub(crate) fn load(packed: PackedModel, header: &GgufFile) -> Result<Self, ModelError> {
        let config = BertConfig::read(header)?;
        let BertConfig { hidden, vocab, window, types, .. } = config;
        let mut positions = packed.floats("position_embd.weight", window, hidden)?;
        let types = packed.floats("token_types.weight", types, hidden)?;
        for position in positions.chunks_exact_mut(hidden) {
            position.iter_mut().zip(&types).for_each(|(p, t)| *p += t);
        }
        let layers = (0..config.layers).map(|i| Layer::load(&packed, i, &config));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            words: packed.matrix("token_embd.weight", vocab, hidden)?,
            positions,
            norm: Norm::load(&packed, "token_embd_norm", &config)?,
            layers,
            packed,
        })
    }

    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The last layer's vectors of each sequence made one, in order, not yet normalised.
    /// `sequences` hold token ids with their specials, none empty or longer than the window.
    pub(crate) fn pooled(
        &self,
        sequences: &[&[u32]],
        pooling: Pooling,
        work: &mut Workspace,
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        if longest > self.config.window || sequences.iter().any(|s| s.is_empty()) {
            let window = self.config.window;
            return Err(ModelError::BadRequest(format!(
                "a sequence of {longest} tokens; between 1 and {window} are possible"
            )));
        }
        let hidden = self.config.hidden;
        let dense = self.packed.has_dense();
        (work.inputs.keeps_floats, work.inner.keeps_floats) = (dense, dense);
        self.embed(sequences, work);
        for layer in &self.layers {
            control.check()?;
            self.attend(layer, sequences, work);
            let Workspace { x, inputs, inner, .. } = work;
            let view = |linear: &Linear| [self.packed.view(&linear.weight)];
            layer.attention_norm.forward(x, inputs);
            multiply(&view(&layer.up), inputs, Sink::Gelu { out: inner, bias: &layer.up.bias });
            let sink = Sink::Add { out: x, bias: Some(&layer.down.bias) };
            multiply(&view(&layer.down), inner, sink);
            layer.norm.forward(x, inputs);
        }
        let mut rest = work.x.as_slice();
        let vector = |sequence: &&[u32]| {
            let own;
            (own, rest) = rest.split_at(sequence.len() * hidden);
            match pooling {
                Pooling::Mean => mean(own, hidden),
                Pooling::First => own[..hidden].to_vec(),
            }
        };
        Ok(sequences.iter().map(vector).collect())
    }

    /// Normed sums of word and position vectors of all tokens.
    fn embed(&self, sequences: &[&[u32]], work: &mut Workspace) {
        let hidden = self.config.hidden;
        let words = self.packed.view(&self.words);
        let tokens =
            sequences.iter().flat_map(|s| s.iter().zip(self.positions.chunks_exact(hidden)));
        work.x.resize(sequences.iter().map(|s| s.len()).sum::<usize>() * hidden, 0.0);
        for ((token, position), x) in tokens.zip(work.x.chunks_exact_mut(hidden)) {
            // An id outside the table cannot come from the tokenizer; it reads as the last word.
            words.row((*token as usize).min(self.config.vocab - 1), x);
            x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
        }
        self.norm.forward(&mut work.x, &mut work.inputs);
    }

    /// Self-attention of one layer, added to the residual stream.
    fn attend(&self, layer: &Layer, sequences: &[&[u32]], work: &mut Workspace) {
        let BertConfig { hidden, heads, .. } = self.config;
        let dim = hidden / heads;
        let Workspace { x, qkv, heads: mixed, rows, inputs, .. } = work;
        let weights = layer.qkv.each_ref().map(|m| self.packed.view(m));
        qkv.resize(inputs.rows * 3 * hidden, 0.0);
        multiply(&weights, inputs, Sink::Store { out: qkv, bias: Some(&layer.qkv_bias) });
        // Sequence by sequence, head by head, so that a task writes one piece.
        mixed.resize(inputs.rows * hidden, 0.0);
        rows.clear();
        let (mut tasks, mut rest, mut start) = (Vec::new(), mixed.as_mut_slice(), 0);
        for sequence in sequences {
            let tokens = sequence.len();
            let qkv = &qkv[start * 3 * hidden..(start + tokens) * 3 * hidden];
            for head in 0..heads {
                let (out, others) = rest.split_at_mut(tokens * dim);
                tasks.push((qkv, head, out));
                rest = others;
            }
            rows.extend((0..tokens).map(|at| (start * hidden + at * dim, tokens * dim)));
            start += tokens;
        }
        over_parts(tasks, |_, (qkv, head, out)| {
            HEAD.with_borrow_mut(|work| work.attend(qkv, head, hidden, out));
        });
        let isa = Isa::detected();
        over_rows(&mut qkv[..mixed.len()], inputs, |row, x, inputs| {
            let (first, stride) = rows[row];
            for (head, x) in x.chunks_exact_mut(dim).enumerate() {
                let at = first + head * stride;
                x.copy_from_slice(&mixed[at..at + dim]);
            }
            isa.quantise(x, inputs);
        });
        let weights = [self.packed.view(&layer.attention_out.weight)];
        let bias = Some(layer.attention_out.bias.as_slice());
        multiply(&weights, inputs, Sink::Add { out: x, bias });
    }
}

fn mean(rows: &[f32], hidden: usize) -> Vec<f32> {
    let mut mean = vec![0.0; hidden];
    for row in rows.chunks_exact(hidden) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    let count = rows.len() / hidden;
    mean.iter_mut().for_each(|mean| *mean /= count as f32);
    mean
}

/// A thread's buffers for the attention of one head.
#[derive(Default)]
struct HeadWork {
    queries: Vec<f32>,
    /// Per page: keys `[head, PAGE]`, values `[PAGE, head]`.
    pages: Vec<f32>,
    visible: Vec<usize>,
    scores: Vec<f32>,
}

thread_local! {
    static HEAD: RefCell<HeadWork> = RefCell::default();
}

impl HeadWork {
    /// Attention of one head over the rows of one sequence, `[tokens, 3 · hidden]`, into `out`,
    /// `[tokens, head]`.
    fn attend(&mut self, qkv: &[f32], head: usize, hidden: usize, out: &mut [f32]) {
        let tokens = qkv.len() / (3 * hidden);
        let dim = out.len() / tokens;
        let (count, page_size) = (tokens.div_ceil(PAGE), 2 * PAGE * dim);
        self.queries.clear();
        self.pages.clear();
        self.pages.resize(count * page_size, 0.0);
        let scale = (dim as f32).sqrt().recip();
        for (token, row) in qkv.chunks_exact(3 * hidden).enumerate() {
            let part = |at: usize| &row[at * hidden + head * dim..at * hidden + (head + 1) * dim];
            self.queries.extend(part(0).iter().map(|q| q * scale));
            let (page, slot) = (token / PAGE * page_size, token % PAGE);
            let (keys, values) = self.pages[page..page + page_size].split_at_mut(PAGE * dim);
            for (keys, key) in keys.chunks_exact_mut(PAGE).zip(part(1)) {
                keys[slot] = *key;
            }
            values[slot * dim..(slot + 1) * dim].copy_from_slice(part(2));
        }
        self.visible.clear();
        self.visible.resize(tokens, tokens);
        self.scores.resize(tokens * count * PAGE, 0.0);
        let pages: Vec<Page<'_>> = self.pages.chunks_exact(page_size).map(Page::Floats).collect();
        Isa::detected().attend(Attention {
            dim,
            queries: &self.queries,
            visible: &self.visible,
            pages: &pages,
            scores: &mut self.scores,
            wide: &mut [],
            out,
        });
    }
}

impl Layer {
    fn load(packed: &PackedModel, i: usize, config: &BertConfig) -> Result<Self, ModelError> {
        let BertConfig { hidden, ffn, .. } = *config;
        let weight = |name: &str, outputs: usize, inputs: usize| {
            packed.matrix(&format!("blk.{i}.{name}.weight"), outputs, inputs)
        };
        let bias =
            |name: &str, outputs: usize| packed.floats(&format!("blk.{i}.{name}.bias"), 1, outputs);
        let linear = |name: &str, outputs: usize, inputs: usize| {
            let (weight, bias) = (weight(name, outputs, inputs)?, bias(name, outputs)?);
            Ok::<_, ModelError>(Linear { weight, bias })
        };
        let square = |name| weight(name, hidden, hidden);
        let biases = ["attn_q", "attn_k", "attn_v"].map(|name| bias(name, hidden));
        Ok(Self {
            qkv: [square("attn_q")?, square("attn_k")?, square("attn_v")?],
            qkv_bias: biases.into_iter().collect::<Result<Vec<_>, _>>()?.concat(),
            attention_out: linear("attn_output", hidden, hidden)?,
            attention_norm: Norm::load(packed, &format!("blk.{i}.attn_output_norm"), config)?,
            up: linear("ffn_up", ffn, hidden)?,
            down: linear("ffn_down", hidden, ffn)?,
            norm: Norm::load(packed, &format!("blk.{i}.layer_output_norm"), config)?,
        })
    }
}

#[cfg(test)]
mod tests;
