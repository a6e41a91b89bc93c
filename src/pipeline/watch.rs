//! Watches whether the gate keeps its promise in service, and makes it stricter when it does not.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::domain::decision::{Reason, Verdict};
use crate::domain::knowledge::EntryId;
use crate::domain::label::Purpose;
use crate::domain::trace::Trace;
use crate::gate::drift::{self, Alarm};
use crate::pipeline::generations::{Generations, Tightened};
use crate::search::index::KnowledgeIndex;
use crate::store::{Store, StoreError};

/// Latest turns that are looked at.
const TURNS: u32 = 1_000;

pub struct Watch {
    store: Arc<dyn Store>,
    generations: Arc<Generations>,
    clock: Clock,
}

impl Watch {
    pub fn new(store: Arc<dyn Store>, generations: Arc<Generations>, clock: Clock) -> Self {
        Self { store, generations, clock }
    }

    /// Compares the turns of the serving generation, since it was last made stricter, with what the
    /// gate was fitted on and with what people have labelled since; on an alarm the gate lets out
    /// less from now on. A newly fitted generation begins afresh.
    pub fn look(&self) -> Result<Option<Alarm>, StoreError> {
        let serving = self.generations.current();
        let generation = &serving.generation;
        let Some(threshold) = generation.gate.threshold else { return Ok(None) };
        let tightened = self.generations.tightened();
        let since = tightened.map_or(0, |tightened| tightened.since);
        let mut turns = self.store.recent_traces(TURNS)?;
        // `g17+4` is generation `g17` with changes.
        let own = |t: &Trace| t.generation.split('+').next() == Some(generation.id());
        turns.retain(|t| own(t) && t.received_at >= since && was_gated(t));
        let (wrong, judged) = self.judged(&turns, &generation.index)?;
        let recent: Vec<f32> = turns.iter().map(|t| t.decision.confidence).collect();
        let shifted = || generation.gate.usual.as_ref().and_then(|usual| usual.shift(&recent));
        let alarm = drift::broken(wrong, judged, generation.gate.promise).or_else(shifted);
        if alarm.is_some() {
            let least = tightened.map_or(threshold.value, |tightened| tightened.least);
            let (least, since) = (drift::tightened(least), self.clock.now());
            self.generations.tighten(Tightened { least, since });
        }
        Ok(alarm)
    }

    /// Of the automatic replies that somebody labelled: how many were wrong, and how many there are.
    fn judged(
        &self,
        turns: &[Trace],
        index: &KnowledgeIndex,
    ) -> Result<(usize, usize), StoreError> {
        let mut answers: HashMap<String, Option<EntryId>> = HashMap::new();
        for purpose in [Purpose::Train, Purpose::Calibrate] {
            let alone = self.store.labels(purpose)?.into_iter().filter(|l| l.context.is_empty());
            answers.extend(alone.map(|label| (label.text, label.answer)));
        }
        let sent = turns.iter().filter(|t| t.decision.verdict == Verdict::AutoReply);
        let rights: Vec<bool> = sent
            .filter(|t| t.context.is_empty())
            .filter_map(|t| {
                let (answer, best) = (answers.get(&t.message)?, t.evidence.first()?);
                let said = |answer: &EntryId| {
                    let says_same = |answer| index.answers(&best.id, answer);
                    best.id == *answer || index.ordinal(answer).is_some_and(says_same)
                };
                Some(answer.as_ref().is_some_and(said))
            })
            .collect();
        Ok((rights.iter().filter(|right| !**right).count(), rights.len()))
    }
}

/// Whether the gate's threshold had a say: no hard rule, courtesy or failure decided.
fn was_gated(trace: &Trace) -> bool {
    let decided = trace.decision.reasons.first();
    let by_threshold = matches!(decided, Some(Reason::ConfidenceReached | Reason::LowConfidence));
    by_threshold && !trace.evidence.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConversationId, TraceId};
    use crate::domain::decision::Decision;
    use crate::domain::evidence::{Evidence, Scores};
    use crate::domain::knowledge::{Domain, Scene};
    use crate::domain::label::Labelled;
    use crate::domain::message::{AccountName, Content, Inbound, Platform};
    use crate::pipeline::generation::testing::model;
    use crate::pipeline::generations::GenerationDir;
    use crate::pipeline::generations::testing::publish_open;
    use crate::store::outbox::Decided;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Arrival, LabelFile};

    struct Site {
        _folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        generations: Arc<Generations>,
        watch: Watch,
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&folder.path().join("huida.db")).unwrap());
        let dir = GenerationDir::new(folder.path().join("index"), 2);
        publish_open(&dir, &model("ours"), 0.8);
        let generations = Arc::new(Generations::open(dir, model("ours")).unwrap());
        let watch = Watch::new(store.clone(), generations.clone(), Clock::System);
        Site { _folder: folder, store, generations, watch }
    }

    impl Site {
        /// One automatic reply from entry `best`.
        fn answered(&self, message: &str, best: &str) {
            let inbound = Inbound {
                platform: Platform::Web,
                account: AccountName("web".into()),
                sender: message.into(),
                dedupe_key: "msg:1".into(),
                sent_at: 0,
                content: Content::Text(message.into()),
            };
            let accepted = self.store.accept(&Arrival::in_person(inbound.clone()), 0).unwrap();
            let evidence = Evidence {
                id: EntryId(best.into()),
                version: 1,
                question: String::new(),
                answer: None,
                scene: Scene::Inquiry,
                domain: Domain::General,
                phrasing: String::new(),
                place: None,
                qualifications: Default::default(),
                scores: Scores::default(),
            };
            let trace = Trace {
                id: TraceId::generate(),
                conversation: ConversationId::generate(),
                account: inbound.account.clone(),
                received_at: 0,
                message: message.into(),
                context: Vec::new(),
                generation: format!("{}+3", self.generations.current().generation.id()),
                understanding: Default::default(),
                evidence: vec![evidence],
                draft: None,
                objections: Vec::new(),
                decision: Decision {
                    verdict: Verdict::AutoReply,
                    reasons: vec![Reason::ConfidenceReached],
                    confidence: 0.9,
                    rules: Vec::new(),
                },
                reply: String::new(),
                answered_by: None,
                timings_ms: Default::default(),
            };
            let decided = Decided {
                trace,
                joined: Vec::new(),
                for_person: false,
                replies: Vec::new(),
                transferred_until: None,
                accepted: Vec::new(),
            };
            self.store.decide(accepted.message, &decided, 0).unwrap();
        }

        fn label(&self, message: &str, answer: &str) {
            let label = Labelled {
                text: message.into(),
                context: Vec::new(),
                answer: Some(EntryId(answer.into())),
            };
            let file =
                LabelFile { source: "desk".into(), purpose: Purpose::Train, labels: vec![label] };
            self.store.add_labels(&[file], "anna", 0).unwrap();
        }
    }

    #[test]
    fn labels_that_refute_the_promise_make_the_gate_stricter_at_once() {
        let site = site();
        for nth in 0..10 {
            site.answered(&format!("问题{nth}"), "a");
            site.label(&format!("问题{nth}"), "a");
        }
        assert_eq!(site.watch.look().unwrap(), None);
        assert!(site.generations.admits(0.85));
        for nth in 10..16 {
            site.answered(&format!("问题{nth}"), "a");
            site.label(&format!("问题{nth}"), "b");
        }
        assert_eq!(site.watch.look().unwrap(), Some(Alarm::Broken { wrong: 6, judged: 16 }));
        assert!(!site.generations.admits(0.85) && site.generations.admits(0.91));
        assert_eq!(site.watch.look().unwrap(), None, "what was seen before it counts no more");
    }
}
