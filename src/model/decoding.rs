//! One reply on its way: what its next pass reads, and what the logits of that pass make of it.

use crate::base::clock::Stopwatch;
use crate::model::arch::qwen::{Logits, Part};
use crate::model::bpe::{Bpe, TextStream};
use crate::model::constraint::{Mask, Next};
use crate::model::judging::Room;
use crate::model::kv::KvCache;
use crate::model::lookup::Lookup;
use crate::model::sampler::Sampler;
use crate::model::{Control, GenerateRequest, Generated, ModelError};

/// One reply on its way.
pub(crate) struct Decoding {
    /// Prompt and reply; the cache holds the keys of the first of them.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Longest prompt and reply together.
    room: usize,
    cache: KvCache,
    /// What the next pass reads.
    feed: Vec<u32>,
    asked: Logits,
    lookup: Option<Lookup>,
    mask: Option<Mask>,
    /// Whether several tokens that are certain are read in one pass.
    ahead: bool,
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
    /// tokens with the prompt. `mask` is the request's constraint.
    pub(crate) fn new(
        request: &GenerateRequest,
        prompt: Vec<u32>,
        room: usize,
        cache: KvCache,
        mask: Option<Mask>,
        control: &Control,
    ) -> Self {
        let (prompt_tokens, reused_tokens) = (prompt.len(), cache.len());
        // Where a constraint leaves a choice the prompt is no guide to it.
        let drafts = request.lookup && mask.is_none();
        Self {
            lookup: drafts.then(|| Lookup::new(&prompt)),
            mask,
            ahead: request.lookup,
            tokens: prompt,
            prompt_tokens,
            room,
            cache,
            feed: Vec::new(),
            asked: Logits::None,
            sampler: Sampler::new(request.sampling),
            text: TextStream::default(),
            fresh: String::new(),
            control: control.clone(),
            watch: Stopwatch::start(),
            done: Generated { prompt_tokens, reused_tokens, ..Generated::default() },
            state: if room == prompt_tokens { State::Ended(Ok(())) } else { State::Prompt },
        }
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Text that came since the last call, whole characters only.
    pub(crate) fn fresh_text(&mut self) -> String {
        std::mem::take(&mut self.fresh)
    }

    /// What came of it; cancelled when it has not ended.
    pub(crate) fn finish(self) -> Result<Generated, ModelError> {
        match self.state {
            State::Ended(ended) => ended.map(|()| self.done),
            State::Prompt | State::Reply => Err(ModelError::Cancelled),
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

    /// What the next pass reads, as planned; nothing when it had no room.
    pub(crate) fn part(&mut self) -> Option<Part<'_>> {
        let planned = !self.feed.is_empty();
        // Where a constraint decides what is allowed, it need not be what the model likes best.
        let rough = self.mask.is_none() && self.sampler.takes_the_best();
        let Self { feed: tokens, cache, asked: logits, .. } = self;
        planned.then_some(Part { tokens, cache, logits: *logits, rough })
    }

    /// Puts together what the next pass reads; of a prompt as much as there is room for.
    pub(crate) fn plan(&mut self, room: &mut Room) {
        let unread = &self.tokens[self.cache.len()..];
        self.feed.clear();
        if self.reads_prompt() || self.mask.is_some() {
            let most = if self.reads_prompt() || self.ahead { room.tokens } else { 1 };
            let count = unread.len().min(most);
            self.feed.extend(&unread[..count]);
            self.asked = if count == unread.len() { Logits::Last } else { Logits::None };
        } else {
            self.feed.extend(unread);
            if let Some(lookup) = &self.lookup {
                self.feed.extend(lookup.draft());
            }
            self.asked = Logits::All;
        }
        room.tokens = room.tokens.saturating_sub(self.feed.len());
    }

    /// Rows of logits that the next pass gives it.
    pub(crate) fn rows(&self) -> usize {
        match self.asked {
            Logits::None => 0,
            Logits::Last => usize::from(!self.feed.is_empty()),
            Logits::All => self.feed.len(),
        }
    }

    /// Takes the logits after the tokens of `feed` that asked for them; at least one.
    pub(crate) fn take(&mut self, rows: &[&[f32]], bpe: &Bpe, stop: &[u32]) {
        if self.reads_prompt() {
            self.done.prefill_s = self.watch.elapsed().as_secs_f64();
            self.watch = Stopwatch::start();
        }
        self.state = State::Reply;
        if self.mask.is_some() {
            self.choose_among_allowed(rows, bpe, stop);
        } else {
            self.choose(rows, bpe, stop);
        }
        self.done.decode_s = self.watch.elapsed().as_secs_f64();
    }

    /// One token, and more while the draft holds.
    fn choose(&mut self, rows: &[&[f32]], bpe: &Bpe, stop: &[u32]) {
        let draft = self.lookup.as_ref().map_or(&[][..], Lookup::draft).to_vec();
        let first = self.tokens.len();
        let mut accepted = 0;
        for row in rows {
            let Some(chosen) = self.sampler.sample(row) else {
                self.state = State::Ended(Err(ModelError::not_finite("a logit")));
                break;
            };
            if stop.contains(&chosen.token) {
                self.state = State::Ended(Ok(()));
                break;
            }
            self.done.logprobs.push(chosen.logprob);
            self.say(chosen.token, bpe);
            let held = draft.get(accepted) == Some(&chosen.token);
            accepted += usize::from(held);
            if self.ended() || !held {
                break;
            }
        }
        self.done.accepted += accepted;
        // The last token is chosen and not yet read; drafts that did not hold are forgotten.
        self.cache.truncate(self.tokens.len() - 1);
        let most = self.room - self.tokens.len();
        if let Some(lookup) = &mut self.lookup {
            lookup.follow(&self.tokens[first..], accepted, most.saturating_sub(1));
        }
    }

    /// One token of those that the constraint allows, and all that are certain after it.
    fn choose_among_allowed(&mut self, rows: &[&[f32]], bpe: &Bpe, stop: &[u32]) {
        let Some((row, mask)) = rows.last().zip(self.mask.as_mut()) else { return };
        let chosen = match mask.next() {
            Next::Among(allowed) => self.sampler.sample_among(row, allowed),
            // Certain tokens were said already; see `say_what_is_certain`.
            Next::Only(_) | Next::End => {
                self.state = State::Ended(Ok(()));
                return;
            }
        };
        let Some((chosen, share)) = chosen else {
            self.state = State::Ended(Err(ModelError::not_finite("a logit")));
            return;
        };
        if stop.contains(&chosen.token) {
            self.state = State::Ended(Ok(()));
            return;
        }
        self.done.logprobs.push(chosen.logprob);
        self.done.allowed_logprobs.push(share);
        self.say(chosen.token, bpe);
        self.follow_mask(chosen.token);
        self.say_what_is_certain(bpe);
    }

    /// Says every token that the constraint leaves no choice about, which the next pass then reads
    /// together: no logits are needed to choose them.
    pub(crate) fn say_what_is_certain(&mut self, bpe: &Bpe) {
        while let Some(next) = self.mask.as_ref().map(Mask::next) {
            match next {
                Next::Only(token) => {
                    self.done.forced += 1;
                    self.say(token, bpe);
                    self.follow_mask(token);
                }
                Next::End => {
                    self.state = State::Ended(Ok(()));
                    return;
                }
                Next::Among(_) => return,
            }
        }
    }

    /// What is allowed next depends on the tokens said and on nothing that a pass computes, so it is
    /// known before the pass that reads them and decides what that pass reads. It takes some
    /// microseconds (`mask_us` of `bench generate`), less than handing it to a thread beside the
    /// pass would.
    fn follow_mask(&mut self, token: u32) {
        let Some(mask) = &mut self.mask else { return };
        let watch = Stopwatch::start();
        mask.step(token);
        let seconds = watch.elapsed().as_secs_f64();
        self.done.mask_s += seconds;
        self.done.slowest_mask_s = self.done.slowest_mask_s.max(seconds);
    }

    fn say(&mut self, token: u32, bpe: &Bpe) {
        self.tokens.push(token);
        self.done.new_tokens += 1;
        let text = bpe.text(&mut self.text, token);
        self.fresh.push_str(&text);
        self.done.text.push_str(&text);
        if self.tokens.len() == self.room {
            self.state = State::Ended(Ok(()));
        }
    }
}
