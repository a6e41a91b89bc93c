//! `eval draft`: what replies are made of the right evidence, and what is wrong with them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::text::is_han;
use crate::domain::draft::Draft;
use crate::domain::evidence::{Evidence, Scores};
use crate::domain::knowledge::{Entry, EntryId};
use crate::domain::label::Labelled;
use crate::domain::texts::{Lang, connectives};
use crate::engine::generate::GenerateWorker;
use crate::eval::{EvalError, faults, percentile, read_all};
use crate::gate::grounding;
use crate::ingest::read_entries;
use crate::model::generator::QwenGenerator;
use crate::model::{ChatMessage, Control, Done, GenerateRequest, Generator, Sampling, Task};
use crate::pipeline::draft::{self, Matter, Room};
use crate::understand::understand;

/// Longest reply in a generator's own words, tokens.
const FREE_TOKENS: usize = 160;

/// How the reply comes about.
pub enum Drafter {
    /// The approved answer as it stands.
    Verbatim,
    /// As the service composes.
    Compose(Arc<GenerateWorker>),
    /// In the generator's own words, which the service never sends: what composing is there for.
    Free(Box<QwenGenerator>),
}

/// Files of one evaluation.
#[derive(Clone, Debug)]
pub struct DraftInput {
    pub kb: PathBuf,
    /// Messages without an entry that answers are left out.
    pub queries: Vec<PathBuf>,
    pub room: Room,
}

/// Keys as scripts know them; all but the last three are counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DraftReport {
    /// Drafts that were made.
    pub n: usize,
    /// Drafts with a piece that stands in no evidence.
    pub invented: usize,
    /// Drafts that lost a condition, exception, negation or amount of what they say.
    pub incomplete: usize,
    /// Drafts that repeat the question.
    pub echo: usize,
    /// Drafts that the gate does not find grounded.
    pub ungrounded: usize,
    /// Queries of which no draft was made: their entry has no answer, or none that fits.
    pub undrafted: usize,
    pub mean_chars: f64,
    pub ms_p50: f64,
    pub ms_p95: f64,
}

/// One draft, for whoever wants to read what is behind a figure.
#[derive(Clone, Debug, Serialize)]
pub struct DraftRow {
    pub text: String,
    pub kb_id: EntryId,
    pub answer: String,
    pub draft: String,
    pub invented: Vec<String>,
    pub lost: Vec<String>,
    pub echo: bool,
    /// Rules of the gate's grounding that it breaks.
    pub ungrounded: Vec<&'static str>,
    pub ms: f64,
}

/// The report and the rows behind it.
pub fn run(
    input: &DraftInput,
    drafter: &mut Drafter,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(DraftReport, Vec<DraftRow>), EvalError> {
    let entries = read_entries(&input.kb)?;
    let entries: HashMap<&EntryId, &Entry> = entries.iter().map(|e| (&e.id, e)).collect();
    let queries = read_all(&input.queries)?;
    let (mut rows, mut undrafted) = (Vec::new(), 0);
    for (at, query) in queries.iter().enumerate() {
        progress(at, queries.len());
        let Some(id) = &query.answer else { continue };
        let Some(entry) = entries.get(id) else {
            return Err(EvalError::Input(format!("{:?}: no entry {id}", query.text)));
        };
        match row(query, &evidence(entry), drafter, input.room)? {
            Some(row) => rows.push(row),
            None => undrafted += 1,
        }
    }
    progress(queries.len(), queries.len());
    if rows.is_empty() {
        return Err(EvalError::Input("no query could be drafted: nothing to measure".into()));
    }
    Ok((report(&rows, undrafted), rows))
}

fn report(rows: &[DraftRow], undrafted: usize) -> DraftReport {
    let count = |fault: fn(&DraftRow) -> bool| rows.iter().filter(|row| fault(row)).count();
    let times: Vec<f64> = rows.iter().map(|row| row.ms).collect();
    let chars: usize = rows.iter().map(|row| row.draft.chars().count()).sum();
    DraftReport {
        n: rows.len(),
        invented: count(|row| !row.invented.is_empty()),
        incomplete: count(|row| !row.lost.is_empty()),
        echo: count(|row| row.echo),
        ungrounded: count(|row| !row.ungrounded.is_empty()),
        undrafted,
        mean_chars: chars as f64 / rows.len().max(1) as f64,
        ms_p50: percentile(&times, 0.5),
        ms_p95: percentile(&times, 0.95),
    }
}

/// `None` when no reply can be made of the evidence.
fn row(
    query: &Labelled,
    evidence: &Evidence,
    drafter: &mut Drafter,
    room: Room,
) -> Result<Option<DraftRow>, EvalError> {
    let Some(answer) = evidence.answer.clone() else { return Ok(None) };
    let question = understand(&query.text, &query.context).question;
    let watch = Stopwatch::start();
    let Some(draft) = make(drafter, &question, evidence, room)? else { return Ok(None) };
    let ms = watch.ms();
    let text = draft.text();
    let mut sources = vec![answer.as_str()];
    for phrase in [Lang::Zh, Lang::En].into_iter().flat_map(connectives) {
        sources.push(phrase);
    }
    let violations = grounding::check(&draft, std::slice::from_ref(evidence));
    Ok(Some(DraftRow {
        invented: faults::invented(&text, sources),
        lost: faults::lost(&text, &answer),
        echo: faults::echoes(&text, &question),
        ungrounded: violations.iter().map(|violation| violation.rule).collect(),
        text: query.text.clone(),
        kb_id: evidence.id.clone(),
        answer,
        draft: text,
        ms,
    }))
}

fn make(
    drafter: &mut Drafter,
    question: &str,
    evidence: &Evidence,
    room: Room,
) -> Result<Option<Draft>, EvalError> {
    match drafter {
        Drafter::Verbatim => Ok(draft::verbatim(evidence, room)),
        Drafter::Compose(composer) => {
            let found = std::slice::from_ref(evidence);
            let matter = Matter { question, evidence: found, room };
            Ok(draft::compose(composer, matter, &Control::default(), &mut || ())?)
        }
        Drafter::Free(generator) => free(generator.as_mut(), question, evidence).map(Some),
    }
}

/// The generator's own words, claimed to come from the evidence.
fn free(
    generator: &mut impl Generator,
    question: &str,
    evidence: &Evidence,
) -> Result<Draft, EvalError> {
    let answer = evidence.answer.as_deref().unwrap_or_default();
    let (task, given, asked) = if question.chars().any(is_han) {
        ("你是客服，只根据资料回答顾客的问题。", "资料", "问题")
    } else {
        ("You are a support agent. Answer from the given text only.", "Text", "Question")
    };
    let message = |role, content: String| ChatMessage { role, content };
    let prompt = generator.chat_prompt(&[
        message("system", task.to_owned()),
        message("user", format!("{given}：{answer}\n{asked}：{question}")),
    ])?;
    let request = GenerateRequest {
        prompt,
        max_tokens: FREE_TOKENS,
        sampling: Sampling::Greedy,
        lookup: true,
        constraint: None,
    };
    match generator.run(&Task::Generate(request), &Control::default(), &mut |_| ())? {
        Done::Generated(said) => Ok(Draft::verbatim(evidence.id.clone(), said.text)),
        Done::Composed(_) => Err(EvalError::Input("the model gave another kind of reply".into())),
    }
}

/// The entry as retrieval would hand it over when it is found and nothing else is.
fn evidence(entry: &Entry) -> Evidence {
    Evidence {
        id: entry.id.clone(),
        version: 1,
        question: entry.question.clone(),
        answer: entry.answer.clone(),
        scene: entry.scene,
        domain: entry.domain,
        qualifications: entry.qualifications.clone(),
        phrasing: entry.question.clone(),
        place: entry.place.clone(),
        scores: Scores { fused: 1.0, ..Scores::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room { draft_chars: 300, channel_bytes: 2048 }
    }

    #[test]
    fn faults_are_counted_once_per_draft() {
        let row = |lost: &[&str]| DraftRow {
            text: "退货".into(),
            kb_id: EntryId("a".into()),
            answer: "可以。".into(),
            draft: "可以".into(),
            invented: vec![],
            lost: lost.iter().map(|l| (*l).to_owned()).collect(),
            echo: false,
            ungrounded: vec!["grounding.condition"],
            ms: 2.0,
        };
        let report = report(&[row(&["但", "除"]), row(&[])], 3);
        assert_eq!((report.n, report.incomplete, report.invented), (2, 1, 0));
        assert_eq!((report.ungrounded, report.undrafted), (2, 3));
        assert!((report.mean_chars - 2.0).abs() < 1e-9);
    }

    #[test]
    fn an_approved_answer_has_no_fault_and_a_missing_one_makes_no_row() {
        let mut entry = Entry::new(EntryId("a".into()), "怎么退货".into());
        let query =
            Labelled { text: "想退掉".into(), context: vec![], answer: Some(entry.id.clone()) };
        let mut drafter = Drafter::Verbatim;
        assert!(row(&query, &evidence(&entry), &mut drafter, room()).unwrap().is_none());
        entry.answer = Some("在订单页提交。但定制商品除外。".into());
        let row = row(&query, &evidence(&entry), &mut drafter, room()).unwrap().unwrap();
        assert!(row.invented.is_empty() && row.lost.is_empty() && row.ungrounded.is_empty());
    }
}
