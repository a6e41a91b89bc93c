//! The front desk: a message is remembered before work on it begins, decided once, in order;
//! what a customer types in fragments is answered once, together.
//!
//! Whoever brings a message waits for its outcome or not: pages and the command line do
//! ([`Desk::handle`]), a callback does for as long as its platform waits ([`Desk::receive`]), fetched
//! messages and those of an earlier run ([`Desk::recover`]) have nobody waiting.

mod carried;
mod proposals;
mod work;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;

pub use self::carried::{Carried, Offered};
pub use self::work::RATE;

use self::carried::Carriers;
use self::proposals::Proposals;
use self::work::Inner;
use crate::base::clock::{Clock, Deadline};
use crate::base::id::{ConversationId, TraceId};
use crate::base::limits::PAGE_MESSAGES;
use crate::base::vault::Vault;
use crate::channels::Channel;
use crate::domain::decision::Verdict;
use crate::domain::message::{Content, Inbound, Platform};
use crate::domain::outgoing::{Menu, MenuItem, Outgoing};
use crate::domain::texts::{Lang, Text};
use crate::model::Control;
use crate::pipeline::accounts::Accounts;
use crate::pipeline::delivery::Bell;
use crate::pipeline::personal::stored;
use crate::pipeline::responder::Responder;
use crate::pipeline::turns::{Customer, Turns};
use crate::pipeline::waiting::{Event, Listener, Waiting};
use crate::store::durable::Durable;
use crate::store::outbox::Queued;
use crate::store::{Accepted, AcceptedState, Arrival, MessageRow, Store, StoreError, Unfinished};

/// A step that has ended, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub step: &'static str,
    pub ms: f64,
}

/// What goes back to the channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `None`: nothing is said (an `unsubscribe` needs no answer).
    pub reply: Option<String>,
    pub verdict: Verdict,
    pub trace: TraceId,
    /// The reply on its way, where it has one to go.
    pub queued: Option<Queued>,
    /// The same, where it is for the answer to a callback.
    pub carried: Option<Arc<Carried>>,
}

/// How much is taken on, and how far back is looked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages in work at once.
    pub turns: usize,
    /// Messages that may wait for work; one more is handed to a person unread.
    pub waiting: usize,
    /// What was said longer ago is another conversation.
    pub context_age: Duration,
    /// How long a message may take whose reply can be sent at any time.
    pub late: Duration,
    /// How long a callback waits for such a reply: what is ready by then it carries.
    pub patience: Duration,
    /// How long a fragment waits for what follows.
    pub fragment: Duration,
    /// How long an answer is kept that the customer was given a link to.
    pub kept: Duration,
    /// The expected wait for a person before there is any experience.
    pub wait_for_person: Duration,
    /// Whose desk a conversation goes to that is for a person.
    pub handoff: Handoff,
    /// How long the platform's own desk keeps a conversation that nobody closes.
    pub session: Duration,
}

/// Whose desk takes what is for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handoff {
    /// Our own queue.
    Queue,
    /// The platform's own desk where it has one, our queue elsewhere.
    Platform,
}

/// What is answered to a callback.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The reply; tell what carries it when it has left.
    Reply(Box<Offered>),
    /// This, which is no reply: a link to it, or word that it is gone.
    Show(Outgoing),
    /// That the message was received: the reply leaves another way, or there is none.
    Received,
}

/// What a desk is made of.
pub struct DeskParts {
    pub store: Arc<dyn Store>,
    pub responder: Responder,
    pub clock: Clock,
    pub limits: Limits,
    pub accounts: Accounts,
    pub bell: Arc<Bell>,
    /// Where what is masked is sealed for; `None`: it is lost.
    pub vault: Option<Arc<Vault>>,
}

pub struct Desk {
    inner: Arc<Inner>,
    workers: Vec<JoinHandle<()>>,
}

/// The failure as a text: every listener gets its own.
type Done = Result<Outcome, String>;
type Told = Listener<Progress, Done>;

/// A callback that must carry the reply keeps so much of its time for the work on a fragment.
const HELD_BACK: Duration = Duration::from_secs(2);
/// Fragment after fragment keeps the first one waiting for so many times the wait of one.
const MOST_WAITS: u32 = 3;
/// How long a callback waits beyond its time for an outcome that is being written.
const SETTLING: Duration = Duration::from_millis(300);
/// Begins the id of a menu item behind which an answer is kept.
const FETCH: &str = "fetch:";
/// A message is taken up so often; then it is for a person without another look at it.
const MOST_TRIES: u32 = 4;
/// A message that was accepted, be it on the disk or on its way there.
#[derive(Clone)]
struct Taken {
    is: Accepted,
    durable: Durable,
}

impl Taken {
    /// On the disk.
    fn before(is: Accepted) -> Self {
        Self { is, durable: Durable::already() }
    }
}

/// How a message is taken on.
struct Terms<'a> {
    deadline: Deadline,
    composing: &'a Control,
    /// Someone waits for the outcome; replies leave accordingly.
    heard: bool,
    /// Until when its reply can be put off; `None`: not at all.
    holds: Option<Deadline>,
}

impl Desk {
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(parts: DeskParts) -> std::io::Result<Self> {
        let workers = parts.limits.turns;
        let carriers = Carriers::new(&parts);
        let (turns, waiting) = (Turns::default(), Waiting::default());
        let (proposals, wanted) = Proposals::open();
        let inner = Arc::new(Inner { parts, turns, waiting, carriers, proposals });
        let worker = |n| {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name(format!("turn-{n}")).spawn(move || inner.run())
        };
        let mut workers = (0..workers).map(worker).collect::<std::io::Result<Vec<_>>>()?;
        let proposing = Arc::clone(&inner);
        let proposer = std::thread::Builder::new().name("propose".to_owned());
        workers.push(proposer.spawn(move || proposing.propose(&wanted))?);
        Ok(Self { inner, workers })
    }

    /// See [`Responder::rehearse`].
    pub fn rehearse(&self) {
        self.inner.parts.responder.rehearse();
    }

    /// Stores the message, decides it, and returns what to say. A retry gets the same answer as
    /// the first attempt, whether that is done, in work, or was cut off by a crash.
    pub fn handle(
        &self,
        inbound: &Inbound,
        deadline: Deadline,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, StoreError> {
        self.handle_while(inbound, deadline, &Control::default(), observe)
    }

    /// The same for a caller that may leave and then not ask again: `composing` is cancelled when it
    /// does. Not for platforms: they hang up in order to try again, and want the reply then.
    pub fn handle_while(
        &self,
        inbound: &Inbound,
        deadline: Deadline,
        composing: &Control,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, StoreError> {
        let arrival = Arrival::in_person(inbound.clone());
        let terms = Terms { deadline, composing, heard: true, holds: None };
        let (accepted, told) = self.accept(&arrival, &terms)?;
        let Some(told) = told else {
            accepted.durable.wait()?;
            return settled(&accepted.is).ok_or_else(|| lost("its work is gone"));
        };
        loop {
            match told.events.recv() {
                Ok(Event::Step(progress)) => observe(&progress),
                Ok(Event::NotSoon | Event::Elsewhere) => {}
                Ok(Event::Done(done)) => return done.map_err(StoreError::Unavailable),
                Err(_) => return Err(lost("the desk has closed")),
            }
        }
    }

    /// Stores a platform's message and says what to answer to the callback: the reply if it is
    /// ready by `until`, and it can be said there.
    pub fn receive(
        &self,
        arrival: &Arrival,
        until: Option<Deadline>,
    ) -> Result<Answer, StoreError> {
        let Limits { late, patience, .. } = self.inner.parts.limits;
        let holds = self.holds(&arrival.inbound, until);
        let deadline = match until {
            Some(until) if !self.inner.can_answer_later(&arrival.inbound) => until,
            Some(_) | None => Deadline::after(late),
        };
        let until = match until {
            Some(until) if self.inner.can_send(&arrival.inbound) => {
                Some(until.min(Deadline::after(patience)))
            }
            Some(_) | None => until,
        };
        let composing = &Control::default();
        let terms = Terms { deadline, composing, heard: until.is_some(), holds };
        let (accepted, told) = self.accept(arrival, &terms)?;
        let answer = match (until, told) {
            (None, _) => Answer::Received,
            (Some(until), told) => match fetched(&arrival.inbound.content) {
                Some(kept) => self.fetch(kept, &accepted.is.conversation, until)?,
                None => match told {
                    Some(told) => self.await_reply(arrival, accepted.is.message, &told, until)?,
                    None => self.offer(accepted.is.message)?,
                },
            },
        };
        // Whatever is answered, the platform will not bring the message again.
        accepted.durable.wait()?;
        Ok(answer)
    }

    /// As it may be written down.
    pub fn stored(&self, arrival: &Arrival) -> Arrival {
        stored(arrival, self.inner.parts.vault.as_deref())
    }

    /// Puts fetched messages to work that the store has accepted, in their order.
    pub fn take_up(&self, fetched: Vec<(Arrival, Accepted)>) {
        let Limits { late, .. } = self.inner.parts.limits;
        let new = fetched.into_iter().filter(|(_, accepted)| {
            let Accepted { message, conversation, .. } = accepted;
            accepted.state == AcceptedState::New && self.inner.waiting.begin(*message, conversation)
        });
        let jobs = new.map(|(arrival, accepted)| {
            let composing = &Control::default();
            let holds = self.holds(&arrival.inbound, None);
            let terms = Terms { deadline: Deadline::after(late), composing, heard: false, holds };
            let job = self.inner.job(&arrival, &Taken::before(accepted), &terms);
            (Customer::of(&arrival.inbound), job)
        });
        // Fragments come on one page.
        let jobs: Vec<_> = jobs.collect();
        self.inner.turns.push_all(jobs);
    }

    /// Until when the reply to a message can be put off that is a fragment: while it can be sent
    /// afterwards, or well within the time of its callback.
    fn holds(&self, inbound: &Inbound, until: Option<Deadline>) -> Option<Deadline> {
        if self.inner.can_send(inbound) {
            return Some(Deadline::after(self.inner.parts.limits.fragment * MOST_WAITS));
        }
        until.map(|until| until.sooner_by(HELD_BACK))
    }

    /// Takes up what was accepted and never decided, by an earlier process or before a fault;
    /// returns how many. It is answered if that can still arrive, and handed to a person otherwise.
    pub fn recover(&self) -> Result<usize, StoreError> {
        // A question from the command line may be in work in another process right now.
        let left = self.inner.parts.store.unfinished()?;
        let ours = left.iter().filter(|item| item.arrival.inbound.platform != Platform::Cli);
        let idle: Vec<&Unfinished> = ours
            .filter(|item| self.inner.waiting.begin(item.message, &item.conversation))
            .collect();
        self.count_tries(&idle)?;
        let jobs = idle.iter().map(|item| {
            let accepted = Accepted {
                message: item.message,
                conversation: item.conversation.clone(),
                state: AcceptedState::Undecided,
            };
            let deadline = Deadline::after(self.inner.parts.limits.late);
            let composing = &Control::default();
            let terms = Terms { deadline, composing, heard: false, holds: None };
            let job = self.inner.job(&item.arrival, &Taken::before(accepted), &terms);
            let job = job.received_at(item.received_at);
            let job = if item.tries >= MOST_TRIES { job.given_up() } else { job };
            (Customer::of(&item.arrival.inbound), job)
        });
        let jobs: Vec<_> = jobs.collect();
        let recovered = jobs.len();
        self.inner.turns.push_all(jobs);
        Ok(recovered)
    }

    /// Before they are tried: what ends the process every time is counted as well.
    fn count_tries(&self, idle: &[&Unfinished]) -> Result<(), StoreError> {
        if idle.is_empty() {
            return Ok(());
        }
        let messages: Vec<MessageRow> = idle.iter().map(|item| item.message).collect();
        let counted = self.inner.parts.store.taken_up(&messages);
        if let Err(error) = &counted {
            for message in messages {
                self.inner.waiting.end(message, &Err(error.to_string()));
            }
        }
        counted
    }

    /// Whether a callback of this account should wait for what can be said in its answer.
    pub fn answers_callbacks(&self, channel: &dyn Channel) -> bool {
        let abilities = channel.abilities();
        let transfers = self.inner.parts.limits.handoff == Handoff::Platform;
        abilities.passive_text || (abilities.passive_transfer && transfers)
    }

    /// Whether fetched messages may join those that wait: half of the room is left to callbacks, and
    /// a page never fills the other half, so that none is given up unread because many were fetched.
    pub fn has_room_for_a_page(&self) -> bool {
        let (waiting, room) = (self.inner.turns.waiting(), self.inner.parts.limits.waiting / 2);
        waiting == 0 || waiting + PAGE_MESSAGES <= room
    }

    fn accept(
        &self,
        arrival: &Arrival,
        terms: &Terms<'_>,
    ) -> Result<(Taken, Option<Told>), StoreError> {
        let inner = &self.inner;
        let stored = self.stored(arrival);
        let mut told = None;
        let accepted = inner.turns.enter(
            &Customer::of(&arrival.inbound),
            || {
                let now = inner.parts.clock.now();
                let (is, durable) = inner.parts.store.accept_ahead(&stored, now)?;
                Ok::<_, StoreError>(Taken { is, durable })
            },
            |accepted| {
                if matches!(accepted.is.state, AcceptedState::Decided { .. }) {
                    return None;
                }
                let new = inner.waiting.begin(accepted.is.message, &accepted.is.conversation);
                if terms.heard {
                    told = inner.waiting.listen(accepted.is.message, &accepted.is.conversation);
                }
                new.then(|| inner.job(arrival, accepted, terms))
            },
        )?;
        Ok((accepted, told))
    }

    fn await_reply(
        &self,
        arrival: &Arrival,
        message: MessageRow,
        told: &Told,
        until: Deadline,
    ) -> Result<Answer, StoreError> {
        let mut soon = true;
        while soon {
            match told.events.recv_timeout(until.remaining()) {
                Ok(Event::Step(_)) => {}
                Ok(Event::Done(done)) => return replied(done),
                Ok(Event::Elsewhere) => return Ok(Answer::Received),
                Ok(Event::NotSoon) => soon = !self.inner.can_send(&arrival.inbound),
                Err(_) => soon = false,
            }
        }
        let link = self.inner.can_link(&arrival.inbound);
        if !self.inner.waiting.withdraw(message, told, link) {
            // It is being written this moment.
            let settling = Deadline::after(SETTLING);
            while let Ok(event) = told.events.recv_timeout(settling.remaining()) {
                if let Event::Done(done) = event {
                    return replied(done);
                }
            }
            return Ok(Answer::Received);
        }
        Ok(if link { Answer::Show(link_to(message)) } else { Answer::Received })
    }

    /// For a retry of a decided message: the same answer, unless it leaves another way.
    fn offer(&self, message: MessageRow) -> Result<Answer, StoreError> {
        let Inner { parts, carriers, .. } = &*self.inner;
        let again =
            carriers.again(message, || parts.store.offer_again(message, parts.clock.now()))?;
        Ok(again.map_or(Answer::Received, said))
    }

    /// The answer behind a link, once it is there.
    fn fetch(
        &self,
        message: MessageRow,
        conversation: &ConversationId,
        until: Deadline,
    ) -> Result<Answer, StoreError> {
        let Inner { parts, carriers, .. } = &*self.inner;
        // The number comes from the customer's side: of another's message nothing is heard.
        let told = self.inner.waiting.listen(message, conversation);
        let fetch = || parts.store.fetch_kept(message, conversation, parts.clock.now());
        let kept = || carriers.again(message, fetch);
        if let Some(kept) = kept()? {
            return Ok(said(kept));
        }
        let Some(told) = told else {
            return Ok(Answer::Show(Outgoing::Text(Text::FetchGone.get(Lang::Zh).into())));
        };
        while let Ok(event) = told.events.recv_timeout(until.remaining()) {
            if matches!(event, Event::Done(_)) {
                break;
            }
        }
        self.inner.waiting.withdraw(message, &told, true);
        Ok(kept()?.map_or_else(|| Answer::Show(link_to(message)), said))
    }
}

impl Drop for Desk {
    /// Ends what is in work and leaves what waits: the store has it, and the next start takes it up.
    fn drop(&mut self) {
        self.inner.turns.close();
        self.inner.proposals.close();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so.
            let _ = worker.join();
        }
    }
}

fn said(offered: Offered) -> Answer {
    Answer::Reply(Box::new(offered))
}

fn lost(reason: &str) -> StoreError {
    StoreError::Unavailable(reason.into())
}

fn replied(done: Done) -> Result<Answer, StoreError> {
    let outcome = done.map_err(StoreError::Unavailable)?;
    let offered = outcome.queued.zip(outcome.carried);
    Ok(offered.map_or(Answer::Received, |(queued, carried)| said(Offered { queued, carried })))
}

fn settled(accepted: &Accepted) -> Option<Outcome> {
    match &accepted.state {
        AcceptedState::Decided { trace, verdict, reply } => Some(Outcome {
            reply: Some(reply.clone()).filter(|r| !r.is_empty()),
            verdict: *verdict,
            trace: trace.clone(),
            queued: None,
            carried: None,
        }),
        AcceptedState::New | AcceptedState::Undecided => None,
    }
}

fn link_to(message: MessageRow) -> Outgoing {
    let item = MenuItem {
        id: format!("{FETCH}{}", message.0),
        text: Text::FetchItem.get(Lang::Zh).to_owned(),
    };
    Outgoing::Menu(Menu { items: vec![item], ..Menu::text(Text::FetchHead.get(Lang::Zh)) })
}

/// The message whose answer is asked for by a tap.
fn fetched(content: &Content) -> Option<MessageRow> {
    match content {
        Content::Choice { id, .. } => id.strip_prefix(FETCH)?.parse().ok().map(MessageRow),
        Content::Text(_)
        | Content::Voice { .. }
        | Content::Attachment { .. }
        | Content::Event { .. }
        | Content::Unknown { .. } => None,
    }
}
