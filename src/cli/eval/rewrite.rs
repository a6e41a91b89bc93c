//! `eval rewrite`: its arguments, and its run.

use std::path::PathBuf;

use anyhow::Result;

use super::write_rows;
use crate::app::App;
use crate::cli::output::{self, Bar};
use crate::eval::rewrite;

#[derive(clap::Args)]
pub(in crate::cli) struct RewriteArgs {
    /// Follow-up questions with what was said before and how they read alone (.jsonl).
    #[arg(long, required = true, num_args = 1..)]
    set: Vec<PathBuf>,
    /// Also look the questions up among the set's stand-alone ones.
    #[arg(long)]
    retrieval: bool,
    /// Write every message with what was made of it, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl RewriteArgs {
    pub(super) fn run(&self, app: &App) -> Result<()> {
        let (mut report, rows) = rewrite::run(&self.set)?;
        if self.retrieval {
            let embedder = app.open_embedder()?;
            let mut bar = Bar::new();
            report.retrieval = Some(rewrite::look_up(&rows, &embedder, &mut |p| bar.fit(p))?);
            bar.done();
        }
        write_rows(self.rows.as_deref(), &rows)?;
        output::report(&report, self.json)
    }
}
