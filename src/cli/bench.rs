//! `bench`: speed on this machine, in the keys that scripts know.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use super::eval::arithmetic;
use super::output::{self, Bar};
use crate::app::App;
use crate::base::clock::Stopwatch;
use crate::engine::generate::GenerateWorker;
use crate::eval::bench::{self, SearchBench};
use crate::eval::generation::{self, Prompt};
use crate::eval::serving::{self, ServeBench};
use crate::model::ModelError;

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida bench embed --texts questions.jsonl --json
  huida bench generate --prompts prompts.jsonl --tokens 64
  huida bench perplexity --text eval/sets/service_text.txt --float
  huida bench search --vectors 100000 --dim 384
  huida bench serve --url http://127.0.0.1:8788 --texts questions.jsonl --visitors 4")]
pub(super) enum BenchCommand {
    /// Questions to vectors: one at a time, then batched.
    Embed {
        /// Lines of {"text": …}.
        #[arg(long)]
        texts: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Tokens per second of a generator.
    Generate {
        /// Lines of {"text": …}: the whole prompt, special tokens honoured. Where a line has
        /// {"evidence": …} as well, a reply is also copied from its clauses.
        #[arg(long)]
        prompts: PathBuf,
        /// A name from `models list`; without it the configured generator.
        #[arg(long)]
        model: Option<String>,
        /// Most new tokens per prompt.
        #[arg(long, default_value_t = 64)]
        tokens: usize,
        /// Ask for so many replies at a time, as customers do, and tell the throughput.
        #[arg(long, value_name = "N")]
        concurrency: Option<usize>,
        #[arg(long)]
        json: bool,
    },
    /// How surprised a generator is by a text: what its integer arithmetic costs.
    Perplexity {
        /// Plain UTF-8.
        #[arg(long)]
        text: PathBuf,
        /// A name from `models list`; without it the configured generator.
        #[arg(long)]
        model: Option<String>,
        /// Run the weights as floats, for comparison; takes four bytes a weight in memory.
        #[arg(long)]
        float: bool,
        #[arg(long)]
        json: bool,
    },
    /// Nearest neighbours among made-up vectors.
    Search {
        #[arg(long)]
        vectors: usize,
        #[arg(long, default_value_t = 384)]
        dim: usize,
        /// Scan all of them, also where a graph would serve.
        #[arg(long)]
        exact: bool,
        /// Write the vectors and the queries here, as little-endian f32.
        #[arg(long, value_name = "FILE")]
        dump: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Questions to a running service on this machine, each from a new visitor.
    Serve {
        /// Where it listens.
        #[arg(long, default_value = "http://127.0.0.1:8788")]
        url: String,
        /// Lines of {"text": …}.
        #[arg(long)]
        texts: PathBuf,
        /// So many wait for their reply at the same time.
        #[arg(long, default_value_t = 1)]
        visitors: usize,
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(app: &App, command: &BenchCommand) -> Result<()> {
    let mut bar = Bar::new();
    match command {
        BenchCommand::Embed { texts, json } => {
            let texts = read_texts(texts)?;
            let embedder = app.open_embedder()?;
            let mut progress =
                |done: usize, total: usize| bar.show("embedding", done as u64, total as u64, false);
            let report = bench::embed(&texts, &embedder, &mut progress)?;
            bar.done();
            output::report(&report, *json)
        }
        BenchCommand::Generate { prompts, model, tokens, concurrency, json } => {
            let prompts = read_prompts(prompts)?;
            let name = generator(app, model.as_deref())?;
            if let Some(concurrency) = *concurrency {
                let (generator, open_ms) = timed(|| app.models.open_generator(name))?;
                let worker = GenerateWorker::start(move || Ok(generator))?;
                let report = generation::together(&prompts, &worker, *tokens, concurrency)?;
                return output::report(&Opened { open_ms, report }, *json);
            }
            let (mut generator, open_ms) = timed(|| app.models.open_generator(name))?;
            let mut progress = |done: usize, total: usize| {
                bar.show("generating", done as u64, total as u64, false);
            };
            let report = generation::generate(&prompts, &mut generator, *tokens, &mut progress)?;
            bar.done();
            output::report(&Opened { open_ms, report }, *json)
        }
        BenchCommand::Perplexity { text, model, float, json } => {
            let text = fs::read_to_string(text).with_context(|| text.display().to_string())?;
            let (name, arithmetic) = (generator(app, model.as_deref())?, arithmetic(*float));
            let mut surprise = app.models.open_surprise(name, arithmetic)?;
            let mut progress =
                |done: usize, total: usize| bar.show("reading", done as u64, total as u64, false);
            let report = bench::perplexity(name, &text, &mut surprise, arithmetic, &mut progress)?;
            bar.done();
            output::report(&report, *json)
        }
        BenchCommand::Search { vectors, dim, exact, dump, json } => {
            let (vectors, dim, exact, dump) = (*vectors, *dim, *exact, dump.clone());
            output::report(&bench::search(&SearchBench { vectors, dim, exact, dump })?, *json)
        }
        BenchCommand::Serve { url, texts, visitors, json } => {
            let texts = read_texts(texts)?;
            let token = &app.config.server.operator_token;
            let bench = ServeBench { url, texts: &texts, visitors: *visitors, token };
            let bar = Mutex::new(&mut bar);
            let progress = |done: usize, total: usize| {
                let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
                bar.show("asking", done as u64, total as u64, false);
            };
            let report = serving::serve(&bench, &progress)?;
            bar.into_inner().unwrap_or_else(PoisonError::into_inner).done();
            output::report(&report, *json)
        }
    }
}

/// Figures of a model, and what it took before the first of them.
#[derive(Serialize)]
struct Opened<R> {
    /// Until weights and tokenizer were checked and ready, with the packed form where it had to be
    /// written first.
    open_ms: f64,
    #[serde(flatten)]
    report: R,
}

/// What `open` gives, and the milliseconds it took.
fn timed<T>(open: impl FnOnce() -> Result<T, ModelError>) -> Result<(T, f64), ModelError> {
    let watch = Stopwatch::start();
    let opened = open()?;
    Ok((opened, watch.ms()))
}

/// The named generator, or the configured one.
fn generator<'a>(app: &'a App, named: Option<&'a str>) -> Result<&'a str> {
    let name = named.unwrap_or(&app.config.models.generator);
    if name.is_empty() {
        bail!("no generator is configured: name one with --model");
    }
    Ok(name)
}

/// `text` of each line; `q` and `question` are taken as well, as question lists name it so.
fn read_texts(file: &Path) -> Result<Vec<String>> {
    read_lines(file, |object| {
        let text = ["text", "q", "question"].iter().find_map(|key| object.get(*key)?.as_str());
        text.map(str::to_owned)
    })
}

fn read_prompts(file: &Path) -> Result<Vec<Prompt>> {
    let field = |object: &Value, key: &str| Some(object.get(key)?.as_str()?.to_owned());
    read_lines(file, |object| {
        Some(Prompt { text: field(object, "text")?, evidence: field(object, "evidence") })
    })
}

fn read_lines<T>(file: &Path, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    let content = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut items = Vec::new();
    for (line, number) in content.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{}:{number}", file.display());
        let object: Value = serde_json::from_str(line).with_context(place)?;
        let Some(item) = read(&object) else { bail!("{}: text: is missing", place()) };
        items.push(item);
    }
    Ok(items)
}
