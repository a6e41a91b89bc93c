//! `eval compliance`: the rule packs over texts that might leave.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::write_rows;
use crate::app::App;
use crate::cli::output;
use crate::eval::compliance;

#[derive(Args)]
pub(in crate::cli) struct ComplianceArgs {
    /// Lines of {"text", "label"?}; of questions with replies the `answer` is taken.
    #[arg(long)]
    set: PathBuf,
    /// Write every text with the rules that fired, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, args: &ComplianceArgs) -> Result<()> {
    let texts = compliance::read(&args.set)?;
    let (report, rows) = compliance::run(&texts, &app.compliance()?)?;
    write_rows(args.rows.as_deref(), &rows)?;
    output::report(&report, args.json)
}
