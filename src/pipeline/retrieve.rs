//! The retrieve step: a question to its evidence and to what the gate looks at.

use crate::base::clock::UnixMs;
use crate::domain::evidence::Evidence;
use crate::domain::knowledge::Asker;
use crate::gate::features::{Facts, Features};
use crate::gate::reranker::Reranker;
use crate::pipeline::generations::Serving;
use crate::search::SearchError;
use crate::search::head::Head;
use crate::search::index::{Exclude, Query};
use crate::search::layers::Layers;

/// Candidates that become evidence: enough for recall@10 and for every margin of the gate.
pub const CANDIDATES: usize = 10;
/// The head's class for messages that no entry answers.
pub const OUT_OF_SCOPE: &str = "";

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

/// What labels taught about finding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trained<'a> {
    pub head: Option<&'a Head>,
    pub reranker: Option<&'a Reranker>,
}

/// What serves finds for this customer.
pub fn retrieve(
    serving: &Serving,
    question: Question<'_>,
    asker: &Asker,
    now: UnixMs,
) -> Result<Retrieved, SearchError> {
    look_up(
        &serving.knowledge,
        serving.generation.trained(),
        question,
        Scope { exclude: Exclude::None, asker: Some(asker), now },
    )
}

/// Which entries are looked among.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub exclude: Exclude,
    /// `None`: whatever customer and account they are for.
    pub asker: Option<&'a Asker>,
    pub now: UnixMs,
}

/// [`retrieve`] with knowledge and training apart, and with something left out, as fitting needs it.
pub fn look_up(
    knowledge: &Layers,
    trained: Trained<'_>,
    question: Question<'_>,
    scope: Scope<'_>,
) -> Result<Retrieved, SearchError> {
    Ok(seek(knowledge, trained.head, question, scope)?.ordered(trained.reranker))
}

/// Candidates in the order of the lists' sum, and what else is known of the message.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    pub evidence: Vec<Evidence>,
    pub facts: Facts<'a>,
}

impl Found<'_> {
    /// In the order of the re-ranker, if there is one, and as the gate looks at it.
    pub fn ordered(mut self, reranker: Option<&Reranker>) -> Retrieved {
        if let Some(reranker) = reranker {
            reranker.order(&mut self.evidence, self.facts);
        }
        let features = Features::extract(&self.evidence, self.facts);
        Retrieved { evidence: self.evidence, features }
    }
}

/// The first half of [`look_up`].
pub fn seek<'a>(
    knowledge: &Layers,
    head: Option<&Head>,
    question: Question<'a>,
    scope: Scope<'_>,
) -> Result<Found<'a>, SearchError> {
    let Question { text, vector, .. } = question;
    let votes = head.map(|head| head.probabilities(text, vector));
    let kin = head.and_then(|head| head.kin(text, vector));
    let evidence = knowledge.search(&Query {
        text,
        vector,
        k: CANDIDATES,
        exclude: scope.exclude,
        now: scope.now,
        asker: scope.asker,
        head: head.map(Head::classes).zip(votes.as_deref()),
        kin: head.map(Head::classes).zip(kin.as_deref()),
    })?;
    let outside = |votes: &Option<Vec<f32>>| {
        let class = head?.classes().iter().position(|class| class == OUT_OF_SCOPE)?;
        votes.as_ref()?.get(class).copied()
    };
    let facts = Facts {
        question: text,
        rewritten: question.rewritten,
        head_outside: outside(&votes),
        kin_outside: outside(&kin),
    };
    Ok(Found { evidence, facts })
}
