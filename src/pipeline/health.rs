//! Health that only an index can tell: questions that do not find their own entry, and entries that
//! are asked alike but answer differently. Beside it, answers against the compliance rules.

use std::collections::HashSet;

use crate::base::clock::UnixMs;
use crate::domain::knowledge::Entry;
use crate::domain::variables::{self, Variable};
use crate::gate::compliance::{Action, Compliance};
use crate::gate::facts::{extract, fold};
use crate::ingest::check::{Finding, Severity};
use crate::pipeline::retrieve::CANDIDATES;
use crate::search::SearchError;
use crate::search::index::{Exclude, KnowledgeIndex, Query};
use crate::understand::normalize::normalize;
use crate::understand::signals::{self, SignalKind};

/// Cosine of two phrasings from which they ask the same.
const ALIKE: f32 = 0.85;
/// Phrasings that are looked up; of more, an even sample.
const MOST_PHRASINGS: usize = 2_000;

/// Answers that break a compliance rule, or leave open what nothing fills yet.
pub fn check_answers(entries: &[Entry], compliance: &Compliance) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in entries {
        let mut note = |severity, code, detail: String| {
            findings.push(Finding { severity, code, entry: entry.id.clone(), detail });
        };
        for text in entry.answer.iter().chain(entry.wordings.values()) {
            for hit in compliance.check(text) {
                let fate = match hit.action {
                    Action::Block => "never goes out by itself",
                    Action::Review => "is noted in every trace",
                };
                let instead = hit.instead.map(|words| format!(", say {words:?}"));
                let instead = instead.unwrap_or_default();
                let detail =
                    format!("{}: {:?}, {}{instead}; {fate}", hit.rule, hit.found, hit.message_en);
                note(Severity::Warning, "answer.rule", detail);
            }
            if signals::find(text).has(SignalKind::Injection) {
                let detail = "reads like an instruction to a machine: is it for customers?";
                note(Severity::Error, "answer.instructs", detail.to_owned());
            }
            for variable in variables::open_in(text) {
                if variable != Variable::Date {
                    let detail =
                        format!("{{{variable}}} is known of no customer yet: a person sends it");
                    note(Severity::Warning, "answer.variable", detail);
                }
            }
        }
    }
    findings
}

/// What the index tells of its own questions.
pub fn check_index(index: &KnowledgeIndex, now: UnixMs) -> Result<Vec<Finding>, SearchError> {
    let vectors = index.phrasing_vectors()?;
    let mut findings = Vec::new();
    let phrasings: Vec<(u32, u32, &str)> = (0_u32..)
        .zip(index.entries())
        .flat_map(|(at, e)| {
            index
                .phrasings_of(at)
                .zip(e.entry.phrasings())
                .map(move |(number, text)| (at, number, text))
        })
        .collect();
    let stride = phrasings.len().div_ceil(MOST_PHRASINGS).max(1);
    for (at, number, text) in phrasings.into_iter().step_by(stride) {
        let own = &index.entries()[at as usize].entry;
        // Passages of a section share their headings.
        if own.place.is_some() {
            continue;
        }
        let normal = index.unify(&normalize(text));
        let query = Query {
            text: &normal,
            vector: vectors.row(number as usize),
            k: CANDIDATES,
            exclude: Exclude::Phrasing(number),
            now,
            asker: None,
            head: None,
            kin: None,
        };
        let found = index.search(&query, &HashSet::new())?;
        let alone = index.phrasings_of(at).len() == 1;
        let first = found.first().map(|c| c.entry);
        if !alone && first.is_some_and(|first| !index.says_same(first, at)) {
            let first = &index.entries()[first.unwrap_or(at) as usize].entry.id;
            findings.push(Finding {
                severity: Severity::Warning,
                code: "phrasing.astray",
                entry: own.id.clone(),
                detail: format!("{text:?} finds {first} first"),
            });
        }
        let alike =
            found.iter().filter(|c| c.entry != at && c.scores.dense.is_some_and(|d| d >= ALIKE));
        for other in alike.map(|c| &index.entries()[c.entry as usize].entry) {
            findings.extend(contradiction(own, other, text));
        }
    }
    findings.sort_by(|a, b| (&a.entry, a.code, &a.detail).cmp(&(&b.entry, b.code, &b.detail)));
    findings.dedup();
    Ok(findings)
}

/// Two entries that are asked alike: told once, by the one whose id comes first.
fn contradiction(own: &Entry, other: &Entry, text: &str) -> Option<Finding> {
    let shared = own.accounts.is_empty()
        || other.accounts.is_empty()
        || !own.accounts.is_disjoint(&other.accounts);
    if own.id > other.id || !shared {
        return None;
    }
    let facts = |entry: &Entry| entry.answer.as_deref().map(|a| extract(&fold(a)));
    let differ = own.answer != other.answer;
    let (severity, code) = match (facts(own), facts(other)) {
        (Some(a), Some(b)) if differ && a != b => (Severity::Error, "answer.contradicts"),
        (Some(_), Some(_)) if !differ => (Severity::Warning, "entry.double"),
        _ => (Severity::Warning, "phrasing.alike"),
    };
    let advice = if code == "entry.double" { " and answers the same: make them one" } else { "" };
    let detail = format!("{text:?} asks what {} is asked{advice}", other.id);
    Some(Finding { severity, code, entry: own.id.clone(), detail })
}
