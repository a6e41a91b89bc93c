//! A learned order of the first candidates: each is judged as if it were the one to answer with.
//!
//! Boosted trees see of a candidate what the gate would see were it chosen: every list's score and
//! its lead over the others, the head's probability, the length of what matched, whether numbers
//! agree. They are fitted on labelled messages whose candidates were found by heads that had not
//! seen them, and serve only where they rank labels better that were kept from them too.

use serde::{Deserialize, Serialize};

use crate::domain::evidence::Evidence;
use crate::gate::features::{Facts, Features, NAMES};
use crate::gate::input::Input;
use crate::gate::logistic::Row;
use crate::gate::trees::Boosted;

/// Candidates that may change places: the right one is among them for 99 of 100 messages.
const DEPTH: usize = 5;

/// A candidate as it was found for a labelled message.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub features: Features,
    pub right: bool,
}

impl Candidate {
    /// The candidates that may change places; `right` tells which answer.
    pub fn all(
        evidence: &[Evidence],
        facts: Facts<'_>,
        right: impl Fn(&Evidence) -> bool,
    ) -> Vec<Self> {
        let places = evidence.iter().take(DEPTH).enumerate();
        let candidate = |(place, one): (usize, &Evidence)| {
            let features = Features::of_candidate(evidence, place, facts)?;
            Some(Self { features, right: right(one) })
        };
        places.filter_map(candidate).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reranker {
    inputs: Vec<Input>,
    trees: Boosted,
}

impl Reranker {
    /// Fits to the candidates of labelled messages.
    pub fn fit(candidates: &[Candidate]) -> Self {
        let seen = || candidates.iter().map(|c| (&c.features, 1.0));
        let inputs: Vec<Input> =
            NAMES.iter().filter_map(|name| Input::standardise(name, seen())).collect();
        let row = |c: &Candidate| Row {
            x: inputs.iter().map(|i| i.standardised(&c.features)).collect(),
            target: f64::from(u8::from(c.right)),
            weight: 1.0,
        };
        let trees = Boosted::fit(&candidates.iter().map(row).collect::<Vec<_>>());
        Self { inputs, trees }
    }

    /// Orders the first candidates anew, and tells them what each was given.
    pub fn order(&self, evidence: &mut [Evidence], facts: Facts<'_>) {
        let first = evidence.len().min(DEPTH);
        let score = |place| {
            let features = Features::of_candidate(evidence, place, facts)?;
            Some(self.score(&features) as f32)
        };
        let scores: Vec<Option<f32>> = (0..first).map(score).collect();
        let first = &mut evidence[..first];
        for (one, score) in first.iter_mut().zip(scores) {
            one.scores.reranked = score;
        }
        let given = |e: &Evidence| e.scores.reranked.unwrap_or(f32::NEG_INFINITY);
        first.sort_by(|a, b| given(b).total_cmp(&given(a)));
    }

    fn score(&self, features: &Features) -> f64 {
        let x: Vec<f64> = self.inputs.iter().map(|i| i.standardised(features)).collect();
        self.trees.score(&x)
    }

    /// True when every tree ends within inputs that this build has.
    pub(super) fn is_sound(&self) -> bool {
        self.trees.is_sound(self.inputs.len()) && self.inputs.iter().all(Input::is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::Scores;
    use crate::gate::tests_support::evidence;

    const FACTS: Facts<'_> =
        Facts { question: "怎么退钱", rewritten: false, head_outside: None, kin_outside: None };

    fn list(dense: [f32; 2]) -> Vec<Evidence> {
        let one = |id, fused, dense| {
            evidence(id, Scores { fused, dense: Some(dense), ..Scores::default() })
        };
        vec![one("a", 1.0, dense[0]), one("b", 0.9, dense[1])]
    }

    /// Messages whose answer is the candidate that the embeddings prefer, whatever comes first.
    fn learned() -> Reranker {
        let mut candidates = Vec::new();
        for at in 0..200 {
            let spread = (at as f32 * 0.618_034).fract();
            let found = list([spread, 1.0 - spread]);
            let right = if spread > 0.5 { "a" } else { "b" };
            candidates.extend(Candidate::all(&found, FACTS, |e| e.id.0 == right));
        }
        Reranker::fit(&candidates)
    }

    #[test]
    fn learns_which_list_is_right_and_says_so() {
        let reranker = learned();
        let mut found = list([0.2, 0.8]);
        reranker.order(&mut found, FACTS);
        assert_eq!(found[0].id.0, "b");
        let seen = Features::extract(&found, FACTS).unwrap();
        assert!(seen.get("reranked_margin").unwrap() > 0.0);
        assert!(seen.get("fused_margin").unwrap() < 0.0);
        let mut found = list([0.8, 0.2]);
        reranker.order(&mut found, FACTS);
        assert_eq!(found[0].id.0, "a");
        reranker.order(&mut [], FACTS);
    }

    #[test]
    fn json_round_trip_and_refusal_of_unknown_features() {
        let reranker = learned();
        let text = serde_json::to_string(&reranker).unwrap();
        let back: Reranker = serde_json::from_str(&text).unwrap();
        let seen = Features::extract(&list([0.2, 0.8]), FACTS).unwrap();
        assert!((back.score(&seen) - reranker.score(&seen)).abs() < 1e-9 && back.is_sound());
        let other = text.replacen("dense_chosen", "dense_nothing", 1);
        assert!(!serde_json::from_str::<Reranker>(&other).unwrap().is_sound());
    }
}
