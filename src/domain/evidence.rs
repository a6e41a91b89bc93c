//! What was found: entries with their scores, exactly as they were when the reply was made.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::{Domain, EntryId, Place, Scene};
use crate::domain::qualification::QualificationId;

/// One candidate answer for a question, best first in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub id: EntryId,
    pub version: u32,
    pub question: String,
    pub answer: Option<String>,
    pub scene: Scene,
    pub domain: Domain,
    /// What the entry cites.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub qualifications: BTreeSet<QualificationId>,
    /// The phrasing of the entry that matched best.
    pub phrasing: String,
    /// Of a passage: where it stands in its document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    pub scores: Scores,
}

/// How the lists saw the candidate; `None` where a list did not return it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The order of the result list; larger is better, not a probability.
    pub fused: f32,
    /// Cosine of the centred embeddings, −1 to 1.
    pub dense: Option<f32>,
    /// BM25 divided by the query's score against itself, 0 to about 1.
    pub lexical: Option<f32>,
    /// The trained head's probability, 0 to 1.
    pub head: Option<f32>,
    /// Cosine of the question with the mean of the entry's phrasings, −1 to 1.
    #[serde(default)]
    pub profile: Option<f32>,
    /// Cosine with the answer, centred by the answers' mean; `None` without answer.
    #[serde(default)]
    pub answer_dense: Option<f32>,
    /// Lexical score against the answer; `None` without answer.
    #[serde(default)]
    pub answer_lexical: Option<f32>,
    /// The vote by likeness to labelled messages, as its training weighed it.
    #[serde(default)]
    pub kin: Option<f32>,
    /// What the re-ranker makes of all these, log-odds; it then orders the first of the list.
    #[serde(default)]
    pub reranked: Option<f32>,
}
