//! `eval classify`: are messages put into the right class?

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::app::App;
use crate::cli::output::{self, Bar};
use crate::eval::classify::{self, ClassifyInput, Task};

#[derive(Args)]
#[command(after_help = "Examples:
  huida eval classify --task handoff --queries eval/sets/handoff/messages.jsonl --json
  huida eval classify --task intent --labels train.jsonl --queries test.jsonl --json
  huida eval classify --task emotion --labels talks.jsonl --queries more_talks.jsonl --json

Lines: {\"text\": \"…\", \"label\": \"…\"}; with --task emotion {\"text\", \"sentiment\", \"dialog\", \"speaker\"},
where the turns of a dialogue stand one after the other. An intent labelled \"oos\" lies outside of all.")]
pub(in crate::cli) struct ClassifyArgs {
    /// What the classes are.
    #[arg(long)]
    task: TaskName,
    /// Labels to fit on; without them what ships is tried.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    labels: Vec<PathBuf>,
    /// Labelled messages to ask about.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    queries: Vec<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TaskName {
    /// Does a message ask for a person, complain, threaten, hurry?
    Handoff,
    /// The mood of a turn in its dialogue.
    Emotion,
    /// What a message is about.
    Intent,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Handoff => Self::Handoff,
            TaskName::Emotion => Self::Emotion,
            TaskName::Intent => Self::Intent,
        }
    }
}

pub(super) fn run(app: &App, args: &ClassifyArgs) -> Result<()> {
    let mut bar = Bar::new();
    let input = ClassifyInput {
        task: args.task.into(),
        labels: args.labels.clone(),
        queries: args.queries.clone(),
    };
    // What ships are rules: they need no model.
    let embedder = if input.labels.is_empty() { None } else { Some(app.open_embedder()?) };
    let report = classify::run(&input, embedder.as_deref(), &mut |p| bar.fit(p))?;
    bar.done();
    output::report(&report, args.json)
}
