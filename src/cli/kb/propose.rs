//! `kb propose`: entries from chats, and dimensions for entries that say nothing of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{By, NEXT};
use crate::app::App;
use crate::cli::output::{self, Bar};
use crate::domain::knowledge::{Entry, EntryId};
use crate::ingest::{Candidate, read_candidates, write_jsonl};
use crate::pipeline::propose::{Proposal, propose};
use crate::store::{Import, Store};

/// Drafts from chats, on stdout.
pub(super) fn from_chats(file: &Path, at_least: usize) -> Result<()> {
    let candidates = read_candidates(file)?;
    let drafts: Vec<Entry> =
        candidates.iter().filter(|c| c.count >= at_least).map(Candidate::draft).collect();
    write_jsonl(&drafts, &mut std::io::stdout().lock()).context("writing to stdout")
}

/// Which proposals, and what becomes of them.
pub(super) struct Asked<'a> {
    /// Only for these; empty: for all.
    pub(super) entries: &'a [String],
    pub(super) sure: f32,
    /// `None`: they are only shown.
    pub(super) accepted: Option<&'a By>,
    pub(super) json: bool,
}

/// Scene and tone for stored entries that have the usual ones.
pub(super) fn dimensions(app: &App, asked: &Asked<'_>) -> Result<()> {
    let store = app.open_store()?;
    let entries = super::stored(store.as_ref())?;
    if let Some(id) = asked.entries.iter().find(|id| !entries.iter().any(|e| e.id.0 == **id)) {
        bail!("there is no entry {id}; `huida kb export` lists them");
    }
    let embedder = app.open_embedder()?;
    let mut bar = Bar::new();
    let mut proposals = propose(&entries, &embedder, &mut |p| bar.fit(p))?;
    bar.done();
    let is_wanted = |id: &EntryId| asked.entries.is_empty() || asked.entries.contains(&id.0);
    proposals.retain(|p| p.confidence >= asked.sure && is_wanted(&p.entry));
    let applied = match asked.accepted {
        Some(by) => apply(app, store.as_ref(), entries, &proposals, by)?,
        None => Vec::new(),
    };
    if asked.json {
        let row = |p: &Proposal| {
            json!({"entry": p.entry, "question": p.question, "field": p.value.field(),
                   "value": p.value.as_str(), "confidence": p.confidence})
        };
        let rows: Vec<_> = proposals.iter().map(row).collect();
        return output::json(&json!({"proposals": rows, "applied": applied}));
    }
    for Proposal { entry, question, value, confidence } in &proposals {
        let (field, value) = (value.field(), value.as_str());
        output::line(&format!("{confidence:.2}  {field:<5} {value:<10}  {entry}: {question}"))?;
    }
    if asked.accepted.is_some() {
        output::line(&format!("{} entries changed", applied.len()))?;
        return output::line(NEXT);
    }
    output::line(&format!(
        "{} proposals; `huida kb propose --entry ID --apply --reason …` accepts those of an entry",
        proposals.len()
    ))
}

/// Makes a version of each entry with what is proposed for it.
fn apply(
    app: &App,
    store: &dyn Store,
    entries: Vec<Entry>,
    proposals: &[Proposal],
    by: &By,
) -> Result<Vec<EntryId>> {
    let mut values: BTreeMap<&EntryId, Vec<_>> = BTreeMap::new();
    for proposal in proposals {
        values.entry(&proposal.entry).or_default().push(proposal.value);
    }
    let changed = entries.into_iter().filter_map(|entry| {
        let values = values.get(&entry.id)?;
        Some(values.iter().fold(entry, |entry, value| value.on(entry)))
    });
    let import = Import::of(changed.collect(), by.change("proposal"));
    Ok(store.import_entries(&import, app.clock.now())?.changed)
}
