//! Floor 2: the models. Weights, tokenizers, forward passes; blocking, no tokio, no SQL, no HTTP server.
//!
//! Two traits are what the rest of the service sees: [`Embedder`] turns texts into unit vectors,
//! [`Generator`] continues a prompt or composes a reply out of given clauses.

pub mod arch;
pub mod bpe;
pub mod bundle;
pub mod chat_template;
mod compose;
#[cfg(test)]
mod compose_cases;
mod composition;
pub mod constraint;
pub mod convert;
mod decoding;
pub mod dir;
pub mod encoder;
pub mod generator;
pub mod gguf;
mod hub_tokenizer;
pub mod import;
mod judging;
mod kernels;
mod kv;
mod lookup;
pub mod manifest;
pub mod packed;
pub mod perplexity;
mod prefix;
pub mod pull;
pub mod remote;
pub mod sampler;
pub mod suffix;
#[cfg(test)]
mod tiny;
pub mod tokenizer;
pub mod trial;

pub use constraint::Constraint;
pub(crate) use kernels::step_back;
pub use kernels::{UnknownKernels, kernels_in_use};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::clock::Deadline;

/// Which weights a model runs on, so that vectors and calibrations of other weights are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Name in `models/manifest.toml`.
    pub name: String,
    /// SHA-256 of the weights file, hex; of a remote model, of what names it.
    pub sha256: String,
}

/// In what a model's matrices are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// As the file gives them: quantised ones in integers, floats in floats.
    #[default]
    AsStored,
    /// Widened to floats, for comparison: slower, and several times the memory.
    Floats,
}

/// Grouped by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Pull or import the model, then try again.
    #[error("model {name} is not installed: run `huida models pull {name}`")]
    Missing { name: String },
    /// The file is not what the manifest says; pull it again.
    #[error("{path}: {reason}")]
    Corrupt { path: String, reason: String },
    /// The request cannot be served as it is (too long, bad template input).
    #[error("{0}")]
    BadRequest(String),
    /// The caller's deadline passed.
    #[error("the deadline passed before the model was done")]
    DeadlinePassed,
    /// The caller went away.
    #[error("cancelled")]
    Cancelled,
    /// A fault of the engine itself.
    #[error("inference failed: {0}")]
    Inference(String),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A remote model does not answer; mend the connection or the service.
    #[error("{url} cannot be used ({reason}): check base_url, the network and the service")]
    Unreachable { url: String, reason: String },
    /// A remote model does not take the key.
    #[error("{url} refuses the key (HTTP {status}): correct the variable that api_key_env names")]
    Refused { url: String, status: u16 },
    /// A remote model asks for fewer requests; come back later.
    #[error("{url} is overloaded or limits the rate (HTTP {status}): ask less often or buy more")]
    Overloaded { url: String, status: u16 },
    /// A remote model answered, but not what was asked for.
    #[error("{url} gave an answer that cannot be used ({reason}): check base_url and model")]
    Malformed { url: String, reason: String },
}

impl ModelError {
    /// `what` came out infinite or as no number at all.
    fn not_finite(what: &str) -> Self {
        Self::Inference(format!("{what} is not finite: the weights are damaged or overflow"))
    }

    /// The same for another caller whose work failed with it.
    pub fn again(&self) -> Self {
        match self {
            Self::DeadlinePassed => Self::DeadlinePassed,
            Self::Cancelled => Self::Cancelled,
            Self::Overloaded { url, status } => {
                Self::Overloaded { url: url.clone(), status: *status }
            }
            Self::Missing { .. }
            | Self::Corrupt { .. }
            | Self::BadRequest(_)
            | Self::Inference(_)
            | Self::Io { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. } => Self::Inference(self.to_string()),
        }
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Inference(error.to_string())
    }
}

/// When to stop early; checked between tokens and between passes of long prompts.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub deadline: Option<Deadline>,
    cancelled: Arc<AtomicBool>,
}

impl Control {
    pub fn with_deadline(deadline: Deadline) -> Self {
        Self { deadline: Some(deadline), cancelled: Arc::default() }
    }

    /// The same with another deadline: cancelled together with it.
    pub fn until(&self, deadline: Deadline) -> Self {
        Self { deadline: Some(deadline), cancelled: Arc::clone(&self.cancelled) }
    }

    /// Ends the work of every clone of this control.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn check(&self) -> Result<(), ModelError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ModelError::Cancelled);
        }
        if self.deadline.is_some_and(|d| d.passed()) {
            return Err(ModelError::DeadlinePassed);
        }
        Ok(())
    }
}

/// Tokens that are embedded together: enough to fill the matrix kernels, few enough that activations
/// stay near the caches, that a cancelled caller is noticed soon, and that a lone message behind a
/// full batch waits well under a second.
pub const BATCH_TOKENS: usize = 2_048;

/// Texts to unit vectors.
pub trait Embedder: Send + Sync {
    fn identity(&self) -> &ModelIdentity;
    /// Width of a vector.
    fn dim(&self) -> usize;
    /// The text as the model reads it: the model's own prefix (`query: `) and specials included,
    /// cut at the window.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError>;
    /// One L2-normalised vector of [`Embedder::dim`] floats per sequence of [`Embedder::tokens`], in
    /// order.
    fn embed(&self, sequences: &[Vec<u32>], control: &Control)
    -> Result<Vec<Vec<f32>>, ModelError>;
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    Greedy,
    /// Nucleus sampling; `seed` makes it repeatable.
    TopP {
        temperature: f32,
        top_p: f32,
        seed: u64,
    },
}

/// A message of a chat prompt; `role` is `system`, `user` or `assistant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: &'static str,
    pub content: String,
}

#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The whole prompt; special tokens (`<|im_start|>`) are honoured.
    pub prompt: String,
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Draft from the prompt what may come next, and read in one pass what `constraint` leaves no
    /// choice about; changes the speed and nothing else.
    pub lookup: bool,
    /// `None`: anything may be said.
    pub constraint: Option<Constraint>,
}

/// What a generation cost and gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub text: String,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// Seconds of the prompt's forward pass.
    pub prefill_s: f64,
    /// Seconds from the first new token to the last.
    pub decode_s: f64,
    /// Prompt tokens that an earlier prompt had read already.
    pub reused_tokens: usize,
    /// New tokens that were drafted from the prompt.
    pub accepted: usize,
    /// New tokens about which the constraint left no choice.
    pub forced: usize,
    /// Log-probability under the model itself, over all tokens, of each new token that was chosen;
    /// forced ones are read without asking how likely they were.
    pub logprobs: Vec<f32>,
    /// The same among the tokens that the constraint allowed; empty without one.
    pub allowed_logprobs: Vec<f32>,
    /// Seconds of finding out what the constraint allows, over all tokens, and the longest of them.
    pub mask_s: f64,
    pub slowest_mask_s: f64,
}

impl Generated {
    /// Mean log-probability of the chosen tokens; 0 without any.
    pub fn mean_logprob(&self) -> f32 {
        self.logprobs.iter().sum::<f32>() / self.logprobs.len().max(1) as f32
    }
}

/// Evidence cut into units that stand or fall together: a clause with its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeSource {
    pub written: Written,
    pub units: Vec<String>,
}

/// Whom a piece of evidence was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Who asks one question: its approved answer, most of which belongs into any reply.
    ToAnswer,
    /// Whoever reads on: a passage of a document, which speaks of many things.
    AtLarge,
}

#[derive(Clone, Debug)]
pub struct ComposeRequest {
    /// The customer's question, standing alone.
    pub question: String,
    pub sources: Vec<ComposeSource>,
    /// Longest reply, characters.
    pub max_chars: usize,
}

/// Which unit of which source, in the order in which the reply says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chosen {
    pub source: usize,
    pub unit: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composed {
    pub chosen: Vec<Chosen>,
    pub prompt_tokens: usize,
    /// Mean log-probability of the choices that were made, among those that were allowed.
    pub mean_logprob: f32,
}

/// What generators are told before any customer's words: nothing of it may come out again.
pub fn instructions() -> [&'static str; 4] {
    let [zh, en] = compose::tasks();
    let [remote_zh, remote_en] = remote::RULES;
    [zh, en, remote_zh, remote_en]
}

/// What a generator is asked for.
#[derive(Clone, Debug)]
pub enum Task {
    Generate(GenerateRequest),
    /// Choose and order given units: nothing else can come out.
    Compose(ComposeRequest),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    Generated(Generated),
    Composed(Composed),
}

/// A task under way.
pub trait Work {
    fn ended(&self) -> bool;
    /// Text that came since the last call, whole characters only.
    fn fresh_text(&mut self) -> String;
    /// What came of it; a task that has not ended is cancelled.
    fn finish(self) -> Result<Done, ModelError>;
}

/// A language model that continues text. It advances any number of tasks together, a pass at a time,
/// and each comes out as it would alone.
pub trait Generator {
    type Work: Work;

    fn identity(&self) -> &ModelIdentity;

    /// Renders the model's own chat template, ending where the assistant speaks.
    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError>;

    fn begin(&mut self, task: &Task, control: &Control) -> Result<Self::Work, ModelError>;

    /// One pass over all work that has not ended; what was cancelled or is late ends before it.
    ///
    /// # Errors
    /// Only faults of the engine; what concerns one task ends that task.
    fn step(&mut self, work: &mut [Self::Work]) -> Result<(), ModelError>;

    /// One task from its beginning to its end; `on_text` sees each piece of text as it comes.
    fn run(
        &mut self,
        task: &Task,
        control: &Control,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Done, ModelError> {
        let mut work = [self.begin(task, control)?];
        loop {
            let text = work[0].fresh_text();
            if !text.is_empty() {
                on_text(&text);
            }
            if work[0].ended() {
                break;
            }
            self.step(&mut work)?;
        }
        let [work] = work;
        work.finish()
    }
}
