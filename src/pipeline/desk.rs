//! The front desk: a message is remembered before work on it begins, answered once, in order.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::clock::{Clock, Deadline};
use crate::base::id::{ConversationId, TraceId};
use crate::base::limits::CONTEXT_TURNS;
use crate::domain::decision::{Reason, Verdict};
use crate::domain::message::{Content, Inbound, Platform};
use crate::domain::trace::Trace;
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

pub struct Desk {
    store: Arc<dyn Store>,
    responder: Responder,
    clock: Clock,
    most_turns: usize,
    in_work: AtomicUsize,
    lines: Lines,
}

impl Desk {
    /// `most_turns`: messages in work at once; one more is handed to a person unread.
    pub fn new(
        store: Arc<dyn Store>,
        responder: Responder,
        clock: Clock,
        most_turns: usize,
    ) -> Self {
        let lines = Lines::default();
        Self { store, responder, clock, most_turns, in_work: AtomicUsize::new(0), lines }
    }

    /// Stores the message, decides it, and returns what to say. A retry gets the same answer as
    /// the first attempt, whether that is done, in work, or was cut off by a crash.
    pub fn handle(
        &self,
        inbound: &Inbound,
        deadline: Deadline,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, StoreError> {
        let received_at = self.clock.now();
        let accepted = self.store.accept(&masked(inbound), received_at)?;
        if let Some(outcome) = settled(&accepted) {
            return Ok(outcome);
        }
        // Counted while it waits as well: a waiting message holds a thread.
        let busy = Busy::enter(&self.in_work);
        let my_turn = self.lines.wait(&accepted.conversation, deadline);
        // While this one waited, an earlier attempt may have decided it.
        let accepted = self.store.accept(&masked(inbound), received_at)?;
        if let Some(outcome) = settled(&accepted) {
            return Ok(outcome);
        }
        let context = self.store.context(accepted.message, CONTEXT_TURNS as u32)?;
        let turn = Turn {
            account: inbound.account.clone(),
            conversation: accepted.conversation.clone(),
            ask: Ask::from(&inbound.content),
            context,
            received_at,
            deadline,
        };
        let trace = if busy.now > self.most_turns {
            self.responder.give_up(&turn, Reason::Overloaded)
        } else if my_turn.is_none() {
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
                account: item.inbound.account.clone(),
                conversation: item.conversation.clone(),
                ask: Ask::from(&item.inbound.content),
                context: self.store.context(item.message, CONTEXT_TURNS as u32).unwrap_or_default(),
                received_at: item.received_at,
                deadline: Deadline::after(std::time::Duration::ZERO),
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

/// What may be written down.
fn masked(inbound: &Inbound) -> Inbound {
    let content = match &inbound.content {
        Content::Text(text) => Content::Text(pii::mask(text).text),
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

/// One line per conversation: its messages are worked on one after another, first come first.
#[derive(Default)]
struct Lines {
    waiting: Mutex<HashMap<ConversationId, VecDeque<u64>>>,
    moved: Condvar,
    next_ticket: std::sync::atomic::AtomicU64,
}

/// The head of a line; dropping it lets the next one in.
struct AtHead<'a> {
    lines: &'a Lines,
    conversation: ConversationId,
    ticket: u64,
}

impl Lines {
    /// `None` when the deadline came before this one's turn.
    fn wait(&self, conversation: &ConversationId, deadline: Deadline) -> Option<AtHead<'_>> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(conversation.clone()).or_default().push_back(ticket);
        // Leaves the line on every way out.
        let place = AtHead { lines: self, conversation: conversation.clone(), ticket };
        loop {
            if waiting.get(conversation).and_then(|line| line.front()) == Some(&ticket) {
                return Some(place);
            }
            if deadline.passed() {
                drop(waiting);
                return None;
            }
            let (woken, _) = self
                .moved
                .wait_timeout(waiting, deadline.remaining())
                .unwrap_or_else(PoisonError::into_inner);
            waiting = woken;
        }
    }
}

impl Drop for AtHead<'_> {
    fn drop(&mut self) {
        let mut waiting = self.lines.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = waiting.get_mut(&self.conversation) {
            line.retain(|ticket| *ticket != self.ticket);
            if line.is_empty() {
                waiting.remove(&self.conversation);
            }
        }
        self.lines.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_conversation_keeps_its_order_and_another_does_not_wait() {
        let lines = Lines::default();
        let anna = ConversationId::generate();
        let soon = || Deadline::after(Duration::from_secs(5));
        let first = lines.wait(&anna, soon()).unwrap();
        assert!(lines.wait(&ConversationId::generate(), soon()).is_some());
        let late = lines.wait(&anna, Deadline::after(Duration::from_millis(20)));
        assert!(late.is_none(), "the head is still at work");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lines.wait(&anna, soon()).is_some());
            std::thread::sleep(Duration::from_millis(30));
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(lines.waiting.lock().unwrap().is_empty());
    }
}
