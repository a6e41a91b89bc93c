//! The retrieve step: a question to its evidence and to what the gate looks at.

use crate::base::clock::UnixMs;
use crate::domain::evidence::Evidence;
use crate::gate::features::{Facts, Features};
use crate::pipeline::generation::Generation;
use crate::search::head::HeadInput;
use crate::search::index::{Candidate, Exclude, Query};
use crate::search::SearchError;

/// Candidates that become evidence: enough for recall@10 and for every margin of the gate.
const CANDIDATES: usize = 10;

/// A question as it is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Masked, standing alone, normalised.
    pub text: &'a str,
    /// Its embedding.
    pub vector: &'a [f32],
    /// True when the conversation was needed to make it stand alone.
    pub rewritten: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Retrieved {
    /// Best first.
    pub evidence: Vec<Evidence>,
    /// `None` without any evidence.
    pub features: Option<Features>,
}

/// The generation's own lists and head.
pub fn retrieve(
    generation: &Generation,
    question: Question<'_>,
    now: UnixMs,
) -> Result<Retrieved, SearchError> {
    let head = generation
        .head
        .as_ref()
        .map(|head| head.probabilities(&HeadInput::new(question.vector, question.text)));
    let votes = head.as_ref().map(|p| p.of_entries());
    let query = Query {
        text: question.text,
        vector: question.vector,
        k: CANDIDATES,
        exclude: Exclude::None,
        now,
        head: votes,
    };
    let candidates = generation.index.search(&query)?;
    Ok(judge(&generation.index, &candidates, question))
}

/// Candidates in the form that the trace keeps and the gate reads.
pub fn judge(
    index: &crate::search::index::KnowledgeIndex,
    candidates: &[Candidate],
    question: Question<'_>,
) -> Retrieved {
    let evidence: Vec<Evidence> = candidates
        .iter()
        .map(|candidate| {
            let found = index.entry(candidate.entry);
            Evidence {
                id: found.entry.id.clone(),
                version: found.version,
                question: found.entry.question.clone(),
                answer: found.entry.answer.clone(),
                scene: found.entry.scene,
                domain: found.entry.domain,
                phrasing: index.phrasing(candidate.phrasing).to_owned(),
                scores: candidate.scores,
            }
        })
        .collect();
    let facts = Facts { chars: question.text.chars().count(), rewritten: question.rewritten };
    let features = Features::extract(&evidence, facts);
    Retrieved { evidence, features }
}
