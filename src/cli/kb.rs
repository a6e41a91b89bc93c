//! `kb`: knowledge in and out, and its health.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{output, preview};
use crate::app::App;
use crate::domain::knowledge::{Entry, EntryId, EntryState};
use crate::ingest::check::{Finding, Severity, check};
use crate::ingest::{
    Candidate, read_candidates, read_entries, read_numbered_entries, write_csv, write_jsonl,
};
use crate::store::{ImportOutcome, Store};

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida kb import faq.csv manual.jsonl   Excel's CSV works as it is (UTF-8 or GB18030)
  huida kb import --dry-run faq.xlsx     which column is which field
  huida kb propose chats.jsonl > drafts.jsonl
  huida kb check                         what to mend before customers see it
  huida kb export > backup.jsonl
  huida kb export --csv > faq.csv")]
pub(super) enum KbCommand {
    /// Read files (.xlsx, .csv, .jsonl); all of a file is taken or nothing of it.
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only show how each file would be read: which column is which field, which are not read.
        #[arg(long)]
        dry_run: bool,
        #[arg(long)]
        json: bool,
    },
    /// Propose entries from chats (.jsonl of turns), as drafts for a person to read.
    Propose {
        file: PathBuf,
        /// Leave out what was asked less often.
        #[arg(long, default_value_t = 2)]
        at_least: usize,
    },
    /// Write all entries to stdout.
    Export {
        /// CSV for a spreadsheet instead of JSON Lines.
        #[arg(long)]
        csv: bool,
    },
    /// Look for faults in the stored entries, or in files before they are imported.
    Check {
        files: Vec<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// How much there is of what.
    Stats {
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(app: &App, command: &KbCommand) -> Result<ExitCode> {
    match command {
        KbCommand::Import { files, dry_run: true, json } => preview::run(files, *json)?,
        KbCommand::Propose { file, at_least } => propose(file, *at_least)?,
        KbCommand::Import { files, dry_run: false, json } => import(app, files, *json)?,
        KbCommand::Export { csv } => {
            let entries = stored(app.open_store()?.as_ref())?;
            let mut out = std::io::stdout().lock();
            let written =
                if *csv { write_csv(&entries, &mut out) } else { write_jsonl(&entries, &mut out) };
            written.context("writing to stdout")?;
        }
        KbCommand::Check { files, json } => return check_entries(app, files, *json),
        KbCommand::Stats { json } => stats(app, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn propose(file: &Path, at_least: usize) -> Result<()> {
    let candidates = read_candidates(file)?;
    let drafts: Vec<Entry> =
        candidates.iter().filter(|c| c.count >= at_least).map(Candidate::draft).collect();
    write_jsonl(&drafts, &mut std::io::stdout().lock()).context("writing to stdout")
}

fn stored(store: &dyn Store) -> Result<Vec<Entry>> {
    Ok(store.entries()?.into_iter().map(|v| v.entry).collect())
}

fn import(app: &App, files: &[PathBuf], as_json: bool) -> Result<()> {
    let store = app.open_store()?;
    let mut reports = Vec::new();
    for file in files {
        let outcome = import_file(app, store.as_ref(), file)?;
        let ImportOutcome { added, changed, unchanged } = &outcome;
        if !as_json {
            let name = file.display();
            output::line(&format!(
                "{name}: {} added, {} changed, {unchanged} unchanged",
                added.len(),
                changed.len()
            ))?;
            for id in changed {
                output::line(&format!("  changed {id}"))?;
            }
        }
        reports.push(
            json!({"file": file, "added": added, "changed": changed, "unchanged": unchanged}),
        );
    }
    if as_json {
        return output::json(&json!({ "files": reports }));
    }
    output::line("Now run `huida index build`: what serves stays as it is until then.")
}

/// One file in one transaction.
fn import_file(app: &App, store: &dyn Store, file: &Path) -> Result<ImportOutcome> {
    let entries = read_entries(file)?;
    let known: Vec<Entry> = stored(store)?;
    let missing = entries.iter().find_map(|e| {
        let parent = e.parent.as_ref()?;
        let found = entries.iter().chain(&known).any(|other| other.id == *parent);
        (!found).then(|| format!("{}: parent: {parent} does not exist ({})", file.display(), e.id))
    });
    if let Some(fault) = missing {
        bail!("{fault}; nothing was imported");
    }
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(store.import_entries(&entries, &name, "cli", app.clock.now())?)
}

fn check_entries(app: &App, files: &[PathBuf], as_json: bool) -> Result<ExitCode> {
    let mut entries = Vec::new();
    if files.is_empty() {
        entries = stored(app.open_store()?.as_ref())?;
    }
    // Where each entry stands; stored ones stand nowhere.
    let mut places: BTreeMap<EntryId, (&Path, u64)> = BTreeMap::new();
    for file in files {
        for (line, entry) in read_numbered_entries(file)? {
            places.insert(entry.id.clone(), (file, line));
            entries.push(entry);
        }
    }
    let findings = check(&entries, app.clock.now());
    let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
    if as_json {
        let row = |f: &Finding| {
            let (file, line) = places.get(&f.entry).copied().unzip();
            let Finding { severity, code, entry, detail } = f;
            json!({"severity": severity, "code": code, "entry": entry, "detail": detail,
                   "file": file, "line": line})
        };
        let rows: Vec<_> = findings.iter().map(row).collect();
        output::json(&json!({"entries": entries.len(), "errors": errors, "findings": rows}))?;
    } else {
        for Finding { severity, code, entry, detail } in &findings {
            let place =
                places.get(entry).map(|(file, line)| format!("{}:{line}: ", file.display()));
            let place = place.unwrap_or_default();
            output::line(&format!("{severity:<8} {code:<18} {place}{entry}: {detail}"))?;
        }
        let warnings = findings.len() - errors;
        output::line(&format!("{} entries, {errors} errors, {warnings} warnings", entries.len()))?;
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn stats(app: &App, as_json: bool) -> Result<()> {
    let entries = stored(app.open_store()?.as_ref())?;
    let count = |word: fn(&Entry) -> &'static str| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &entries {
            *counts.entry(word(entry)).or_default() += 1;
        }
        counts
    };
    let phrasings: usize = entries.iter().map(|e| e.phrasings().count()).sum();
    let published = entries.iter().filter(|e| e.state == EntryState::Published).count();
    let report = json!({
        "entries": entries.len(),
        "published": published,
        "phrasings": phrasings,
        "with_answer": entries.iter().filter(|e| e.answer.is_some()).count(),
        "scene": count(|e| e.scene.as_str()),
        "level": count(|e| e.level.as_str()),
        "tone": count(|e| e.tone.as_str()),
        "domain": count(|e| e.domain.as_str()),
        "state": count(|e| e.state.as_str()),
    });
    output::report(&report, as_json)
}
