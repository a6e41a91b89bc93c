//! Who waits for which decision: callbacks that are still open, pages, the command line.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::id::ConversationId;
use crate::store::MessageRow;

/// What those who wait are told: steps as they end, then the outcome.
#[derive(Clone, Debug)]
pub enum Event<P, O> {
    Step(P),
    /// It will not be ready while a callback can wait.
    NotSoon,
    /// It is answered together with a later message.
    Elsewhere,
    Done(O),
}

struct Work<P, O> {
    conversation: ConversationId,
    listeners: Vec<(u64, Sender<Event<P, O>>)>,
    /// Its decision is being written: whoever listens now gets it.
    settling: bool,
    /// A callback was answered with a link to tap.
    linked: bool,
}

/// Every message in work is here, with or without someone who waits.
pub struct Waiting<P, O> {
    work: Mutex<HashMap<MessageRow, Work<P, O>>>,
}

impl<P, O> Default for Waiting<P, O> {
    fn default() -> Self {
        Self { work: Mutex::new(HashMap::new()) }
    }
}

pub struct Listener<P, O> {
    id: u64,
    pub events: Receiver<Event<P, O>>,
}

impl<P: Clone, O: Clone> Waiting<P, O> {
    /// False when it is in work already.
    pub fn begin(&self, message: MessageRow, conversation: &ConversationId) -> bool {
        let mut work = self.lock();
        let new = !work.contains_key(&message);
        work.entry(message).or_insert_with(|| Work {
            conversation: conversation.clone(),
            listeners: Vec::new(),
            settling: false,
            linked: false,
        });
        new
    }

    /// `None` when no such message of the conversation is in work.
    pub fn listen(
        &self,
        message: MessageRow,
        conversation: &ConversationId,
    ) -> Option<Listener<P, O>> {
        let mut work = self.lock();
        let work = work.get_mut(&message).filter(|work| work.conversation == *conversation)?;
        let id = work.listeners.last().map_or(0, |(last, _)| last + 1);
        let (tell, events) = channel();
        work.listeners.push((id, tell));
        Some(Listener { id, events })
    }

    pub fn tell(&self, message: MessageRow, event: &Event<P, O>) {
        if let Some(work) = self.lock().get(&message) {
            for (_, listener) in &work.listeners {
                // It may have left meanwhile.
                let _ = listener.send(event.clone());
            }
        }
    }

    /// The decision is about to be written: whether someone waits for it, and whether a link was
    /// given.
    pub fn settle(&self, message: MessageRow) -> (bool, bool) {
        let mut work = self.lock();
        let Some(work) = work.get_mut(&message) else { return (false, false) };
        work.settling = true;
        (!work.listeners.is_empty(), work.linked)
    }

    /// Stops waiting, if the outcome is not on its way already.
    pub fn withdraw(&self, message: MessageRow, listener: &Listener<P, O>, linked: bool) -> bool {
        let mut work = self.lock();
        let Some(work) = work.get_mut(&message).filter(|work| !work.settling) else {
            return false;
        };
        work.listeners.retain(|(id, _)| *id != listener.id);
        work.linked |= linked;
        true
    }

    /// Whether anybody still waited for the outcome.
    pub fn end(&self, message: MessageRow, outcome: &O) -> bool {
        let listeners = self.lock().remove(&message).map_or_else(Vec::new, |work| work.listeners);
        let tell = |listener: &Sender<Event<P, O>>| listener.send(Event::Done(outcome.clone()));
        listeners.iter().fold(false, |any, (_, listener)| tell(listener).is_ok() || any)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageRow, Work<P, O>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_in_time_gets_nothing_and_who_stays_gets_it() {
        let waiting = Waiting::<u8, u8>::default();
        let (row, ours) = (MessageRow(1), ConversationId::generate());
        let begin = || waiting.begin(row, &ours);
        let listen = || waiting.listen(row, &ours);
        assert!(listen().is_none());
        assert!(begin() && !begin());
        assert!(waiting.listen(row, &ConversationId::generate()).is_none(), "another's");
        let (early, late) = (listen().unwrap(), listen().unwrap());
        assert!(waiting.withdraw(row, &early, true));
        assert_eq!(waiting.settle(row), (true, true));
        assert!(!waiting.withdraw(row, &late, false), "the outcome is on its way");
        assert!(waiting.end(row, &7));
        assert!(early.events.try_recv().is_err());
        assert!(matches!(late.events.try_recv(), Ok(Event::Done(7))));
        assert!(begin(), "it can be taken up again");
        drop(listen().unwrap());
        assert!(!waiting.end(row, &7), "whoever listened has gone");
    }
}
