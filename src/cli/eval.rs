//! `eval`: figures on labelled sets, in the keys that scripts know.

mod attack;
mod classify;
mod compliance;
mod draft;
mod pii;
mod rewrite;
mod run;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::output::{self, Bar};
use super::train;
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
        --calibrate eval/sets/demo/calibrate.jsonl --queries eval/sets/demo/test.jsonl --json
  huida eval draft --kb eval/sets/demo/kb.jsonl --queries eval/sets/demo/test.jsonl --rows d.jsonl
  huida eval compliance --set replies.jsonl --json
  huida eval run --suite eval/suites/own.toml --html report.html")]
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
        /// Pairs of questions for an adapter, as `train --pairs` takes them.
        #[arg(long, num_args = 1..)]
        pairs: Vec<PathBuf>,
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
        /// Divide calibration messages and queries anew so many times, and tell how often the
        /// promise held.
        #[arg(long, value_name = "N", default_value_t = 0)]
        splits: usize,
        /// Fit with so many labels as well, in the order in which the service asks for them and
        /// by lot: "100,300,1000".
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        curve: Vec<usize>,
        /// Write every message with its confidence and best evidence, one JSON object a line.
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Is personal data found exactly where it stands?
    Pii(pii::PiiArgs),
    /// Are follow-up questions known, and do they stand alone after?
    Rewrite(rewrite::RewriteArgs),
    /// What replies are made of the right evidence, and what is wrong with them?
    Draft(draft::DraftArgs),
    /// What leaves when customers attack?
    Attack(attack::AttackArgs),
    /// Which outgoing texts do the rule packs stop?
    Compliance(compliance::ComplianceArgs),
    /// Are messages put into the right class?
    Classify(classify::ClassifyArgs),
    /// A suite of these commands, with the figures that they must reach.
    Run(run::RunArgs),
}

/// `config`: the file that was named, for commands that call others.
pub(super) fn run(app: &mut App, config: Option<&Path>, command: &EvalCommand) -> Result<()> {
    let mut bar = Bar::new();
    match command {
        EvalCommand::Retrieval { kb, queries, labels, pairs, float, json } => {
            let embedder = app.open_embedder_for(arithmetic(*float))?;
            let input = RetrievalInput {
                kb: kb.clone(),
                queries: queries.clone(),
                labels: labels.clone(),
                pairs: train::pairs(pairs)?.unwrap_or_default(),
                synonyms: app.synonyms()?,
            };
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
            splits,
            curve,
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
                splits: *splits,
                curve: curve.clone(),
                synonyms: app.synonyms()?,
            };
            let embedder = app.open_embedder()?;
            let (report, judged) = gate::run(&input, &embedder, &mut |p| bar.fit(p))?;
            bar.done();
            write_rows(rows.as_deref(), &judged)?;
            output::report(&report, *json)
        }
        EvalCommand::Pii(args) => args.run(),
        EvalCommand::Rewrite(args) => args.run(app),
        EvalCommand::Draft(args) => draft::run(app, args),
        EvalCommand::Attack(args) => attack::run(app, args),
        EvalCommand::Compliance(args) => compliance::run(app, args),
        EvalCommand::Classify(args) => classify::run(app, args),
        EvalCommand::Run(args) => run::run(app, config, args),
    }
}

/// The rows behind a figure, one JSON object a line, for whoever asked for them.
fn write_rows(file: Option<&Path>, rows: &[impl Serialize]) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(write_atomic(file, lines.join("\n").as_bytes())?)
}

pub(super) fn arithmetic(float: bool) -> Arithmetic {
    if float { Arithmetic::Floats } else { Arithmetic::AsStored }
}
