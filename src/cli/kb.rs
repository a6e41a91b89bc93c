//! `kb`: knowledge in and out, and its health.

mod documents;
mod propose;
mod release;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::Bar;
use super::{output, preview};
use crate::app::App;
use crate::base::clock::UnixMs;
use crate::domain::knowledge::{Change, Entry, EntryId, EntryState, Version, VersionedEntry};
use crate::ingest::check::{Finding, Severity, check};
use crate::ingest::{
    Knowledge, Limits, read_knowledge, read_numbered_entries, write_csv, write_jsonl,
};
use crate::pipeline::gaps::{Gap, gaps};
use crate::pipeline::health::{check_answers, check_governance, check_index};
use crate::store::{Import, ImportOutcome, Store};

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida kb import faq.csv manual.jsonl   Excel's CSV works as it is (UTF-8 or GB18030)
  huida kb import --dry-run faq.xlsx     which column is which field
  huida kb propose chats.jsonl > drafts.jsonl
  huida kb propose                       scene and tone for entries that say nothing of them
  huida kb propose --entry shop.app.crash --apply --reason checked
  huida kb history shop.refund.time      who changed it, when and why
  huida kb rollback shop.refund.time --to 2 --reason typo
  huida kb release list                  marketing text that waits for two people
  huida kb documents list                licences and how long they hold
  huida kb check                         what to mend before customers see it
  huida kb export > backup.jsonl
  huida kb export --csv > faq.csv")]
pub(super) enum KbCommand {
    /// Read files: tables of questions (.xlsx, .csv, .jsonl) and documents (.pdf, .docx, .html, .md,
    /// .txt). All of a file is taken or nothing of it; a document read again replaces what it said.
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only show how each file would be read: which column is which field, which are not read.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        by: By,
        #[arg(long)]
        json: bool,
    },
    /// Every version of an entry: when, who, why.
    History {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// What differs between two versions of an entry.
    Diff {
        id: String,
        /// The older one; without it, the one before the newer one.
        #[arg(long, value_name = "VERSION")]
        from: Option<u32>,
        /// The newer one; without it, the current one.
        #[arg(long, value_name = "VERSION")]
        to: Option<u32>,
        #[arg(long)]
        json: bool,
    },
    /// Make an earlier version of an entry the current one again, as a new version.
    Rollback {
        id: String,
        #[arg(long, value_name = "VERSION")]
        to: u32,
        #[command(flatten)]
        by: By,
        #[arg(long)]
        json: bool,
    },
    /// Propose entries from chats (.jsonl of turns), as drafts for a person to read; without a file,
    /// scene and tone for stored entries that have the usual ones.
    Propose {
        file: Option<PathBuf>,
        /// Leave out what was asked less often.
        #[arg(long, default_value_t = 2, requires = "file")]
        at_least: usize,
        /// Leave out what is less likely right.
        #[arg(long, default_value_t = 0.6, value_name = "SHARE", conflicts_with = "file")]
        sure: f32,
        /// Only for this entry; can be given several times.
        #[arg(long, value_name = "ID", conflicts_with = "file")]
        entry: Vec<String>,
        /// Make versions of what is proposed.
        #[arg(long, conflicts_with = "file")]
        apply: bool,
        #[command(flatten)]
        by: By,
        #[arg(long, conflicts_with = "file")]
        json: bool,
    },
    /// Write all entries to stdout.
    Export {
        /// CSV for a spreadsheet instead of JSON Lines.
        #[arg(long)]
        csv: bool,
    },
    /// What customers asked and nothing answered, grouped by meaning, the most frequent first.
    Gaps {
        /// Traces to look at, the newest first.
        #[arg(long, default_value_t = 10_000)]
        traces: u32,
        /// Groups that are shown.
        #[arg(long, default_value_t = 20)]
        most: usize,
        /// Write draft entries (.jsonl) to complete and import, in place of a list.
        #[arg(long, conflicts_with = "json")]
        drafts: bool,
        #[arg(long)]
        json: bool,
    },
    /// Look for faults in the stored entries (and how the index finds them), or in files before they
    /// are imported.
    Check {
        files: Vec<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Let marketing text out: two people, one for the law, one for the brand.
    #[command(subcommand)]
    Release(release::ReleaseCommand),
    /// Qualification documents (licences, registrations) that entries cite.
    #[command(subcommand)]
    Documents(documents::DocumentsCommand),
    /// How much there is of what.
    Stats {
        #[arg(long)]
        json: bool,
    },
}

/// Who changes something, and why.
#[derive(Args)]
pub(super) struct By {
    /// Why, in your words; shown in the history.
    #[arg(long, default_value = "")]
    reason: String,
    /// Who; without it the user of this shell.
    #[arg(long, env = "USER", default_value = "cli")]
    author: String,
}

impl By {
    fn change(&self, source: &str) -> Change {
        Change { author: self.author.clone(), reason: self.reason.clone(), source: source.into() }
    }
}

pub(super) fn run(app: &App, command: &KbCommand) -> Result<ExitCode> {
    match command {
        KbCommand::Import { files, dry_run: true, json, .. } => preview::run(files, *json)?,
        KbCommand::Import { files, dry_run: false, by, json } => import(app, files, by, *json)?,
        KbCommand::Propose { file: Some(file), at_least, .. } => {
            propose::from_chats(file, *at_least)?;
        }
        KbCommand::Propose { file: None, sure, entry, apply, by, json, .. } => {
            let accepted = apply.then_some(by);
            let asked = propose::Asked { entries: entry, sure: *sure, accepted, json: *json };
            propose::dimensions(app, &asked)?;
        }
        KbCommand::History { id, json } => history(app, id, *json)?,
        KbCommand::Diff { id, from, to, json } => diff(app, id, *from, *to, *json)?,
        KbCommand::Rollback { id, to, by, json } => roll_back(app, id, *to, by, *json)?,
        KbCommand::Export { csv } => {
            let entries = stored(app.open_store()?.as_ref())?;
            let mut out = std::io::stdout().lock();
            let written =
                if *csv { write_csv(&entries, &mut out) } else { write_jsonl(&entries, &mut out) };
            written.context("writing to stdout")?;
        }
        KbCommand::Check { files, json } => return check_entries(app, files, *json),
        KbCommand::Gaps { traces, most, drafts, json } => {
            show_gaps(app, *traces, *most, *drafts, *json)?;
        }
        KbCommand::Release(command) => release::run(app, command)?,
        KbCommand::Documents(command) => documents::run(app, command)?,
        KbCommand::Stats { json } => stats(app, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn stored(store: &dyn Store) -> Result<Vec<Entry>> {
    Ok(store.entries()?.into_iter().map(|v| v.entry).collect())
}

fn import(app: &App, files: &[PathBuf], by: &By, as_json: bool) -> Result<()> {
    let store = app.open_store()?;
    let (mut reports, mut bar) = (Vec::new(), Bar::new());
    for file in files {
        let outcome = import_file(app, store.as_ref(), file, by, &mut bar)?;
        bar.done();
        let ImportOutcome { added, changed, archived, held, unchanged } = &outcome;
        if !as_json {
            let name = file.display();
            let [a, c, r] = [added, changed, archived].map(Vec::len);
            output::line(&format!(
                "{name}: {a} added, {c} changed, {r} archived, {unchanged} unchanged"
            ))?;
            for id in changed {
                output::line(&format!("  changed {id}"))?;
            }
            for id in archived {
                output::line(&format!("  archived {id}"))?;
            }
            for id in held {
                output::line(&format!("  {id} waits for its release: `huida kb release list`"))?;
            }
        }
        reports.push(json!({
            "file": file,
            "added": added,
            "changed": changed,
            "archived": archived,
            "held": held,
            "unchanged": unchanged,
        }));
    }
    if as_json {
        return output::json(&json!({ "files": reports }));
    }
    output::line(NEXT)
}

/// What follows a change of the stored knowledge.
const NEXT: &str = "A running service answers from this within a second; `huida index build` makes it \
                    part of the index and fits the gate anew.";

/// One file in one transaction.
fn import_file(
    app: &App,
    store: &dyn Store,
    file: &Path,
    by: &By,
    bar: &mut Bar,
) -> Result<ImportOutcome> {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let change = by.change(&name);
    bar.begin(&format!("reading {name}"));
    let import = match read_knowledge(file, &Limits::default())? {
        Knowledge::Entries(entries) => {
            check_parents(store, file, &entries)?;
            Import::of(entries, change)
        }
        Knowledge::Document { passages, notes } => {
            for note in notes {
                output::note(&format!("{}: {note}", file.display()));
            }
            Import { entries: passages, document: Some(name), change }
        }
    };
    let now = app.clock.now();
    let register = store.register()?;
    let lacking = import.entries.iter().filter(|e| {
        let published = e.state == EntryState::Published;
        published && register.lack(e.domain, &e.qualifications, now).is_some()
    });
    let lacking = lacking.count();
    if lacking > 0 {
        output::note(&format!(
            "{}: {lacking} entries cite no valid qualification document and are left to people: \
             `huida kb documents add`; `huida kb check` names them",
            file.display()
        ));
    }
    bar.begin(&format!("storing {} entries", import.entries.len()));
    Ok(store.import_entries(&import, now)?)
}

fn check_parents(store: &dyn Store, file: &Path, entries: &[Entry]) -> Result<()> {
    let known: HashSet<EntryId> = store.heads()?.into_iter().map(|head| head.id).collect();
    let given: HashSet<&EntryId> = entries.iter().map(|e| &e.id).collect();
    for entry in entries {
        if let Some(parent) =
            entry.parent.as_ref().filter(|p| !given.contains(p) && !known.contains(*p))
        {
            let (file, id) = (file.display(), &entry.id);
            bail!("{file}: parent: {parent} does not exist ({id}); nothing was imported");
        }
    }
    Ok(())
}

/// All versions of an entry that is there.
fn versions(app: &App, id: &str) -> Result<Vec<Version>> {
    let versions = app.open_store()?.history(&EntryId(id.to_owned()))?;
    if versions.is_empty() {
        bail!("there is no entry {id}; `huida kb export` lists them");
    }
    Ok(versions)
}

fn history(app: &App, id: &str, as_json: bool) -> Result<()> {
    let versions = versions(app, id)?;
    if as_json {
        let row = |v: &Version| {
            let Change { author, reason, source } = &v.change;
            json!({"version": v.versioned.version, "at": time_text(v.at), "author": author,
                   "reason": reason, "source": source, "state": v.versioned.entry.state})
        };
        let rows: Vec<_> = versions.iter().map(row).collect();
        return output::json(&json!({ "entry": id, "versions": rows }));
    }
    for Version { versioned, change, at } in &versions {
        let VersionedEntry { version, entry } = versioned;
        let Change { author, reason, source } = change;
        let (at, state) = (time_text(*at), entry.state);
        output::line(&format!("{version:>4}  {at}  {state:<9}  {author}  {source}  {reason}"))?;
    }
    Ok(())
}

fn diff(app: &App, id: &str, from: Option<u32>, to: Option<u32>, as_json: bool) -> Result<()> {
    let versions = versions(app, id)?;
    let of = |version: u32| {
        let found = versions.iter().find(|v| v.versioned.version == version);
        found
            .map(|v| &v.versioned.entry)
            .with_context(|| format!("{id} has versions 1 to {}, not {version}", versions.len()))
    };
    let to = to.unwrap_or_else(|| versions.last().map_or(1, |v| v.versioned.version));
    let Some(from) = from.or_else(|| to.checked_sub(1).filter(|from| *from > 0)) else {
        bail!("{id} has one version only: there is nothing to compare");
    };
    let (before, after) = (fields(of(from)?)?, fields(of(to)?)?);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let rows: Vec<_> = changed
        .map(|name| json!({"field": name, "before": before.get(name), "after": after.get(name)}))
        .collect();
    if as_json {
        return output::json(&json!({"entry": id, "from": from, "to": to, "changed": rows}));
    }
    for row in &rows {
        output::line(row["field"].as_str().unwrap_or_default())?;
        output::line(&format!("  - {}", row["before"]))?;
        output::line(&format!("  + {}", row["after"]))?;
    }
    output::line(&format!("{id}: {} field(s) differ between {from} and {to}", rows.len()))
}

fn fields(entry: &Entry) -> Result<serde_json::Map<String, Value>> {
    let value = serde_json::to_value(entry)?;
    value.as_object().cloned().context("an entry is no object")
}

fn roll_back(app: &App, id: &str, to: u32, by: &By, as_json: bool) -> Result<()> {
    let store = app.open_store()?;
    let change = by.change(&format!("version {to}"));
    let now = store.roll_back(&EntryId(id.to_owned()), to, &change, app.clock.now())?;
    if as_json {
        return output::json(&json!({"entry": id, "version": now.version, "equals": to}));
    }
    output::line(&format!("{id}: version {} is version {to} again", now.version))?;
    output::line(NEXT)
}

fn time_text(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at).map(|t| t.to_string()).unwrap_or_default()
}

fn check_entries(app: &App, files: &[PathBuf], as_json: bool) -> Result<ExitCode> {
    // Files are held against the documents on file here, where there is a store.
    let is_here = files.is_empty() || app.config.store.path.exists();
    let store = is_here.then(|| app.open_store()).transpose()?;
    let register = store.as_ref().map(|s| s.register()).transpose()?.unwrap_or_default();
    let mut entries = match &store {
        Some(store) if files.is_empty() => stored(store.as_ref())?,
        Some(_) | None => Vec::new(),
    };
    // Where each entry stands; stored ones stand nowhere.
    let mut places: BTreeMap<EntryId, (&Path, u64)> = BTreeMap::new();
    for file in files {
        for (line, entry) in read_numbered_entries(file)? {
            places.insert(entry.id.clone(), (file, line));
            entries.push(entry);
        }
    }
    let mut findings = check(&entries, app.clock.now());
    findings.extend(check_answers(&entries, &app.compliance()?));
    findings.extend(check_governance(&entries, &register, app.clock.now()));
    if files.is_empty() {
        findings.extend(check_serving(app)?);
    }
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

/// What the serving index tells; nothing before the first build.
fn check_serving(app: &App) -> Result<Vec<Finding>> {
    if app.generation_dir().current_id()?.is_none() {
        output::note("no index yet: whether questions find their entries was not checked");
        return Ok(Vec::new());
    }
    let embedder = app.open_embedder()?;
    let serving = app.open_generations(&embedder)?.current();
    Ok(check_index(&serving.generation.index, app.clock.now())?)
}

fn show_gaps(app: &App, traces: u32, most: usize, drafts: bool, as_json: bool) -> Result<()> {
    let traces = app.open_store()?.recent_traces(traces)?;
    let embedder = app.open_embedder()?;
    let mut gaps = gaps(&traces, &embedder)?;
    gaps.truncate(most);
    if drafts {
        let drafts: Vec<Entry> = gaps.iter().filter_map(Gap::draft).collect();
        return Ok(write_jsonl(&drafts, &mut std::io::stdout().lock())?);
    }
    if as_json {
        let row = |gap: &Gap| {
            let Gap { count, questions, nearest } = gap;
            json!({"count": count, "questions": questions, "nearest": nearest})
        };
        let rows: Vec<_> = gaps.iter().map(row).collect();
        return output::json(&json!({"traces": traces.len(), "gaps": rows}));
    }
    for Gap { count, questions, nearest } in &gaps {
        let nearest = nearest.as_ref().map_or("nothing near", EntryId::as_str);
        let (first, others) = questions.split_first().map_or(("", 0), |(f, o)| (f, o.len()));
        output::line(&format!("{count:>5}  {first}  (+{others} others; nearest {nearest})"))?;
    }
    output::line(&format!(
        "{} gaps in {} turns; `huida kb gaps --drafts > drafts.jsonl` writes entries to complete",
        gaps.len(),
        traces.len()
    ))
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
        "nature": count(|e| e.nature.as_str()),
    });
    output::report(&report, as_json)
}
