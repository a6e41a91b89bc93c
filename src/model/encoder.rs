//! A BERT or XLM-R encoder as an [`Embedder`]: tokenizer, passes, pooling, unit length.
//!
//! The model of the manifest is multilingual-e5-small, whose recipe is at
//! <https://huggingface.co/intfloat/multilingual-e5-small>: questions are matched against questions,
//! which its card wants prefixed `query: ` on both sides. Imported models bring their own prefix,
//! tokenizer and pooling in the file's metadata.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::model::arch::bert::{Bert, Pooling, Workspace};
use crate::model::gguf::GgufFile;
use crate::model::hub_tokenizer::{HubTokenizer, TOKENIZER_KEY};
use crate::model::kernels::ShortPass;
use crate::model::packed::PackedModel;
use crate::model::tokenizer::Unigram;
use crate::model::{Arithmetic, BATCH_TOKENS, Control, Embedder, ModelError, ModelIdentity};

/// Of files that name none.
const PREFIX: &str = "query: ";
/// Metadata: what stands in front of every text.
pub(crate) const PREFIX_KEY: &str = "huida.prefix";
/// Metadata: how tokens' vectors become one, in llama.cpp's numbers.
pub(crate) const POOLING_KEY: &str = "bert.pooling_type";
pub(crate) const POOLING_MEAN: usize = 1;
pub(crate) const POOLING_CLS: usize = 2;
/// A pass over so many tokens is somebody's question, or a few; a longer one fills an index.
const SHORT_TOKENS: usize = 256;

/// Loaded weights and their tokenizer.
pub struct BertEncoder {
    identity: ModelIdentity,
    tokenizer: Tokenizer,
    prefix: String,
    pooling: Pooling,
    bert: Bert,
    /// One forward pass at a time: two would fight for the same threads and both lose.
    work: Mutex<Workspace>,
}

impl BertEncoder {
    /// Opens the GGUF file at `path`, or what was packed from it; `identity` is the manifest's word
    /// for what the file must be.
    pub fn open(path: &Path, identity: ModelIdentity) -> Result<Self, ModelError> {
        Self::open_for(Arithmetic::AsStored, path, identity)
    }

    /// The same in other arithmetic, for comparison.
    pub fn open_for(
        arithmetic: Arithmetic,
        path: &Path,
        identity: ModelIdentity,
    ) -> Result<Self, ModelError> {
        let (packed, gguf) = PackedModel::open_for(arithmetic, path, &identity)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let prefix = gguf.text(PREFIX_KEY).unwrap_or(PREFIX).to_owned();
        let pooling = match gguf.count(POOLING_KEY)? {
            POOLING_MEAN => Pooling::Mean,
            POOLING_CLS => Pooling::First,
            other => return Err(gguf.corrupt(format_args!("pooling {other} is not supported"))),
        };
        let bert = Bert::load(packed, &gguf)?;
        Ok(Self { identity, tokenizer, prefix, pooling, bert, work: Mutex::default() })
    }

    fn tokens_within(&self, text: &str, window: usize) -> Result<Vec<u32>, ModelError> {
        let text = format!("{}{text}", self.prefix);
        match &self.tokenizer {
            Tokenizer::Unigram(tokenizer) => Ok(tokenizer.encode(&text, window)),
            Tokenizer::Hub(tokenizer) => tokenizer.encode(&text, window),
        }
    }
}

/// Our own for the model of the manifest, the hub's for imported ones.
enum Tokenizer {
    Unigram(Box<Unigram>),
    Hub(Box<HubTokenizer>),
}

impl Tokenizer {
    fn from_gguf(gguf: &GgufFile) -> Result<Self, ModelError> {
        if gguf.text(TOKENIZER_KEY).is_ok() {
            return Ok(Self::Hub(Box::new(HubTokenizer::from_gguf(gguf)?)));
        }
        Ok(Self::Unigram(Box::new(Unigram::from_gguf(gguf)?)))
    }
}

impl Embedder for BertEncoder {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn dim(&self) -> usize {
        self.bert.config().hidden
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokens_within(text, self.bert.config().window)
    }

    fn embed(
        &self,
        sequences: &[Vec<u32>],
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|i| sequences[*i].len());
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let _first = (tokens <= SHORT_TOKENS).then(ShortPass::begin);
        let mut vectors = vec![Vec::new(); sequences.len()];
        for batch in batches(&order, |i| sequences[i].len()) {
            control.check()?;
            let inputs: Vec<&[u32]> = batch.iter().map(|i| sequences[*i].as_slice()).collect();
            let pooled = self.bert.pooled(&inputs, self.pooling, &mut work, control)?;
            for (i, vector) in batch.iter().zip(pooled) {
                vectors[*i] = unit(vector).ok_or_else(|| ModelError::not_finite("a vector"))?;
            }
        }
        Ok(vectors)
    }
}

/// Cuts `order` so that no piece of more than one sequence holds more than [`BATCH_TOKENS`].
fn batches(order: &[usize], length: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (at, i) in order.iter().enumerate() {
        let next = length(*i);
        if at > start && tokens + next > BATCH_TOKENS {
            batches.push(&order[start..at]);
            (start, tokens) = (at, 0);
        }
        tokens += next;
    }
    if start < order.len() {
        batches.push(&order[start..]);
    }
    batches
}

/// `None` for what has no direction: whatever is not finite anywhere in a pass ends here as well.
fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    norm.is_normal().then_some(vector)
}

#[cfg(test)]
mod tests;
