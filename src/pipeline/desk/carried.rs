//! Replies in the answers to callbacks: several tries of one message bring the same reply, and it is
//! taken back only when the last of them is gone and none has brought it.
//!
//! What is written of a message's reply and who carries it change together, under a lock that few
//! other messages share: a write waits for the disk, and must not make others wait for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::DeskParts;
use crate::base::clock::Clock;
use crate::domain::delivery::DeliveryState;
use crate::domain::outgoing::Outgoing;
use crate::pipeline::accounts::Accounts;
use crate::pipeline::delivery::Bell;
use crate::store::outbox::{OutboxSeq, Queued};
use crate::store::{MessageRow, Store, StoreError};

/// Every reply that stands in an answer right now.
pub(super) struct Carriers {
    store: Arc<dyn Store>,
    accounts: Accounts,
    clock: Clock,
    bell: Arc<Bell>,
    open: Vec<Mutex<Open>>,
}

type Open = HashMap<OutboxSeq, Weak<Carried>>;

/// Locks for messages, by their number; more than are decided at once.
const LOCKS: usize = 1_024;

/// One of them, held by each answer that brings it; the outbox is told how it ended.
pub struct Carried {
    carriers: Arc<Carriers>,
    message: MessageRow,
    seq: OutboxSeq,
    /// When it leaves another way, or goes to a person, if no answer brings it, in milliseconds; `None`
    /// where the platform asks again.
    taken_back: Option<i64>,
    brought: AtomicBool,
}

/// Where nothing can be sent, whoever hung up has so long to ask again before a person gets the reply.
const ASK_AGAIN_MS: i64 = 5_000;

/// A reply for the answer to a callback.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    pub queued: Queued,
    pub carried: Arc<Carried>,
}

impl Carriers {
    pub(super) fn new(parts: &DeskParts) -> Arc<Self> {
        let DeskParts { store, accounts, clock, bell, .. } = parts;
        Arc::new(Self {
            store: Arc::clone(store),
            accounts: accounts.clone(),
            clock: clock.clone(),
            bell: Arc::clone(bell),
            open: (0..LOCKS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Writes the decision of a message. No retry is offered its reply before an answer carries it.
    pub(super) fn first(
        self: &Arc<Self>,
        message: MessageRow,
        decide: impl FnOnce() -> Result<Option<Queued>, StoreError>,
    ) -> Result<(Option<Queued>, Option<Arc<Carried>>), StoreError> {
        let mut open = self.lock(message);
        let queued = decide()?;
        let offered = queued.as_ref().filter(|q| q.state == DeliveryState::Offered);
        let carried = offered.map(|queued| self.carry(&mut open, message, queued));
        Ok((queued, carried))
    }

    /// Offers the reply to a message, which may stand in another answer already; until then nothing is
    /// taken back.
    pub(super) fn again(
        self: &Arc<Self>,
        message: MessageRow,
        offer: impl FnOnce() -> Result<Option<Queued>, StoreError>,
    ) -> Result<Option<Offered>, StoreError> {
        let mut open = self.lock(message);
        let Some(queued) = offer()? else { return Ok(None) };
        let carried = self.carry(&mut open, message, &queued);
        Ok(Some(Offered { queued, carried }))
    }

    fn carry(
        self: &Arc<Self>,
        open: &mut Open,
        message: MessageRow,
        queued: &Queued,
    ) -> Arc<Carried> {
        if let Some(carried) = open.get(&queued.seq).and_then(Weak::upgrade) {
            return carried;
        }
        let abilities = self.accounts.get(&queued.account).map(|channel| channel.abilities());
        let can_send = abilities.is_some_and(|abilities| abilities.send);
        let asked_again = abilities.is_some_and(|abilities| abilities.asks_again);
        // The platform's desk is given a customer in an answer only.
        let can_send = can_send && queued.payload != Outgoing::Transfer;
        let carried = Arc::new(Carried {
            carriers: Arc::clone(self),
            message,
            seq: queued.seq,
            taken_back: match (can_send, asked_again) {
                (true, _) => Some(0),
                (false, true) => None,
                (false, false) => Some(ASK_AGAIN_MS),
            },
            brought: false.into(),
        });
        open.insert(queued.seq, Arc::downgrade(&carried));
        carried
    }

    fn lock(&self, message: MessageRow) -> MutexGuard<'_, Open> {
        let place = message.0.unsigned_abs() as usize % LOCKS;
        self.open[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carried {
    /// An answer with it was taken by its connection. Waits for the store.
    pub fn brought(&self) {
        self.brought.store(true, Ordering::SeqCst);
        if let Err(error) = self.carriers.store.confirm(self.seq) {
            tracing::error!(%error, "a reply that left could not be written down");
        }
        self.carriers.bell.ring();
    }
}

impl Drop for Carried {
    /// Waits for the store.
    fn drop(&mut self) {
        let Carriers { store, clock, bell, .. } = &*self.carriers;
        let mut open = self.carriers.lock(self.message);
        if open.get(&self.seq).is_some_and(|other| other.strong_count() > 0) {
            return;
        }
        open.remove(&self.seq);
        let brought = self.brought.load(Ordering::SeqCst);
        let Some(pause) = self.taken_back.filter(|_| !brought) else { return };
        // Under the lock: whoever offers it again finds it as it is left here.
        if let Err(error) = store.retract(self.seq, clock.now().saturating_add(pause)) {
            tracing::error!(%error, "a reply that nobody took could not be taken back");
        }
        bell.ring();
    }
}

impl PartialEq for Carried {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Carried({})", self.seq.0)
    }
}
