//! How likely given texts are after a prompt: all of them are branches of one sequence that has
//! read the prompt.

use std::collections::HashMap;

use crate::model::arch::qwen::{Logits, Part};
use crate::model::compose::{Likelihoods, TextJudge};
use crate::model::generator::QwenGenerator;
use crate::model::kv::KvCache;
use crate::model::sampler::log_sum_exp;
use crate::model::{ChatMessage, Control, Generator, ModelError};

/// Tokens of one pass whose logits are all kept: a row is the size of the vocabulary.
const JUDGED_TOKENS: usize = 64;
/// Likelihoods remembered.
const MOST_JUDGED: usize = 4096;

/// Likelihoods of texts after prompts: composing asks for the same units after the same greeting
/// again and again.
#[derive(Default)]
pub(crate) struct Judged {
    /// By prompt, then by text.
    known: HashMap<String, HashMap<String, f32>>,
    /// Texts over all prompts.
    count: usize,
}

impl Judged {
    fn of(&self, prompt: &str, text: &str) -> Option<f32> {
        self.known.get(prompt)?.get(text).copied()
    }

    /// Forgets everything rather than grow without bound.
    fn keep(&mut self, prompt: &str, text: &str, nats: f32) {
        if self.count >= MOST_JUDGED {
            *self = Self::default();
        }
        let texts = self.known.entry(prompt.to_owned()).or_default();
        let new = texts.insert(text.to_owned(), nats).is_none();
        self.count += usize::from(new);
    }
}

impl TextJudge for QwenGenerator {
    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        Generator::chat_prompt(self, messages)
    }

    fn log_likelihoods(
        &mut self,
        prompt: &str,
        texts: &[&str],
        control: &Control,
    ) -> Result<Likelihoods, ModelError> {
        let mut new: Vec<&str> = texts.to_vec();
        new.retain(|text| self.judged.of(prompt, text).is_none());
        let mut tokens = 0;
        if !new.is_empty() {
            let nats;
            (nats, tokens) = self.read_and_judge(prompt, &new, control)?;
            new.iter().zip(nats).for_each(|(text, nats)| self.judged.keep(prompt, text, nats));
        }
        let known = |text: &&str| self.judged.of(prompt, text).unwrap_or(f32::NEG_INFINITY);
        Ok(Likelihoods { nats: texts.iter().map(known).collect(), tokens })
    }
}

impl QwenGenerator {
    /// Log-probability of each text after the prompt, and the tokens read.
    fn read_and_judge(
        &mut self,
        prompt: &str,
        texts: &[&str],
        control: &Control,
    ) -> Result<(Vec<f32>, usize), ModelError> {
        let prompt = self.fitting_tokens(prompt)?;
        // The prompt's last token predicts each text's first, so every branch begins with it.
        let Some((&last, opening)) = prompt.split_last() else {
            return Err(ModelError::BadRequest("the prompt is empty".to_owned()));
        };
        let branch = |text: &&str| {
            let plain = self.bpe.strip_specials(text);
            Ok([vec![last], self.bpe.encode(&plain)?].concat())
        };
        let branches: Vec<Vec<u32>> =
            texts.iter().map(branch).collect::<Result<_, ModelError>>()?;
        let longest = branches.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.len() + longest > self.context() {
            let reason = format!("{longest} tokens of evidence do not fit the window");
            return Err(ModelError::BadRequest(reason));
        }
        let cache = self.read(opening, control)?;
        let tokens = opening.len() + branches.iter().map(Vec::len).sum::<usize>();
        Ok((self.judge(&branches, &cache, control)?, tokens))
    }

    /// Log-probability of each branch's tokens after its first, in passes of about
    /// [`JUDGED_TOKENS`] tokens.
    fn judge(
        &mut self,
        branches: &[Vec<u32>],
        cache: &KvCache,
        control: &Control,
    ) -> Result<Vec<f32>, ModelError> {
        let mut nats = Vec::with_capacity(branches.len());
        while nats.len() < branches.len() {
            control.check()?;
            let rest = &branches[nats.len()..];
            let mut tokens = 0;
            let fits = |branch: &&Vec<u32>| {
                tokens += branch.len();
                tokens <= JUDGED_TOKENS
            };
            let batch = &rest[..rest.iter().take_while(fits).count().max(1)];
            nats.extend(self.judge_batch(batch, cache)?);
        }
        Ok(nats)
    }

    fn judge_batch(&mut self, batch: &[Vec<u32>], cache: &KvCache) -> Result<Vec<f32>, ModelError> {
        // A last token is predicted, never read; where it is also the first there is no text.
        let read = |branch: &Vec<u32>| branch.len().saturating_sub(1).max(1);
        let mut caches = vec![cache.clone(); batch.len()];
        let parts = batch.iter().zip(&mut caches).map(|(branch, cache)| Part {
            tokens: &branch[..read(branch)],
            cache,
            logits: Logits::All,
        });
        let logits = self.model.forward(&mut parts.collect::<Vec<_>>())?;
        let mut rows = logits.rows();
        let mut nats = Vec::with_capacity(batch.len());
        for branch in batch {
            let pairs = rows.by_ref().take(read(branch)).zip(&branch[1..]);
            nats.push(pairs.map(|(row, &token)| row[token as usize] - log_sum_exp(row)).sum());
        }
        Ok(nats)
    }
}
