//! A folder of the hub read as a BERT encoder: dimensions, tensors, tokenizer, pooling.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{ImportError, Options, Pooling, Storage, first_of, read, sentencepiece};
use crate::model::encoder::{POOLING_CLS, POOLING_KEY, POOLING_MEAN, PREFIX_KEY};
use crate::model::hub_tokenizer::{HubTokenizer, TOKENIZER_KEY};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// `config.json`, as far as the pass needs it.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    #[serde(default)]
    pad_token_id: usize,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

impl Config {
    /// Rows of the position table that no token ever has: XLM-R counts from after the padding.
    fn unused_positions(&self) -> usize {
        if self.model_type == "xlm-roberta" { self.pad_token_id + 1 } else { 0 }
    }

    fn check(&self) -> Result<(), String> {
        if !["bert", "xlm-roberta"].contains(&self.model_type.as_str()) {
            return Err(format!(
                "model_type `{}`: BERT and XLM-R can be imported, other models as GGUF only",
                self.model_type
            ));
        }
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act `{}`: only `gelu` is supported", self.hidden_act));
        }
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(format!("position_embedding_type `{positions}` is not supported"));
        }
        if self.max_position_embeddings <= self.unused_positions() + 2 {
            return Err("max_position_embeddings leaves no room for a text".into());
        }
        Ok(())
    }
}

/// `1_Pooling/config.json` of sentence-transformers.
#[derive(Debug, Default, Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

pub(super) struct Checkpoint {
    path: PathBuf,
    config: Config,
    weights: BufferedSafetensors,
    /// What stands in front of every tensor's name.
    prefix: &'static str,
    /// In the form of `tokenizer.json`.
    tokenizer: String,
    pooling: Pooling,
}

/// One tensor's names and shape.
struct Slot {
    hub: String,
    gguf: String,
    shape: Vec<usize>,
}

impl Checkpoint {
    pub(super) fn read(folder: &Path, pooling: Option<Pooling>) -> Result<Self, ImportError> {
        let path = folder.join(CONFIG);
        let config: Config =
            serde_json::from_slice(&read(&path)?).map_err(|e| ImportError::about(&path, e))?;
        config.check().map_err(|reason| ImportError::about(&path, reason))?;
        if folder.join("2_Dense").exists() {
            let reason = "it has a dense layer after pooling, which is not supported";
            return Err(ImportError::about(folder, reason));
        }
        let tokenizer = tokenizer(folder, config.vocab_size)?;
        let pooling = match pooling {
            Some(pooling) => pooling,
            None => own_pooling(folder)?,
        };
        let path = folder.join(WEIGHTS);
        if folder.join("model.safetensors.index.json").exists() {
            let reason = "the weights are in several files: join them into one first";
            return Err(ImportError::about(&path, reason));
        }
        let weights = BufferedSafetensors::new(read(&path)?);
        let weights = weights.map_err(|e| ImportError::about(&path, e))?;
        let words = |prefix: &str| format!("{prefix}embeddings.word_embeddings.weight");
        let mut prefixes = ["", "bert.", "roberta."].into_iter();
        let prefix = prefixes.find(|p| weights.get(&words(p)).is_ok());
        let prefix = prefix.ok_or_else(|| {
            ImportError::about(&path, "no tensor `embeddings.word_embeddings.weight`")
        })?;
        Ok(Self { path, config, weights, prefix, tokenizer, pooling })
    }

    /// Writes the GGUF file: llama.cpp's names for a BERT encoder, and the tokenizer inside.
    pub(super) fn write_gguf(&self, out: &Path, options: &Options) -> Result<(), ImportError> {
        let metadata = self.metadata(&options.prefix);
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let mut tensors = Vec::new();
        for slot in self.slots() {
            let tensor = self.tensor(&slot, options.storage)?;
            tensors.push((slot.gguf, tensor));
        }
        let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let disk = ImportError::disk(out);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(out).map_err(&disk)?);
        gguf_file::write(&mut file, &metadata, &tensors)
            .map_err(|e| disk(io::Error::other(e.to_string())))?;
        let file = file.into_inner().map_err(|e| disk(e.into_error()))?;
        file.sync_all().map_err(disk)
    }

    /// The tensor with as many leading rows left out as no token reads.
    fn tensor(&self, slot: &Slot, storage: Storage) -> Result<QTensor, ImportError> {
        let about = |reason: String| ImportError::about(&self.path, reason);
        let hub = format!("{}{}", self.prefix, slot.hub);
        // Checkpoints converted from TensorFlow name norms so.
        let old = hub
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        let name = if self.weights.get(&hub).is_ok() { hub } else { old };
        let tensor = self.weights.load(&name, &Device::Cpu).map_err(|e| about(e.to_string()))?;
        if tensor.dims() != slot.shape {
            let found = tensor.dims();
            let reason = format!("tensor `{name}` has shape {found:?}, not {:?}", slot.shape);
            return Err(about(reason));
        }
        let positions = slot.gguf == "position_embd.weight";
        let skipped = if positions { self.config.unused_positions() } else { 0 };
        let matrix = slot.shape.len() == 2
            && (slot.gguf.starts_with("blk.") || slot.gguf == "token_embd.weight");
        let dtype = match (matrix, storage, tensor.dtype()) {
            (false, _, _) | (true, Storage::AsIs, DType::F32) => GgmlDType::F32,
            (true, Storage::Q8_0, _) => GgmlDType::Q8_0,
            (true, Storage::AsIs, DType::F16) => GgmlDType::F16,
            (true, Storage::AsIs, DType::BF16) => GgmlDType::BF16,
            (true, Storage::AsIs, other) => {
                return Err(about(format!("tensor `{name}` holds {other:?}, not floats")));
            }
        };
        stored(&tensor, skipped, dtype).map_err(|e| about(format!("tensor `{name}`: {e}")))
    }

    fn metadata(&self, prefix: &str) -> Vec<(&'static str, Value)> {
        let text = |s: &str| Value::String(s.to_owned());
        let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let config = &self.config;
        let window = config.max_position_embeddings - config.unused_positions();
        let pooling = match self.pooling {
            Pooling::Mean => POOLING_MEAN,
            Pooling::Cls => POOLING_CLS,
        };
        vec![
            ("general.architecture", text("bert")),
            ("bert.block_count", count(config.num_hidden_layers)),
            ("bert.context_length", count(window)),
            ("bert.embedding_length", count(config.hidden_size)),
            ("bert.feed_forward_length", count(config.intermediate_size)),
            ("bert.attention.head_count", count(config.num_attention_heads)),
            ("bert.attention.layer_norm_epsilon", Value::F32(config.layer_norm_eps)),
            ("bert.attention.causal", Value::Bool(false)),
            ("tokenizer.ggml.token_type_count", count(config.type_vocab_size)),
            (POOLING_KEY, count(pooling)),
            (PREFIX_KEY, text(prefix)),
            (TOKENIZER_KEY, text(&self.tokenizer)),
        ]
    }

    fn slots(&self) -> Vec<Slot> {
        let Config { hidden_size: hidden, intermediate_size: ffn, .. } = self.config;
        let mut slots = Vec::new();
        let mut add = |hub: &str, gguf: &str, shape: &[usize], bias: bool| {
            let slot = |end: &str, shape: &[usize]| Slot {
                hub: format!("{hub}.{end}"),
                gguf: format!("{gguf}.{end}"),
                shape: shape.to_vec(),
            };
            slots.push(slot("weight", shape));
            if bias {
                slots.push(slot("bias", &shape[..1]));
            }
        };
        let tables = [
            ("word", "token_embd", self.config.vocab_size),
            ("position", "position_embd", self.config.max_position_embeddings),
            ("token_type", "token_types", self.config.type_vocab_size),
        ];
        for (hub, gguf, rows) in tables {
            add(&format!("embeddings.{hub}_embeddings"), gguf, &[rows, hidden], false);
        }
        add("embeddings.LayerNorm", "token_embd_norm", &[hidden], true);
        for layer in 0..self.config.num_hidden_layers {
            let parts: [(&str, &str, &[usize]); 8] = [
                ("attention.self.query", "attn_q", &[hidden, hidden]),
                ("attention.self.key", "attn_k", &[hidden, hidden]),
                ("attention.self.value", "attn_v", &[hidden, hidden]),
                ("attention.output.dense", "attn_output", &[hidden, hidden]),
                ("attention.output.LayerNorm", "attn_output_norm", &[hidden]),
                ("intermediate.dense", "ffn_up", &[ffn, hidden]),
                ("output.dense", "ffn_down", &[hidden, ffn]),
                ("output.LayerNorm", "layer_output_norm", &[hidden]),
            ];
            for (hub, gguf, shape) in parts {
                let hub = format!("encoder.layer.{layer}.{hub}");
                add(&hub, &format!("blk.{layer}.{gguf}"), shape, true);
            }
        }
        slots
    }
}

fn stored(tensor: &Tensor, skipped: usize, dtype: GgmlDType) -> candle_core::Result<QTensor> {
    let floats = tensor.to_dtype(DType::F32)?;
    let (rows, row) = (floats.dim(0)?, floats.shape().elem_count() / floats.dim(0)?.max(1));
    // Quantising reads the whole storage of a view, so the rows are copied out.
    let values = floats.flatten_all()?.to_vec1::<f32>()?.split_off(skipped * row);
    // Quantised, it would become some number.
    if !values.iter().all(|x| x.is_finite()) {
        candle_core::bail!("a weight is not a finite number: the file is damaged");
    }
    let shape = [&[rows - skipped], &floats.dims()[1..]].concat();
    QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu)?, dtype)
}

fn tokenizer(folder: &Path, vocab: usize) -> Result<String, ImportError> {
    let own = folder.join("tokenizer.json");
    let pieces = first_of(folder, &["sentencepiece.bpe.model", "sentencepiece.model"]);
    let (path, text) = match (own.is_file(), pieces) {
        (true, _) => {
            let text = String::from_utf8(read(&own)?).map_err(|e| ImportError::about(&own, e))?;
            (own, text)
        }
        (false, Some(path)) => {
            let text = sentencepiece::to_tokenizer_json(&read(&path)?);
            let text = text.map_err(|reason| ImportError::about(&path, reason))?;
            (path, text)
        }
        (false, None) => {
            let reason = "neither tokenizer.json nor sentencepiece.bpe.model is there: add one";
            return Err(ImportError::about(folder, reason));
        }
    };
    let loaded = HubTokenizer::parse(&text).map_err(|e| ImportError::about(&path, e))?;
    if loaded.size() > vocab {
        let reason = format!("it has {} tokens, the model only {vocab}", loaded.size());
        return Err(ImportError::about(&path, reason));
    }
    Ok(text)
}

fn own_pooling(folder: &Path) -> Result<Pooling, ImportError> {
    let path = folder.join("1_Pooling/config.json");
    if !path.is_file() {
        return Ok(Pooling::Mean);
    }
    let config: PoolingConfig =
        serde_json::from_slice(&read(&path)?).map_err(|e| ImportError::about(&path, e))?;
    match (config.pooling_mode_cls_token, config.pooling_mode_mean_tokens) {
        (true, false) => Ok(Pooling::Cls),
        (false, true) => Ok(Pooling::Mean),
        (true, true) | (false, false) => {
            let reason = "neither the mean nor the first token alone: choose one with --pooling";
            Err(ImportError::about(&path, reason))
        }
    }
}
