//! BERT and XLM-R against candle-transformers on tiny random models.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, xlm_roberta};

use super::*;
use crate::model::Arithmetic;
use crate::model::tiny::{Family, HIDDEN, Tiny, bert_config, mixed, prompts, xlm_roberta_config};

/// The last layer's vector of every token, sequences one after the other.
fn ours(packed: PackedModel, header: &GgufFile) -> Vec<f32> {
    let model = Bert::load(packed, header).unwrap();
    let (prompts, mut work) = (prompts(), Workspace::default());
    let sequences: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    model.pooled(&sequences, Pooling::Mean, &mut work, &Control::default()).unwrap();
    work.x
}

/// Token ids to hidden states.
type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;

fn theirs(tiny: &Tiny, dtype: impl Fn(&str) -> GgmlDType) -> Vec<f32> {
    let vb = VarBuilder::from_tensors(tiny.hub(dtype), DType::F32, &Device::Cpu);
    let forward: Forward = if tiny.family == Family::Bert {
        let model = bert::BertModel::load(vb, &bert_config()).unwrap();
        Box::new(move |ids| model.forward(ids, &ids.zeros_like()?, None))
    } else {
        let model = xlm_roberta::XLMRobertaModel::new(&xlm_roberta_config(), vb).unwrap();
        Box::new(move |ids| {
            let seen = ids.ones_like()?.to_dtype(DType::F32)?;
            model.forward(ids, &seen, &ids.zeros_like()?, None, None, None)
        })
    };
    let hidden = |prompt: Vec<u32>| {
        let ids = Tensor::new(prompt, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        forward(&ids).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    prompts().into_iter().flat_map(hidden).collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn float_weights_give_the_hidden_states_of_candle() {
    for family in [Family::Bert, Family::XlmRoberta] {
        let tiny = Tiny::new(family, 21);
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            let identity = tiny.write_gguf(&path, |_| dtype);
            let (packed, header) = PackedModel::open(&path, &identity).unwrap();
            let far = furthest(&ours(packed, &header), &theirs(&tiny, |_| dtype));
            println!("{family:?} {dtype:?}: {far}");
            assert!(far < 1e-4, "{family:?} {dtype:?}: {far}");
        }
    }
}

#[test]
fn quantised_weights_stay_near_their_floats() {
    for family in [Family::Bert, Family::XlmRoberta] {
        let tiny = Tiny::new(family, 22);
        for format in ["Q8_0", "Q4_0", "mixed"] {
            let dtype = |name: &str| match format {
                "Q8_0" => GgmlDType::Q8_0,
                "Q4_0" => GgmlDType::Q4_0,
                _ => mixed(name),
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            let identity = tiny.write_gguf(&path, dtype);
            let wanted = theirs(&tiny, dtype);
            let (packed, header) = PackedModel::open(&path, &identity).unwrap();
            let (codes, chunks) = (ours(packed, &header), wanted.chunks_exact(HIDDEN));
            for (ours, theirs) in codes.chunks_exact(HIDDEN).zip(chunks) {
                let cosine = cosine(ours, theirs);
                assert!(cosine > 0.9995, "{family:?} {format}: {cosine}");
            }
            let (packed, header) =
                PackedModel::open_for(Arithmetic::Floats, &path, &identity).unwrap();
            let far = furthest(&ours(packed, &header), &wanted);
            assert!(far < 1e-4, "{family:?} {format} as floats: {far}");
        }
    }
}
