//! `kb documents`: what entitles the company to answer, on file with its dates.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::app::App;
use crate::base::clock::UnixMs;
use crate::cli::output;
use crate::domain::knowledge::Validity;
use crate::domain::qualification::{Qualification, QualificationId};
use crate::domain::texts::{Lang, standing_text};
use crate::ingest::{DAY_MS, day, day_text};

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida kb documents add loan.licence --name 金融许可证 --from 2024-03-01 --to 2027-02-28
  huida kb documents add loan.licence --name 金融许可证 --to 2030-02-28     renewed: takes its place
  huida kb documents list

Entries cite documents by id, in the field qualifications (资质). Entries of the domains finance and
medical must cite one; an entry answers only while every document it cites is valid. `huida kb check`
names those that do not.")]
pub(in crate::cli) enum DocumentsCommand {
    /// File a document, or replace the one of that id.
    Add(AddArgs),
    /// What is on file, how it stands, and how many entries cite it.
    List {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(in crate::cli) struct AddArgs {
    id: String,
    /// What it is, in words.
    #[arg(long)]
    name: String,
    /// The first day on which it holds; without it, it always has.
    #[arg(long, value_name = "DATE")]
    from: Option<String>,
    /// The last day on which it holds; without it, it holds until it is replaced.
    #[arg(long, value_name = "DATE")]
    to: Option<String>,
    /// Who files it; without it the user of this shell.
    #[arg(long, env = "USER", default_value = "cli")]
    author: String,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, command: &DocumentsCommand) -> Result<()> {
    match command {
        DocumentsCommand::Add(args) => add(app, args),
        DocumentsCommand::List { json } => list(app, *json),
    }
}

fn add(app: &App, args: &AddArgs) -> Result<()> {
    let (id, name) = (args.id.trim(), args.name.trim());
    if id.is_empty() || id.contains(['|', '｜', '\n']) || name.is_empty() {
        bail!("a document needs an id (without |) and a name");
    }
    let date = |flag: &str, text: &Option<String>| -> Result<Option<UnixMs>> {
        let read = |text: &String| {
            day(text).with_context(|| format!("{flag}: {text:?} is no day such as 2026-01-31"))
        };
        text.as_ref().map(read).transpose()
    };
    let from = date("--from", &args.from)?;
    let until = date("--to", &args.to)?.map(|last| last + DAY_MS);
    if let (Some(from), Some(until)) = (from, until)
        && until <= from
    {
        bail!("--to lies before --from");
    }
    let document = Qualification {
        id: QualificationId(id.to_owned()),
        name: name.to_owned(),
        validity: Validity { from, until },
    };
    let now = app.clock.now();
    app.open_store()?.file(&document, &args.author, now)?;
    let standing = document.standing(now);
    if args.json {
        return output::json(&json!({ "id": id, "state": standing }));
    }
    output::line(&format!("{id}: filed, {standing} {}", standing_text(standing).get(Lang::Zh)))
}

fn list(app: &App, as_json: bool) -> Result<()> {
    let store = app.open_store()?;
    let mut citing: BTreeMap<QualificationId, usize> = BTreeMap::new();
    for versioned in store.entries()? {
        for id in versioned.entry.qualifications {
            *citing.entry(id).or_default() += 1;
        }
    }
    let (register, now) = (store.register()?, app.clock.now());
    let mut rows = Vec::new();
    for document in register.documents() {
        let Qualification { id, name, validity } = document;
        let standing = document.standing(now);
        let from = validity.from.map(day_text);
        let to = validity.until.map(|until| day_text(until - DAY_MS));
        let entries = citing.get(id).copied().unwrap_or(0);
        if !as_json {
            let (from, to) = (from.as_deref().unwrap_or("…"), to.as_deref().unwrap_or("…"));
            let standing = format!("{standing} {}", standing_text(standing).get(Lang::Zh));
            output::line(&format!("{id}  {standing}  {from} – {to}  {entries} entries  {name}"))?;
        }
        rows.push(json!({"id": id, "name": name, "state": standing, "from": from, "to": to,
                         "entries": entries}));
    }
    if as_json {
        return output::json(&json!({ "documents": rows }));
    }
    output::line(&format!("{} documents", rows.len()))
}
