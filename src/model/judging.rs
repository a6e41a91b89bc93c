//! How likely given texts are after a prompt: all of them are branches of one sequence that has
//! read the prompt, advanced pass by pass beside other work.

use std::collections::HashMap;

use crate::model::arch::qwen::{Logits, Part};
use crate::model::kv::KvCache;
use crate::model::prefix::PrefixTree;
use crate::model::sampler::log_sum_exp;

/// Tokens of one pass whose logits are all kept: a row is the size of the vocabulary.
const JUDGED_TOKENS: usize = 64;
/// Likelihoods remembered.
const MOST_JUDGED: usize = 4096;

/// What a pass has room for.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) tokens: usize,
    judged: usize,
}

impl Room {
    pub(crate) fn new(tokens: usize) -> Self {
        Self { tokens, judged: JUDGED_TOKENS }
    }

    /// Whether a branch of `tokens` is taken along; one that fits no pass gets one without others.
    fn take_branch(&mut self, tokens: usize) -> bool {
        let fits = tokens <= self.judged.min(self.tokens) || self.judged == JUDGED_TOKENS;
        if fits {
            self.judged = self.judged.saturating_sub(tokens);
            self.tokens = self.tokens.saturating_sub(tokens);
        }
        fits
    }
}

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
    pub(crate) fn of(&self, prompt: &str, text: &str) -> Option<f32> {
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

/// A text whose likelihood is not known yet.
#[derive(Debug)]
pub(crate) struct Branch {
    /// Which of the texts that are judged.
    pub(crate) text: usize,
    /// The prompt's last token, which predicts the text's first, and the text.
    pub(crate) tokens: Vec<u32>,
}

impl Branch {
    /// A last token is predicted, never read; where it is also the first there is no text.
    fn read(&self) -> usize {
        self.tokens.len().saturating_sub(1).max(1)
    }
}

/// Texts on their way to be judged after one prompt.
#[derive(Debug)]
pub(crate) struct Judging {
    prompt: String,
    /// The prompt without its last token.
    opening: Vec<u32>,
    cache: KvCache,
    /// Tokens of the opening that the next pass reads.
    fed: usize,
    branches: Vec<Branch>,
    /// Branches that were judged.
    judged: usize,
    /// One for each branch that the next pass reads.
    caches: Vec<KvCache>,
    /// Log-probability of each text (natural, summed over its tokens), as far as known.
    nats: Vec<f32>,
}

impl Judging {
    /// `nats` holds what is known already; `branches` are the texts of which nothing is. `cache`
    /// has read the beginning of `opening`.
    pub(crate) fn new(
        prompt: String,
        opening: Vec<u32>,
        cache: KvCache,
        branches: Vec<Branch>,
        nats: Vec<f32>,
    ) -> Self {
        Self { prompt, opening, cache, fed: 0, branches, judged: 0, caches: Vec::new(), nats }
    }

    /// The log-probabilities, once all are known; of numbers that ran out of bounds, not finite.
    pub(crate) fn nats(&self) -> Option<&[f32]> {
        (self.judged == self.branches.len()).then_some(&self.nats)
    }

    /// Tokens that are read for it in all.
    pub(crate) fn tokens(&self) -> usize {
        let branches: usize = self.branches.iter().map(|branch| branch.tokens.len()).sum();
        if branches == 0 { 0 } else { self.opening.len() + branches }
    }

    /// Decides what the next pass reads.
    pub(crate) fn plan(&mut self, room: &mut Room) {
        if self.judged == self.branches.len() {
            return;
        }
        self.fed = (self.opening.len() - self.cache.len()).min(room.tokens);
        room.tokens -= self.fed;
        if self.cache.len() == self.opening.len() {
            let next = self.branches[self.judged..].iter();
            let count = next.take_while(|branch| room.take_branch(branch.tokens.len())).count();
            self.caches = vec![self.cache.clone(); count];
        }
    }

    /// What the next pass reads, as planned.
    pub(crate) fn parts<'a>(&'a mut self, parts: &mut Vec<Part<'a>>) {
        if self.fed > 0 {
            let tokens = &self.opening[self.cache.len()..][..self.fed];
            let (cache, logits) = (&mut self.cache, Logits::None);
            parts.push(Part { tokens, cache, logits, rough: false });
        }
        for (branch, cache) in self.branches[self.judged..].iter().zip(&mut self.caches) {
            let tokens = &branch.tokens[..branch.read()];
            parts.push(Part { tokens, cache, logits: Logits::All, rough: false });
        }
    }

    /// Takes from `rows` the logits that the planned parts asked for.
    pub(crate) fn take<'a>(
        &mut self,
        texts: &[String],
        rows: &mut impl Iterator<Item = &'a [f32]>,
        prefixes: &mut PrefixTree,
        known: &mut Judged,
    ) {
        if self.fed > 0 && self.cache.len() == self.opening.len() {
            prefixes.keep(&self.opening, &self.cache);
        }
        self.fed = 0;
        let count = self.caches.len();
        self.caches.clear();
        for branch in &self.branches[self.judged..self.judged + count] {
            let pairs = rows.by_ref().take(branch.read()).zip(&branch.tokens[1..]);
            let nats = pairs.map(|(row, &token)| row[token as usize] - log_sum_exp(row)).sum();
            self.nats[branch.text] = nats;
            if nats.is_finite() {
                known.keep(&self.prompt, &texts[branch.text], nats);
            }
        }
        self.judged += count;
    }
}
