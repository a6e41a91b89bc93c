//! A Qwen model as a [`Generator`]: prompt in, text out as it comes.
//!
//! Sequences advance together, a pass at a time ([`QwenGenerator::step`]): each reads more of its
//! prompt, or the token it just chose with a draft of what may follow (`lookup.rs`). Drafts are
//! verified in the same pass; since a row's logits do not depend on its neighbours, a sequence says
//! exactly what it would say without drafts.

use std::path::Path;

use crate::model::arch::qwen::{Logits, Qwen};
use crate::model::bpe::{Bpe, TextStream};
use crate::model::chat_template::ChatTemplate;
use crate::model::compose::compose;
use crate::model::constraint::Mask;
use crate::model::decoding::Decoding;
use crate::model::judging::Judged;
use crate::model::kv::KvCache;
use crate::model::packed::PackedModel;
use crate::model::prefix::PrefixTree;
use crate::model::{
    ChatMessage, ComposeRequest, Composed, Constraint, Control, GenerateRequest, Generated,
    Generator, ModelError, ModelIdentity,
};

/// Tokens of a prompt that one pass reads, after which the controls are looked at: enough to share
/// the cost of widening the matrices, few enough to stop in time.
const PASS_TOKENS: usize = 256;
/// Bytes of keys and values that are kept for prompts that begin alike.
const PREFIX_BYTES: usize = 64 << 20;
/// Tokens that end a turn besides the file's own end token.
const STOP_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// A Qwen model with its tokenizer, chat format and what it remembers of earlier prompts.
pub struct QwenGenerator {
    identity: ModelIdentity,
    pub(super) model: Qwen,
    pub(super) bpe: Bpe,
    template: ChatTemplate,
    stop: Vec<u32>,
    prefixes: PrefixTree,
    pub(super) judged: Judged,
}

impl QwenGenerator {
    /// Opens a GGUF file, or what was packed from it; `identity` is what it must be.
    ///
    /// # Errors
    /// `Missing` when there is no such file, `Io` when it cannot be read, `Corrupt` when it is not a
    /// Qwen model with a BPE tokenizer and a chat template.
    pub fn open(path: &Path, identity: ModelIdentity) -> Result<Self, ModelError> {
        let (packed, gguf) = PackedModel::open(path, &identity)?;
        let model = Qwen::load(packed, &gguf)?;
        let bpe = Bpe::from_gguf(gguf.content()).map_err(|e| gguf.corrupt(e))?;
        let template = gguf.text("tokenizer.chat_template")?.to_owned();
        let template = ChatTemplate::new(template).map_err(|e| gguf.corrupt(e))?;
        let end = gguf.count("tokenizer.ggml.eos_token_id").ok();
        let end = end.and_then(|id| u32::try_from(id).ok());
        let mut stop: Vec<u32> = STOP_TOKENS.iter().filter_map(|t| bpe.id(t)).chain(end).collect();
        stop.sort_unstable();
        stop.dedup();
        let prefixes = PrefixTree::new(model.config().kv_shape(), PREFIX_BYTES);
        Ok(Self { identity, model, bpe, template, stop, prefixes, judged: Judged::default() })
    }

    /// Longest prompt and reply together, tokens.
    pub fn context(&self) -> usize {
        self.model.config().context
    }

    /// A reply to advance with [`QwenGenerator::step`].
    ///
    /// # Errors
    /// `BadRequest` when the prompt is empty or does not fit.
    pub fn begin(
        &mut self,
        request: &GenerateRequest,
        control: &Control,
    ) -> Result<Decoding, ModelError> {
        let tokens = self.fitting_tokens(&request.prompt)?;
        if tokens.is_empty() {
            return Err(ModelError::BadRequest("the prompt is empty".to_owned()));
        }
        let room = tokens.len() + request.max_tokens.min(self.context() - tokens.len());
        let constraint = request.constraint.as_ref();
        let mask = constraint.map(|c| self.mask(c, room - tokens.len())).transpose()?;
        let cache = self.prefixes.start(&tokens);
        let mut reply = Decoding::new(request, tokens, room, cache, mask, control);
        reply.say_what_is_certain(&self.bpe);
        Ok(reply)
    }

    fn mask(&self, constraint: &Constraint, left: usize) -> Result<Mask, ModelError> {
        let (units, phrases) = constraint.texts();
        let pieces = |texts: &[String]| texts.iter().map(|text| self.exact_tokens(text)).collect();
        let pieces: [Result<Vec<Vec<u32>>, ModelError>; 2] = [pieces(units), pieces(phrases)];
        let [units, phrases] = pieces;
        Mask::new(constraint, [units?, phrases?], &self.stop, left)
    }

    /// Tokens that spell `text` byte for byte.
    fn exact_tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.bpe.encode(text)?;
        let mut stream = TextStream::default();
        let spelt: String = tokens.iter().map(|token| self.bpe.text(&mut stream, *token)).collect();
        if spelt != text {
            let reason = format!(
                "the model cannot spell “{text}” exactly: write it in NFC, without special tokens"
            );
            return Err(ModelError::BadRequest(reason));
        }
        Ok(tokens)
    }

    /// One pass over all replies that have not ended: those that speak first, then prompts as far
    /// as the pass has room, so that a long prompt does not hold up who is speaking.
    ///
    /// # Errors
    /// Only faults of the engine; what concerns one reply ends that reply.
    pub fn step(&mut self, replies: &mut [Decoding]) -> Result<(), ModelError> {
        let mut live: Vec<&mut Decoding> =
            replies.iter_mut().filter_map(|r| r.may_go_on().then_some(r)).collect();
        live.sort_by_key(|reply| reply.reads_prompt());
        let mut room = PASS_TOKENS;
        let mut parts = Vec::with_capacity(live.len());
        let mut counts = Vec::with_capacity(live.len());
        for reply in &mut live {
            if room == 0 {
                break;
            }
            let logits = reply.plan(room);
            let part = reply.part(logits);
            room = room.saturating_sub(part.tokens.len());
            counts.push(match logits {
                Logits::None => 0,
                Logits::Last => 1,
                Logits::All => part.tokens.len(),
            });
            parts.push(part);
        }
        if parts.is_empty() {
            return Ok(());
        }
        let logits = self.model.forward(&mut parts)?;
        drop(parts);
        let mut rows = logits.rows();
        for (reply, count) in live.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            if reply.reads_prompt() {
                let (prompt, cache) = reply.prompt();
                self.prefixes.keep(prompt, cache);
            }
            let own: Vec<&[f32]> = rows.by_ref().take(count).collect();
            reply.take(&own, &self.bpe, &self.stop);
        }
        Ok(())
    }

    /// A sequence that has read `tokens`.
    pub(super) fn read(
        &mut self,
        tokens: &[u32],
        control: &Control,
    ) -> Result<KvCache, ModelError> {
        let mut cache = self.prefixes.start(tokens);
        for piece in tokens[cache.len()..].chunks(PASS_TOKENS) {
            control.check()?;
            self.model.forward_one(piece, &mut cache, Logits::None)?;
        }
        self.prefixes.keep(tokens, &cache);
        Ok(cache)
    }

    pub(super) fn fitting_tokens(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.bpe.encode(prompt)?;
        let (n, window) = (tokens.len(), self.context());
        if n >= window {
            let reason = format!("a prompt of {n} tokens does not fit the window of {window}");
            return Err(ModelError::BadRequest(reason));
        }
        Ok(tokens)
    }
}

impl Generator for QwenGenerator {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let clean = |m: &ChatMessage| ChatMessage {
            role: m.role,
            content: self.bpe.strip_specials(&m.content),
        };
        self.template.render(&messages.iter().map(clean).collect::<Vec<_>>())
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        control: &Control,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated, ModelError> {
        let mut reply = [self.begin(request, control)?];
        while !reply[0].ended() {
            self.step(&mut reply)?;
            let text = reply[0].fresh_text();
            if !text.is_empty() {
                on_text(&text);
            }
        }
        let [reply] = reply;
        reply.finish()
    }

    fn compose(
        &mut self,
        request: &ComposeRequest,
        control: &Control,
    ) -> Result<Composed, ModelError> {
        compose(self, request, control)
    }
}

#[cfg(test)]
mod tests;
