//! Watches whether the gate keeps its promise in service, and makes it stricter when it does not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::base::clock::{Clock, UnixMs};
use crate::domain::decision::{Reason, Verdict};
use crate::domain::knowledge::{Domain, EntryId};
use crate::domain::label::Labelled;
use crate::domain::trace::Trace;
use crate::gate::drift::{self, Alarm};
use crate::gate::observation::Leaves;
use crate::pipeline::draft;
use crate::pipeline::generations::{Generations, Tightened, begun_at};
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
        let Some(strictest) = generation.gate.strictest() else { return Ok(None) };
        let tightened = self.generations.tightened();
        let since = tightened.map_or(0, |tightened| tightened.since);
        // `g17+4` is generation `g17` with changes.
        let own = |t: &Trace| t.generation.split('+').next() == Some(generation.id());
        let mut turns = Vec::new();
        self.store.visit_recent_traces(TURNS, &mut |trace| {
            if own(&trace) && trace.received_at >= since && was_gated(&trace) {
                turns.push(Turn::of(trace));
            }
        })?;
        let labels = self.store.labels_since(begun_at(generation.id()).unwrap_or(UnixMs::MIN))?;
        let by_domain = judged(&turns, labels, &generation.index);
        let recent: Vec<f32> = turns.iter().map(|turn| turn.confidence).collect();
        let answered = tightened.is_some_and(|tightened| tightened.shifted);
        let usual = generation.gate.usual.as_ref().filter(|_| !answered);
        let shifted = || usual.and_then(|usual| usual.shift(&recent));
        let broken = |(wrong, judged)| drift::broken(wrong, judged, generation.gate.promise);
        let alarm = by_domain.into_iter().find_map(broken).or_else(shifted);
        if let Some(alarm) = alarm {
            let shifted = answered || matches!(alarm, Alarm::Shifted { .. });
            let least = tightened.map_or(strictest, |tightened| tightened.least);
            let (least, since) = (drift::tightened(least), self.clock.now());
            self.generations.tighten(Tightened { least, since, shifted });
        }
        Ok(alarm)
    }
}

/// What is looked at of a turn.
struct Turn {
    message: String,
    confidence: f32,
    best: Option<(EntryId, Domain)>,
    /// Answered by itself, and by what it says alone, so that a label of its text speaks of it.
    sent: bool,
}

impl Turn {
    fn of(trace: Trace) -> Self {
        Self {
            sent: trace.decision.verdict == Verdict::AutoReply && trace.context.is_empty(),
            confidence: trace.decision.confidence,
            best: trace.evidence.into_iter().next().map(|best| (best.id, best.domain)),
            message: trace.message,
        }
    }
}

/// Of the automatic replies that somebody labelled afterwards, by the domain of what they said: how
/// many were wrong, and how many there are. A message counts once however often it came: it was either
/// right or wrong.
fn judged(turns: &[Turn], labels: Vec<Labelled>, index: &KnowledgeIndex) -> Vec<(usize, usize)> {
    let alone = labels.into_iter().filter(|l| l.context.is_empty());
    let answers: HashMap<String, Option<EntryId>> = alone.map(|l| (l.text, l.answer)).collect();
    let mut rights: HashMap<&str, (Domain, bool)> = HashMap::new();
    for turn in turns {
        let known = answers.get(&turn.message).filter(|_| turn.sent);
        let Some((answer, (best, domain))) = known.zip(turn.best.as_ref()) else { continue };
        let said = |answer: &EntryId| {
            let says_same = |answer| index.answers(best, answer);
            best == answer || index.ordinal(answer).is_some_and(says_same)
        };
        rights.insert(&turn.message, (*domain, answer.as_ref().is_some_and(said)));
    }
    let mut by_domain: BTreeMap<Domain, (usize, usize)> = BTreeMap::new();
    for (domain, right) in rights.into_values() {
        let (wrong, judged) = by_domain.entry(domain).or_default();
        *wrong += usize::from(!right);
        *judged += 1;
    }
    by_domain.into_values().collect()
}

/// Whether the message is of those that the gate was calibrated on: no hard rule, courtesy or failure
/// decided it, it had a confidence, and a reply from its best evidence can go out.
fn was_gated(trace: &Trace) -> bool {
    let decided = trace.decision.reasons.first();
    let by_threshold = matches!(decided, Some(Reason::ConfidenceReached | Reason::LowConfidence));
    by_threshold
        && trace.decision.confidence > 0.0
        && trace.evidence.first().is_some_and(|b| draft::leaves(b) != Leaves::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConversationId, TraceId};
    use crate::domain::decision::Decision;
    use crate::domain::evidence::{Evidence, Scores};
    use crate::domain::knowledge::Scene;
    use crate::domain::label::Purpose;
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
            self.answered_at(0, message, best);
        }

        fn answered_at(&self, received_at: UnixMs, message: &str, best: &str) {
            let inbound = Inbound {
                platform: Platform::Web,
                account: AccountName("web".into()),
                sender: message.into(),
                dedupe_key: format!("msg:{}", TraceId::generate()),
                sent_at: 0,
                content: Content::Text(message.into()),
            };
            let accepted = self.store.accept(&Arrival::in_person(inbound.clone()), 0).unwrap();
            let evidence = Evidence {
                id: EntryId(best.into()),
                version: 1,
                question: String::new(),
                answer: Some("好的。".into()),
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
                received_at,
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
            self.store.add_labels(&[file], "anna", Clock::System.now() + 1).unwrap();
        }
    }

    #[test]
    fn a_shift_makes_the_gate_stricter_once() {
        let site = site();
        let come = |received_at| {
            for nth in 0..250 {
                site.answered_at(received_at, &format!("问题{nth}"), "a");
            }
        };
        come(0);
        assert!(matches!(site.watch.look().unwrap(), Some(Alarm::Shifted { messages: 250, .. })));
        let least = site.generations.tightened().unwrap().least;
        come(UnixMs::MAX);
        assert_eq!(site.watch.look().unwrap(), None, "they go on as they came");
        assert_eq!(site.generations.tightened().unwrap().least, least);
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
        for _ in 0..50 {
            site.answered("问题0", "a");
        }
        for nth in 10..16 {
            site.answered(&format!("问题{nth}"), "a");
            site.label(&format!("问题{nth}"), "b");
        }
        assert_eq!(site.watch.look().unwrap(), Some(Alarm::Broken { wrong: 6, judged: 16 }));
        assert!(!site.generations.admits(0.85) && site.generations.admits(0.91));
        assert_eq!(site.watch.look().unwrap(), None, "what was seen before it counts no more");
    }
}
