//! The front desk: a message is remembered before work on it begins, answered once, in order.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::{Clock, Deadline, UnixMs};
use crate::base::id::TraceId;
use crate::base::limits::CONTEXT_TURNS;
use crate::domain::decision::{Reason, Verdict};
use crate::domain::knowledge::{Asker, Audience};
use crate::domain::message::{AccountName, Content, Inbound, Platform, Utterance};
use crate::domain::trace::Trace;
use crate::model::Control;
use crate::pipeline::responder::{Ask, Responder, Turn};
use crate::store::{Accepted, AcceptedState, MessageRow, Store, StoreError};
use crate::understand::pii;

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
}

/// How much is taken on, and how far back is looked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages in work at once; one more is handed to a person unread.
    pub turns: usize,
    /// What was said longer ago is another conversation.
    pub context_age: Duration,
}

pub struct Desk {
    store: Arc<dyn Store>,
    responder: Responder,
    clock: Clock,
    limits: Limits,
    in_work: AtomicUsize,
    lines: Lines,
}

impl Desk {
    pub fn new(store: Arc<dyn Store>, responder: Responder, clock: Clock, limits: Limits) -> Self {
        let lines = Lines::default();
        Self { store, responder, clock, limits, in_work: AtomicUsize::new(0), lines }
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
        let received_at = self.clock.now();
        let masked = masked(inbound);
        let (accepted, place) =
            self.lines.enter(Customer::of(inbound), || self.store.accept(&masked, received_at))?;
        if let Some(outcome) = settled(&accepted) {
            return Ok(outcome);
        }
        // Counted while it waits as well: a waiting message holds a thread.
        let busy = Busy::enter(&self.in_work);
        let my_turn = place.wait(deadline);
        // While this one waited, an earlier attempt may have decided it.
        let accepted = self.store.accept(&masked, received_at)?;
        if let Some(outcome) = settled(&accepted) {
            return Ok(outcome);
        }
        let context = self.context(accepted.message, received_at)?;
        let turn = Turn {
            asker: asker(inbound),
            conversation: accepted.conversation.clone(),
            ask: Ask::from(&inbound.content),
            context,
            received_at,
            deadline,
            composing: composing.clone(),
        };
        let trace = if busy.now > self.limits.turns {
            self.responder.give_up(&turn, Reason::Overloaded)
        } else if !my_turn {
            self.responder.give_up(&turn, Reason::Timeout)
        } else {
            catch_unwind(AssertUnwindSafe(|| self.responder.respond(&turn, observe)))
                .unwrap_or_else(|_| self.responder.give_up(&turn, Reason::InternalError))
        };
        drop(busy);
        self.record(inbound, &accepted, trace)
    }

    /// Hands over what an earlier process accepted and never decided; returns how many. A message
    /// that cannot be recovered is logged and left: it must not keep the others waiting.
    pub fn recover(&self) -> Result<usize, StoreError> {
        let mut recovered = 0;
        // A question from the command line may be in work in another process right now.
        let left = self.store.unfinished()?;
        for item in left.iter().filter(|item| item.inbound.platform != Platform::Cli) {
            let turn = Turn {
                asker: asker(&item.inbound),
                conversation: item.conversation.clone(),
                ask: Ask::from(&item.inbound.content),
                context: self.context(item.message, item.received_at).unwrap_or_default(),
                received_at: item.received_at,
                deadline: Deadline::after(Duration::ZERO),
                composing: Control::default(),
            };
            // Its moment to be answered has passed; a person sees it now.
            let trace = self.responder.give_up(&turn, Reason::InternalError);
            match self.decide(&item.inbound, item.message, &trace) {
                Ok(()) => recovered += 1,
                Err(StoreError::AlreadyDecided(_)) => {}
                Err(error) => tracing::error!(%error, "a message could not be recovered"),
            }
        }
        Ok(recovered)
    }

    /// What a message received at that time may lean on.
    fn context(&self, message: MessageRow, at: UnixMs) -> Result<Vec<Utterance>, StoreError> {
        let age = i64::try_from(self.limits.context_age.as_millis()).unwrap_or(i64::MAX);
        self.store.context(message, at.saturating_sub(age), CONTEXT_TURNS as u32)
    }

    fn record(
        &self,
        inbound: &Inbound,
        accepted: &Accepted,
        trace: Trace,
    ) -> Result<Outcome, StoreError> {
        match self.decide(inbound, accepted.message, &trace) {
            Ok(()) => Ok(outcome(trace.reply, trace.decision.verdict, trace.id)),
            // Another attempt was faster, perhaps in another process: its answer stands.
            Err(StoreError::AlreadyDecided(row)) => {
                let again = self.store.accept(&masked(inbound), trace.received_at)?;
                settled(&again).ok_or(StoreError::AlreadyDecided(row))
            }
            Err(error) => Err(error),
        }
    }

    fn decide(
        &self,
        inbound: &Inbound,
        message: MessageRow,
        trace: &Trace,
    ) -> Result<(), StoreError> {
        // A question from the command line has nobody waiting behind it.
        let for_person =
            trace.decision.verdict != Verdict::AutoReply && inbound.platform != Platform::Cli;
        self.store.decide(message, trace, for_person, self.clock.now())?;
        let (platform, verdict) = (inbound.platform.as_str(), trace.decision.verdict.as_str());
        metrics::counter!("huida_turns_total", "platform" => platform, "verdict" => verdict)
            .increment(1);
        for (step, ms) in &trace.timings_ms {
            metrics::histogram!("huida_step_seconds", "step" => step.clone()).record(ms / 1e3);
        }
        let reason = trace.decision.reasons.first().map_or("none", |r| r.as_str());
        tracing::info!(trace = %trace.id, platform, verdict, reason, "turn");
        Ok(())
    }
}

fn settled(accepted: &Accepted) -> Option<Outcome> {
    match &accepted.state {
        AcceptedState::Decided { trace, verdict, reply } => {
            Some(outcome(reply.clone(), *verdict, trace.clone()))
        }
        AcceptedState::New | AcceptedState::Undecided => None,
    }
}

fn outcome(reply: String, verdict: Verdict, trace: TraceId) -> Outcome {
    Outcome { reply: Some(reply).filter(|r| !r.is_empty()), verdict, trace }
}

/// Every customer is a usual one as long as nothing tells more.
fn asker(inbound: &Inbound) -> Asker {
    Asker { account: inbound.account.clone(), audience: Audience::Normal }
}

/// What may be written down.
fn masked(inbound: &Inbound) -> Inbound {
    let content = match &inbound.content {
        Content::Text(text) => Content::Text(pii::mask(text).text),
        Content::Choice { id, text } => {
            Content::Choice { id: id.clone(), text: pii::mask(text).text }
        }
        Content::Voice { transcript } => {
            Content::Voice { transcript: transcript.as_ref().map(|t| pii::mask(t).text) }
        }
        // A location's reference is an address.
        Content::Attachment { what, reference } => Content::Attachment {
            what: what.clone(),
            reference: reference.as_ref().filter(|_| what != "location").cloned(),
        },
        other @ (Content::Event { .. } | Content::Unknown { .. }) => other.clone(),
    };
    Inbound { content, ..inbound.clone() }
}

/// Counts itself as long as it lives.
struct Busy<'a> {
    count: &'a AtomicUsize,
    now: usize,
}

impl<'a> Busy<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, now: count.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whose conversation it is, known before the store has named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Customer {
    platform: Platform,
    account: AccountName,
    sender: String,
}

impl Customer {
    fn of(inbound: &Inbound) -> Self {
        let Inbound { platform, account, sender, .. } = inbound;
        Self { platform: *platform, account: account.clone(), sender: sender.clone() }
    }
}

/// One line per customer: the messages are worked on one after another, in the order in which the
/// store accepted them.
#[derive(Default)]
struct Lines {
    open: Mutex<HashMap<Customer, Line>>,
    moved: Condvar,
    next_ticket: AtomicU64,
}

#[derive(Default)]
struct Line {
    /// A message is being accepted; until it has its place no other one may be.
    accepting: bool,
    /// The first is at work.
    tickets: VecDeque<u64>,
}

impl Lines {
    /// Accepts a message and gives it its place, with no other message of the customer in between.
    fn enter<T, E>(
        &self,
        customer: Customer,
        accept: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Place<'_>), E> {
        let alone = Accepting::begin(self, &customer);
        let accepted = accept()?;
        let ticket = self.next_ticket.fetch_add(1, Ordering::SeqCst);
        self.change(&customer, |line| line.tickets.push_back(ticket));
        drop(alone);
        Ok((accepted, Place { lines: self, customer, ticket }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Customer, Line>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, customer: &Customer, change: impl FnOnce(&mut Line)) {
        let mut open = self.lock();
        let line = open.entry(customer.clone()).or_default();
        change(line);
        if !line.accepting && line.tickets.is_empty() {
            open.remove(customer);
        }
        self.moved.notify_all();
    }
}

/// As long as it lives, nobody else accepts a message of this customer.
struct Accepting<'a> {
    lines: &'a Lines,
    customer: Customer,
}

impl<'a> Accepting<'a> {
    fn begin(lines: &'a Lines, customer: &Customer) -> Self {
        let taken = |open: &mut HashMap<Customer, Line>| {
            open.get(customer).is_some_and(|line| line.accepting)
        };
        let open = lines.moved.wait_while(lines.lock(), taken);
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        open.entry(customer.clone()).or_default().accepting = true;
        Self { lines, customer: customer.clone() }
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.lines.change(&self.customer, |line| line.accepting = false);
    }
}

/// A place in a line; dropping it lets the next one in.
struct Place<'a> {
    lines: &'a Lines,
    customer: Customer,
    ticket: u64,
}

impl Place<'_> {
    /// False when the deadline came before this one's turn.
    fn wait(&self, deadline: Deadline) -> bool {
        let behind = |open: &mut HashMap<Customer, Line>| {
            open.get(&self.customer).and_then(|line| line.tickets.front()) != Some(&self.ticket)
        };
        let (_open, waited) = self
            .lines
            .moved
            .wait_timeout_while(self.lines.lock(), deadline.remaining(), behind)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lines.change(&self.customer, |line| line.tickets.retain(|t| *t != self.ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(sender: &str) -> Customer {
        let account = AccountName("mp".into());
        Customer { platform: Platform::WechatMp, account, sender: sender.into() }
    }

    fn enter<'a>(lines: &'a Lines, sender: &str) -> Place<'a> {
        lines.enter(customer(sender), || Ok::<_, StoreError>(())).unwrap().1
    }

    #[test]
    fn one_conversation_keeps_its_order_and_another_does_not_wait() {
        let lines = Lines::default();
        let soon = || Deadline::after(Duration::from_secs(5));
        let first = enter(&lines, "anna");
        assert!(first.wait(soon()) && enter(&lines, "ben").wait(soon()));
        let late = Deadline::after(Duration::from_millis(20));
        assert!(!enter(&lines, "anna").wait(late), "the head is still at work");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| enter(&lines, "anna").wait(soon()));
            std::thread::sleep(Duration::from_millis(30));
            drop(first);
            assert!(second.join().unwrap());
        });
        let refused = lines.enter(customer("anna"), || Err::<(), _>("the store is away"));
        assert!(refused.is_err());
        assert!(lines.lock().is_empty());
    }

    #[test]
    fn messages_of_one_customer_are_worked_on_as_they_were_accepted() {
        let lines = Lines::default();
        let (rows, worked) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        let handle = |nth: u64| {
            let accept = || {
                let row = rows.fetch_add(1, Ordering::SeqCst);
                // Those accepted first come back last, as a busy scheduler may have it.
                std::thread::sleep(Duration::from_millis(24 - 3 * nth.min(8)));
                Ok::<_, StoreError>(row)
            };
            let (row, place) = lines.enter(customer("anna"), accept).unwrap();
            assert!(place.wait(Deadline::after(Duration::from_secs(10))));
            worked.lock().unwrap().push(row);
        };
        std::thread::scope(|scope| {
            for nth in 0..8 {
                let handle = &handle;
                scope.spawn(move || handle(nth));
            }
        });
        assert_eq!(*worked.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }
}
