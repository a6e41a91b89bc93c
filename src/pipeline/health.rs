//! Health that only an index can tell: questions that do not find their own entry, and entries that
//! are asked alike but answer differently. Beside it, answers against the compliance rules.

use std::collections::HashSet;

use crate::base::clock::UnixMs;
use crate::domain::knowledge::{Entry, EntryState};
use crate::domain::qualification::{Lack, Register};
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

/// A document is named when it expires within this time, milliseconds (30 days).
const SOON: UnixMs = 30 * 24 * 3_600_000;

/// Entries that answer nobody because a document is missing or a release is, or soon will be.
pub fn check_governance(entries: &[Entry], register: &Register, now: UnixMs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in entries {
        let mut note = |code, detail: String| {
            let (severity, entry) = (Severity::Warning, entry.id.clone());
            findings.push(Finding { severity, code, entry, detail });
        };
        match entry.state {
            EntryState::Draft | EntryState::Archived => continue,
            EntryState::Pending => {
                note("release.waiting", "does not answer before two people release it".into());
            }
            EntryState::Published => {}
        }
        let lack = |at| register.lack(entry.domain, &entry.qualifications, at);
        match (lack(now), lack(now + SOON)) {
            (Some(lack), _) => {
                let detail = match &lack {
                    Lack::Uncited => format!("a {} entry must cite a document", entry.domain),
                    Lack::Unknown(id) => format!("cites {id}, which is not on file"),
                    Lack::NotYet(id) => format!("cites {id}, which is not valid yet"),
                    Lack::Expired(id) => format!("cites {id}, which has expired"),
                    Lack::Unreadable => "the documents on file cannot be read".to_owned(),
                };
                note("qualification.lacks", format!("{detail}: only a person answers this"));
            }
            (None, Some(Lack::Expired(id))) => {
                note("qualification.soon", format!("cites {id}, which expires within 30 days"));
            }
            (None, Some(_) | None) => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::{Domain, EntryId, Validity};
    use crate::domain::qualification::{Qualification, QualificationId};

    #[test]
    fn what_answers_nobody_is_named_with_the_document() {
        let day = 24 * 3_600_000;
        let until = |days: UnixMs| Validity { from: None, until: Some(days * day) };
        let filed = |id: &str, validity| Qualification {
            id: QualificationId(id.into()),
            name: id.into(),
            validity,
        };
        let register: Register =
            [filed("long", until(400)), filed("soon", until(10)), filed("gone", until(1))]
                .into_iter()
                .collect();
        let found = |domain, cited: &[&str], state| {
            let entry = Entry {
                domain,
                state,
                qualifications: cited.iter().map(|id| QualificationId((*id).into())).collect(),
                ..Entry::new(EntryId("a".into()), "q".into())
            };
            let findings = check_governance(&[entry], &register, 2 * day);
            findings.into_iter().map(|f| f.code).collect::<Vec<_>>()
        };
        let (general, finance, published) =
            (Domain::General, Domain::Finance, EntryState::Published);
        assert_eq!(found(general, &[], published), [] as [&str; 0]);
        assert_eq!(found(finance, &["long"], published), [] as [&str; 0]);
        assert_eq!(found(finance, &["long", "soon"], published), ["qualification.soon"]);
        for cited in [&[][..], &["gone"], &["unknown"]] {
            assert_eq!(found(finance, cited, published), ["qualification.lacks"], "{cited:?}");
        }
        assert_eq!(found(finance, &[], EntryState::Draft), [] as [&str; 0]);
        assert_eq!(found(general, &[], EntryState::Pending), ["release.waiting"]);
    }
}
