use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, xlm_roberta};
use serde_json::json;

use super::*;
use crate::model::tiny::{
    Family, Tiny, VOCAB, bert_config, bert_vocabulary, config_json, tokenizer_json,
    xlm_roberta_config,
};

const TEXTS: [&str; 4] = ["退款多久到账", "refund a b", "转人工 [SEP] </s> 退", "账"];

struct Site {
    temp: tempfile::TempDir,
    family: Family,
}

impl Site {
    fn new(family: Family, dtype: GgmlDType) -> Self {
        let site = Self { temp: tempfile::tempdir().unwrap(), family };
        fs::create_dir_all(site.checkpoint().join("1_Pooling")).unwrap();
        let prefix = if family == Family::Bert { "bert." } else { "roberta." };
        let kinds = [(GgmlDType::F16, DType::F16), (GgmlDType::BF16, DType::BF16)];
        let kind = kinds.iter().find(|(stored, _)| *stored == dtype).map_or(DType::F32, |k| k.1);
        let tensors = Tiny::new(family, 31).hub(|_| dtype).into_iter();
        let tensors: std::collections::HashMap<String, Tensor> =
            tensors.map(|(n, t)| (format!("{prefix}{n}"), t.to_dtype(kind).unwrap())).collect();
        candle_core::safetensors::save(&tensors, site.checkpoint().join("model.safetensors"))
            .unwrap();
        site.write("config.json", &config_json(family).to_string());
        site.write("tokenizer.json", &tokenizer_json(family).to_string());
        site
    }

    fn checkpoint(&self) -> PathBuf {
        self.temp.path().join("tiny-encoder")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.checkpoint().join(file), text).unwrap();
    }

    fn dir(&self) -> ModelDir {
        ModelDir::at(self.temp.path().join("models"))
    }

    fn import(&self, options: &Options) -> Result<ModelEntry, ImportError> {
        import_checkpoint(&self.dir(), &self.checkpoint(), options)
    }

    fn refused(&self) -> String {
        let error = self.import(&Options::default()).unwrap_err().to_string();
        assert!(Manifest::imported(self.dir().path()).unwrap().models().is_empty());
        error
    }

    /// The installed model's vectors.
    fn ours(&self, entry: &ModelEntry) -> Vec<Vec<f32>> {
        let encoder = BertEncoder::open(&self.dir().file(entry), entry.identity()).unwrap();
        let tokens = TEXTS.map(|text| encoder.tokens(text).unwrap());
        encoder.embed(&tokens, &Control::default()).unwrap()
    }

    /// Candle's, from the same folder: tokens, last layer, pooled, made unit.
    fn theirs(&self, prefix: &str, pooling: Pooling) -> Vec<Vec<f32>> {
        let file = self.checkpoint().join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter();
        let own = |(name, tensor): (String, Tensor)| {
            let name = name.split_once('.').unwrap().1.to_owned();
            (name, tensor.to_dtype(DType::F32).unwrap())
        };
        let vb = VarBuilder::from_tensors(tensors.map(own).collect(), DType::F32, &Device::Cpu);
        let mut tokenizer =
            tokenizers::Tokenizer::from_file(self.checkpoint().join("tokenizer.json")).unwrap();
        tokenizer.set_encode_special_tokens(true);
        let encode = |text: &&str| {
            let ids = tokenizer.encode(format!("{prefix}{text}"), true).unwrap();
            Tensor::new(ids.get_ids(), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
        };
        let hidden: Vec<Tensor> = if self.family == Family::Bert {
            let model = bert::BertModel::load(vb, &bert_config()).unwrap();
            let run = |ids: Tensor| model.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
            TEXTS.iter().map(encode).map(run).collect()
        } else {
            let model = xlm_roberta::XLMRobertaModel::new(&xlm_roberta_config(), vb).unwrap();
            let run = |ids: Tensor| {
                let seen = ids.ones_like().unwrap().to_dtype(DType::F32).unwrap();
                let types = ids.zeros_like().unwrap();
                model.forward(&ids, &seen, &types, None, None, None).unwrap()
            };
            TEXTS.iter().map(encode).map(run).collect()
        };
        let vector = |hidden: Tensor| {
            let rows = hidden.squeeze(0).unwrap();
            let pooled = match pooling {
                Pooling::Mean => rows.mean(0).unwrap(),
                Pooling::Cls => rows.get(0).unwrap(),
            };
            let vector = pooled.to_vec1::<f32>().unwrap();
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.into_iter().map(|x| x / norm).collect()
        };
        hidden.into_iter().map(vector).collect()
    }
}

fn furthest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (a, b) = (a.concat(), b.concat());
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_imported_encoder_gives_the_vectors_of_candle() {
    for family in [Family::Bert, Family::XlmRoberta] {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
            let site = Site::new(family, dtype);
            let entry = site.import(&Options::default()).unwrap();
            assert_eq!((entry.name.as_str(), entry.kind), ("tiny-encoder", Kind::Embedder));
            let far = furthest(&site.ours(&entry), &site.theirs("", Pooling::Mean));
            println!("{family:?} {dtype:?}: {far}");
            assert!(far < 1e-5, "{family:?} {dtype:?}: {far}");
        }
    }
}

#[test]
fn prefix_pooling_and_storage_are_as_asked() {
    let site = Site::new(Family::Bert, GgmlDType::F32);
    let prefixed = Options { prefix: "退 ".into(), name: "other".into(), ..Options::default() };
    let entry = site.import(&prefixed).unwrap();
    assert!(furthest(&site.ours(&entry), &site.theirs("退 ", Pooling::Mean)) < 1e-5);

    let pooling = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    site.write("1_Pooling/config.json", &pooling.to_string());
    let entry = site.import(&Options::default()).unwrap();
    assert!(furthest(&site.ours(&entry), &site.theirs("", Pooling::Cls)) < 1e-5);

    let small = Options { storage: Storage::Q8_0, pooling: Some(Pooling::Mean), ..prefixed };
    let entry = site.import(&Options { prefix: String::new(), ..small }).unwrap();
    let (ours, theirs) = (site.ours(&entry), site.theirs("", Pooling::Mean));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let cosine: f32 = ours.iter().zip(theirs).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9995, "{cosine}");
    }
    let listed = Manifest::of_folder(site.dir().path()).unwrap();
    let names: Vec<&str> = listed.models().iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names[names.len() - 2..], ["tiny-encoder", "other"], "replaced, not repeated");
    assert_eq!(site.dir().verify(&entry).unwrap(), crate::model::dir::Condition::Intact);
}

#[test]
fn what_cannot_run_is_refused_with_a_reason() {
    let site = Site::new(Family::Bert, GgmlDType::F32);
    let config = config_json(Family::Bert);
    for (key, value, reason) in [
        ("model_type", json!("gpt2"), "`gpt2`"),
        ("hidden_act", json!("relu"), "`relu`"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("vocab_size", json!(20), "the model only 20"),
        ("hidden_size", json!(128), "shape"),
        ("num_attention_heads", json!(32), "does not run"),
        ("max_position_embeddings", json!(1), "no room"),
    ] {
        let mut wrong = config.clone();
        wrong[key] = value;
        site.write("config.json", &wrong.to_string());
        let error = site.refused();
        assert!(error.contains(reason), "{key}: {error}");
    }
    site.write("config.json", &config.to_string());
    let mut bare = tokenizer_json(Family::Bert);
    bare["post_processor"] = json!(null);
    site.write("tokenizer.json", &bare.to_string());
    assert!(site.refused().contains("one mark before"), "marks are needed");
    fs::remove_file(site.checkpoint().join("tokenizer.json")).unwrap();
    assert!(site.refused().contains("add one"));
    site.write("tokenizer.json", &tokenizer_json(Family::Bert).to_string());
    site.write("model.safetensors", "not weights");
    assert!(site.refused().contains("model.safetensors"));
    for name in ["e5-small", "../up", ".hidden", "A"] {
        let options = Options { name: name.into(), ..Options::default() };
        let error = site.import(&options).unwrap_err().to_string();
        assert!(error.contains("--name"), "{error}");
    }
}

/// A SentencePiece file with these pieces and scores after its three marks.
fn sentencepiece_file(pieces: &[(String, f32)]) -> Vec<u8> {
    let marks = ["<unk>", "<s>", "</s>"].map(|mark| (mark.to_owned(), 0.0));
    let mut file = Vec::new();
    for (text, score) in marks.iter().chain(pieces) {
        let mut piece = vec![0x0A, text.len() as u8];
        piece.extend(text.as_bytes());
        piece.push(0x15);
        piece.extend(score.to_le_bytes());
        file.extend([0x0A, piece.len() as u8]);
        file.extend(piece);
    }
    // A field of the trainer, which does not matter.
    file.extend([0x12, 0x02, 0x18, 0x05]);
    file
}

#[test]
fn a_sentencepiece_file_does_for_a_tokenizer() {
    let site = Site::new(Family::XlmRoberta, GgmlDType::F32);
    let with_json = site.import(&Options::default()).unwrap();
    let vectors = site.ours(&with_json);
    fs::remove_file(site.checkpoint().join("tokenizer.json")).unwrap();
    let pieces = tokenizer_json(Family::XlmRoberta)["model"]["vocab"].clone();
    let pieces: Vec<(String, f32)> = serde_json::from_value(pieces).unwrap();
    // Without the four marks in front and the mask behind.
    let file = sentencepiece_file(&pieces[4..pieces.len() - 1]);
    fs::write(site.checkpoint().join("sentencepiece.bpe.model"), &file).unwrap();
    let entry = site.import(&Options::default()).unwrap();
    assert!(furthest(&site.ours(&entry), &vectors) < 1e-6);
    for cut in [0, 1, 7, file.len() - 3] {
        fs::write(site.checkpoint().join("sentencepiece.bpe.model"), &file[..cut]).unwrap();
        let error = site.import(&Options::default()).unwrap_err().to_string();
        assert!(error.contains("SentencePiece"), "{cut}: {error}");
    }
    assert!(bert_vocabulary().len() <= VOCAB);
}

#[test]
fn weights_that_are_no_numbers_or_overflow_are_refused() {
    for storage in [Storage::AsIs, Storage::Q8_0] {
        for (tensor, factor, reason) in [
            ("intermediate.dense.weight", f64::NAN, "intermediate.dense.weight`: a weight is not"),
            ("attention.output.LayerNorm.weight", 1e38, "does not run"),
        ] {
            let site = Site::new(Family::Bert, GgmlDType::F32);
            let file = site.checkpoint().join("model.safetensors");
            let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
            let name = format!("bert.encoder.layer.0.{tensor}");
            let poisoned = tensors[&name].affine(factor, 0.0).unwrap();
            tensors.insert(name, poisoned);
            candle_core::safetensors::save(&tensors, &file).unwrap();
            let options = Options { storage, ..Options::default() };
            let error = site.import(&options).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("finite"), "{error}");
        }
    }
}
