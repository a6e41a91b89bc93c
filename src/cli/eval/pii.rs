//! `eval pii`: its arguments, and its run.

use std::path::PathBuf;

use anyhow::Result;

use super::write_rows;
use crate::cli::output;
use crate::eval::pii;

#[derive(clap::Args)]
pub(in crate::cli) struct PiiArgs {
    /// Texts with marked spans, offsets in characters (.jsonl).
    #[arg(long, required = true, num_args = 1..)]
    set: Vec<PathBuf>,
    /// Write every text that is not found exactly, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl PiiArgs {
    pub(super) fn run(&self) -> Result<()> {
        let (report, wrong) = pii::run(&self.set)?;
        write_rows(self.rows.as_deref(), &wrong)?;
        output::report(&report, self.json)
    }
}
