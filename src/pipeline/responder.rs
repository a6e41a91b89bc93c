//! One turn from words to decision: understand, retrieve, draft, gate, each step timed.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Clock, Deadline, Stopwatch, UnixMs};
use crate::base::id::{ConversationId, TraceId};
use crate::base::lease::Reply;
use crate::base::limits::PASSIVE_REPLY_BYTES;
use crate::domain::decision::{Decision, Reason, Verdict};
use crate::domain::draft::{Draft, Objection};
use crate::domain::knowledge::{Asker, Audience};
use crate::domain::message::{AccountName, Utterance};
use crate::domain::qualification::Lack;
use crate::domain::texts::{Lang, Text, handoff_notice};
use crate::domain::trace::{Trace, Understanding};
use crate::domain::variables::{self, Values, Variable};
use crate::engine::EngineError;
use crate::engine::embed::EmbedWorker;
use crate::engine::generate::GenerateWorker;
use crate::gate::compliance::Compliance;
use crate::gate::{GateInput, WORTH_SHOWING, decide, facts, grounding, lacks, objections};
use crate::model::{Control, ModelError};
use crate::pipeline::ask::Ask;
use crate::pipeline::desk::Progress;
use crate::pipeline::draft::{self, Matter, Room};
use crate::pipeline::generations::{Generations, Serving};
use crate::pipeline::retrieve::{Question, Retrieved, retrieve};
use crate::store::Store;
use crate::understand::Language;
use crate::understand::matters::matters;
use crate::understand::{Greeting, Readability, Understood, understand, warm_up};

/// Kept back from the deadline for the gate, the store and the way out.
const RESERVE: Duration = Duration::from_millis(250);

/// What does not answer within this time is no better known afterwards.
const REHEARSAL: Duration = Duration::from_secs(5);

/// What is composed for a person takes no longer.
const PROPOSAL: Duration = Duration::from_secs(30);

/// Questions of one message that are looked at; two different ones suffice to leave it to a person.
const MOST_MATTERS: usize = 4;

/// The step that takes seconds; told when it begins.
pub const COMPOSING_STEP: &str = "composing";

/// One message with its surroundings.
#[derive(Clone, Debug)]
pub struct Turn {
    pub asker: Asker,
    pub conversation: ConversationId,
    pub ask: Ask,
    /// Oldest first.
    pub context: Vec<Utterance>,
    pub received_at: UnixMs,
    pub deadline: Deadline,
    /// Cancelled when nobody waits for the reply any more: the message is answered and recorded all
    /// the same, but no reply is composed for it.
    pub composing: Control,
}

/// What a responder is made of.
pub struct Parts {
    pub embedder: Arc<EmbedWorker>,
    /// `None`: nothing is composed.
    pub composer: Option<Arc<GenerateWorker>>,
    pub generations: Arc<Generations>,
    pub compliance: Compliance,
    /// Knows which documents entitle to answer, at the moment of each reply.
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub draft_chars: usize,
    /// A reply that is composed leaves within this time after its message came.
    pub compose_within: Duration,
}

pub struct Responder {
    parts: Parts,
}

impl Responder {
    /// Compiles the rules, too, which the first message would wait for otherwise.
    pub fn new(parts: Parts) -> Self {
        warm_up();
        let _ = facts::extract("三天");
        Self { parts }
    }

    /// Answers a made-up question, unseen: what is read or built at its first use makes no customer
    /// wait.
    pub fn rehearse(&self) {
        let composing = Control::default();
        composing.cancel();
        let asker = Asker { account: AccountName(String::new()), audience: Audience::Normal };
        self.respond(
            &Turn {
                asker,
                conversation: ConversationId::generate(),
                ask: Ask::Said("请问多久可以退款？".into()),
                context: Vec::new(),
                received_at: self.parts.clock.now(),
                deadline: Deadline::after(REHEARSAL),
                composing,
            },
            &mut |_| (),
        );
    }

    /// Never fails: whatever goes wrong ends at a person.
    pub fn respond(&self, turn: &Turn, observe: &mut dyn FnMut(&Progress)) -> Trace {
        let _reply = Reply::begin();
        let serving = self.parts.generations.current();
        let mut record = Record::new(turn, &serving.id(), observe);
        match &turn.ask {
            Ask::Said(text) => self.answer(text, turn, &serving, record),
            Ask::Arrived => record.notice(Text::Welcome, Reason::Notice),
            Ask::Silent => record.silence(),
            Ask::ForPerson(reason) => {
                record.message = format!("[{reason}]");
                record.hand_over(*reason)
            }
        }
    }

    /// A trace that says this and no more.
    pub fn notice(&self, turn: &Turn, text: Text) -> Trace {
        let serving = self.parts.generations.current();
        Record::new(turn, &serving.id(), &mut |_| ()).notice(text, Reason::Notice)
    }

    /// A trace that says nothing.
    pub fn silence(&self, turn: &Turn) -> Trace {
        let serving = self.parts.generations.current();
        Record::new(turn, &serving.id(), &mut |_| ()).silence()
    }

    /// A trace that hands the message over without having looked for an answer.
    pub fn give_up(&self, turn: &Turn, reason: Reason) -> Trace {
        let serving = self.parts.generations.current();
        let mut quiet = |_: &Progress| ();
        let mut record = Record::new(turn, &serving.id(), &mut quiet);
        match &turn.ask {
            Ask::Silent => record.silence(),
            Ask::Arrived => record.notice(Text::Welcome, Reason::Notice),
            Ask::ForPerson(own) => {
                record.message = format!("[{own}]");
                record.hand_over(*own)
            }
            Ask::Said(text) => {
                // This may be the very text that made an earlier attempt panic.
                let read = catch_unwind(AssertUnwindSafe(|| understand(text, &turn.context)));
                let Ok(understood) = read else { return record.hand_over(reason) };
                record.understood(&understood);
                let mut trace = record.hand_over(reason);
                let hard = understood.signals.hard_reasons();
                if let Some(pressing) = hard.first() {
                    trace.reply = handoff_notice(*pressing).get(lang_of(&understood)).to_owned();
                    trace.decision.reasons = hard.into_iter().chain([reason]).collect();
                    let rules = understood.signals.rules();
                    trace.decision.rules = rules.into_iter().map(str::to_owned).collect();
                }
                trace
            }
        }
    }

    fn answer(&self, text: &str, turn: &Turn, serving: &Serving, mut record: Record<'_>) -> Trace {
        let understood = record.step("understand", || understand(text, &turn.context));
        record.understood(&understood);
        let hard = understood.signals.hard_reasons();
        if hard.is_empty() {
            if let Some(greeting) = understood.greeting {
                return record.notice(courtesy(greeting), Reason::Greeting);
            }
            match understood.readability {
                Readability::Readable | Readability::TooShort => {}
                Readability::TooLong => return record.hand_over(Reason::Unreadable),
                Readability::Empty
                | Readability::EmojiOnly
                | Readability::PunctuationOnly
                | Readability::Binary => {
                    return record.notice(Text::AskForText, Reason::Unreadable);
                }
            }
        }
        let found = match self.find(&understood, turn, serving, &mut record) {
            Ok(found) => found,
            Err(reason) if hard.is_empty() => return record.hand_over(reason),
            // A hard rule decides with or without evidence.
            Err(_) => Retrieved::default(),
        };
        let confidence = match &found.features {
            Some(features) if understood.readability == Readability::Readable => {
                serving.generation.gate.confidence(features)
            }
            Some(_) | None => 0.0,
        };
        let best = found.evidence.first();
        let gate = &serving.generation.gate;
        let admitted = self.parts.generations.admits(confidence)
            && best.is_some_and(|b| gate.admits(confidence, b.domain, draft::leaves(b)));
        let asks_more = admitted
            && record.step("matters", || self.asks_two(&understood.question, turn, serving));
        let draft = self.draft(&understood, &found, admitted && !asks_more, turn, &mut record);
        let lacks = self.lacks(&found, draft.as_ref());
        record.gate(GateStep {
            signals: with_rules(&hard, &understood.signals.rules()),
            found,
            confidence,
            admitted,
            asks_more,
            draft,
            lacks,
            compliance: &self.parts.compliance,
        })
    }

    /// Read anew for every reply: a document that has expired or was replaced counts at once.
    fn lacks(&self, found: &Retrieved, draft: Option<&Draft>) -> Vec<Lack> {
        match self.parts.store.register() {
            Ok(register) => lacks(&found.evidence, draft, &register, self.parts.clock.now()),
            Err(error) => {
                tracing::error!(%error, "the documents on file cannot be read");
                vec![Lack::Unreadable]
            }
        }
    }

    fn find(
        &self,
        understood: &Understood,
        turn: &Turn,
        serving: &Serving,
        record: &mut Record<'_>,
    ) -> Result<Retrieved, Reason> {
        let control = in_time(turn);
        let text = serving.knowledge.unify(&understood.question);
        let vector = record
            .step("embed", || self.parts.embedder.embed_one(&text, &control))
            .map_err(|error| reason_of(&error))?;
        let rewritten = understood.rewritten_by.is_some();
        let question = Question { text: &text, vector: &vector, rewritten };
        let now = self.parts.clock.now();
        let asker = &turn.asker;
        let mut found = record
            .step("retrieve", || retrieve(serving, question, asker, now))
            .map_err(|error| {
                tracing::error!(%error, "search failed");
                Reason::InternalError
            })?;
        let values = Values::from([(Variable::Date, date(now))]);
        for evidence in &mut found.evidence {
            evidence.answer = evidence.answer.take().map(|a| variables::fill(&a, &values));
        }
        Ok(found)
    }

    /// Whether the message asks for two answers: parts of it that, asked alone, are probably answered
    /// by different entries. What cannot be found out counts as yes.
    fn asks_two(&self, question: &str, turn: &Turn, serving: &Serving) -> bool {
        let parts = matters(question);
        if parts.len() < 2 {
            return false;
        }
        let mut answers = HashSet::new();
        for part in parts.into_iter().take(MOST_MATTERS) {
            let text = serving.knowledge.unify(part);
            let Ok(vector) = self.parts.embedder.embed_one(&text, &in_time(turn)) else {
                return true;
            };
            let question = Question { text: &text, vector: &vector, rewritten: false };
            let Ok(found) = retrieve(serving, question, &turn.asker, self.parts.clock.now()) else {
                return true;
            };
            let confidence = found.features.map(|f| serving.generation.gate.confidence(&f));
            let best = found.evidence.into_iter().next().filter(|best| best.answer.is_some());
            answers.extend(best.filter(|_| confidence >= Some(WORTH_SHOWING)).map(|b| b.answer));
        }
        answers.len() > 1
    }

    /// Composed for the person who gets the message, after its customer was told; with what keeps it
    /// from being said as it stands. `None` where the trace has all that there is.
    pub fn proposal(&self, trace: &Trace, composing: &Control) -> Option<(Draft, Vec<Objection>)> {
        let composer = self.parts.composer.as_ref()?;
        let Trace { evidence, decision, understanding, .. } = trace;
        let worth = decision.verdict != Verdict::AutoReply && decision.confidence >= WORTH_SHOWING;
        if !worth || draft::pieces(evidence) < 2 {
            return None;
        }
        let control = composing.until(Deadline::after(PROPOSAL));
        let matter = Matter { question: &understanding.question, evidence, room: self.room() };
        let composed = draft::compose(composer, matter, &control, &mut || ());
        let draft =
            composed.inspect_err(|error| tracing::info!(%error, "nothing proposed")).ok()??;
        let hits = self.parts.compliance.check(&draft.text());
        let objections = objections(&grounding::check(&draft, evidence), &hits);
        Some((draft, objections))
    }

    fn room(&self) -> Room {
        Room { draft_chars: self.parts.draft_chars, channel_bytes: PASSIVE_REPLY_BYTES }
    }

    /// The approved answer, or what is composed of a passage that may leave. An approved answer that is
    /// too long is not cut: a person gets it.
    fn draft(
        &self,
        understood: &Understood,
        found: &Retrieved,
        admitted: bool,
        turn: &Turn,
        record: &mut Record<'_>,
    ) -> Option<Draft> {
        let best = found.evidence.first()?;
        let room = self.room();
        let approved = draft::verbatim(best, room);
        // A mere suggestion is composed later: its customer is told at once that a person answers.
        let worth_composing = admitted && best.place.is_some();
        let control = turn.composing.until(self.composed_by(turn));
        let wanted = worth_composing && control.check().is_ok();
        let Some(composer) = self.parts.composer.as_ref().filter(|_| wanted) else {
            return approved;
        };
        let question = &understood.question;
        let matter = Matter { question, evidence: &found.evidence, room };
        match record.compose(|begun| draft::compose(composer, matter, &control, begun)) {
            Ok(Some(composed)) => Some(composed),
            Ok(None) => approved,
            Err(error) => {
                tracing::info!(%error, "not composed; the approved answer stands in");
                approved
            }
        }
    }

    fn composed_by(&self, turn: &Turn) -> Deadline {
        let waited = self.parts.clock.now().saturating_sub(turn.received_at);
        let waited = Duration::from_millis(u64::try_from(waited).unwrap_or_default());
        let left = self.parts.compose_within.saturating_sub(waited);
        Deadline::after(left.min(turn.deadline.remaining()).saturating_sub(RESERVE))
    }
}

fn in_time(turn: &Turn) -> Control {
    Control::with_deadline(turn.deadline.sooner_by(RESERVE))
}

/// The day in the zone of the platforms.
fn date(now: UnixMs) -> String {
    let here = jiff::Timestamp::from_millisecond(now).and_then(|t| t.in_tz("Asia/Shanghai"));
    here.map(|here| here.date().to_string()).unwrap_or_default()
}

/// Each hard reason, and with the most pressing one every rule that fired.
fn with_rules(hard: &[Reason], rules: &[&'static str]) -> Vec<(Reason, String)> {
    let Some(first) = hard.first() else { return Vec::new() };
    let fired = rules.iter().map(|rule| (*first, (*rule).to_owned()));
    let others = hard.iter().skip(1).filter_map(|r| Some((*r, (*rules.first()?).to_owned())));
    fired.chain(others).collect()
}

fn lang_of(understood: &Understood) -> Lang {
    match understood.language {
        Language::English => Lang::En,
        Language::Chinese | Language::Other | Language::None => Lang::Zh,
    }
}

fn courtesy(greeting: Greeting) -> Text {
    match greeting {
        Greeting::Hello | Greeting::Acknowledgement => Text::Greeting,
        Greeting::Thanks => Text::Thanks,
        Greeting::Farewell => Text::Goodbye,
    }
}

fn reason_of(error: &EngineError) -> Reason {
    match error {
        EngineError::Overloaded(_) => Reason::Overloaded,
        EngineError::Model(ModelError::DeadlinePassed | ModelError::Cancelled) => Reason::Timeout,
        EngineError::Unavailable { .. } | EngineError::Model(_) => {
            tracing::error!(%error, "embedding failed");
            Reason::ModelUnavailable
        }
    }
}

/// What the gate step needs.
struct GateStep<'a> {
    signals: Vec<(Reason, String)>,
    found: Retrieved,
    confidence: f32,
    admitted: bool,
    asks_more: bool,
    draft: Option<Draft>,
    lacks: Vec<Lack>,
    compliance: &'a Compliance,
}

/// The trace as it grows.
struct Record<'a> {
    turn: &'a Turn,
    generation: String,
    observe: &'a mut dyn FnMut(&Progress),
    message: String,
    lang: Lang,
    understanding: Understanding,
    timings_ms: BTreeMap<String, f64>,
}

impl<'a> Record<'a> {
    fn new(turn: &'a Turn, generation: &str, observe: &'a mut dyn FnMut(&Progress)) -> Self {
        Self {
            turn,
            generation: generation.to_owned(),
            observe,
            message: String::new(),
            lang: Lang::Zh,
            understanding: Understanding::default(),
            timings_ms: BTreeMap::new(),
        }
    }

    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let watch = Stopwatch::start();
        let done = work();
        let ms = watch.ms();
        self.timings_ms.insert(name.to_owned(), ms);
        (self.observe)(&Progress { step: name, ms });
        done
    }

    /// The same for the step that takes seconds: whoever watches is told when it has begun, too.
    fn compose<T>(&mut self, work: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
        let watch = Stopwatch::start();
        let done = work(&mut || (self.observe)(&Progress { step: COMPOSING_STEP, ms: 0.0 }));
        let ms = watch.ms();
        self.timings_ms.insert("compose".to_owned(), ms);
        (self.observe)(&Progress { step: "compose", ms });
        done
    }

    fn understood(&mut self, understood: &Understood) {
        self.message = understood.masked.clone();
        self.lang = lang_of(understood);
        self.understanding = understood.into();
    }

    fn gate(mut self, input: GateStep<'_>) -> Trace {
        let GateStep { signals, found, confidence, admitted, asks_more, draft, lacks, compliance } =
            input;
        let (decision, objections) = self.step("gate", || {
            let text = draft.as_ref().map(Draft::text).unwrap_or_default();
            let violations =
                draft.as_ref().map(|d| grounding::check(d, &found.evidence)).unwrap_or_default();
            let hits = compliance.check(&text);
            let decision = decide(&GateInput {
                signals: &signals,
                evidence: &found.evidence,
                confidence,
                admitted,
                asks_more,
                draft: draft.as_ref(),
                lacks: &lacks,
                violations: &violations,
                hits: &hits,
            });
            (decision, objections(&violations, &hits))
        });
        let reply = match (decision.verdict, &draft) {
            (Verdict::AutoReply, Some(draft)) => draft.text(),
            (Verdict::AutoReply | Verdict::Suggest | Verdict::Handoff, _) => {
                let reason = decision.reasons.first().copied().unwrap_or(Reason::InternalError);
                handoff_notice(reason).get(self.lang).to_owned()
            }
        };
        // Less likely right than wrong: a person is better off without it.
        let draft = draft.filter(|_| confidence >= WORTH_SHOWING);
        let objections = if draft.is_some() { objections } else { Vec::new() };
        Trace { evidence: found.evidence, draft, objections, ..self.end(decision, reply) }
    }

    fn notice(self, text: Text, reason: Reason) -> Trace {
        let reply = text.get(self.lang).to_owned();
        let draft = Draft::notice(reply.clone());
        Trace { draft: Some(draft), ..self.end(plain(Verdict::AutoReply, reason, 1.0), reply) }
    }

    fn silence(self) -> Trace {
        self.end(plain(Verdict::AutoReply, Reason::Notice, 1.0), String::new())
    }

    fn hand_over(self, reason: Reason) -> Trace {
        let reply = handoff_notice(reason).get(self.lang).to_owned();
        self.end(plain(Verdict::Handoff, reason, 0.0), reply)
    }

    fn end(self, decision: Decision, reply: String) -> Trace {
        Trace {
            id: TraceId::generate(),
            conversation: self.turn.conversation.clone(),
            account: self.turn.asker.account.clone(),
            received_at: self.turn.received_at,
            message: self.message,
            context: self.turn.context.clone(),
            generation: self.generation,
            understanding: self.understanding,
            evidence: Vec::new(),
            draft: None,
            objections: Vec::new(),
            decision,
            reply,
            answered_by: None,
            timings_ms: self.timings_ms,
        }
    }
}

fn plain(verdict: Verdict, reason: Reason, confidence: f32) -> Decision {
    Decision { verdict, reasons: vec![reason], confidence, rules: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::{Change, Domain, Entry, Validity};
    use crate::domain::qualification::{Qualification, QualificationId};
    use crate::gate::compliance::AllowLists;
    use crate::model::{Embedder, ModelIdentity};
    use crate::pipeline::follower::Follower;
    use crate::pipeline::generation::testing::{QUESTIONS, entry, model};
    use crate::pipeline::generations::GenerationDir;
    use crate::pipeline::generations::testing::publish;
    use crate::store::Import;
    use crate::store::sqlite::SqliteStore;

    /// Gives every text the vector of the first question.
    struct Fake(ModelIdentity);

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.0
        }
        fn dim(&self) -> usize {
            2
        }
        fn tokens(&self, _: &str) -> Result<Vec<u32>, ModelError> {
            Ok(vec![1])
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            Ok(texts.iter().map(|_| QUESTIONS[0].1.to_vec()).collect())
        }
    }

    fn turn() -> Turn {
        Turn {
            asker: Asker { account: AccountName("mp".into()), audience: Audience::Normal },
            conversation: ConversationId::generate(),
            ask: Ask::Said(QUESTIONS[0].0.into()),
            context: vec![],
            received_at: 0,
            deadline: Deadline::after(Duration::from_secs(60)),
            composing: Control::default(),
        }
    }

    /// A responder over one finance entry that cites a licence.
    fn lender(folder: &std::path::Path, clock: &Clock) -> (Responder, Arc<dyn Store>) {
        let store = SqliteStore::open(&folder.join("huida.db")).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let dir = GenerationDir::new(folder.join("index"), 2);
        publish(&dir, &model("ours"));
        let embedder = Arc::new(EmbedWorker::start(Arc::new(Fake(model("ours")))).unwrap());
        let generations = Arc::new(Generations::open(dir, model("ours")).unwrap());
        let cited = Entry {
            domain: Domain::Finance,
            qualifications: [QualificationId("licence".into())].into(),
            ..entry(QUESTIONS[0].0)
        };
        // The second version: the first is what the index was built of.
        for version in [entry(QUESTIONS[0].0), cited] {
            let import = Import::of(vec![version], Change::by("anna", "test"));
            store.import_entries(&import, 0).unwrap();
        }
        let follower = Follower::new(store.clone(), embedder.clone(), generations.clone());
        assert!(follower.look().unwrap());
        let responder = Responder::new(Parts {
            embedder,
            composer: None,
            generations,
            compliance: Compliance::standard(AllowLists::default()).unwrap(),
            store: store.clone(),
            clock: clock.clone(),
            draft_chars: 300,
            compose_within: Duration::from_secs(4),
        });
        (responder, store)
    }

    #[test]
    fn a_document_that_is_missing_or_expired_stops_its_entries_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::frozen(1_000);
        let (responder, store) = lender(folder.path(), &clock);
        let is_stopped = || {
            let trace = responder.respond(&turn(), &mut |_| ());
            assert_eq!(trace.evidence[0].domain, Domain::Finance);
            let Decision { verdict, reasons, rules, .. } = trace.decision;
            let stopped = reasons.contains(&Reason::Unqualified);
            assert!(!stopped || verdict == Verdict::Handoff);
            stopped.then(|| rules.concat())
        };
        assert_eq!(is_stopped().as_deref(), Some("qualification.unknown.licence"));
        let licence = |until| Qualification {
            id: QualificationId("licence".into()),
            name: "许可证".into(),
            validity: Validity { from: None, until },
        };
        store.file(&licence(Some(2_000)), "anna", 1_000).unwrap();
        assert_eq!(is_stopped(), None);
        clock.advance(Duration::from_millis(1_000));
        assert_eq!(is_stopped().as_deref(), Some("qualification.expired.licence"));
        store.file(&licence(None), "anna", 2_000).unwrap();
        assert_eq!(is_stopped(), None);
    }
}
