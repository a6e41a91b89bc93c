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
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::{ops, rotary_emb};

use crate::model::kv::{KvCache, KvShape};
use crate::model::requantise::{fast_blocks, stack_rows};

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
            [one] => x.apply_op1_no_bwd(one),
            several => {
                let outputs = several.iter().map(|w| x.apply_op1_no_bwd(w));
                Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, D::Minus1)
            }
        }
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
    /// Of the last token only: what generation needs.
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
        let n = tokens.len();
        if n == 0 || cache.len() + n > self.config.context {
            bail!("{n} tokens after {} in a window of {}", cache.len(), self.config.context);
        }
        cache.reserve(n)?;
        let rotation = self.rotation(cache.len(), n)?;
        let mut x = self.embedding.embedding(&Tensor::new(tokens, &Device::Cpu)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = self.attend(layer, index, &x, &rotation, cache)?;
            x = (x + attended)?;
            let gated = ops::swiglu(&layer.gate_up.forward(&layer.mlp_norm.forward(&x)?)?)?;
            x = (x + layer.down.forward(&gated)?)?;
        }
        cache.advance(n);
        let x = match logits {
            Logits::Last => x.narrow(0, n - 1, 1)?,
            Logits::All => x,
        };
        self.head.forward(&self.norm.forward(&x)?)
    }

    /// Cosines and sines of positions `start..start + n`, each `[n, head_dim / 2]`.
    fn rotation(&self, start: usize, n: usize) -> Result<(Tensor, Tensor)> {
        let positions = Tensor::arange(start as u32, (start + n) as u32, &Device::Cpu)?;
        let positions = positions.to_dtype(DType::F32)?.reshape((n, 1))?;
        let angles = positions.broadcast_mul(&self.frequencies)?;
        Ok((angles.cos()?, angles.sin()?))
    }

    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
        cache: &KvCache,
    ) -> Result<Tensor> {
        let Qwen2Config { hidden, heads, kv_heads, .. } = self.config;
        let dim = self.config.head_dim();
        let n = x.dim(0)?;
        let qkv = layer.qkv.forward(&layer.attention_norm.forward(x)?)?;
        let qkv = qkv.broadcast_add(&layer.qkv_bias)?;
        let part = |start: usize, heads: usize| {
            qkv.narrow(1, start, heads * dim)?.contiguous()?.reshape((1, n, heads, dim))
        };
        let q = rotary_emb::rope_thd(&part(0, heads)?, cos, sin)?;
        let k = rotary_emb::rope_thd(&part(hidden, kv_heads)?, cos, sin)?;
        let v = part(hidden + kv_heads * dim, kv_heads)?;
        let (k, v) = cache.put(index, &k.squeeze(0)?, &v.squeeze(0)?)?;
        let (k, v) = (k.unsqueeze(0)?, v.unsqueeze(0)?);
        let scale = 1.0 / (dim as f32).sqrt();
        let mask = AttnMask::causal_with_offset(cache.len());
        let attended = flash_attn::<f32>(&q, &k, &v, scale, mask, None, None)?;
        layer.output.forward(&attended.transpose(1, 2)?.reshape((n, hidden))?)
    }
}
