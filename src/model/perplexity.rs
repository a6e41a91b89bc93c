//! How surprised a generator is by a given text: what the integer path costs against floats is read
//! off here.
//!
//! The text is cut into windows of tokens, each read from nothing; every token of a window but the
//! first is predicted from those before it.

use std::path::Path;

use crate::model::arch::qwen::{Logits, Qwen};
use crate::model::bpe::Bpe;
use crate::model::kv::KvCache;
use crate::model::packed::PackedModel;
use crate::model::sampler::log_sum_exp;
use crate::model::{Arithmetic, Control, ModelError, ModelIdentity};

/// Tokens of a window, where the model's own is not shorter.
const WINDOW: usize = 1024;
/// Tokens of a pass: a row of logits is the size of the vocabulary.
const PASS: usize = 64;

/// A generator's weights, for measuring.
pub struct Surprise {
    model: Qwen,
    bpe: Bpe,
}

/// What a text cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surprised {
    /// Tokens that were predicted.
    pub predicted: usize,
    /// Negative log-likelihood of all of them.
    pub nats: f64,
}

impl Surprised {
    /// e to the mean surprise of a token.
    pub fn perplexity(&self) -> f64 {
        (self.nats / self.predicted.max(1) as f64).exp()
    }
}

impl Surprise {
    /// Opens a GGUF file, or what was packed from it.
    ///
    /// # Errors
    /// As for a generator.
    pub fn open(
        path: &Path,
        identity: &ModelIdentity,
        arithmetic: Arithmetic,
    ) -> Result<Self, ModelError> {
        let (packed, gguf) = PackedModel::open_for(arithmetic, path, identity)?;
        let model = Qwen::load(packed, &gguf)?;
        let bpe = Bpe::from_gguf(gguf.content()).map_err(|e| gguf.corrupt(e))?;
        Ok(Self { model, bpe })
    }

    /// Reads the text; `progress` sees tokens done and all.
    ///
    /// # Errors
    /// `BadRequest` when the text has fewer than two tokens.
    pub fn of(
        &mut self,
        text: &str,
        control: &Control,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Surprised, ModelError> {
        let tokens = self.bpe.encode(text)?;
        if tokens.len() < 2 {
            let reason = "the text has fewer than two tokens: there is nothing to predict";
            return Err(ModelError::BadRequest(reason.to_owned()));
        }
        let mut sum = Surprised::default();
        for window in tokens.chunks(WINDOW.min(self.model.config().context)) {
            let mut cache = KvCache::new(self.model.config().kv_shape());
            let read = window.len() - 1;
            for from in (0..read).step_by(PASS) {
                control.check()?;
                let to = read.min(from + PASS);
                let logits = self.model.forward_one(&window[from..to], &mut cache, Logits::All)?;
                for (row, next) in logits.rows().zip(&window[from + 1..]) {
                    sum.nats += f64::from(log_sum_exp(row) - row[*next as usize]);
                    sum.predicted += 1;
                }
                if !sum.nats.is_finite() {
                    return Err(ModelError::not_finite("a likelihood"));
                }
                progress(sum.predicted, tokens.len());
            }
        }
        Ok(sum)
    }
}
