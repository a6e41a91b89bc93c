//! Health of a set of entries: what an operator should mend before customers see it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::UnixMs;
use crate::base::limits::PASSIVE_REPLY_BYTES;
use crate::domain::knowledge::{Entry, EntryId, EntryState, Level, words};
use crate::understand::normalize::normalize;

words!(
    Severity { Error = "error", Warning = "warning" }
);

/// Something to look at, with the entry it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// Stable code: `parent.missing`, `phrasing.shared` …
    pub code: &'static str,
    pub entry: EntryId,
    pub detail: String,
}

/// Entries that expire within this time are named, milliseconds (30 days).
const SOON: UnixMs = 30 * 24 * 3_600_000;
/// Fewer similar questions than this make an entry hard to find.
const FEW_SIMILAR: usize = 2;

/// All findings, by entry.
pub fn check(entries: &[Entry], now: UnixMs) -> Vec<Finding> {
    let ids: BTreeSet<&EntryId> = entries.iter().map(|e| &e.id).collect();
    let mut findings = Vec::new();
    for entry in entries {
        let mut note = |severity, code, detail: String| {
            findings.push(Finding { severity, code, entry: entry.id.clone(), detail });
        };
        check_relations(entry, &ids, &mut note);
        check_answer(entry, &mut note);
        check_validity(entry, now, &mut note);
        if entry.similar_questions.len() < FEW_SIMILAR {
            let n = entry.similar_questions.len();
            note(Severity::Warning, "similar.few", format!("{n} similar question(s)"));
        }
    }
    findings.extend(shared_phrasings(entries));
    findings.sort_by(|a, b| (&a.entry, a.code).cmp(&(&b.entry, b.code)));
    findings
}

type Note<'a> = &'a mut dyn FnMut(Severity, &'static str, String);

fn check_relations(entry: &Entry, ids: &BTreeSet<&EntryId>, note: Note<'_>) {
    match &entry.parent {
        Some(parent) if !ids.contains(parent) => {
            note(Severity::Error, "parent.missing", format!("{parent} does not exist"));
        }
        None if entry.level == Level::Secondary => {
            note(Severity::Warning, "parent.none", "a secondary entry without a parent".into());
        }
        Some(_) | None => {}
    }
}

fn check_answer(entry: &Entry, note: Note<'_>) {
    match &entry.answer {
        None => note(Severity::Warning, "answer.none", "only a person can answer this".into()),
        Some(answer) if answer.len() > PASSIVE_REPLY_BYTES => {
            let detail =
                format!("{} bytes; a passive reply holds {PASSIVE_REPLY_BYTES}", answer.len());
            note(Severity::Warning, "answer.long", detail);
        }
        Some(_) => {}
    }
}

fn check_validity(entry: &Entry, now: UnixMs, note: Note<'_>) {
    if entry.state != EntryState::Published {
        return;
    }
    match entry.validity.until {
        Some(until) if until <= now => {
            note(Severity::Warning, "validity.expired", "published, but no longer valid".into());
        }
        Some(until) if until - now < SOON => {
            note(Severity::Warning, "validity.soon", "expires within 30 days".into());
        }
        Some(_) | None => {}
    }
}

/// The same words under two entries: whichever answers, it is half wrong.
fn shared_phrasings(entries: &[Entry]) -> Vec<Finding> {
    let mut owners: BTreeMap<String, BTreeSet<&EntryId>> = BTreeMap::new();
    for entry in entries {
        for phrasing in entry.phrasings() {
            owners.entry(normalize(phrasing)).or_default().insert(&entry.id);
        }
    }
    let shared = owners.into_iter().filter(|(_, ids)| ids.len() > 1);
    shared
        .flat_map(|(phrasing, ids)| {
            let all = ids.iter().map(|i| i.as_str()).collect::<Vec<_>>().join(", ");
            ids.into_iter().map(move |id| Finding {
                severity: Severity::Error,
                code: "phrasing.shared",
                entry: id.clone(),
                detail: format!("{phrasing:?} belongs to {all}"),
            })
        })
        .collect()
}
