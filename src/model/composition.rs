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
        if let Some(nats) = nats {
            let (chosen, mean_logprob) = self.plan.choose(&nats);
            let prompt_tokens = self.judgings.iter().map(Judging::tokens).sum();
            self.ended = Some(Ok(Composed { chosen, prompt_tokens, mean_logprob }));
        }
    }

    /// What came of it; cancelled when it has not ended.
    pub(crate) fn finish(self) -> Result<Composed, ModelError> {
        self.ended.unwrap_or(Err(ModelError::Cancelled))
    }
}
