//! `eval rewrite`: is a message that leans on the conversation known, and does it stand alone after?

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::base::clock::Clock;
use crate::domain::knowledge::{Entry, EntryId, VersionedEntry};
use crate::domain::label::Labelled;
use crate::domain::message::Utterance;
use crate::engine::embed::EmbedWorker;
use crate::eval::EvalError;
use crate::eval::pii::Tally;
use crate::ingest::{Rewrite, read_rewrites};
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{FitProgress, build_index};
use crate::pipeline::observe::Bench;
use crate::pipeline::retrieve::Trained;
use crate::search::layers::Layers;
use crate::search::synonyms::Synonyms;
use crate::understand::normalize::normalize;
use crate::understand::understand;

/// Keys as scripts know them. Texts are compared normalised and without spaces.
#[derive(Clone, Debug, Serialize)]
pub struct RewriteReport {
    pub n: usize,
    pub exact_match: f64,
    /// Mean over the messages of the F1 between the characters of what was made and the label's.
    pub char_f1: f64,
    pub needs_rewrite_precision: f64,
    pub needs_rewrite_recall: f64,
    pub needs_rewrite_f1: f64,
    pub control: Control,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
}

/// The same with each label's stand-alone form said in the same place as one more message, which
/// must be left alone. Sets of follow-ups have next to no such messages of their own.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Control {
    pub n: usize,
    /// Share of the stand-alone forms that were rewritten all the same.
    pub standalone_rewritten: f64,
    pub needs_rewrite_precision: f64,
    pub needs_rewrite_recall: f64,
    pub needs_rewrite_f1: f64,
}

/// How often the right one of the set's stand-alone questions is found with three forms of a
/// message.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Retrieval {
    /// Distinct stand-alone questions: the knowledge.
    pub entries: usize,
    /// With the stand-alone question itself: the most that is possible.
    pub standalone: Found,
    /// With what the service makes of the message.
    pub rewritten: Found,
    /// With the message as it was said.
    pub bare: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Found {
    pub recall_at_1: f64,
    pub recall_at_5: f64,
}

/// One message with what was made of it.
#[derive(Clone, Debug, Serialize)]
pub struct RewriteRow {
    pub context: Vec<Utterance>,
    pub current: String,
    pub rewritten: String,
    pub made: String,
    pub rule: Option<&'static str>,
    /// The rule that fired on the stand-alone form.
    pub control_rule: Option<&'static str>,
}

/// The report without retrieval, and the rows behind it.
pub fn run(sets: &[PathBuf]) -> Result<(RewriteReport, Vec<RewriteRow>), EvalError> {
    let mut rows = Vec::new();
    for set in sets {
        rows.extend(read_rewrites(set)?.into_iter().map(judge));
    }
    if rows.is_empty() {
        return Err(EvalError::Input("no messages: nothing to measure".into()));
    }
    Ok((measure(&rows), rows))
}

fn judge(Rewrite { context, current, rewritten }: Rewrite) -> RewriteRow {
    let made = understand(&current, &context);
    let control_rule = understand(&rewritten, &context).rewritten_by;
    let (made, rule) = (made.question, made.rewritten_by);
    RewriteRow { context, current, rewritten, made, rule, control_rule }
}

fn measure(rows: &[RewriteRow]) -> RewriteReport {
    let n = rows.len() as f64;
    let mut needs = Tally::default();
    let (mut exact, mut chars) = (0, 0.0);
    for row in rows {
        let (made, wanted) = (compared(&row.made), compared(&row.rewritten));
        exact += usize::from(made == wanted);
        chars += char_f1(&made, &wanted);
        let leans = compared(&row.current) != wanted;
        needs.marked += usize::from(leans);
        needs.found += usize::from(row.rule.is_some());
        needs.both += usize::from(leans && row.rule.is_some());
    }
    let alarms = rows.iter().filter(|row| row.control_rule.is_some()).count();
    let controlled = Tally { found: needs.found + alarms, ..needs }.score();
    let score = needs.score();
    RewriteReport {
        n: rows.len(),
        exact_match: exact as f64 / n,
        char_f1: chars / n,
        needs_rewrite_precision: score.precision,
        needs_rewrite_recall: score.recall,
        needs_rewrite_f1: score.f1,
        control: Control {
            n: 2 * rows.len(),
            standalone_rewritten: alarms as f64 / n,
            needs_rewrite_precision: controlled.precision,
            needs_rewrite_recall: controlled.recall,
            needs_rewrite_f1: controlled.f1,
        },
        retrieval: None,
    }
}

fn compared(text: &str) -> String {
    normalize(text).split_whitespace().collect()
}

/// Characters counted as often as they stand, in any order.
fn char_f1(made: &str, wanted: &str) -> f64 {
    let mut left: HashMap<char, usize> = HashMap::new();
    for c in wanted.chars() {
        *left.entry(c).or_default() += 1;
    }
    let (marked, found) = (wanted.chars().count(), made.chars().count());
    let take = |c: &char| left.get_mut(c).filter(|n| **n > 0).map(|n| *n -= 1).is_some();
    let both = made.chars().filter(take).count();
    Tally { marked, found, both }.score().f1
}

/// Takes the stand-alone questions as knowledge and looks each message up in three forms.
pub fn look_up(
    rows: &[RewriteRow],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Retrieval, EvalError> {
    let mut ids: HashMap<String, EntryId> = HashMap::new();
    let mut entries = Vec::new();
    let mut answers = Vec::with_capacity(rows.len());
    for row in rows {
        let next = EntryId(entries.len().to_string());
        let id = ids.entry(compared(&row.rewritten)).or_insert_with(|| {
            let entry = Entry::new(next.clone(), row.rewritten.clone());
            entries.push(VersionedEntry { version: 1, entry });
            next
        });
        answers.push(id.clone());
    }
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("generation");
    let mut embedding = Embedding::new(embedder, Vec::new());
    let index = build_index(&dir, &entries, &Synonyms::default(), &mut embedding, progress)?;
    let knowledge = Layers::of(Arc::new(index));
    let now = Clock::System.now();
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress };
    let mut found = |form: &dyn Fn(&RewriteRow) -> (String, Vec<Utterance>)| {
        let asked = rows.iter().zip(&answers).map(|(row, answer)| {
            let (text, context) = form(row);
            Labelled { text, context, answer: Some(answer.clone()) }
        });
        ranks(&mut bench, &asked.collect::<Vec<_>>())
    };
    Ok(Retrieval {
        entries: entries.len(),
        standalone: found(&|row| (row.rewritten.clone(), Vec::new()))?,
        rewritten: found(&|row| (row.current.clone(), row.context.clone()))?,
        bare: found(&|row| (row.current.clone(), Vec::new()))?,
    })
}

fn ranks(bench: &mut Bench<'_>, asked: &[Labelled]) -> Result<Found, EvalError> {
    let (mut first, mut among) = (0, 0);
    let messages = bench.messages(asked)?;
    for message in &messages {
        let rank = bench.place(message, Trained::default())?;
        first += usize::from(rank == Some(0));
        among += usize::from(rank.is_some_and(|rank| rank < 5));
    }
    let n = asked.len() as f64;
    Ok(Found { recall_at_1: first as f64 / n, recall_at_5: among as f64 / n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_compared_with_the_label() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.jsonl");
        let lines = r#"{"context":["退货要几天","7天"],"current":"那换货呢","rewritten":"换货 要几天"}
{"context":["退货要几天","7天"],"current":"我想注销账号","rewritten":"我想注销账号"}"#;
        std::fs::write(&path, lines).unwrap();
        let (report, rows) = run(&[path]).unwrap();
        assert_eq!((report.n, report.exact_match), (2, 1.0));
        assert_eq!((report.needs_rewrite_precision, report.needs_rewrite_recall), (1.0, 1.0));
        assert_eq!(rows[0].rule, Some("followup.new_object"));
    }

    #[test]
    fn characters_count_as_often_as_they_stand() {
        assert!((char_f1("退货退货", "退货") - 2.0 / 3.0).abs() < 1e-9);
        assert!((char_f1("", "") - 1.0).abs() < 1e-9);
        assert!(char_f1("运费", "退货").abs() < 1e-9);
    }
}
