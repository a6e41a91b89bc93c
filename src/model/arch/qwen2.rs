//! Qwen2 (Qwen2.5 too) from GGUF on candle: quantised matrices, grouped-query attention, keys and
//! values kept outside in a [`KvCache`].
//!
//! Architecture: "Qwen2 Technical Report" (arXiv 2407.10671) §2.2: RMSNorm before attention and
//! MLP, rotary positions, biases on q, k and v, SiLU-gated MLP. Tensor names: llama.cpp `gguf-py`.
//!
//! Rows run through as `[tokens, width]`. Projections that read the same input are stacked into
//! one matrix where their block formats agree, so that the input is quantised once and the thread
//! pool is woken once. Attention is candle's causal kernel, which bounds its loops instead of
//! reading a mask.

use std::borrow::Cow;
use std::io::{Read, Seek};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{D, Device, Module, Result, Tensor, bail};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::{ops, rotary_emb};

use crate::model::kv::{KvCache, KvShape};
use crate::model::requantise::{fast_blocks, stack_rows};

/// Candle's tiled kernels want widths that are multiples of this.
const TILED_WIDTH: usize = 256;
/// Rows from which expanding a matrix pays.
const DENSE_ROWS: usize = 16;

/// Sizes and constants, as the file states them.
#[derive(Clone, Debug, PartialEq)]
pub struct Qwen2Config {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Longest sequence, tokens.
    pub context: usize,
    pub rms_eps: f32,
    pub rope_base: f32,
}

impl Qwen2Config {
    fn from_gguf(content: &gguf_file::Content) -> Result<Self> {
        let value = |key: &str| match content.metadata.get(key) {
            Some(value) => Ok(value),
            None => bail!("no {key} in the metadata"),
        };
        let size = |key: &str| Ok::<_, candle_core::Error>(value(key)?.to_u32()? as usize);
        match value("general.architecture")?.to_string()?.as_str() {
            "qwen2" => {}
            other => bail!("architecture {other}, expected qwen2"),
        }
        let config = Self {
            layers: size("qwen2.block_count")?,
            hidden: size("qwen2.embedding_length")?,
            heads: size("qwen2.attention.head_count")?,
            kv_heads: size("qwen2.attention.head_count_kv")?,
            context: size("qwen2.context_length")?,
            rms_eps: value("qwen2.attention.layer_norm_rms_epsilon")?.to_f32()?,
            rope_base: value("qwen2.rope.freq_base")?.to_f32()?,
        };
        let Self { hidden, heads, kv_heads, .. } = config;
        if heads == 0 || kv_heads == 0 || hidden % heads != 0 || heads % kv_heads != 0 {
            bail!("{heads} heads over {kv_heads} key heads do not divide a width of {hidden}");
        }
        Ok(config)
    }

    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, heads: self.kv_heads, head_dim: self.head_dim() }
    }
}

/// Reads named tensors out of a GGUF file.
struct Weights<'a, R> {
    content: &'a gguf_file::Content,
    reader: &'a mut R,
    device: Device,
}

impl<R: Read + Seek> Weights<'_, R> {
    fn quantised(&mut self, name: &str) -> Result<QTensor> {
        self.content.tensor(self.reader, name, &self.device)
    }

    fn dense(&mut self, name: &str) -> Result<Tensor> {
        self.quantised(name)?.dequantize(&self.device)
    }

    /// The named matrices as one projection whose outputs follow each other in this order.
    fn projection(&mut self, names: &[String]) -> Result<Projection> {
        let tensors = names.iter().map(|n| self.quantised(n)).collect::<Result<Vec<_>>>()?;
        Projection::new(&tensors, &self.device)
    }
}

/// `x · Wᵀ` for one or more matrices of the same width, outputs side by side.
#[derive(Debug)]
struct Projection(Vec<QTensor>);

impl Projection {
    fn new(tensors: &[QTensor], device: &Device) -> Result<Self> {
        type Group<'a> = (GgmlDType, usize, Vec<(usize, Cow<'a, [u8]>)>);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for tensor in tensors {
            let (rows, width) = tensor.shape().dims2()?;
            let (dtype, blocks) = fast_blocks(tensor)?;
            match groups.last_mut() {
                Some((d, w, parts)) if (*d, *w) == (dtype, width) => parts.push((rows, blocks)),
                Some(_) | None => groups.push((dtype, width, vec![(rows, blocks)])),
            }
        }
        let stack = |(dtype, width, parts): &Group<'_>| stack_rows(*dtype, *width, parts, device);
        Ok(Self(groups.iter().map(stack).collect::<Result<_>>()?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.0.as_slice() {
            [one] => multiply(x, one),
            several => {
                let outputs = several.iter().map(|w| multiply(x, w));
                Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, D::Minus1)
            }
        }
    }
}

/// Candle tiles a Q8_0 matrix for its vector units only at widths of whole 256-blocks; others run
/// one dot product at a time. From [`DENSE_ROWS`] rows of input on it is cheaper to expand them to
/// f32 and let the blocked float product reuse them.
fn multiply(x: &Tensor, matrix: &QTensor) -> Result<Tensor> {
    let untiled = matrix.dtype() == GgmlDType::Q8_0 && x.dim(D::Minus1)? % TILED_WIDTH != 0;
    if untiled && x.dim(0)? >= DENSE_ROWS {
        x.matmul(&matrix.dequantize(x.device())?.t()?)
    } else {
        x.apply_op1_no_bwd(matrix)
    }
}

#[derive(Debug)]
struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    qkv: Projection,
    qkv_bias: Tensor,
    output: Projection,
    mlp_norm: RmsNorm,
    gate_up: Projection,
    down: Projection,
}

impl Layer {
    fn load<R: Read + Seek>(
        weights: &mut Weights<'_, R>,
        config: &Qwen2Config,
        index: usize,
    ) -> Result<Self> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = |weight| RmsNorm { weight, eps: config.rms_eps };
        let biases = ["attn_q.bias", "attn_k.bias", "attn_v.bias"];
        let biases = biases.map(|part| weights.dense(&name(part)));
        let biases = biases.into_iter().collect::<Result<Vec<_>>>()?;
        let qkv = ["attn_q.weight", "attn_k.weight", "attn_v.weight"].map(name);
        let gate_up = ["ffn_gate.weight", "ffn_up.weight"].map(name);
        Ok(Self {
            attention_norm: norm(weights.dense(&name("attn_norm.weight"))?),
            qkv: weights.projection(&qkv)?,
            qkv_bias: Tensor::cat(&biases, 0)?,
            output: weights.projection(&[name("attn_output.weight")])?,
            mlp_norm: norm(weights.dense(&name("ffn_norm.weight"))?),
            gate_up: weights.projection(&gate_up)?,
            down: weights.projection(&[name("ffn_down.weight")])?,
        })
    }
}

/// Which positions of a pass are turned into logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Of the last token of each sequence: what generation needs.
    Last,
    /// Of every token: what scoring given text needs.
    All,
}

/// The model; holds no state between passes.
#[derive(Debug)]
pub struct Qwen2 {
    config: Qwen2Config,
    /// Kept as stored; only the rows of the tokens read are expanded.
    embedding: QTensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Projection,
    /// Rotation frequencies, `[head_dim / 2]`.
    frequencies: Tensor,
}

impl Qwen2 {
    /// Loads all tensors. Errors name what is missing or of the wrong shape.
    pub fn from_gguf<R: Read + Seek>(content: &gguf_file::Content, reader: &mut R) -> Result<Self> {
        let config = Qwen2Config::from_gguf(content)?;
        let mut weights = Weights { content, reader, device: Device::Cpu };
        let embedding = weights.quantised("token_embd.weight")?;
        // Without a matrix of its own the output reads the embedding's.
        let head = if content.tensor_infos.contains_key("output.weight") {
            weights.projection(&["output.weight".to_owned()])?
        } else {
            Projection::new(std::slice::from_ref(&embedding), &weights.device)?
        };
        let layers = (0..config.layers).map(|i| Layer::load(&mut weights, &config, i));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm { weight: weights.dense("output_norm.weight")?, eps: config.rms_eps };
        let dim = config.head_dim();
        let frequencies: Vec<f32> = (0..dim)
            .step_by(2)
            .map(|i| 1.0 / config.rope_base.powf(i as f32 / dim as f32))
            .collect();
        let frequencies = Tensor::from_vec(frequencies, dim / 2, &Device::Cpu)?;
        Ok(Self { config, embedding, layers, norm, head, frequencies })
    }

    pub fn config(&self) -> &Qwen2Config {
        &self.config
    }

    /// Reads `tokens` after those in `cache` and returns logits, `[1 or tokens, vocabulary]`.
    /// The cache holds the new tokens afterwards; after an error it is as it was.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache, logits: Logits) -> Result<Tensor> {
        let out = self.forward_branches(&[tokens], cache, logits)?;
        cache.advance(tokens.len());
        Ok(out)
    }

    /// Reads several continuations of what is in `cache` in one pass, each as if it were the only
    /// one, and returns their logits one below the other. The cache keeps its length.
    pub fn forward_branches(
        &self,
        branches: &[&[u32]],
        cache: &mut KvCache,
        logits: Logits,
    ) -> Result<Tensor> {
        let longest = branches.iter().map(|b| b.len()).max().unwrap_or(0);
        if branches.iter().any(|b| b.is_empty()) || longest == 0 {
            bail!("nothing to read");
        }
        if cache.len() + longest > self.config.context {
            bail!("{longest} tokens after {} in a window of {}", cache.len(), self.config.context);
        }
        cache.reserve(longest)?;
        let lengths: Vec<usize> = branches.iter().map(|b| b.len()).collect();
        let rotation = self.rotation(cache.len(), &lengths)?;
        let mut x = self.embedding.embedding(&Tensor::new(branches.concat(), &Device::Cpu)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = Pass { index, lengths: &lengths, rotation: &rotation, cache };
            x = (&x + self.attend(layer, &x, &pass)?)?;
            let gated = ops::swiglu(&layer.gate_up.forward(&layer.mlp_norm.forward(&x)?)?)?;
            x = (x + layer.down.forward(&gated)?)?;
        }
        let x = match logits {
            Logits::Last => x.index_select(&last_rows(&lengths)?, 0)?,
            Logits::All => x,
        };
        self.head.forward(&self.norm.forward(&x)?)
    }

    /// Cosines and sines of the positions `start..start + length` of each branch, one below the
    /// other, each `[rows, head_dim / 2]`.
    fn rotation(&self, start: usize, lengths: &[usize]) -> Result<(Tensor, Tensor)> {
        let positions = lengths.iter().flat_map(|&n| start..start + n).map(|p| p as f32);
        let positions: Vec<f32> = positions.collect();
        let positions = Tensor::new(positions, &Device::Cpu)?.unsqueeze(1)?;
        let angles = positions.broadcast_mul(&self.frequencies)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// Self-attention of one layer over `x`, `[rows, hidden]`.
    fn attend(&self, layer: &Layer, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let Qwen2Config { hidden, heads, kv_heads, .. } = self.config;
        let dim = self.config.head_dim();
        let rows = x.dim(0)?;
        let (cos, sin) = pass.rotation;
        let qkv = layer.qkv.forward(&layer.attention_norm.forward(x)?)?;
        let qkv = qkv.broadcast_add(&layer.qkv_bias)?;
        let part = |start: usize, heads: usize| {
            qkv.narrow(1, start, heads * dim)?.contiguous()?.reshape((1, rows, heads, dim))
        };
        let q = rotary_emb::rope_thd(&part(0, heads)?, cos, sin)?;
        let k = rotary_emb::rope_thd(&part(hidden, kv_heads)?, cos, sin)?.squeeze(0)?;
        let v = part(hidden + kv_heads * dim, kv_heads)?.squeeze(0)?;
        let scale = 1.0 / (dim as f32).sqrt();
        let mut attended = Vec::with_capacity(pass.lengths.len());
        let mut start = 0;
        for &n in pass.lengths {
            let (k, v) = (k.narrow(0, start, n)?, v.narrow(0, start, n)?);
            let (k, v) = pass.cache.put(pass.index, &k, &v)?;
            let (k, v) = (k.unsqueeze(0)?, v.unsqueeze(0)?);
            let mask = AttnMask::causal_with_offset(pass.cache.len());
            let q = q.narrow(1, start, n)?;
            let out = flash_attn::<f32>(&q, &k, &v, scale, mask, None, None)?;
            attended.push(out.transpose(1, 2)?.reshape((n, hidden))?);
            start += n;
        }
        layer.output.forward(&Tensor::cat(&attended, 0)?)
    }
}

/// What the layers of one pass share.
struct Pass<'a> {
    /// Which layer.
    index: usize,
    /// Tokens of each branch; their rows follow each other.
    lengths: &'a [usize],
    rotation: &'a (Tensor, Tensor),
    cache: &'a KvCache,
}

/// The row of each branch's last token.
fn last_rows(lengths: &[usize]) -> Result<Tensor> {
    let ends = lengths.iter().scan(0, |end, &n| {
        *end += n;
        Some(*end as u32 - 1)
    });
    Tensor::new(ends.collect::<Vec<_>>(), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bpe::Bpe;
    use crate::model::pull::installed_or_pull;
    use candle_transformers::models::quantized_qwen2::ModelWeights;
    use std::fs::File;
    use std::io::BufReader;
    use std::sync::LazyLock;

    static MODEL: LazyLock<(Qwen2, Bpe)> = LazyLock::new(|| {
        let (content, mut reader) = open();
        let model = Qwen2::from_gguf(&content, &mut reader).unwrap();
        (model, Bpe::from_gguf(&content).unwrap())
    });

    fn open() -> (gguf_file::Content, BufReader<File>) {
        let mut reader =
            BufReader::new(File::open(installed_or_pull("qwen2.5-coder-0.5b")).unwrap());
        (gguf_file::Content::read(&mut reader).unwrap(), reader)
    }

    fn tokens(text: &str) -> Vec<u32> {
        MODEL.1.encode(text).unwrap()
    }

    fn cache() -> KvCache {
        KvCache::new(MODEL.0.config().kv_shape())
    }

    fn rows(logits: &Tensor) -> Vec<Vec<f32>> {
        logits.to_vec2().unwrap()
    }

    /// One pass per token.
    fn step_by_step(tokens: &[u32]) -> Vec<Vec<f32>> {
        let mut cache = cache();
        let step = |&t: &u32| rows(&MODEL.0.forward(&[t], &mut cache, Logits::Last).unwrap());
        tokens.iter().flat_map(step).collect()
    }

    fn top(row: &[f32]) -> usize {
        (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    }

    /// Root mean square of the difference, relative to the spread of the logits.
    fn relative_error(a: &[f32], b: &[f32]) -> f32 {
        let mean = b.iter().sum::<f32>() / b.len() as f32;
        let square = |x: f32| x * x;
        let error: f32 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        (error / b.iter().map(|b| square(b - mean)).sum::<f32>()).sqrt()
    }

    /// Rounding to int8 in blocks of 32 moves an input by 1/127 of its block's largest value,
    /// uniformly: 1/(127·√12) of it, and the largest of 32 normal values is about 2.1 deviations,
    /// so 0.48 % of the input's spread. Two roundings per half-layer, 24 layers of two halves,
    /// each adding to a stream that keeps growing: at most √(2·2·24) · 0.48 % = 4.7 % between a
    /// rounded and an exact pass. Two rounded passes that differ in the last bit anywhere round
    /// differently soon after, so between them it is √2 times that.
    const ROUNDING: f32 = 0.047;

    #[test]
    fn agrees_with_candle_transformers_at_every_position() {
        let (content, mut reader) = open();
        let mut reference = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
        for text in ["退款多久可以到账？三到五个工作日", "fn main() { println!(\"Hello"]
        {
            let tokens = tokens(text);
            let ours = MODEL.0.forward(&tokens, &mut cache(), Logits::All).unwrap();
            for (position, (ours, &token)) in rows(&ours).iter().zip(&tokens).enumerate() {
                let input = Tensor::new(&[[token]], &Device::Cpu).unwrap();
                let theirs = rows(&reference.forward(&input, position).unwrap()).remove(0);
                let error = relative_error(ours, &theirs);
                assert!(error < ROUNDING * 2.0_f32.sqrt(), "{text} at {position}: {error}");
                assert_eq!(top(ours), top(&theirs), "{text} at {position}");
            }
        }
    }

    #[test]
    fn a_long_pass_says_what_single_steps_say() {
        let tokens = tokens("仓库收到退货并验收后，退款会在三个工作日内原路退回。");
        assert!(tokens.len() >= DENSE_ROWS, "too short to take the expanded path");
        let whole = rows(&MODEL.0.forward(&tokens, &mut cache(), Logits::All).unwrap());
        for (position, (whole, single)) in whole.iter().zip(step_by_step(&tokens)).enumerate() {
            let error = relative_error(whole, &single);
            assert!(error < ROUNDING, "at {position}: {error}");
        }
    }

    #[test]
    fn going_back_leaves_no_trace() {
        let (shared, wrong, right) = (tokens("退款一般"), tokens("我不知道"), tokens("三天内到"));
        let mut used = cache();
        MODEL.0.forward(&shared, &mut used, Logits::Last).unwrap();
        MODEL.0.forward(&wrong, &mut used, Logits::Last).unwrap();
        used.truncate(shared.len());
        let mut fresh = cache();
        MODEL.0.forward(&shared, &mut fresh, Logits::Last).unwrap();
        let after = MODEL.0.forward(&right, &mut used, Logits::All).unwrap();
        let expected = MODEL.0.forward(&right, &mut fresh, Logits::All).unwrap();
        assert_eq!(rows(&after), rows(&expected));
        assert_eq!(used.len(), fresh.len());
    }

    #[test]
    fn branches_do_not_see_each_other() {
        let mut cache = cache();
        MODEL.0.forward(&tokens("退款一般"), &mut cache, Logits::Last).unwrap();
        let len = cache.len();
        let (a, b) = (tokens("三天内到账"), tokens("需要五个工作日"));
        assert!(a.len() + b.len() < DENSE_ROWS, "must take the same path as each alone");
        let both = MODEL.0.forward_branches(&[&a, &b], &mut cache, Logits::All).unwrap();
        assert_eq!(cache.len(), len);
        let alone = [&a, &b].map(|branch| {
            let logits = MODEL.0.forward(branch, &mut cache, Logits::All).unwrap();
            cache.truncate(len);
            rows(&logits)
        });
        assert_eq!(rows(&both), alone.concat());
        let ends = MODEL.0.forward_branches(&[&a, &b], &mut cache, Logits::Last).unwrap();
        assert_eq!(rows(&ends), alone.map(|rows| rows.last().unwrap().clone()));
    }

    #[test]
    fn refuses_nothing_and_too_much() {
        let mut cache = cache();
        assert!(MODEL.0.forward(&[], &mut cache, Logits::Last).is_err());
        let window = vec![1; MODEL.0.config().context + 1];
        assert!(MODEL.0.forward(&window, &mut cache, Logits::Last).is_err());
        assert!(cache.is_empty());
    }
}
