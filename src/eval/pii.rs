//! `eval pii`: is personal data found where it stands, from its first character to its last?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::eval::EvalError;
use crate::ingest::{Mark, read_marked};
use crate::understand::PersonalKind;
use crate::understand::pii;

/// Keys as scripts know them. A find counts when kind, start and end are those of the mark.
#[derive(Clone, Debug, Serialize)]
pub struct PiiReport {
    /// Texts.
    pub n: usize,
    #[serde(flatten)]
    pub total: Score,
    pub per_type: BTreeMap<String, TypeScore>,
    /// Texts in which nothing is marked and something was found all the same.
    pub false_alarms: usize,
}

/// Shares; 1 where there was nothing to find and nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct TypeScore {
    #[serde(flatten)]
    pub score: Score,
    /// Marks of this kind.
    pub n: usize,
}

/// A text whose finds are not its marks.
#[derive(Clone, Debug, Serialize)]
pub struct PiiRow {
    pub text: String,
    pub missed: Vec<String>,
    pub false_finds: Vec<String>,
}

/// How often a thing was marked, found, and found where it was marked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub marked: usize,
    pub found: usize,
    pub both: usize,
}

impl Tally {
    pub(super) fn score(self) -> Score {
        let share = |of: usize| if of == 0 { 1.0 } else { self.both as f64 / of as f64 };
        let f1 = match self.marked + self.found {
            0 => 1.0,
            all => 2.0 * self.both as f64 / all as f64,
        };
        Score { precision: share(self.found), recall: share(self.marked), f1 }
    }
}

/// The report, and the texts that it is not perfect for.
pub fn run(sets: &[PathBuf]) -> Result<(PiiReport, Vec<PiiRow>), EvalError> {
    let mut marked = Vec::new();
    for set in sets {
        let rows = read_marked(set)?;
        for row in &rows {
            know_kinds(set, &row.marks)?;
        }
        marked.extend(rows);
    }
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut false_alarms = 0;
    for row in &marked {
        let wanted: BTreeSet<Mark> = row.marks.iter().cloned().collect();
        let found: BTreeSet<Mark> = finds(&row.text);
        for mark in wanted.union(&found) {
            let tally = tallies.entry(mark.kind.clone()).or_default();
            tally.marked += usize::from(wanted.contains(mark));
            tally.found += usize::from(found.contains(mark));
            tally.both += usize::from(wanted.contains(mark) && found.contains(mark));
        }
        false_alarms += usize::from(wanted.is_empty() && !found.is_empty());
        if wanted != found {
            let shown = |marks: Vec<&Mark>| marks.iter().map(|m| show(&row.text, m)).collect();
            wrong.push(PiiRow {
                text: row.text.clone(),
                missed: shown(wanted.difference(&found).collect()),
                false_finds: shown(found.difference(&wanted).collect()),
            });
        }
    }
    let all = tallies.values().fold(Tally::default(), |sum, tally| Tally {
        marked: sum.marked + tally.marked,
        found: sum.found + tally.found,
        both: sum.both + tally.both,
    });
    let per_type = |(kind, tally): (String, Tally)| {
        (kind, TypeScore { score: tally.score(), n: tally.marked })
    };
    let report = PiiReport {
        n: marked.len(),
        total: all.score(),
        per_type: tallies.into_iter().map(per_type).collect(),
        false_alarms,
    };
    Ok((report, wrong))
}

/// What would be masked; an order number stays in the text and is no find.
fn finds(text: &str) -> BTreeSet<Mark> {
    let masked = pii::find(text).into_iter().filter(|found| found.kind.placeholder().is_some());
    masked
        .map(|found| Mark {
            kind: found.kind.as_str().to_owned(),
            start: found.start,
            end: found.end,
        })
        .collect()
}

/// A kind that nothing could ever find is a mistake in the set, not a miss.
fn know_kinds(set: &Path, marks: &[Mark]) -> Result<(), EvalError> {
    let maskable =
        |kind: &str| PersonalKind::parse(kind).is_some_and(|k| k.placeholder().is_some());
    match marks.iter().find(|mark| !maskable(&mark.kind)) {
        None => Ok(()),
        Some(mark) => {
            let known: Vec<&str> = PersonalKind::ALL
                .iter()
                .filter(|kind| kind.placeholder().is_some())
                .map(|kind| kind.as_str())
                .collect();
            Err(EvalError::Input(format!(
                "{}: no type `{}`; the types are {}",
                set.display(),
                mark.kind,
                known.join(", ")
            )))
        }
    }
}

fn show(text: &str, mark: &Mark) -> String {
    let value: String = text.chars().skip(mark.start).take(mark.end - mark.start).collect();
    format!("{} {}..{} {value}", mark.kind, mark.start, mark.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(lines: &str) -> Result<(PiiReport, Vec<PiiRow>), EvalError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.jsonl");
        std::fs::write(&path, lines).unwrap();
        run(&[path])
    }

    #[test]
    fn only_exact_spans_count() {
        let (report, wrong) = measured(
            r#"{"text":"打13800138000","spans":[{"type":"phone","start":1,"end":12}]}
{"text":"打13800138001","spans":[{"type":"phone","start":0,"end":12}]}
{"text":"邮箱a@b.com","spans":[]}
{"text":"订单号1234567890123","spans":[]}"#,
        )
        .unwrap();
        let phone = report.per_type["phone"];
        assert_eq!((report.n, phone.n, report.false_alarms), (4, 2, 1));
        assert_eq!(phone.score, Score { precision: 0.5, recall: 0.5, f1: 0.5 });
        assert!((report.total.precision - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(wrong.len(), 2);
        assert_eq!(wrong[0].missed, ["phone 0..12 打13800138001"]);
    }

    #[test]
    fn an_unknown_type_is_named() {
        let error = measured(r#"{"text":"打1","spans":[{"type":"shoe","start":1,"end":2}]}"#);
        assert!(error.unwrap_err().to_string().contains("no type `shoe`"));
    }
}
