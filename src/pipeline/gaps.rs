//! What customers ask and the knowledge does not answer: messages that went to a person for want of
//! an answer, grouped by meaning, each group a draft of the entry that is missing.

use std::collections::BTreeMap;

use crate::base::digest::sha256_hex;
use crate::domain::decision::{Reason, Verdict};
use crate::domain::knowledge::{Entry, EntryId, EntryState};
use crate::domain::trace::Trace;
use crate::engine::EngineError;
use crate::engine::embed::EmbedWorker;
use crate::model::Control;
use crate::search::SearchError;
use crate::search::dense::DenseIndex;
use crate::search::vectors::Matrix;

/// Cosine from which two messages belong together. On 600 questions of 54 kinds, groups of three and
/// more held one kind to 87 % and covered 70 % of the questions (.5: 80 and 81; .6: 90 and 61).
const TOGETHER: f32 = 0.55;
/// Similar questions that a draft proposes.
const MOST_SIMILAR: usize = 8;
/// Different questions that are grouped; each is compared with each.
pub const MOST_QUESTIONS: usize = 3_000;

/// Messages about one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// How often it was asked.
    pub count: usize,
    /// The message nearest to all others first, then by how often they came.
    pub questions: Vec<String>,
    /// The entry that came nearest, if any did.
    pub nearest: Option<EntryId>,
}

impl Gap {
    /// A draft for a person to complete; equal questions give equal ids.
    pub fn draft(&self) -> Option<Entry> {
        let (question, others) = self.questions.split_first()?;
        let id = format!("gap.{}", &sha256_hex(question.as_bytes())[..10]);
        Some(Entry {
            similar_questions: others.iter().take(MOST_SIMILAR).cloned().collect(),
            state: EntryState::Draft,
            ..Entry::new(EntryId(id), question.clone())
        })
    }
}

/// A question that was asked, how often, and what came nearest.
struct Asked {
    question: String,
    count: usize,
    nearest: Option<EntryId>,
}

/// The gaps behind some traces, the largest first.
pub fn gaps(traces: &[Trace], embedder: &EmbedWorker) -> Result<Vec<Gap>, GapError> {
    let asked = asked(traces);
    let questions: Vec<String> = asked.iter().map(|a| a.question.clone()).collect();
    let vectors = embedder.embed(&questions, &Control::default(), &mut |_, _| ())?;
    let vectors = Matrix::from_rows(embedder.dim(), vectors.iter().map(Vec::as_slice))?;
    Ok(group(&asked, &DenseIndex::new(vectors)))
}

#[derive(Debug, thiserror::Error)]
pub enum GapError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Search(#[from] SearchError),
}

/// Readable questions that no entry answered, the most frequent first.
fn asked(traces: &[Trace]) -> Vec<Asked> {
    let mut counts: BTreeMap<&str, (usize, &Trace)> = BTreeMap::new();
    for trace in traces.iter().filter(|trace| is_unanswered(trace)) {
        let question = trace.understanding.question.as_str();
        if !question.is_empty() {
            counts.entry(question).or_insert((0, trace)).0 += 1;
        }
    }
    let mut asked: Vec<Asked> = counts
        .into_iter()
        .map(|(question, (count, trace))| Asked {
            question: question.to_owned(),
            count,
            nearest: trace.evidence.first().map(|e| e.id.clone()),
        })
        .collect();
    asked.sort_by_key(|a| std::cmp::Reverse(a.count));
    asked.truncate(MOST_QUESTIONS);
    asked
}

/// For want of an answer, not by a rule.
fn is_unanswered(trace: &Trace) -> bool {
    let wants = [Reason::NoEvidence, Reason::LowConfidence, Reason::NoApprovedAnswer];
    let reason = trace.decision.reasons.first();
    trace.decision.verdict != Verdict::AutoReply && reason.is_some_and(|r| wants.contains(r))
}

/// Takes the question with the most asked around it and all that is near, until nothing is left.
fn group(asked: &[Asked], vectors: &DenseIndex) -> Vec<Gap> {
    let near: Vec<Vec<usize>> = (0..asked.len())
        .map(|at| {
            let scores = vectors.scores(vectors.row(at)).unwrap_or_default();
            let together = scores.iter().enumerate().filter(|(_, score)| **score >= TOGETHER);
            together.map(|(other, _)| other).collect()
        })
        .collect();
    let mut is_left = vec![true; asked.len()];
    let mut gaps = Vec::new();
    loop {
        let around = |at: usize| -> usize {
            near[at].iter().filter(|other| is_left[**other]).map(|other| asked[*other].count).sum()
        };
        let best = (0..asked.len())
            .filter(|at| is_left[*at])
            .max_by_key(|at| (around(*at), asked.len() - at));
        let Some(centre) = best else { break };
        let others =
            near[centre].iter().copied().filter(|other| is_left[*other] && *other != centre);
        let members: Vec<usize> = std::iter::once(centre).chain(others).collect();
        members.iter().for_each(|member| is_left[*member] = false);
        gaps.push(Gap {
            count: members.iter().map(|member| asked[*member].count).sum(),
            questions: members.iter().map(|member| asked[*member].question.clone()).collect(),
            nearest: asked[centre].nearest.clone(),
        });
    }
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.count));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str, count: usize) -> Asked {
        Asked { question: question.into(), count, nearest: None }
    }

    #[test]
    fn what_is_near_is_one_gap_and_nothing_is_in_two() {
        let all = [
            asked("尘盒能洗吗", 1),
            asked("几点开门", 5),
            asked("怎么清洗尘盒", 3),
            asked("开门时间", 2),
        ];
        let rows = [[1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [1.0, 0.0, 0.1], [0.1, 1.0, 0.0]];
        let vectors = Matrix::from_rows(3, rows.iter().map(<[f32; 3]>::as_slice)).unwrap();
        let gaps = group(&all, &DenseIndex::new(vectors));
        let told: Vec<_> = gaps.iter().map(|g| (g.count, g.questions.clone())).collect();
        let texts = |t: &[&str]| t.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            told,
            [(7, texts(&["几点开门", "开门时间"])), (4, texts(&["尘盒能洗吗", "怎么清洗尘盒"]))]
        );
        let draft = gaps[0].draft().unwrap();
        assert_eq!((draft.state, draft.question.as_str()), (EntryState::Draft, "几点开门"));
        assert_eq!(draft.similar_questions, ["开门时间"]);
    }
}
