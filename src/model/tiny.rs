//! Tiny random models for tests: as GGUF files for us, and as the tensors that candle-transformers
//! reads under the names of the hub's checkpoints. Both hold the same values, those that are left
//! after quantising.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::base::digest::sha256_file;
use crate::base::random::SplitMix64;
use crate::model::ModelIdentity;

/// Sizes for every block format: widths are multiples of 256.
pub(crate) const HIDDEN: usize = 256;
pub(crate) const FFN: usize = 512;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const LAYERS: usize = 2;
pub(crate) const VOCAB: usize = 320;
pub(crate) const WINDOW: usize = 64;
pub(crate) const EPS: f32 = 1e-5;
pub(crate) const ROPE_BASE: f32 = 10_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Qwen2,
    Qwen3,
    /// Positions from 0, two token types.
    Bert,
    /// Positions from 2, one token type.
    XlmRoberta,
}

struct Weight {
    gguf: String,
    hub: String,
    values: Tensor,
}

pub(crate) struct Tiny {
    pub(crate) family: Family,
    weights: Vec<Weight>,
}

/// Makes weights; the order of the calls decides the values.
struct Maker {
    random: SplitMix64,
    weights: Vec<Weight>,
}

impl Maker {
    fn add(&mut self, gguf: &str, hub: &str, shape: &[usize], centre: f32, spread: f32) {
        let mut one = || centre + spread * (2.0 * self.random.unit() - 1.0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| one()).collect();
        let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        self.weights.push(Weight { gguf: gguf.to_owned(), hub: hub.to_owned(), values });
    }

    /// Keeps the spread of its inputs.
    fn matrix(&mut self, gguf: &str, hub: &str, outputs: usize, inputs: usize) {
        let names = (format!("{gguf}.weight"), format!("{hub}.weight"));
        self.add(&names.0, &names.1, &[outputs, inputs], 0.0, (3.0 / inputs as f32).sqrt());
    }

    fn bias(&mut self, gguf: &str, hub: &str, width: usize) {
        self.add(&format!("{gguf}.bias"), &format!("{hub}.bias"), &[width], 0.0, 0.2);
    }

    fn norm(&mut self, gguf: &str, hub: &str, width: usize) {
        self.add(&format!("{gguf}.weight"), &format!("{hub}.weight"), &[width], 1.0, 0.2);
    }

    fn table(&mut self, gguf: &str, hub: &str, rows: usize, spread: f32) {
        let names = (format!("{gguf}.weight"), format!("{hub}.weight"));
        self.add(&names.0, &names.1, &[rows, HIDDEN], 0.0, spread);
    }
}

impl Tiny {
    pub(crate) fn new(family: Family, seed: u64) -> Self {
        let mut maker = Maker { random: SplitMix64::new(seed), weights: Vec::new() };
        match family {
            Family::Qwen2 | Family::Qwen3 => qwen(&mut maker, family == Family::Qwen2),
            Family::Bert => bert(&mut maker, WINDOW, 2),
            Family::XlmRoberta => bert(&mut maker, WINDOW + 2, 1),
        }
        Self { family, weights: maker.weights }
    }

    /// With all values of one tensor multiplied.
    pub(crate) fn times(mut self, gguf: &str, factor: f64) -> Self {
        let weight = self.weights.iter_mut().find(|w| w.gguf == gguf).unwrap();
        weight.values = weight.values.affine(factor, 0.0).unwrap();
        self
    }

    /// The tensors as they are after being stored as `dtype` says, under the hub's names.
    pub(crate) fn hub(&self, dtype: impl Fn(&str) -> GgmlDType) -> HashMap<String, Tensor> {
        let stored = |w: &Weight| {
            let values = quantised(w, &dtype).dequantize(&Device::Cpu).unwrap();
            (w.hub.clone(), values)
        };
        self.weights.iter().map(stored).collect()
    }

    /// Writes a GGUF file; `dtype` gives the format of a matrix by its name there.
    pub(crate) fn write_gguf(
        &self,
        path: &Path,
        dtype: impl Fn(&str) -> GgmlDType,
    ) -> ModelIdentity {
        let metadata = self.metadata();
        let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut tensors = BTreeMap::new();
        for weight in &self.weights {
            let first = usize::from(weight.gguf == "position_embd.weight") * self.unused();
            let values = rows_from(&weight.values, first);
            let cut = Weight { values, gguf: weight.gguf.clone(), hub: String::new() };
            tensors.insert(weight.gguf.as_str(), quantised(&cut, &dtype));
        }
        let tensors: Vec<_> = tensors.iter().map(|(name, t)| (*name, t)).collect();
        let mut file = std::fs::File::create(path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        ModelIdentity { name: "tiny".into(), sha256: sha256_file(path).unwrap() }
    }

    /// Rows of the position table that no token has.
    fn unused(&self) -> usize {
        2 * usize::from(self.family == Family::XlmRoberta)
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let count = |n: usize| Value::U32(n as u32);
        let architecture = match self.family {
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Bert | Family::XlmRoberta => "bert",
        };
        let own = [
            ("block_count", count(LAYERS)),
            ("context_length", count(WINDOW)),
            ("embedding_length", count(HIDDEN)),
            ("feed_forward_length", count(FFN)),
            ("attention.head_count", count(HEADS)),
            ("attention.head_count_kv", count(KV_HEADS)),
            ("attention.key_length", count(HIDDEN / HEADS)),
            ("attention.layer_norm_rms_epsilon", Value::F32(EPS)),
            ("attention.layer_norm_epsilon", Value::F32(EPS)),
            ("rope.freq_base", Value::F32(ROPE_BASE)),
        ];
        let own = own.map(|(key, value)| (format!("{architecture}.{key}"), value));
        let general = [
            ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
            // Floats throughout, for candle's reader.
            ("general.dtype".to_owned(), Value::U32(0)),
            (
                "tokenizer.ggml.token_type_count".to_owned(),
                count(if self.family == Family::XlmRoberta { 1 } else { 2 }),
            ),
        ];
        own.into_iter().chain(general).collect()
    }
}

/// A copy: candle quantises the whole storage of a view.
fn rows_from(values: &Tensor, first: usize) -> Tensor {
    let mut shape = values.dims().to_vec();
    let skipped = first * shape[1..].iter().product::<usize>();
    shape[0] -= first;
    let values = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    Tensor::from_vec(values[skipped..].to_vec(), shape, &Device::Cpu).unwrap()
}

fn quantised(weight: &Weight, dtype: &impl Fn(&str) -> GgmlDType) -> QTensor {
    let matrix = weight.values.dims().len() == 2 && !weight.gguf.contains("osition");
    let matrix = matrix && !weight.gguf.contains("types");
    let dtype = if matrix { dtype(&weight.gguf) } else { GgmlDType::F32 };
    QTensor::quantize(&weight.values, dtype).unwrap()
}

fn qwen(maker: &mut Maker, biased: bool) {
    let dim = HIDDEN / HEADS;
    maker.table("token_embd", "model.embed_tokens", VOCAB, 1.7);
    maker.norm("output_norm", "model.norm", HIDDEN);
    maker.matrix("output", "lm_head", VOCAB, HIDDEN);
    for i in 0..LAYERS {
        let (gguf, hub) =
            (|n: &str| format!("blk.{i}.{n}"), |n: &str| format!("model.layers.{i}.{n}"));
        maker.norm(&gguf("attn_norm"), &hub("input_layernorm"), HIDDEN);
        maker.norm(&gguf("ffn_norm"), &hub("post_attention_layernorm"), HIDDEN);
        for (ours, theirs, outputs) in [
            ("attn_q", "q_proj", HIDDEN),
            ("attn_k", "k_proj", KV_HEADS * dim),
            ("attn_v", "v_proj", KV_HEADS * dim),
        ] {
            let (ours, theirs) = (gguf(ours), hub(&format!("self_attn.{theirs}")));
            maker.matrix(&ours, &theirs, outputs, HIDDEN);
            if biased {
                maker.bias(&ours, &theirs, outputs);
            }
        }
        if !biased {
            maker.norm(&gguf("attn_q_norm"), &hub("self_attn.q_norm"), dim);
            maker.norm(&gguf("attn_k_norm"), &hub("self_attn.k_norm"), dim);
        }
        maker.matrix(&gguf("attn_output"), &hub("self_attn.o_proj"), HIDDEN, HIDDEN);
        maker.matrix(&gguf("ffn_gate"), &hub("mlp.gate_proj"), FFN, HIDDEN);
        maker.matrix(&gguf("ffn_up"), &hub("mlp.up_proj"), FFN, HIDDEN);
        maker.matrix(&gguf("ffn_down"), &hub("mlp.down_proj"), HIDDEN, FFN);
    }
}

fn bert(maker: &mut Maker, positions: usize, types: usize) {
    maker.table("token_embd", "embeddings.word_embeddings", VOCAB, 1.0);
    maker.table("position_embd", "embeddings.position_embeddings", positions, 0.5);
    maker.table("token_types", "embeddings.token_type_embeddings", types, 0.3);
    maker.norm("token_embd_norm", "embeddings.LayerNorm", HIDDEN);
    maker.bias("token_embd_norm", "embeddings.LayerNorm", HIDDEN);
    for i in 0..LAYERS {
        let parts = [
            ("attn_q", "attention.self.query", HIDDEN, HIDDEN),
            ("attn_k", "attention.self.key", HIDDEN, HIDDEN),
            ("attn_v", "attention.self.value", HIDDEN, HIDDEN),
            ("attn_output", "attention.output.dense", HIDDEN, HIDDEN),
            ("ffn_up", "intermediate.dense", FFN, HIDDEN),
            ("ffn_down", "output.dense", HIDDEN, FFN),
        ];
        let names = |ours: &str, theirs: &str| {
            (format!("blk.{i}.{ours}"), format!("encoder.layer.{i}.{theirs}"))
        };
        for (ours, theirs, outputs, inputs) in parts {
            let (ours, theirs) = names(ours, theirs);
            maker.matrix(&ours, &theirs, outputs, inputs);
            maker.bias(&ours, &theirs, outputs);
        }
        for (ours, theirs) in [
            ("attn_output_norm", "attention.output.LayerNorm"),
            ("layer_output_norm", "output.LayerNorm"),
        ] {
            let (ours, theirs) = names(ours, theirs);
            maker.norm(&ours, &theirs, HIDDEN);
            maker.bias(&ours, &theirs, HIDDEN);
        }
    }
}

/// Formats as a Q4_K_M file mixes them, with those that fill in for other widths.
pub(crate) fn mixed(name: &str) -> GgmlDType {
    let part = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
    match part {
        "token_embd" | "attn_k" => GgmlDType::Q8_0,
        "attn_q" => GgmlDType::Q5_0,
        "attn_output" => GgmlDType::Q4_0,
        "attn_v" | "output" => GgmlDType::Q6K,
        _ => GgmlDType::Q4K,
    }
}

/// Some prompts of different lengths.
pub(crate) fn prompts() -> Vec<Vec<u32>> {
    let mut random = SplitMix64::new(42);
    let mut prompt = |length: usize| -> Vec<u32> {
        (0..length).map(|_| 4 + (random.bits() % (VOCAB as u64 - 4)) as u32).collect()
    };
    [1, 2, 7, 16, 17, 33, 50].map(&mut prompt).to_vec()
}

/// `config.json` of an encoder.
pub(crate) fn config_json(family: Family) -> serde_json::Value {
    let roberta = family == Family::XlmRoberta;
    serde_json::json!({
        "model_type": if roberta { "xlm-roberta" } else { "bert" },
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "hidden_act": "gelu",
        "max_position_embeddings": WINDOW + if roberta { 2 } else { 0 },
        "type_vocab_size": if roberta { 1 } else { 2 },
        "layer_norm_eps": EPS,
        "pad_token_id": usize::from(roberta),
        "position_embedding_type": "absolute",
    })
}

pub(crate) fn bert_config() -> candle_transformers::models::bert::Config {
    serde_json::from_value(with_dropout(Family::Bert)).unwrap()
}

pub(crate) fn xlm_roberta_config() -> candle_transformers::models::xlm_roberta::Config {
    serde_json::from_value(with_dropout(Family::XlmRoberta)).unwrap()
}

/// Candle asks for what only training needs.
fn with_dropout(family: Family) -> serde_json::Value {
    let mut config = config_json(family);
    for key in ["hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"] {
        config[key] = serde_json::json!(0.0);
    }
    config
}

/// Words of both tokenizers, marks not among them.
fn words() -> Vec<String> {
    let characters = "退款多久到账转人工发货物流发票refunda bcd".chars().filter(|c| *c != ' ');
    let mut words: Vec<String> = characters.map(String::from).collect();
    words.extend(["refund", "退款", "到账"].map(str::to_owned));
    words.sort();
    words.dedup();
    words
}

pub(crate) fn bert_vocabulary() -> Vec<String> {
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let inner = words().into_iter().map(|word| format!("##{word}"));
    marks.into_iter().chain(words()).chain(inner).collect()
}

/// `tokenizer.json` of an encoder: WordPiece for BERT, unigram for XLM-R.
pub(crate) fn tokenizer_json(family: Family) -> serde_json::Value {
    use serde_json::json;
    let (vocabulary, marks) = if family == Family::Bert {
        (bert_vocabulary(), [2, 3])
    } else {
        let marks = ["<s>", "<pad>", "</s>", "<unk>", "\u{2581}"].map(str::to_owned);
        let mask = ["<mask>".to_owned()];
        (marks.into_iter().chain(words()).chain(mask).collect(), [0, 2])
    };
    let specials = vocabulary.iter().enumerate().filter(|(_, word)| {
        (word.starts_with('[') || word.starts_with('<')) && word.chars().count() > 1
    });
    let added: Vec<_> = specials
        .map(|(id, word)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let [begin, end] = marks.map(|id| vocabulary[id].clone());
    let mark = |mark: &str| json!({"SpecialToken": {"id": mark, "type_id": 0}});
    let one = |mark: &str, id: usize| json!({"id": mark, "ids": [id], "tokens": [mark]});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [mark(&begin), text, mark(&end)],
        "pair": [mark(&begin), text, mark(&end), {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {&begin: one(&begin, marks[0]), &end: one(&end, marks[1])},
    });
    let (normalizer, splitter, model) = if family == Family::Bert {
        let ids: serde_json::Map<_, _> =
            vocabulary.iter().enumerate().map(|(id, w)| (w.clone(), json!(id))).collect();
        (
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                   "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": ids}),
        )
    } else {
        let score = |w: &String| -1.0 - 0.5 / w.chars().count() as f32;
        let scored: Vec<_> = vocabulary.iter().map(|w| json!([w, score(w)])).collect();
        (
            json!(null),
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always",
                   "split": true}),
            json!({"type": "Unigram", "unk_id": 3, "vocab": scored, "byte_fallback": false}),
        )
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": splitter, "post_processor": template,
        "decoder": null, "model": model,
    })
}
