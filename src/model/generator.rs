//! A Qwen model as a [`Generator`]: prompt in, text out as it comes.
//!
//! Tasks advance together, a pass at a time ([`Generator::step`]): each reads more of its prompt, or
//! units that are judged for composing, or the token it just chose with a draft of what may follow
//! (`lookup.rs`). Drafts are verified in the same pass; since a row's logits do not depend on its
//! neighbours, a sequence says exactly what it would say without drafts and alone.

use std::path::Path;

use crate::model::arch::qwen::{Part, Qwen};
use crate::model::bpe::{Bpe, TextStream};
use crate::model::chat_template::ChatTemplate;
use crate::model::compose::Plan;
use crate::model::composition::Composition;
use crate::model::constraint::Mask;
use crate::model::decoding::Decoding;
use crate::model::judging::{Branch, Judged, Judging, Room};
use crate::model::packed::PackedModel;
use crate::model::prefix::PrefixTree;
use crate::model::{
    ChatMessage, ComposeRequest, Constraint, Control, Done, GenerateRequest, Generator, ModelError,
    ModelIdentity, Task, Work,
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
    model: Qwen,
    bpe: Bpe,
    template: ChatTemplate,
    stop: Vec<u32>,
    prefixes: PrefixTree,
    judged: Judged,
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

    fn begin_reply(
        &mut self,
        request: &GenerateRequest,
        control: &Control,
    ) -> Result<Decoding, ModelError> {
        let tokens = self.fitting_tokens(&request.prompt)?;
        let room = tokens.len() + request.max_tokens.min(self.context() - tokens.len());
        let constraint = request.constraint.as_ref();
        let mask = constraint.map(|c| self.mask(c, room - tokens.len())).transpose()?;
        let cache = self.prefixes.start(&tokens);
        let mut reply = Decoding::new(request, tokens, room, cache, mask, control);
        reply.say_what_is_certain(&self.bpe);
        Ok(reply)
    }

    fn begin_composition(
        &mut self,
        request: &ComposeRequest,
        control: &Control,
    ) -> Result<Composition, ModelError> {
        let plan = Plan::new(request)?;
        let mut judgings = Vec::new();
        for messages in plan.prompts() {
            let prompt = self.chat_prompt(&messages)?;
            judgings.push(self.begin_judging(prompt, plan.texts())?);
        }
        Ok(Composition::new(plan, judgings, control.clone()))
    }

    /// Special tokens are honoured in the prompt only.
    fn begin_judging(&mut self, prompt: String, texts: &[String]) -> Result<Judging, ModelError> {
        let mut opening = self.fitting_tokens(&prompt)?;
        let room = self.context() - opening.len();
        let last: Vec<u32> = opening.pop().into_iter().collect();
        let known: Vec<Option<f32>> =
            texts.iter().map(|text| self.judged.of(&prompt, text)).collect();
        let mut branches = Vec::new();
        for (text, _) in known.iter().enumerate().filter(|(_, nats)| nats.is_none()) {
            let own = self.bpe.encode(&self.bpe.strip_specials(&texts[text]))?;
            if own.len() > room {
                let reason = format!(
                    "a unit of {} tokens does not fit the window: cut the evidence",
                    own.len()
                );
                return Err(ModelError::BadRequest(reason));
            }
            branches.push(Branch { text, tokens: [last.as_slice(), &own].concat() });
        }
        let nats = known.into_iter().map(|nats| nats.unwrap_or(f32::NEG_INFINITY)).collect();
        let cache = self.prefixes.start(&opening);
        Ok(Judging::new(prompt, opening, cache, branches, nats))
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

    /// What a pass gave, handed to those who asked for it.
    fn hand_out<'a>(
        &mut self,
        work: Vec<&mut QwenWork>,
        rows: &mut impl Iterator<Item = &'a [f32]>,
    ) {
        for work in work {
            match &mut work.0 {
                Kind::Reply(reply) if reply.rows() > 0 => {
                    if reply.reads_prompt() {
                        let (prompt, cache) = reply.prompt();
                        self.prefixes.keep(prompt, cache);
                    }
                    let own: Vec<&[f32]> = rows.by_ref().take(reply.rows()).collect();
                    reply.take(&own, &self.bpe, &self.stop);
                }
                Kind::Reply(_) => {}
                Kind::Composition(composition) => {
                    composition.take(rows, &mut self.prefixes, &mut self.judged);
                }
            }
        }
    }

    /// The tokens of a prompt: at least one, and fewer than the window holds.
    fn fitting_tokens(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.bpe.encode(prompt)?;
        let (n, window) = (tokens.len(), self.context());
        if n == 0 {
            return Err(ModelError::BadRequest("the prompt is empty".to_owned()));
        }
        if n >= window {
            let reason = format!("a prompt of {n} tokens does not fit the window of {window}");
            return Err(ModelError::BadRequest(reason));
        }
        Ok(tokens)
    }
}

/// A task of a [`QwenGenerator`] under way.
pub struct QwenWork(Kind);

enum Kind {
    Reply(Box<Decoding>),
    Composition(Box<Composition>),
}

impl QwenWork {
    fn may_go_on(&mut self) -> bool {
        match &mut self.0 {
            Kind::Reply(reply) => reply.may_go_on(),
            Kind::Composition(composition) => composition.may_go_on(),
        }
    }

    /// Whether it only waits for its next token.
    fn speaks(&self) -> bool {
        match &self.0 {
            Kind::Reply(reply) => !reply.reads_prompt(),
            Kind::Composition(_) => false,
        }
    }

    fn plan(&mut self, room: &mut Room) {
        match &mut self.0 {
            Kind::Reply(reply) => reply.plan(room),
            Kind::Composition(composition) => composition.plan(room),
        }
    }

    fn parts<'a>(&'a mut self, parts: &mut Vec<Part<'a>>) {
        match &mut self.0 {
            Kind::Reply(reply) => parts.extend(reply.part()),
            Kind::Composition(composition) => composition.parts(parts),
        }
    }
}

impl Work for QwenWork {
    fn ended(&self) -> bool {
        match &self.0 {
            Kind::Reply(reply) => reply.ended(),
            Kind::Composition(composition) => composition.ended(),
        }
    }

    fn fresh_text(&mut self) -> String {
        match &mut self.0 {
            Kind::Reply(reply) => reply.fresh_text(),
            Kind::Composition(_) => String::new(),
        }
    }

    fn finish(self) -> Result<Done, ModelError> {
        match self.0 {
            Kind::Reply(reply) => reply.finish().map(Done::Generated),
            Kind::Composition(composition) => composition.finish().map(Done::Composed),
        }
    }
}

impl Generator for QwenGenerator {
    type Work = QwenWork;

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

    fn begin(&mut self, task: &Task, control: &Control) -> Result<QwenWork, ModelError> {
        Ok(QwenWork(match task {
            Task::Generate(request) => Kind::Reply(self.begin_reply(request, control)?.into()),
            Task::Compose(request) => {
                Kind::Composition(self.begin_composition(request, control)?.into())
            }
        }))
    }

    /// Those that speak come first, then prompts and evidence in the order of `work` as far as the
    /// pass has room, so that a long prompt does not hold up who is speaking.
    fn step(&mut self, work: &mut [QwenWork]) -> Result<(), ModelError> {
        let mut live: Vec<&mut QwenWork> =
            work.iter_mut().filter_map(|w| w.may_go_on().then_some(w)).collect();
        live.sort_by_key(|work| !work.speaks());
        let mut room = Room::new(PASS_TOKENS);
        live.iter_mut().for_each(|work| work.plan(&mut room));
        let mut parts = Vec::new();
        live.iter_mut().for_each(|work| work.parts(&mut parts));
        if parts.is_empty() {
            return Ok(());
        }
        let logits = self.model.forward(&mut parts)?;
        drop(parts);
        self.hand_out(live, &mut logits.rows());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
