//! `eval draft`: drafting with the right evidence given.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::write_rows;
use crate::app::App;
use crate::base::limits::PASSIVE_REPLY_BYTES;
use crate::cli::output::{self, Bar};
use crate::eval::draft::{self, DraftInput, Drafter};
use crate::pipeline::draft::Room;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// The approved answer as it stands.
    Verbatim,
    /// Clauses of the answer, chosen by the generator.
    Compose,
    /// In the generator's own words; the service never sends such a reply.
    Free,
}

#[derive(Args)]
pub(in crate::cli) struct DraftArgs {
    #[arg(long)]
    kb: PathBuf,
    /// Labelled messages; unanswerable ones are left out.
    #[arg(long, required = true, num_args = 1..)]
    queries: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "compose")]
    mode: Mode,
    /// Longest draft, characters; without it the configuration's.
    #[arg(long, value_name = "N")]
    chars: Option<usize>,
    /// Write every draft with what is wrong with it, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, args: &DraftArgs) -> Result<()> {
    let draft_chars = args.chars.unwrap_or(app.config.reply.draft_chars);
    let input = DraftInput {
        kb: args.kb.clone(),
        queries: args.queries.clone(),
        room: Room { draft_chars, channel_bytes: PASSIVE_REPLY_BYTES },
    };
    let mut drafter = match args.mode {
        Mode::Verbatim => Drafter::Verbatim,
        Mode::Compose => match app.start_composer()? {
            Some(composer) => Drafter::Compose(composer),
            None => bail!("no generator is installed: run `huida models pull`"),
        },
        Mode::Free => {
            let name = &app.config.models.generator;
            Drafter::Free(Box::new(app.models.open_generator(name)?))
        }
    };
    let mut bar = Bar::new();
    let mut progress =
        |done: usize, total: usize| bar.show("drafting", done as u64, total as u64, false);
    let (report, rows) = draft::run(&input, &mut drafter, &mut progress)?;
    bar.done();
    write_rows(args.rows.as_deref(), &rows)?;
    output::report(&report, args.json)
}
