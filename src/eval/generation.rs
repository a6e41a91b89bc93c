//! `bench generate`: what a generator says and how fast, on the given prompts.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::text::is_han;
use crate::domain::texts::{Lang, connectives};
use crate::engine::generate::GenerateWorker;
use crate::eval::{EvalError, percentile};
use crate::model::{
    Constraint, Control, Done, GenerateRequest, Generated, Generator, Sampling, Task,
};
use crate::understand::clauses::units;

/// A whole prompt, and what a reply to it may be copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub evidence: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GenerateReport {
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    pub prefill_tok_s: f64,
    pub decode_tok_s: f64,
    /// New tokens by the time they took, drafts accepted from the prompt included.
    pub effective_tok_s: f64,
    /// Share of the new tokens that were drafted from the prompt.
    pub accepted_share: f64,
    /// Prompts whose reply is the same, token for token, with drafts and without.
    pub same_with_drafts: usize,
    /// Median over the prompts.
    pub first_token_ms: f64,
    /// The same for a prompt whose beginning was read before.
    pub first_token_again_ms: f64,
    #[serde(flatten)]
    pub copied: Option<CopyReport>,
}

/// Replies that consist of their evidence's clauses and reviewed phrases.
#[derive(Clone, Debug, Serialize)]
pub struct CopyReport {
    pub copied: usize,
    pub copied_tokens: usize,
    /// Median from asking to the whole reply, for a prompt whose beginning was read before.
    pub copied_ms: f64,
    /// Share of the new tokens about which there was no choice.
    pub forced_share: f64,
    /// Replies that are the same when certain tokens are read one at a time.
    pub same_when_copied: usize,
    /// Finding out what is allowed, per token.
    pub mask_us: f64,
    pub slowest_mask_us: f64,
}

/// Each prompt greedily, without drafts and with them, and once more for the time to the first
/// token when the same beginning was read before; those with evidence also copied from it.
pub fn generate(
    prompts: &[Prompt],
    model: &mut impl Generator,
    tokens: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<GenerateReport, EvalError> {
    if prompts.is_empty() {
        return Err(EvalError::Input("no prompts: nothing to measure".into()));
    }
    let (mut plain, mut drafted) = (Speed::default(), Speed::default());
    let (mut alone, mut copied) = (Speed::default(), Speed::default());
    let (mut first, mut again, mut same) = (Vec::new(), Vec::new(), 0);
    let (mut copied_ms, mut same_when_copied) = (Vec::new(), 0);
    for (at, prompt) in prompts.iter().enumerate() {
        progress(at, prompts.len());
        let mut run = |lookup: bool, constraint: Option<&Constraint>| {
            let request = request(prompt, tokens, lookup, constraint.cloned());
            match model.run(&Task::Generate(request), &Control::default(), &mut |_| ())? {
                Done::Generated(generated) => Ok(generated),
                Done::Composed(_) => {
                    Err(EvalError::Input("the model gave another kind of reply".into()))
                }
            }
        };
        let (cold, warm) = (run(false, None)?, run(true, None)?);
        first.push(cold.prefill_s * 1e3);
        again.push(warm.prefill_s * 1e3);
        same += usize::from(said(&cold) == said(&warm));
        plain.add(&cold);
        drafted.add(&warm);
        if let Some(evidence) = &prompt.evidence {
            let constraint = copy_of(evidence);
            let (slow, fast) = (run(false, Some(&constraint))?, run(true, Some(&constraint))?);
            same_when_copied += usize::from(said(&slow) == said(&fast));
            copied_ms.push((fast.prefill_s + fast.decode_s) * 1e3);
            alone.add(&slow);
            copied.add(&fast);
        }
    }
    progress(prompts.len(), prompts.len());
    Ok(GenerateReport {
        prompts: prompts.len(),
        prompt_tokens: plain.read,
        new_tokens: plain.new,
        prefill_tok_s: rate(plain.read, plain.prefill_s),
        decode_tok_s: rate(plain.decoded, plain.decode_s),
        effective_tok_s: rate(drafted.decoded, drafted.decode_s),
        accepted_share: drafted.accepted as f64 / drafted.new.max(1) as f64,
        same_with_drafts: same,
        first_token_ms: percentile(&first, 0.5),
        first_token_again_ms: percentile(&again, 0.5),
        copied: (copied.replies > 0).then(|| CopyReport {
            copied: copied.replies,
            copied_tokens: copied.new,
            copied_ms: percentile(&copied_ms, 0.5),
            forced_share: copied.forced as f64 / copied.new.max(1) as f64,
            same_when_copied,
            mask_us: (alone.mask_s + copied.mask_s) * 1e6 / (alone.new + copied.new).max(1) as f64,
            slowest_mask_us: alone.slowest_mask_s.max(copied.slowest_mask_s) * 1e6,
        }),
    })
}

#[derive(Clone, Debug, Serialize)]
pub struct TogetherReport {
    pub prompts: usize,
    /// Replies under way at a time.
    pub concurrency: usize,
    pub new_tokens: usize,
    pub new_tok_s: f64,
    /// From asking to the whole reply.
    pub ms_p50: f64,
    pub ms_p95: f64,
}

/// All prompts, `concurrency` of them at a time, through the thread that serves customers.
pub fn together(
    prompts: &[Prompt],
    worker: &GenerateWorker,
    tokens: usize,
    concurrency: usize,
) -> Result<TogetherReport, EvalError> {
    if prompts.is_empty() || concurrency == 0 {
        let reason = "no prompts or nobody to ask them: nothing to measure";
        return Err(EvalError::Input(reason.into()));
    }
    // The first reply waits for the weights; that is nobody's latency.
    worker.generate(request(&prompts[0], 1, true, None), &Control::default())?;
    let next = AtomicUsize::new(0);
    let ask = || -> Result<Vec<(usize, f64)>, EvalError> {
        let mut replies = Vec::new();
        while let Some(prompt) = prompts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let watch = Stopwatch::start();
            let done = worker.generate(request(prompt, tokens, true, None), &Control::default())?;
            replies.push((done.new_tokens, watch.ms()));
        }
        Ok(replies)
    };
    let watch = Stopwatch::start();
    let replies = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..concurrency).map(|_| scope.spawn(ask)).collect();
        let died = |_| EvalError::Input("a thread that asked has panicked: run it again".into());
        askers.into_iter().map(|asker| asker.join().map_err(died)?).collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    let seconds = watch.elapsed().as_secs_f64();
    let times: Vec<f64> = replies.iter().map(|(_, ms)| *ms).collect();
    let new_tokens = replies.iter().map(|(n, _)| n).sum();
    Ok(TogetherReport {
        prompts: prompts.len(),
        concurrency,
        new_tokens,
        new_tok_s: rate(new_tokens, seconds),
        ms_p50: percentile(&times, 0.5),
        ms_p95: percentile(&times, 0.95),
    })
}

fn request(
    prompt: &Prompt,
    max_tokens: usize,
    lookup: bool,
    constraint: Option<Constraint>,
) -> GenerateRequest {
    let prompt = prompt.text.clone();
    GenerateRequest { prompt, max_tokens, sampling: Sampling::Greedy, lookup, constraint }
}

/// Clauses of `evidence`, as replies are composed of them, and the reviewed phrases.
fn copy_of(evidence: &str) -> Constraint {
    let lang = if evidence.chars().any(is_han) { Lang::Zh } else { Lang::En };
    Constraint::Copy {
        units: units(evidence).into_iter().map(|unit| unit.text).collect(),
        phrases: connectives(lang).iter().map(|phrase| (*phrase).to_owned()).collect(),
    }
}

/// What was said and how sure of it the model was.
fn said(reply: &Generated) -> (&str, &[f32]) {
    (&reply.text, &reply.logprobs)
}

/// Sums over replies.
#[derive(Default)]
struct Speed {
    replies: usize,
    /// Prompt tokens that were not known from an earlier prompt.
    read: usize,
    new: usize,
    /// New tokens without each reply's first, which comes out of the prefill.
    decoded: usize,
    accepted: usize,
    forced: usize,
    prefill_s: f64,
    decode_s: f64,
    mask_s: f64,
    slowest_mask_s: f64,
}

impl Speed {
    fn add(&mut self, done: &Generated) {
        self.replies += 1;
        self.read += done.prompt_tokens - done.reused_tokens;
        self.new += done.new_tokens;
        self.decoded += done.new_tokens.saturating_sub(1);
        self.accepted += done.accepted;
        self.forced += done.forced;
        self.prefill_s += done.prefill_s;
        self.decode_s += done.decode_s;
        self.mask_s += done.mask_s;
        self.slowest_mask_s = self.slowest_mask_s.max(done.slowest_mask_s);
    }
}

pub(super) fn rate(n: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}
