//! The work on one message, with the fragments before it: what is asked, what is answered, how that
//! leaves, and its record.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::carried::Carriers;
use super::proposals::Proposals;
use super::{DeskParts, Done, Handoff, Outcome, Progress, Taken, Terms, fetched, settled};
use crate::base::clock::{Deadline, UnixMs};
use crate::base::fault::Fault;
use crate::base::id::{CaseId, TraceId};
use crate::base::limits::CONTEXT_TURNS;
use crate::domain::decision::{Priority, Reason, Verdict};
use crate::domain::delivery::Author;
use crate::domain::knowledge::{Asker, Audience};
use crate::domain::message::{Content, Inbound, Platform, Utterance};
use crate::domain::outgoing::{Menu, Outgoing};
use crate::domain::ownership::Owner;
use crate::domain::texts::{Lang, Text};
use crate::domain::trace::Trace;
use crate::model::Control;
use crate::pipeline::ask::Ask;
use crate::pipeline::personal::masked;
use crate::pipeline::responder::{COMPOSING_STEP, Turn};
use crate::pipeline::turns::{Group, Stand, Stands, Turns};
use crate::pipeline::waiting::{Event, Waiting};
use crate::store::durable::Durable;
use crate::store::outbox::{Decided, NewReply, Queued, Way};
use crate::store::{Accepted, Arrival, Before, MessageRow, StoreError};
use crate::understand::{fragments, pii};

/// Tries to write a decision while the store is away, and the pause between them.
const WRITES: u32 = 5;
const WRITE_PAUSE: Duration = Duration::from_millis(300);
/// The platform's last retry comes so long after its first request.
const LAST_RETRY_MS: i64 = 10_000;
/// A number is an answer to the question how it was for so long.
const SURVEY_MS: i64 = 24 * 3_600_000;
/// Begins the id of a menu item that says how it was: `rate:CASE:SCORE`.
pub const RATE: &str = "rate:";

/// One message to be worked on.
pub(super) struct Job {
    /// As it came: what is stored is masked.
    arrival: Arrival,
    accepted: Accepted,
    durable: Durable,
    received_at: UnixMs,
    deadline: Deadline,
    composing: Control,
    /// Too many waited when it came.
    crowded: bool,
    /// Its work failed too often: a person gets it as it is.
    given_up: bool,
    stand: Stand,
    /// Fragments that are answered with it, oldest first.
    earlier: Vec<Fragment>,
}

/// A message that is answered together with a later one.
struct Fragment {
    message: MessageRow,
    durable: Durable,
    received_at: UnixMs,
    /// As it came.
    text: String,
}

impl Stands for Job {
    fn stand(&self) -> Stand {
        self.stand
    }
}

impl Job {
    /// The last one's, whose reply answers all of them.
    fn of(Group { earlier, last }: Group<Self>) -> Self {
        let fragment = |job: &Self| Fragment {
            message: job.accepted.message,
            durable: job.durable.clone(),
            received_at: job.received_at,
            text: words(&job.arrival.inbound).to_owned(),
        };
        Self { earlier: earlier.iter().map(fragment).collect(), ..last }
    }

    /// The first of the messages that are answered, and when it was received.
    fn first(&self) -> (MessageRow, UnixMs) {
        let own = (self.accepted.message, self.received_at);
        self.earlier.first().map_or(own, |fragment| (fragment.message, fragment.received_at))
    }

    /// Of all messages that are answered.
    fn durable(&self) -> Vec<Durable> {
        let earlier = self.earlier.iter().map(|fragment| &fragment.durable);
        earlier.chain([&self.durable]).cloned().collect()
    }

    /// Accepted earlier than now, by another process.
    pub(super) fn received_at(self, received_at: UnixMs) -> Self {
        Self { received_at, ..self }
    }

    /// Not to be looked at again; no other message is taken with it.
    pub(super) fn given_up(self) -> Self {
        Self { given_up: true, stand: Stand::Apart, ..self }
    }
}

pub(super) struct Inner {
    pub(super) parts: DeskParts,
    pub(super) turns: Turns<Job>,
    pub(super) waiting: Waiting<Progress, Done>,
    pub(super) carriers: Arc<Carriers>,
    pub(super) proposals: Proposals,
}

/// What the customer's side of a turn is about to get.
#[derive(Clone)]
struct Said {
    trace: Trace,
    author: Author,
    /// Nothing of it is for a person to see to.
    silent: bool,
    /// What is recorded of the fragments.
    joined: Vec<(MessageRow, Trace)>,
}

impl Said {
    fn new(trace: Trace, author: Author, silent: bool) -> Self {
        Self { trace, author, silent, joined: Vec::new() }
    }
}

impl Inner {
    pub(super) fn job(&self, arrival: &Arrival, taken: &Taken, terms: &Terms<'_>) -> Job {
        Job {
            arrival: arrival.clone(),
            accepted: taken.is.clone(),
            durable: taken.durable.clone(),
            received_at: self.parts.clock.now(),
            deadline: terms.deadline,
            composing: terms.composing.clone(),
            crowded: self.turns.waiting() >= self.parts.limits.waiting,
            given_up: false,
            stand: self.stand(arrival, terms.holds),
            earlier: Vec::new(),
        }
    }

    fn stand(&self, Arrival { inbound, target, .. }: &Arrival, holds: Option<Deadline>) -> Stand {
        let text = match &inbound.content {
            // Where the reply is shown at once, each message has its own; a number is a rating.
            Content::Text(text) if target.is_some() && score(text.trim()).is_none() => text,
            Content::Voice { transcript: Some(_) } if target.is_some() => return Stand::Whole,
            Content::Text(_)
            | Content::Choice { .. }
            | Content::Voice { .. }
            | Content::Attachment { .. }
            | Content::Event { .. }
            | Content::Unknown { .. } => return Stand::Apart,
        };
        if !fragments::is_fragment(text) {
            return Stand::Whole;
        }
        let now = Deadline::after(Duration::ZERO);
        let until = holds.map_or(now, |_| Deadline::after(self.parts.limits.fragment));
        Stand::Fragment { until, at_most: holds.unwrap_or(now) }
    }

    pub(super) fn can_send(&self, inbound: &Inbound) -> bool {
        self.parts.accounts.get(&inbound.account).is_some_and(|c| c.abilities().send)
    }

    /// The customer can be shown a link to tap where nothing can be sent.
    pub(super) fn can_link(&self, inbound: &Inbound) -> bool {
        let channel = self.parts.accounts.get(&inbound.account);
        channel.map(|c| c.abilities()).is_some_and(|a| a.passive_menu && !a.send)
    }

    pub(super) fn can_answer_later(&self, inbound: &Inbound) -> bool {
        self.can_send(inbound) || self.can_link(inbound)
    }

    /// Works until the lines are closed.
    pub(super) fn run(&self) {
        while let Some((group, place)) = self.turns.next() {
            let job = Job::of(group);
            let message = job.accepted.message;
            for fragment in &job.earlier {
                self.waiting.tell(fragment.message, &Event::Elsewhere);
            }
            let done = catch_unwind(AssertUnwindSafe(|| self.work(&job)));
            let done = done.unwrap_or_else(|_| {
                metrics::counter!("huida_panics_total").increment(1);
                Err(StoreError::Unavailable("panicked".into()))
            });
            if let Err(error) = &done {
                // It stays in the store's work; the next look takes it up again.
                tracing::error!(%error, "a message could not be decided");
            }
            let done = done.map_err(|e| e.to_string());
            let silent = |done| Outcome { reply: None, queued: None, carried: None, ..done };
            let unsaid = done.clone().map(silent);
            for fragment in &job.earlier {
                self.waiting.end(fragment.message, &unsaid);
            }
            // If the callbacks that were to carry the reply gave up while the decision was being
            // written, it is taken back here.
            self.waiting.end(message, &done);
            drop(done);
            drop(place);
        }
    }

    fn work(&self, job: &Job) -> Result<Outcome, StoreError> {
        Fault::AcceptedUndecided.passes();
        if job.given_up {
            return self.give_up(job);
        }
        let store = &self.parts.store;
        let conversation = &job.accepted.conversation;
        if !matches!(job.arrival.inbound.content, Content::Text(_)) {
            // Whom to welcome how is told by the messages that are there.
            job.durable.wait()?;
        }
        let audience = store.audience(conversation)?;
        let owner = store.owner(conversation, self.parts.clock.now())?;
        let context = self.context(job)?;
        let (ask, special) = self.ask(job)?;
        let turn = turn(job, audience, ask, context);
        let mut said = match special {
            Some(text) => {
                Said::new(self.parts.responder.notice(&turn, text), Author::Courtesy, true)
            }
            None => self.respond(job, &turn, audience),
        };
        if owner != Owner::Bot {
            suggest_only(&mut said, &owner);
        } else if self.for_person(job, &said) {
            self.tell_wait(&mut said.trace)?;
        }
        said.joined = self.joined(job, &turn, &said.trace.id);
        self.record(job, said)
    }

    /// For a message whose work fails every time: of all that may be why, nothing is read. The
    /// customer is told if that can be written down.
    fn give_up(&self, job: &Job) -> Result<Outcome, StoreError> {
        tracing::error!(message = job.accepted.message.0, "given up: a person gets it unread");
        let ask = Ask::from(&job.arrival.inbound.content);
        let turn = turn(job, Audience::Normal, ask, Vec::new());
        let trace = self.parts.responder.give_up(&turn, Reason::InternalError);
        let mut said = Said::new(trace, Author::Bot, false);
        match self.parts.store.owner(&job.accepted.conversation, self.parts.clock.now()) {
            Ok(Owner::Bot) => {}
            Ok(owner) => suggest_only(&mut said, &owner),
            Err(_) => said.trace.reply.clear(),
        }
        self.record(job, said.clone()).or_else(|error| {
            tracing::error!(%error, "a person gets it, and the customer is not told");
            said.trace.reply.clear();
            self.record(job, said)
        })
    }

    /// Of each fragment, that nothing was said to it and where it was answered.
    fn joined(&self, job: &Job, turn: &Turn, answer: &TraceId) -> Vec<(MessageRow, Trace)> {
        let trace = |fragment: &Fragment| Trace {
            received_at: fragment.received_at,
            message: pii::mask(&fragment.text).text,
            answered_by: Some(answer.clone()),
            ..self.parts.responder.silence(turn)
        };
        job.earlier.iter().map(|fragment| (fragment.message, trace(fragment))).collect()
    }

    /// What is asked, and the text to answer it with where that is no question.
    fn ask(&self, job: &Job) -> Result<(Ask, Option<Text>), StoreError> {
        let content = &job.arrival.inbound.content;
        if fetched(content).is_some() {
            return Ok((Ask::Silent, None));
        }
        if let Some((case, score)) = self.rating(job)? {
            let conversation = &job.accepted.conversation;
            self.parts.store.rate(&case, conversation, score, self.parts.clock.now())?;
            metrics::counter!("huida_ratings_total", "score" => score.to_string()).increment(1);
            return Ok((Ask::Silent, Some(Text::SurveyThanks)));
        }
        if job.earlier.is_empty() {
            return Ok((Ask::from(content), None));
        }
        let begun: Vec<&str> = job.earlier.iter().map(|fragment| fragment.text.as_str()).collect();
        Ok((Ask::Said(fragments::join(&begun, words(&job.arrival.inbound))), None))
    }

    fn rating(&self, job: &Job) -> Result<Option<(CaseId, u8)>, StoreError> {
        match &job.arrival.inbound.content {
            Content::Choice { id, .. } => Ok(id.strip_prefix(RATE).and_then(|rest| {
                let (case, number) = rest.split_once(':')?;
                Some((CaseId::from_text(case), score(number)?))
            })),
            Content::Text(text) => {
                let Some(score) = score(text.trim()) else { return Ok(None) };
                let since = job.received_at.saturating_sub(SURVEY_MS);
                let case = self.parts.store.open_survey(&job.accepted.conversation, since)?;
                Ok(case.map(|case| (case, score)))
            }
            Content::Voice { .. }
            | Content::Attachment { .. }
            | Content::Event { .. }
            | Content::Unknown { .. } => Ok(None),
        }
    }

    fn respond(&self, job: &Job, turn: &Turn, audience: Audience) -> Said {
        let responder = &self.parts.responder;
        let message = job.accepted.message;
        let said = |trace| Said::new(trace, Author::Bot, false);
        match &turn.ask {
            Ask::Arrived => {
                let text = match audience {
                    Audience::New => Text::Welcome,
                    Audience::Normal => Text::WelcomeBack,
                    Audience::Vip => Text::WelcomeVip,
                };
                return Said::new(responder.notice(turn, text), Author::Courtesy, true);
            }
            Ask::Silent => return Said::new(responder.silence(turn), Author::Bot, true),
            Ask::Said(_) | Ask::ForPerson(_) => {}
        }
        if job.crowded {
            return said(responder.give_up(turn, Reason::Overloaded));
        }
        if job.deadline.passed() {
            return said(responder.give_up(turn, Reason::Timeout));
        }
        let mut observe = |progress: &Progress| {
            let event = match progress.step {
                COMPOSING_STEP => {
                    self.show_typing(&job.arrival);
                    Event::NotSoon
                }
                _ => Event::Step(*progress),
            };
            self.waiting.tell(message, &event);
        };
        let trace = catch_unwind(AssertUnwindSafe(|| responder.respond(turn, &mut observe)));
        said(trace.unwrap_or_else(|_| responder.give_up(turn, Reason::InternalError)))
    }

    /// A customer who waits for seconds sees that an answer is being written.
    fn show_typing(&self, Arrival { inbound, target, .. }: &Arrival) {
        if let Some(target) = target.as_ref().filter(|_| self.can_send(inbound)) {
            self.parts.bell.show_typing(&inbound.account, target);
        }
    }

    /// What a message may lean on.
    fn context(&self, job: &Job) -> Result<Vec<Utterance>, StoreError> {
        let age = i64::try_from(self.parts.limits.context_age.as_millis()).unwrap_or(i64::MAX);
        let (message, received_at) = job.first();
        let said = self.parts.store.context(&Before {
            conversation: &job.accepted.conversation,
            message,
            received_at,
            since: job.received_at.saturating_sub(age),
            limit: CONTEXT_TURNS as u32,
        })?;
        // Customers' words are stored masked, what people at the desk wrote is not.
        let masked = said.into_iter().map(|u| Utterance { text: pii::mask(&u.text).text, ..u });
        Ok(masked.collect())
    }

    /// A question from the command line has nobody waiting behind it.
    fn for_person(&self, job: &Job, said: &Said) -> bool {
        let automatic = said.trace.decision.verdict == Verdict::AutoReply;
        !automatic && !said.silent && job.arrival.inbound.platform != Platform::Cli
    }

    /// Adds to what the customer is told how long it may take; not where every second counts.
    fn tell_wait(&self, trace: &mut Trace) -> Result<(), StoreError> {
        if trace.decision.priority() == Priority::Urgent || trace.reply.is_empty() {
            return Ok(());
        }
        let (_, waited) = self.parts.store.waiting()?;
        let waited = waited.unwrap_or(self.parts.limits.wait_for_person);
        let minutes = waited.as_secs().div_ceil(60).clamp(1, 120);
        let lang = Lang::from_tag(&trace.understanding.language);
        let text = Text::HandoffWait.get(lang).replace("{minutes}", &minutes.to_string());
        if lang == Lang::En {
            trace.reply.push(' ');
        }
        trace.reply.push_str(&text);
        Ok(())
    }

    fn record(&self, job: &Job, mut said: Said) -> Result<Outcome, StoreError> {
        let message = job.accepted.message;
        let (heard, linked) = self.waiting.settle(message);
        let mut tries = 1;
        loop {
            job.durable().iter().try_for_each(Durable::check)?;
            let decided = self.decided(job, &mut said, heard, linked);
            let decide = || self.parts.store.decide(message, &decided, self.parts.clock.now());
            match self.carriers.first(message, decide) {
                Ok((queued, carried)) => {
                    Fault::DecidedUnsent.passes();
                    self.count(job, &said.trace);
                    if decided.for_person {
                        self.proposals.want(&said.trace);
                    }
                    if queued.is_some() {
                        self.parts.bell.ring();
                    }
                    return Ok(Outcome { carried, ..outcome(said.trace, queued) });
                }
                Err(StoreError::NotTheBots(_)) => {
                    // A person took the conversation meanwhile.
                    let owner = Owner::Person { operator: String::new(), until: UnixMs::MAX };
                    suggest_only(&mut said, &owner);
                }
                // Another attempt was faster, perhaps in another process: its answer stands.
                Err(StoreError::AlreadyDecided(row)) => {
                    let inbound = masked(&job.arrival.inbound);
                    let arrival = Arrival { inbound, ..job.arrival.clone() };
                    let again = self.parts.store.accept(&arrival, job.received_at)?;
                    return settled(&again).ok_or(StoreError::AlreadyDecided(row));
                }
                Err(error) if tries >= WRITES => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a decision is written again");
                    std::thread::sleep(WRITE_PAUSE * tries);
                    tries += 1;
                }
            }
        }
    }

    /// Decides the way out. A reply that has none is for a person, who may call the customer.
    fn decided(&self, job: &Job, said: &mut Said, heard: bool, linked: bool) -> Decided {
        let mut for_person = self.for_person(job, said);
        let mut replies = Vec::new();
        if let Some(target) = job.arrival.target.as_ref().filter(|_| !said.trace.reply.is_empty()) {
            match self.way(job, heard, linked) {
                Some(way) => replies.push(NewReply {
                    author: said.author,
                    target: target.clone(),
                    payload: payload(job, &said.trace.reply, said.author),
                    way,
                }),
                None if said.silent => said.trace.reply.clear(),
                None => {
                    for_person = true;
                    // Said here, so that it holds when the decision has to be written again.
                    said.trace.decision.verdict = Verdict::Handoff;
                    said.trace.decision.reasons.insert(0, Reason::WindowClosed);
                    said.trace.reply.clear();
                }
            }
        }
        let decided = Decided {
            trace: said.trace.clone(),
            joined: said.joined.clone(),
            for_person,
            replies,
            transferred_until: None,
            accepted: job.durable(),
        };
        match self.parts.limits.handoff {
            // Where nothing is said a person has the conversation already.
            Handoff::Platform if for_person && !decided.trace.reply.is_empty() => {
                self.transferred(job, heard, decided)
            }
            Handoff::Platform | Handoff::Queue => decided,
        }
    }

    /// The same for the platform's own desk, where it has one that can be given this customer now.
    fn transferred(&self, job: &Job, heard: bool, decided: Decided) -> Decided {
        let Arrival { inbound, target, .. } = &job.arrival;
        let (Some(channel), Some(target)) = (self.parts.accounts.get(&inbound.account), target)
        else {
            return decided;
        };
        let transfer = |way| NewReply {
            author: Author::Bot,
            target: target.clone(),
            payload: Outgoing::Transfer,
            way,
        };
        // Platforms take messages, not events, to their desk.
        let message = !matches!(inbound.content, Content::Event { .. });
        if heard && message && channel.abilities().passive_transfer {
            let session = i64::try_from(self.parts.limits.session.as_millis()).unwrap_or(i64::MAX);
            let until = self.parts.clock.now().saturating_add(session);
            let replies = vec![transfer(Way::Offer { may_send: false })];
            return Decided {
                for_person: false,
                replies,
                transferred_until: Some(until),
                ..decided
            };
        }
        if channel.sessions().is_some() && !decided.replies.is_empty() {
            let mut replies = decided.replies;
            replies.push(transfer(Way::Send));
            return Decided { for_person: false, replies, ..decided };
        }
        decided
    }

    fn way(&self, job: &Job, heard: bool, linked: bool) -> Option<Way> {
        let channel = self.parts.accounts.get(&job.arrival.inbound.account)?;
        let (abilities, now) = (channel.abilities(), self.parts.clock.now());
        let kept = i64::try_from(self.parts.limits.kept.as_millis()).unwrap_or(i64::MAX);
        let asked_again = abilities.asks_again && now < job.received_at + LAST_RETRY_MS;
        if heard && abilities.passive_text {
            Some(Way::Offer { may_send: abilities.send })
        } else if abilities.send {
            Some(Way::Send)
        } else if linked {
            Some(Way::Keep { until: now.saturating_add(kept) })
        } else if abilities.passive_text && asked_again {
            Some(Way::Offer { may_send: false })
        } else {
            None
        }
    }

    fn count(&self, job: &Job, trace: &Trace) {
        let platform = job.arrival.inbound.platform.as_str();
        metrics::counter!("huida_joined_total", "platform" => platform)
            .increment(job.earlier.len() as u64);
        let verdict = trace.decision.verdict.as_str();
        metrics::counter!("huida_turns_total", "platform" => platform, "verdict" => verdict)
            .increment(1);
        for (step, ms) in &trace.timings_ms {
            metrics::histogram!("huida_step_seconds", "step" => step.clone()).record(ms / 1e3);
        }
        let reason = trace.decision.reasons.first().map_or("none", |r| r.as_str());
        tracing::info!(trace = %trace.id, platform, verdict, reason, "turn");
    }
}

/// What a customer said in words.
fn words(inbound: &Inbound) -> &str {
    match &inbound.content {
        Content::Text(text) | Content::Choice { text, .. } => text,
        Content::Voice { transcript } => transcript.as_deref().unwrap_or_default(),
        Content::Attachment { .. } | Content::Event { .. } | Content::Unknown { .. } => "",
    }
}

/// How it was, from 1 to 3.
fn score(text: &str) -> Option<u8> {
    text.parse().ok().filter(|score| (1..=3).contains(score))
}

/// A welcome by the code that its event brought; anything else as a text.
fn payload(job: &Job, reply: &str, author: Author) -> Outgoing {
    let code = job.arrival.target.as_ref().and_then(|target| target.code.clone());
    // Douyin's code names a scene: that is for its own channel.
    let welcomes = job.arrival.inbound.platform == Platform::WechatKf;
    match code.filter(|_| welcomes && author == Author::Courtesy) {
        Some(code) => Outgoing::OnEvent { code, menu: Menu::text(reply) },
        None => Outgoing::Text(reply.to_owned()),
    }
}

/// While someone else has the conversation the bot tells nobody but that person.
fn suggest_only(said: &mut Said, owner: &Owner) {
    said.trace.reply.clear();
    if said.silent {
        return;
    }
    let decision = &mut said.trace.decision;
    if decision.verdict == Verdict::AutoReply {
        decision.verdict = Verdict::Suggest;
    }
    if !decision.reasons.contains(&Reason::PersonOwns) {
        decision.reasons.push(Reason::PersonOwns);
    }
    // The platform's desk has the message in its own queue.
    said.silent = matches!(owner, Owner::Platform { .. });
}

fn outcome(trace: Trace, queued: Option<Queued>) -> Outcome {
    Outcome {
        reply: Some(trace.reply).filter(|r| !r.is_empty()),
        verdict: trace.decision.verdict,
        trace: trace.id,
        queued,
        carried: None,
    }
}

fn turn(job: &Job, audience: Audience, ask: Ask, context: Vec<Utterance>) -> Turn {
    Turn {
        asker: Asker {
            account: job.arrival.inbound.account.clone(),
            // Knowledge tells usual customers and members apart, not first messages.
            audience: if audience == Audience::Vip { audience } else { Audience::Normal },
        },
        conversation: job.accepted.conversation.clone(),
        ask,
        context,
        received_at: job.received_at,
        deadline: job.deadline,
        composing: job.composing.clone(),
    }
}
