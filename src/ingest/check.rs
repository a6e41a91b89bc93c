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
    let by_id: BTreeMap<&EntryId, &Entry> = entries.iter().map(|e| (&e.id, e)).collect();
    let mut findings = Vec::new();
    for entry in entries {
        let mut note = |severity, code, detail: String| {
            findings.push(Finding { severity, code, entry: entry.id.clone(), detail });
        };
        check_relations(entry, &by_id, &mut note);
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

fn check_relations(entry: &Entry, by_id: &BTreeMap<&EntryId, &Entry>, note: Note<'_>) {
    let Some(id) = &entry.parent else {
        if entry.level == Level::Secondary {
            note(Severity::Warning, "parent.none", "a secondary entry without a parent".into());
        }
        return;
    };
    let Some(parent) = by_id.get(id) else {
        return note(Severity::Error, "parent.missing", format!("{id} does not exist"));
    };
    if *id == entry.id {
        note(Severity::Error, "parent.itself", "is its own parent".into());
    } else if parent.level == Level::Secondary {
        note(Severity::Warning, "parent.secondary", format!("{id} is secondary itself"));
    }
    if entry.level == Level::Primary {
        note(Severity::Warning, "parent.level", format!("a primary entry below {id}"));
    }
    let answers = |entry: &Entry| entry.state == EntryState::Published;
    if answers(entry) && !answers(parent) {
        note(Severity::Warning, "parent.withdrawn", format!("{id} is {}", parent.state));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, level: Level, parent: Option<&str>) -> Entry {
        let parent = parent.map(|id| EntryId(id.into()));
        Entry { level, parent, ..Entry::new(EntryId(id.into()), format!("{id}怎么办")) }
    }

    #[test]
    fn a_child_has_a_published_primary_parent_or_is_told() {
        use Level::{Primary, Secondary};
        let withdrawn = Entry { state: EntryState::Archived, ..entry("gone", Primary, None) };
        let entries = [
            entry("good", Primary, None),
            entry("good.child", Secondary, Some("good")),
            entry("alone", Secondary, None),
            entry("grandchild", Secondary, Some("good.child")),
            entry("itself", Secondary, Some("itself")),
            entry("lost", Secondary, Some("nowhere")),
            entry("orphan", Secondary, Some("gone")),
            entry("primary", Primary, Some("good")),
            withdrawn,
        ];
        let findings = check(&entries, 0);
        let told: Vec<_> = findings
            .iter()
            .filter(|f| f.code.starts_with("parent."))
            .map(|f| (f.entry.as_str(), f.code))
            .collect();
        assert_eq!(
            told,
            [
                ("alone", "parent.none"),
                ("grandchild", "parent.secondary"),
                ("itself", "parent.itself"),
                ("lost", "parent.missing"),
                ("orphan", "parent.withdrawn"),
                ("primary", "parent.level"),
            ]
        );
    }
}
