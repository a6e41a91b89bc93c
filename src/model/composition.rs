//! A reply being composed: after each of its prompts all units of the evidence are judged, and when
//! all are, units are chosen. The prompts do not wait for each other.

use crate::model::arch::qwen::Part;
use crate::model::compose::Plan;
use crate::model::judging::{Judged, Judging, Room};
use crate::model::prefix::PrefixTree;
use crate::model::{Composed, Control, ModelError};

/// A composition under way.
pub(crate) struct Composition {
    plan: Plan,
    judgings: Vec<Judging>,
    control: Control,
    ended: Option<Result<Composed, ModelError>>,
}

impl Composition {
    /// `judgings` judge the plan's texts after each of its prompts.
    pub(crate) fn new(plan: Plan, judgings: Vec<Judging>, control: Control) -> Self {
        let mut new = Self { plan, judgings, control, ended: None };
        new.end_when_judged();
        new
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether it may go on; ends it otherwise.
    pub(crate) fn may_go_on(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.control.check().err().map(Err);
        }
        !self.ended()
    }

    pub(crate) fn plan(&mut self, room: &mut Room) {
        self.judgings.iter_mut().for_each(|judging| judging.plan(room));
    }

    pub(crate) fn parts<'a>(&'a mut self, parts: &mut Vec<Part<'a>>) {
        self.judgings.iter_mut().for_each(|judging| judging.parts(parts));
    }

    pub(crate) fn take<'a>(
        &mut self,
        rows: &mut impl Iterator<Item = &'a [f32]>,
        prefixes: &mut PrefixTree,
        known: &mut Judged,
    ) {
        for judging in &mut self.judgings {
            judging.take(self.plan.texts(), rows, prefixes, known);
        }
        self.end_when_judged();
    }

    fn end_when_judged(&mut self) {
        let nats: Option<Vec<&[f32]>> = self.judgings.iter().map(Judging::nats).collect();
        let Some(nats) = nats else { return };
        self.ended = Some(if nats.iter().copied().flatten().all(|nats| nats.is_finite()) {
            let (chosen, mean_logprob) = self.plan.choose(&nats);
            let prompt_tokens = self.judgings.iter().map(Judging::tokens).sum();
            Ok(Composed { chosen, prompt_tokens, mean_logprob })
        } else {
            Err(ModelError::not_finite("a likelihood"))
        });
    }

    /// What came of it; cancelled when it has not ended.
    pub(crate) fn finish(self) -> Result<Composed, ModelError> {
        self.ended.unwrap_or(Err(ModelError::Cancelled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kv::{KvCache, KvShape};
    use crate::model::{ComposeRequest, ComposeSource, Written};

    #[test]
    fn what_cannot_be_judged_is_not_composed() {
        let source =
            ComposeSource { written: Written::AtLarge, units: vec!["三天到账。".into()] };
        let question = "退款多久？".to_owned();
        let request = ComposeRequest { question, sources: vec![source], max_chars: 9 };
        let composed = |nats: f32| {
            let plan = Plan::new(&request).unwrap();
            let shape = KvShape { layers: 1, heads: 1, head_dim: 16, floats: false };
            let judging = |_| {
                let (prompt, cache) = (String::new(), KvCache::new(shape));
                Judging::new(prompt, Vec::new(), cache, Vec::new(), vec![nats])
            };
            let judgings = plan.prompts().map(judging).collect();
            Composition::new(plan, judgings, Control::default()).finish()
        };
        assert_eq!(composed(-3.0).unwrap().chosen.len(), 1);
        for poison in [f32::NAN, f32::NEG_INFINITY] {
            assert!(matches!(composed(poison), Err(ModelError::Inference(_))));
        }
    }
}
