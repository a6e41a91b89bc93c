//! One reply on its way: what its next pass reads, and what the logits of that pass make of it.

use crate::base::clock::Stopwatch;
use crate::model::arch::qwen::{Logits, Part};
use crate::model::bpe::{Bpe, TextStream};
use crate::model::kv::KvCache;
use crate::model::lookup::Lookup;
use crate::model::sampler::Sampler;
use crate::model::{Control, GenerateRequest, Generated, ModelError};

/// One reply on its way.
pub struct Decoding {
    /// Prompt and reply; the cache holds the keys of the first of them.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Longest prompt and reply together.
    room: usize,
    cache: KvCache,
    /// What the next pass reads.
    feed: Vec<u32>,
    lookup: Option<Lookup>,
    sampler: Sampler,
    text: TextStream,
    /// Text not yet handed out.
    fresh: String,
    control: Control,
    watch: Stopwatch,
    done: Generated,
    state: State,
}

/// Where a reply is.
#[derive(Debug)]
enum State {
    /// Part of the prompt is unread.
    Prompt,
    /// A token was chosen and waits to be read.
    Reply,
    Ended(Result<(), ModelError>),
}

impl Decoding {
    /// A reply to `request` after `prompt`, of which `cache` holds the beginning; at most `room`
    /// tokens with the prompt.
    pub(crate) fn new(
        request: &GenerateRequest,
        prompt: Vec<u32>,
        room: usize,
        cache: KvCache,
        control: &Control,
    ) -> Self {
        let (prompt_tokens, reused_tokens) = (prompt.len(), cache.len());
        Self {
            lookup: request.lookup.then(|| Lookup::new(&prompt)),
            tokens: prompt,
            prompt_tokens,
            room,
            cache,
            feed: Vec::new(),
            sampler: Sampler::new(request.sampling),
            text: TextStream::default(),
            fresh: String::new(),
            control: control.clone(),
            watch: Stopwatch::start(),
            done: Generated { prompt_tokens, reused_tokens, ..Generated::default() },
            state: if room == prompt_tokens { State::Ended(Ok(())) } else { State::Prompt },
        }
    }

    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Text that came since the last call, whole characters only.
    pub fn fresh_text(&mut self) -> String {
        std::mem::take(&mut self.fresh)
    }

    /// What came of it.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlinePassed`.
    pub fn finish(self) -> Result<Generated, ModelError> {
        match self.state {
            State::Ended(Err(error)) => Err(error),
            State::Ended(Ok(())) | State::Prompt | State::Reply => Ok(self.done),
        }
    }

    /// Whether it may go on; ends it otherwise.
    pub(crate) fn may_go_on(&mut self) -> bool {
        if !self.ended()
            && let Err(error) = self.control.check()
        {
            self.state = State::Ended(Err(error));
        }
        !self.ended()
    }

    /// Whether part of the prompt is unread.
    pub(crate) fn reads_prompt(&self) -> bool {
        matches!(self.state, State::Prompt)
    }

    /// The prompt's tokens and what holds their keys and values.
    pub(crate) fn prompt(&self) -> (&[u32], &KvCache) {
        (&self.tokens[..self.prompt_tokens], &self.cache)
    }

    /// What the next pass reads, as planned.
    pub(crate) fn part(&mut self, logits: Logits) -> Part<'_> {
        Part { tokens: &self.feed, cache: &mut self.cache, logits }
    }

    /// Puts together what the next pass reads; at most `most` tokens of a prompt.
    pub(crate) fn plan(&mut self, most: usize) -> Logits {
        let unread = &self.tokens[self.cache.len()..];
        self.feed.clear();
        if self.reads_prompt() {
            let count = unread.len().min(most);
            self.feed.extend(&unread[..count]);
            return if count == unread.len() { Logits::Last } else { Logits::None };
        }
        self.feed.extend(unread);
        if let Some(lookup) = &self.lookup {
            self.feed.extend(lookup.draft());
        }
        Logits::All
    }

    /// Takes the logits after the tokens of `feed` that asked for them.
    pub(crate) fn take(&mut self, rows: &[&[f32]], bpe: &Bpe, stop: &[u32]) {
        if self.reads_prompt() {
            self.done.prefill_s = self.watch.elapsed().as_secs_f64();
            self.watch = Stopwatch::start();
        }
        self.state = State::Reply;
        let draft = self.lookup.as_ref().map_or(&[][..], Lookup::draft).to_vec();
        let first = self.tokens.len();
        let mut accepted = 0;
        for row in rows {
            let chosen = self.sampler.sample(row).filter(|c| !stop.contains(&c.token));
            let Some(chosen) = chosen else {
                self.state = State::Ended(Ok(()));
                break;
            };
            self.tokens.push(chosen.token);
            self.done.logprobs.push(chosen.logprob);
            self.done.new_tokens += 1;
            let text = bpe.text(&mut self.text, chosen.token);
            self.fresh.push_str(&text);
            self.done.text.push_str(&text);
            let held = draft.get(accepted) == Some(&chosen.token);
            accepted += usize::from(held);
            if self.tokens.len() == self.room {
                self.state = State::Ended(Ok(()));
            }
            if self.ended() || !held {
                break;
            }
        }
        self.done.accepted += accepted;
        self.done.decode_s = self.watch.elapsed().as_secs_f64();
        // The last token is chosen and not yet read; drafts that did not hold are forgotten.
        self.cache.truncate(self.tokens.len() - 1);
        let most = self.room - self.tokens.len();
        if let Some(lookup) = &mut self.lookup {
            lookup.follow(&self.tokens[first..], accepted, most.saturating_sub(1));
        }
    }
}
