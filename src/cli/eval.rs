//! `eval`: figures on labelled sets, in the keys that scripts know.

mod classify;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::output::{self, Bar};
use crate::app::App;
use crate::base::file::write_atomic;
use crate::eval::gate::{self, GateInput};
use crate::eval::retrieval::{self, RetrievalInput};
use crate::gate::threshold::Promise;
use crate::model::Arithmetic;

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida eval retrieval --kb eval/sets/demo/kb.jsonl --queries eval/sets/demo/test.jsonl --json
  huida eval gate --kb eval/sets/demo/kb.jsonl --labels eval/sets/demo/train.jsonl \\
        --calibrate eval/sets/demo/calibrate.jsonl --queries eval/sets/demo/test.jsonl --json")]
pub(super) enum EvalCommand {
    /// Does the right entry come first?
    Retrieval {
        /// Entries (.jsonl, .csv).
        #[arg(long)]
        kb: PathBuf,
        /// Labelled messages; unanswerable ones are left out.
        #[arg(long, required = true, num_args = 1..)]
        queries: Vec<PathBuf>,
        /// Labels for the trained head; without them, before any training.
        #[arg(long, num_args = 1..)]
        labels: Vec<PathBuf>,
        /// Run the embedder's weights as floats, to see what its integer arithmetic costs.
        #[arg(long)]
        float: bool,
        #[arg(long)]
        json: bool,
    },
    /// What goes out by itself, how often rightly, at which coverage?
    Gate {
        #[arg(long)]
        kb: PathBuf,
        /// Labels to fit on; without them, cold start.
        #[arg(long, num_args = 1..)]
        labels: Vec<PathBuf>,
        /// Labels for the threshold alone.
        #[arg(long, num_args = 1..)]
        calibrate: Vec<PathBuf>,
        #[arg(long, required = true, num_args = 1..)]
        queries: Vec<PathBuf>,
        /// Messages that no entry answers.
        #[arg(long, num_args = 1..)]
        oos: Vec<PathBuf>,
        #[arg(long, default_value_t = 0.03)]
        alpha: f64,
        #[arg(long, default_value_t = 0.95)]
        confidence: f64,
        /// Write every message with its confidence and best evidence, one JSON object a line.
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Are messages put into the right class?
    Classify(classify::ClassifyArgs),
}

pub(super) fn run(app: &App, command: &EvalCommand) -> Result<()> {
    let mut bar = Bar::new();
    match command {
        EvalCommand::Retrieval { kb, queries, labels, float, json } => {
            let embedder = app.open_embedder_for(arithmetic(*float))?;
            let input =
                RetrievalInput { kb: kb.clone(), queries: queries.clone(), labels: labels.clone() };
            let report = retrieval::run(&input, &embedder, &mut |p| bar.fit(p))?;
            bar.done();
            output::report(&report, *json)
        }
        EvalCommand::Gate {
            kb,
            labels,
            calibrate,
            queries,
            oos,
            alpha,
            confidence,
            rows,
            json,
        } => {
            let input = GateInput {
                kb: kb.clone(),
                labels: labels.clone(),
                calibrate: calibrate.clone(),
                queries: queries.clone(),
                oos: oos.clone(),
                promise: Promise { alpha: *alpha, confidence: *confidence },
            };
            let embedder = app.open_embedder()?;
            let (report, judged) = gate::run(&input, &embedder, &mut |p| bar.fit(p))?;
            bar.done();
            if let Some(file) = rows {
                let lines: Vec<String> =
                    judged.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
                write_atomic(file, lines.join("\n").as_bytes())?;
            }
            output::report(&report, *json)
        }
        EvalCommand::Classify(args) => classify::run(app, args),
    }
}

pub(super) fn arithmetic(float: bool) -> Arithmetic {
    if float { Arithmetic::Floats } else { Arithmetic::AsStored }
}
