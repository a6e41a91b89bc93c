//! `bench`: speed on this machine, in the keys that scripts know.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::eval::arithmetic;
use super::output::{self, Bar};
use crate::app::App;
use crate::eval::bench::{self, SearchBench};

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida bench embed --texts questions.jsonl --json
  huida bench generate --prompts prompts.jsonl --tokens 64
  huida bench perplexity --text eval/sets/service_text.txt --float
  huida bench search --vectors 100000 --dim 384")]
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
        /// Lines of {"text": …}: the whole prompt, special tokens honoured.
        #[arg(long)]
        prompts: PathBuf,
        /// A name from `models list`; without it the configured generator.
        #[arg(long)]
        model: Option<String>,
        /// Most new tokens per prompt.
        #[arg(long, default_value_t = 64)]
        tokens: usize,
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
        BenchCommand::Generate { prompts, model, tokens, json } => {
            let prompts = read_texts(prompts)?;
            let mut generator = app.models.open_generator(generator(app, model.as_deref())?)?;
            let mut progress = |done: usize, total: usize| {
                bar.show("generating", done as u64, total as u64, false);
            };
            let report = bench::generate(&prompts, generator.as_mut(), *tokens, &mut progress)?;
            bar.done();
            output::report(&report, *json)
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
    }
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
    let content = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut texts = Vec::new();
    for (line, number) in content.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{}:{number}", file.display());
        let object: serde_json::Value = serde_json::from_str(line).with_context(place)?;
        let text = ["text", "q", "question"].iter().find_map(|key| object.get(*key)?.as_str());
        let Some(text) = text else { bail!("{}: text: is missing", place()) };
        texts.push(text.to_owned());
    }
    Ok(texts)
}
