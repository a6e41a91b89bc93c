//! Qwen2 and Qwen3 against candle-transformers on tiny random models, every format of weights.

use std::fs::File;
use std::io::BufReader;

use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{quantized_qwen2, quantized_qwen3, qwen2, qwen3};

use super::*;
use crate::model::sampler::Sampler;
use crate::model::tiny::{
    EPS, FFN, Family, HEADS, HIDDEN, KV_HEADS, LAYERS, ROPE_BASE, Tiny, VOCAB, WINDOW, mixed,
    prompts,
};
use crate::model::{Arithmetic, Sampling};

const FAMILIES: [Family; 2] = [Family::Qwen2, Family::Qwen3];

/// The format of each matrix, by its name.
type Formats = Box<dyn Fn(&str) -> GgmlDType>;
/// Logits of every position.
type Rows = Vec<Vec<f32>>;

fn ours(packed: PackedModel, header: &GgufFile) -> Vec<Rows> {
    let mut model = Qwen::load(packed, header).unwrap();
    let rows = |prompt: Vec<u32>| {
        let mut cache = KvCache::new(model.config().kv_shape());
        let logits = model.forward_one(&prompt, &mut cache, Logits::All).unwrap();
        logits.rows().map(<[f32]>::to_vec).collect()
    };
    prompts().into_iter().map(rows).collect()
}

/// Candle reads token by token; `forward` takes a token and its place.
fn theirs(mut forward: impl FnMut(&Tensor, usize) -> candle_core::Result<Tensor>) -> Vec<Rows> {
    let mut row = |(place, token): (usize, &u32)| {
        let input = Tensor::new(&[[*token]], &Device::Cpu).unwrap();
        let logits = forward(&input, place).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    };
    prompts().iter().map(|p| p.iter().enumerate().map(&mut row).collect()).collect()
}

fn quantised_reference(path: &std::path::Path, family: Family) -> Vec<Rows> {
    let mut reader = BufReader::new(File::open(path).unwrap());
    let content = gguf_file::Content::read(&mut reader).unwrap();
    if family == Family::Qwen2 {
        let model =
            quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
        let mut model = model;
        return theirs(|token, place| {
            if place == 0 {
                model.clear_kv_cache();
            }
            model.forward(token, place)
        });
    }
    let model = quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu);
    let mut model = model.unwrap();
    theirs(|token, place| {
        if place == 0 {
            model.clear_kv_cache();
        }
        model.forward(token, place)
    })
}

fn float_reference(tiny: &Tiny, dtype: impl Fn(&str) -> GgmlDType) -> Vec<Rows> {
    let vb = VarBuilder::from_tensors(tiny.hub(dtype), DType::F32, &Device::Cpu);
    if tiny.family == Family::Qwen2 {
        let mut model = qwen2::ModelForCausalLM::new(&qwen2_config(), vb).unwrap();
        return theirs(|token, place| {
            if place == 0 {
                model.clear_kv_cache();
            }
            model.forward(token, place)
        });
    }
    let mut model = qwen3::ModelForCausalLM::new(&qwen3_config(), vb).unwrap();
    theirs(|token, place| {
        if place == 0 {
            model.clear_kv_cache();
        }
        model.forward(token, place)
    })
}

fn qwen2_config() -> qwen2::Config {
    qwen2::Config {
        vocab_size: VOCAB,
        hidden_size: HIDDEN,
        intermediate_size: FFN,
        num_hidden_layers: LAYERS,
        num_attention_heads: HEADS,
        num_key_value_heads: KV_HEADS,
        max_position_embeddings: WINDOW,
        sliding_window: WINDOW,
        max_window_layers: LAYERS,
        tie_word_embeddings: false,
        rope_theta: f64::from(ROPE_BASE),
        rms_norm_eps: f64::from(EPS),
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}

fn qwen3_config() -> qwen3::Config {
    qwen3::Config {
        vocab_size: VOCAB,
        hidden_size: HIDDEN,
        intermediate_size: FFN,
        num_hidden_layers: LAYERS,
        num_attention_heads: HEADS,
        head_dim: HIDDEN / HEADS,
        attention_bias: false,
        num_key_value_heads: KV_HEADS,
        max_position_embeddings: WINDOW,
        sliding_window: None,
        max_window_layers: LAYERS,
        tie_word_embeddings: false,
        rope_theta: f64::from(ROPE_BASE),
        rms_norm_eps: f64::from(EPS),
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Distance of the largest value from the next.
fn lead(row: &[f32]) -> f32 {
    let best = top(row);
    let others = row.iter().enumerate().filter(|(at, _)| *at != best);
    row[best] - others.map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max)
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn quantised_models_choose_the_tokens_that_candle_chooses() {
    let all = |dtype: GgmlDType| Box::new(move |_: &str| dtype) as Formats;
    for family in FAMILIES {
        let tiny = Tiny::new(family, 11);
        let formats: [(&str, Formats); 6] = [
            ("Q8_0", all(GgmlDType::Q8_0)),
            ("Q6_K", all(GgmlDType::Q6K)),
            ("Q5_0", all(GgmlDType::Q5_0)),
            ("Q4_K", all(GgmlDType::Q4K)),
            ("Q4_0", all(GgmlDType::Q4_0)),
            ("mixed", Box::new(mixed)),
        ];
        for (format, dtype) in formats {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            let identity = tiny.write_gguf(&path, &dtype);
            let (packed, header) = PackedModel::open(&path, &identity).unwrap();
            let (ours, theirs) = (ours(packed, &header), quantised_reference(&path, family));
            let (mut positions, mut alike, mut clear) = (0, 0, 0);
            for (ours, theirs) in ours.concat().iter().zip(theirs.concat()) {
                // Both round their inputs to 8 bits, each in its own blocks. Where the two best
                // tokens of random weights are closer than that rounding, either is right.
                let decided = lead(&theirs) > 2.0 * furthest(ours, &theirs);
                let same = top(ours) == top(&theirs);
                assert!(same || !decided, "{family:?} {format}");
                let far = furthest(ours, &theirs);
                assert!(far < 0.25, "{family:?} {format}: logits are {far} apart");
                positions += 1;
                alike += usize::from(same);
                clear += usize::from(decided);
            }
            println!("{family:?} {format}: {alike} of {positions} the same, {clear} decided");
            assert!(clear * 2 > positions, "{family:?} {format}: {clear} of {positions} decided");
        }
    }
}

/// How far a logit may be from the reference's; the logits of these models spread by about 1.
const FLOAT_TOLERANCE: f32 = 1e-4;

#[test]
fn float_weights_give_the_logits_of_candle() {
    for family in FAMILIES {
        let tiny = Tiny::new(family, 12);
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            let identity = tiny.write_gguf(&path, |_| dtype);
            let (packed, header) = PackedModel::open(&path, &identity).unwrap();
            let (ours, theirs) = (ours(packed, &header), float_reference(&tiny, |_| dtype));
            let far = furthest(&ours.concat().concat(), &theirs.concat().concat());
            println!("{family:?} {dtype:?}: {far}");
            assert!(far < FLOAT_TOLERANCE, "{family:?} {dtype:?}: {far}");
        }
    }
}

#[test]
fn quantised_weights_can_be_run_as_floats() {
    for family in FAMILIES {
        let tiny = Tiny::new(family, 13);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let identity = tiny.write_gguf(&path, mixed);
        let (packed, header) = PackedModel::open_for(Arithmetic::Floats, &path, &identity).unwrap();
        let (ours, theirs) = (ours(packed, &header), float_reference(&tiny, mixed));
        let far = furthest(&ours.concat().concat(), &theirs.concat().concat());
        assert!(far < FLOAT_TOLERANCE, "{family:?}: {far}");
        assert!(!path.with_extension("packed").exists(), "the float form stays in memory");
    }
}

#[test]
fn what_overflows_anywhere_is_an_error_and_no_token() {
    for (family, dtype) in [(Family::Qwen2, GgmlDType::F32), (Family::Qwen3, GgmlDType::Q8_0)] {
        for norm in ["blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.ffn_norm", "output_norm"] {
            let tiny = Tiny::new(family, 12).times(&format!("{norm}.weight"), 2.8e38);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            let identity = tiny.write_gguf(&path, |_| dtype);
            let (packed, header) = PackedModel::open(&path, &identity).unwrap();
            let mut model = Qwen::load(packed, &header).unwrap();
            let mut cache = KvCache::new(model.config().kv_shape());
            match model.forward_one(&[5, 6, 7], &mut cache, Logits::Last) {
                Err(ModelError::Inference(reason)) => assert!(reason.contains("finite")),
                Err(other) => panic!("{norm}: {other}"),
                Ok(logits) => {
                    // Only what comes after the last row of the pass is left to the choice.
                    assert_eq!(norm, "output_norm");
                    let row = logits.rows().next().unwrap();
                    assert_eq!(Sampler::new(Sampling::Greedy).sample(row), None);
                    continue;
                }
            }
            assert!(cache.is_empty(), "{norm}: what was read in vain does not count");
        }
    }
}
