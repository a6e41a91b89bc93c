//! Our BERT encoder: token ids to mean-pooled vectors, batches packed without any padding.
//!
//! The tokens of all sequences of a batch lie one after the other in a single matrix, so everything
//! that works token by token (projections, norms, feed-forward) never touches padding. Attention,
//! which must stay inside a sequence, runs per group of sequences of equal length, so it needs no
//! mask either; callers sort by length to keep such groups large.
//! Architecture: Devlin et al. 2018 (arXiv:1810.04805); tensor names as llama.cpp writes them.

use candle_core::quantized::QTensor;
use candle_core::{D, Device, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};

use crate::model::gguf::GgufFile;
use crate::model::{Control, ModelError};

/// Layers of anything that is still a small encoder; a larger number is a broken file.
const MAX_LAYERS: usize = 256;

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
    /// Stays quantised; only the rows of a batch are widened.
    words: QTensor,
    /// Position vectors with the one token type that is in use added.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    qkv: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// `x·W + b` over rows.
struct Linear {
    /// Inputs × outputs, row-major: the layout that the matrix kernels read without packing it
    /// anew on every call, which for the few rows of one question is a third of the time.
    weight: Tensor,
    bias: Tensor,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

/// Sequences of one length that lie one after the other.
struct Group {
    /// First row.
    start: usize,
    count: usize,
    length: usize,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    fn load(gguf: &mut GgufFile, name: &str, config: &BertConfig) -> Result<Self, ModelError> {
        let weight = gguf.floats(&format!("{name}.weight"), &[config.hidden])?;
        let bias = gguf.floats(&format!("{name}.bias"), &[config.hidden])?;
        Ok(Self { weight, bias, eps: config.eps })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
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
        let whole = config.heads > 0 && config.hidden.is_multiple_of(config.heads);
        if !whole || config.layers > MAX_LAYERS || config.window < 2 || config.types == 0 {
            return Err(gguf.corrupt(format_args!("dimensions make no sense: {config:?}")));
        }
        Ok(config)
    }
}

impl Bert {
    /// Reads all weights; matrices are widened to `f32` once, the embedding table is not.
    pub fn load(gguf: &mut GgufFile) -> Result<Self, ModelError> {
        let config = BertConfig::read(gguf)?;
        let BertConfig { hidden, vocab, window, types, .. } = config;
        let positions = gguf.floats("position_embd.weight", &[window, hidden])?;
        let types = gguf.floats("token_types.weight", &[types, hidden])?;
        let layers = (0..config.layers).map(|i| Layer::load(gguf, i, &config));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            words: gguf.tensor("token_embd.weight", &[vocab, hidden])?,
            positions: positions.broadcast_add(&types.get(0)?)?,
            norm: Norm::load(gguf, "token_embd_norm", &config)?,
            layers,
        })
    }

    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The mean of the last layer's vectors of each sequence, in order, not yet normalised.
    /// `sequences` hold token ids with their specials, none empty or longer than the window;
    /// neighbours of equal length share their attention.
    pub fn mean_pooled(
        &self,
        sequences: &[&[u32]],
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        if longest > self.config.window || sequences.iter().any(|s| s.is_empty()) {
            let window = self.config.window;
            return Err(ModelError::BadRequest(format!(
                "a sequence of {longest} tokens; between 1 and {window} are possible"
            )));
        }
        let groups = group(sequences);
        let mut x = self.embeddings(sequences)?;
        for layer in &self.layers {
            control.check()?;
            x = layer.forward(&x, &groups, self.config.heads)?;
        }
        let mut pooled = Vec::with_capacity(sequences.len());
        for Group { start, count, length } in groups {
            let rows = x.narrow(0, start, count * length)?;
            let mean = rows.reshape((count, length, self.config.hidden))?.mean(1)?;
            pooled.extend(mean.to_vec2::<f32>()?);
        }
        Ok(pooled)
    }

    fn embeddings(&self, sequences: &[&[u32]]) -> candle_core::Result<Tensor> {
        let ids = sequences.concat();
        let places: Vec<u32> =
            sequences.iter().flat_map(|s| (0_u32..).zip(*s).map(|(place, _)| place)).collect();
        let ids = Tensor::from_vec(ids, places.len(), &Device::Cpu)?;
        let places = Tensor::from_vec(places, ids.dim(0)?, &Device::Cpu)?;
        let words = self.words.embedding(&ids)?;
        self.norm.forward(&(words + self.positions.index_select(&places, 0)?)?)
    }
}

impl Layer {
    fn load(gguf: &mut GgufFile, i: usize, config: &BertConfig) -> Result<Self, ModelError> {
        let BertConfig { hidden, ffn, heads, .. } = *config;
        let mut linear = |name: &str, outputs: usize, inputs: usize| {
            let weight = gguf.floats(&format!("blk.{i}.{name}.weight"), &[outputs, inputs])?;
            let bias = gguf.floats(&format!("blk.{i}.{name}.bias"), &[outputs])?;
            Ok::<_, ModelError>(Linear { weight: weight.t()?.contiguous()?, bias })
        };
        let query = linear("attn_q", hidden, hidden)?;
        let key = linear("attn_k", hidden, hidden)?;
        let value = linear("attn_v", hidden, hidden)?;
        // The attention's scale is folded into the query projection, once.
        let scale = ((hidden / heads) as f64).sqrt().recip();
        let query = Linear { weight: (query.weight * scale)?, bias: (query.bias * scale)? };
        let attention_out = linear("attn_output", hidden, hidden)?;
        let up = linear("ffn_up", ffn, hidden)?;
        let down = linear("ffn_down", hidden, ffn)?;
        Ok(Self {
            qkv: Linear {
                weight: Tensor::cat(&[&query.weight, &key.weight, &value.weight], 1)?
                    .contiguous()?,
                bias: Tensor::cat(&[&query.bias, &key.bias, &value.bias], 0)?,
            },
            attention_out,
            attention_norm: Norm::load(gguf, &format!("blk.{i}.attn_output_norm"), config)?,
            up,
            down,
            norm: Norm::load(gguf, &format!("blk.{i}.layer_output_norm"), config)?,
        })
    }

    fn forward(&self, x: &Tensor, groups: &[Group], heads: usize) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        let mixed = groups.iter().map(|g| attend(&qkv, g, heads));
        let mixed = mixed.collect::<candle_core::Result<Vec<_>>>()?;
        let mixed = self.attention_out.forward(&Tensor::cat(&mixed, 0)?)?;
        let x = self.attention_norm.forward(&(x + mixed)?)?;
        let inner = self.up.forward(&x)?.gelu_erf()?;
        self.norm.forward(&(&x + self.down.forward(&inner)?)?)
    }
}

/// Softmax attention of one group: rows of q, k and v side by side to rows of mixed values.
fn attend(qkv: &Tensor, group: &Group, heads: usize) -> candle_core::Result<Tensor> {
    let Group { start, count, length } = *group;
    let width = qkv.dim(D::Minus1)? / 3;
    let parts = qkv
        .narrow(0, start, count * length)?
        .reshape((count, length, 3, heads, width / heads))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    let (q, k, v) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
    let weights = softmax_last_dim(&q.matmul(&k.t()?)?)?;
    weights.matmul(&v)?.transpose(1, 2)?.reshape((count * length, width))
}

/// Runs of neighbours of equal length.
fn group(sequences: &[&[u32]]) -> Vec<Group> {
    let mut start = 0;
    let runs = sequences.chunk_by(|a, b| a.len() == b.len());
    runs.map(|run| {
        let group = Group { start, count: run.len(), length: run[0].len() };
        start += group.count * group.length;
        group
    })
    .collect()
}
