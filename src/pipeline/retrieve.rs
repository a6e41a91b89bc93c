//! The retrieve step: a question to its evidence and to what the gate looks at.

use crate::base::clock::UnixMs;
use crate::domain::evidence::Evidence;
use crate::gate::features::{Facts, Features};
use crate::pipeline::generation::Generation;
use crate::search::SearchError;
use crate::search::head::Head;
use crate::search::index::{Exclude, KnowledgeIndex, Query};

/// Candidates that become evidence: enough for recall@10 and for every margin of the gate.
pub const CANDIDATES: usize = 10;

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

/// What the serving generation finds.
pub fn retrieve(
    generation: &Generation,
    question: Question<'_>,
    now: UnixMs,
) -> Result<Retrieved, SearchError> {
    look_up(&generation.index, generation.head.as_ref(), question, Exclude::None, now)
}

/// [`retrieve`] with index and head apart, and with something left out, as fitting needs it.
pub fn look_up(
    index: &KnowledgeIndex,
    head: Option<&Head>,
    question: Question<'_>,
    exclude: Exclude,
    now: UnixMs,
) -> Result<Retrieved, SearchError> {
    let Question { text, vector, .. } = question;
    let by_entry = |head: &Head, votes: &[f32]| index.votes(head.classes(), votes);
    let votes = head.map(|head| by_entry(head, &head.probabilities(text, vector)));
    let kin = head.and_then(|head| Some(by_entry(head, &head.kin(text, vector)?)));
    let candidates = index.search(&Query {
        text,
        vector,
        k: CANDIDATES,
        exclude,
        now,
        head: votes.as_deref(),
        kin: kin.as_deref(),
    })?;
    let evidence: Vec<Evidence> =
        candidates.iter().filter_map(|candidate| index.evidence(candidate)).collect();
    let facts = Facts { chars: text.chars().count(), rewritten: question.rewritten };
    let features = Features::extract(&evidence, facts);
    Ok(Retrieved { evidence, features })
}
