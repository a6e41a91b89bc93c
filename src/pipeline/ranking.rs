//! What labels teach about finding: a head, and a re-ranker where it ranks labels better that were
//! kept from both.

use crate::domain::evidence::Evidence;
use crate::gate::reranker::{Candidate, Reranker};
use crate::pipeline::observe::{Message, mean_and_error, reciprocal};
use crate::pipeline::retrieve::{Found, Trained};
use crate::search::head::Head;
use crate::search::index::{Exclude, KnowledgeIndex};

/// Parts of the labels that are ranked by a re-ranker which did not see them. Messages stand by the
/// fold of their head, so each part takes from all folds.
const PARTS: usize = 5;

/// Whatever is `None` was not worth its while, or had too little to learn from.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    pub head: Option<Head>,
    pub reranker: Option<Reranker>,
}

impl Ranking {
    pub fn trained(&self) -> Trained<'_> {
        Trained { head: self.head.as_ref(), reranker: self.reranker.as_ref() }
    }
}

/// A message, and what it is not to find.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) message: &'a Message,
    pub(super) exclude: Exclude,
}

impl<'a> Asked<'a> {
    /// That may find everything.
    pub(super) fn of(message: &'a Message) -> Self {
        Self { message, exclude: Exclude::None }
    }
}

/// The re-ranker that serves, and those that judge what it was fitted on.
pub(super) struct Rerankers {
    pub(super) whole: Reranker,
    parts: Vec<Reranker>,
}

impl Rerankers {
    /// One that was fitted without the message in this place.
    pub(super) fn unaware_of(&self, place: usize) -> &Reranker {
        &self.parts[place % PARTS]
    }
}

/// Standard errors by which a re-ranker must be better. At one, it served by chance: on a bank's FAQ
/// with 2379 labels it gained .0015 ± .0012 of MRR on them and lost as much on others; with 200 to
/// 1000 labels it lost .0004 to .016, with 2538 it gained −.0007 to .0008.
const SURE: f64 = 2.0;

/// Re-rankers of what labelled messages found by heads that had not seen them; `None` when they do
/// not surely rank unseen ones better.
pub(super) fn rerankers(
    index: &KnowledgeIndex,
    held: &[(&Message, Found<'_>)],
) -> Option<Rerankers> {
    let candidates: Vec<Vec<Candidate>> = held
        .iter()
        .map(|(message, found)| {
            let right = |e: &Evidence| is_right(index, message, e);
            Candidate::all(&found.evidence, found.facts, right)
        })
        .collect();
    let fit = |kept: &dyn Fn(usize) -> bool| {
        let of = candidates.iter().enumerate().filter(|(at, _)| kept(*at));
        Reranker::fit(&of.flat_map(|(_, all)| all.iter().copied()).collect::<Vec<_>>())
    };
    let parts = (0..PARTS).map(|part| fit(&|at| at % PARTS != part)).collect();
    let rerankers = Rerankers { whole: fit(&|_| true), parts };
    let mut gains = Vec::new();
    for (at, (message, found)) in held.iter().enumerate() {
        if message.answer.is_some() {
            let place = |found: &Found<'_>| {
                reciprocal(found.evidence.iter().position(|e| is_right(index, message, e)))
            };
            let ordered = found.clone().ordered(Some(rerankers.unaware_of(at)));
            let ordered = Found { evidence: ordered.evidence, facts: found.facts };
            gains.push(place(&ordered) - place(found));
        }
    }
    let (gain, error) = mean_and_error(&gains);
    (gain > SURE * error).then_some(rerankers)
}

fn is_right(index: &KnowledgeIndex, message: &Message, found: &Evidence) -> bool {
    message.answer.is_some_and(|answer| index.answers(&found.id, answer))
}
