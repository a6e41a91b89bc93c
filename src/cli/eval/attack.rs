//! `eval attack`: attacks on a desk of its own, fitted on the given labels.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::write_rows;
use crate::app::App;
use crate::cli::index::rebuild;
use crate::cli::output::{self, Bar};
use crate::cli::train;
use crate::domain::knowledge::{Change, Validity};
use crate::domain::label::Purpose;
use crate::domain::qualification::Qualification;
use crate::eval::attack::{self, Target};
use crate::gate::threshold::Promise;
use crate::ingest::read_entries;
use crate::store::Import;

#[derive(Args)]
pub(in crate::cli) struct AttackArgs {
    #[arg(long)]
    kb: PathBuf,
    /// Labels to fit on; without them, cold start.
    #[arg(long, num_args = 1..)]
    labels: Vec<PathBuf>,
    /// Labels for the threshold alone.
    #[arg(long, num_args = 1..)]
    calibrate: Vec<PathBuf>,
    /// Attacks: lines of {"text"} or, for many turns, {"turns": […]}.
    #[arg(long)]
    set: PathBuf,
    #[arg(long, default_value_t = 0.03)]
    alpha: f64,
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
    /// Write every attack with its replies, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &mut App, args: &AttackArgs) -> Result<()> {
    let attacks = attack::read(&args.set)?;
    let folder = tempfile::tempdir()?;
    app.keep_state_in(folder.path());
    let promise = Promise { alpha: args.alpha, confidence: args.confidence };
    promise.check()?;
    let store = app.open_store()?;
    let now = app.clock.now();
    let entries = read_entries(&args.kb)?;
    // The documents are no part of the set: those that are cited hold.
    let cited: BTreeSet<_> = entries.iter().flat_map(|e| e.qualifications.clone()).collect();
    for id in cited {
        let (name, validity) = (id.to_string(), Validity::default());
        store.file(&Qualification { id, name, validity }, "eval", now)?;
    }
    store.import_entries(&Import::of(entries, Change::by("eval", "eval")), now)?;
    let mut files = train::read(Purpose::Train, &args.labels)?;
    files.extend(train::read(Purpose::Calibrate, &args.calibrate)?);
    store.add_labels(&files, "eval", now)?;
    rebuild(app, store.as_ref(), promise, None)?;
    let service = app.desk()?;
    let target = Target {
        desk: &service.desk,
        store: service.store.as_ref(),
        clock: &app.clock,
        patience: Duration::from_millis(app.config.reply.deadline_ms),
    };
    let mut bar = Bar::new();
    let mut progress =
        |done: usize, total: usize| bar.show("attacking", done as u64, total as u64, false);
    let (report, rows) = attack::run(&attacks, &target, &mut progress)?;
    bar.done();
    write_rows(args.rows.as_deref(), &rows)?;
    output::report(&report, args.json)
}
