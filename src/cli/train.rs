//! `train`: labels in, a new head and a new promise out.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::index::{configured, rebuild, report_built};
use super::output;
use crate::app::App;
use crate::domain::label::Purpose;
use crate::gate::threshold::Promise;
use crate::ingest::read_labelled;
use crate::store::{AuditEvent, Store};

#[derive(Args)]
#[command(after_help = "Examples:
  huida train --labels desk.jsonl
  huida train --labels train.jsonl --calibrate held_back.jsonl --alpha 0.02

Lines: {\"text\": \"…\", \"kb_id\": \"shop.refund.time\"}; without kb_id, or with \"label\": \"oos\",
no entry answers. Labels are kept: the next build uses them too.")]
pub(super) struct TrainArgs {
    /// Labelled messages to learn from.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    labels: Vec<PathBuf>,
    /// Labelled messages for the threshold alone; without them a quarter of the labels is kept back.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    calibrate: Vec<PathBuf>,
    /// Highest share of wrong automatic replies; without it the configuration's.
    #[arg(long)]
    alpha: Option<f64>,
    /// How sure that must be.
    #[arg(long)]
    confidence: Option<f64>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, args: &TrainArgs) -> Result<()> {
    let store = app.open_store()?;
    take_labels(app, store.as_ref(), Purpose::Train, &args.labels)?;
    take_labels(app, store.as_ref(), Purpose::Calibrate, &args.calibrate)?;
    let configured = configured(app);
    let promise = Promise {
        alpha: args.alpha.unwrap_or(configured.alpha),
        confidence: args.confidence.unwrap_or(configured.confidence),
    };
    let id = rebuild(app, store.as_ref(), promise)?;
    report_built(app, &id, args.json)
}

/// All files of one purpose are read before any of their labels is kept.
pub(super) fn take_labels(
    app: &App,
    store: &dyn Store,
    purpose: Purpose,
    files: &[PathBuf],
) -> Result<()> {
    let read: Vec<_> = files.iter().map(|f| Ok((f, read_labelled(f)?))).collect::<Result<_>>()?;
    for (file, labels) in read {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let now = app.clock.now();
        let added = store.add_labels(purpose, &labels, &name, now)?;
        let detail = format!("{added} new of {} for {purpose}", labels.len());
        output::note(&format!("{name}: {detail}"));
        let event = AuditEvent { actor: "cli".into(), action: "labels.add", subject: name, detail };
        store.audit(&event, now)?;
    }
    Ok(())
}
