//! The retrieve step: a question to its evidence and to what the gate looks at.

use crate::base::clock::UnixMs;
use crate::domain::evidence::Evidence;
use crate::domain::knowledge::Asker;
use crate::gate::features::{Facts, Features};
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

/// What serves finds for this customer.
pub fn retrieve(
    serving: &Serving,
    question: Question<'_>,
    asker: &Asker,
    now: UnixMs,
) -> Result<Retrieved, SearchError> {
    let head = serving.generation.head.as_ref();
    look_up(
        &serving.knowledge,
        head,
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

/// [`retrieve`] with knowledge and head apart, and with something left out, as fitting needs it.
pub fn look_up(
    knowledge: &Layers,
    head: Option<&Head>,
    question: Question<'_>,
    scope: Scope<'_>,
) -> Result<Retrieved, SearchError> {
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
        chars: text.chars().count(),
        rewritten: question.rewritten,
        head_outside: outside(&votes),
        kin_outside: outside(&kin),
    };
    let features = Features::extract(&evidence, facts);
    Ok(Retrieved { evidence, features })
}
