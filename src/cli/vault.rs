//! `vault`: the key that what is masked is sealed with, and what it opens.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output;
use crate::app::App;
use crate::base::clock::format_local;
use crate::base::id::TraceId;
use crate::base::vault::create_key;
use crate::pipeline::personal::show;
use crate::store::personal::Whose;

#[derive(Subcommand)]
pub(super) enum VaultCommand {
    /// Make a key in a new file that only you may read.
    #[command(after_help = "Examples:
  huida vault key /etc/huida/vault.key     then vault.key_file = \"/etc/huida/vault.key\"

Keep a copy of it apart from the backups: who has both reads everything, and without it nobody does.")]
    Key {
        /// Must not be there yet.
        file: PathBuf,
    },
    /// A message as the customer wrote it; who looked is written into the audit log.
    Show(ShowArgs),
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// The trace's id, as pages and `ask --json` show it.
    trace: String,
    /// Who looks; without it the user of this shell.
    #[arg(long, env = "USER", default_value = "cli")]
    author: String,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, command: &VaultCommand) -> Result<()> {
    match command {
        VaultCommand::Key { file } => {
            create_key(file)?;
            output::note(&format!("{} is made; name it as vault.key_file", file.display()));
            Ok(())
        }
        VaultCommand::Show(args) => show_message(app, args),
    }
}

fn show_message(app: &App, args: &ShowArgs) -> Result<()> {
    let Some(vault) = app.vault()? else {
        bail!("there is no vault: name its key as vault.key_file (`huida vault key` makes one)");
    };
    let whose = Whose::Turn(TraceId::from_text(&args.trace));
    let store = app.open_store()?;
    let shown = show(store.as_ref(), &vault, &whose, &args.author, app.clock.now())?;
    let message = shown.messages.first().context("a turn has one message")?;
    if args.json {
        let at = format_local(message.at);
        return output::json(&json!({ "trace": args.trace, "at": at, "text": message.text }));
    }
    output::line(&message.text)
}
