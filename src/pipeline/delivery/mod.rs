//! Delivery: replies leave the outbox, in order within a conversation, within what platforms allow.
//!
//! One thread looks what is due and plans it; a few send. Whatever happens to a send ends in the
//! outbox: delivered, again later, or for a person.

pub mod announce;
pub mod api;
pub mod backoff;
mod bell;
pub mod drain;
pub mod quota;
pub mod renewals;
mod send;
pub mod tokens;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use bell::Bell;

use self::announce::OtherDesk;
use self::api::Api;
use self::quota::{BETWEEN, Piece, Plan, plan, room};
use self::renewals::Renewals;
use self::tokens::Tokens;
use crate::base::clock::{Clock, UnixMs};
use crate::base::id::ConversationId;
use crate::domain::decision::Reason;
use crate::domain::message::AccountName;
use crate::domain::outgoing::{Outgoing, Target};
use crate::pipeline::accounts::Accounts;
use crate::store::outbox::{DueLine, OutboxSeq, Queued, Resumption, Settled};
use crate::store::{Store, StoreError};

/// Sends under way at once.
const SENDERS: usize = 16;
/// Of one account: a platform that is silent holds up its own customers only.
const SENDERS_OF_ONE: usize = 8;
/// Conversations looked at together.
const LINES: u32 = 64;
/// How often it is looked without being rung for: pauses end by themselves.
const LOOK: Duration = Duration::from_millis(200);

/// What delivery needs of the rest.
#[derive(Clone)]
pub struct DeliveryParts {
    pub store: Arc<dyn Store>,
    pub accounts: Accounts,
    pub clock: Clock,
    pub bell: Arc<Bell>,
    /// How long the platform's own desk keeps a conversation that nobody closes.
    pub session: Duration,
    /// The file that keeps renewed long-lived tokens.
    pub renewals: PathBuf,
    /// Another desk that is told of every case.
    pub other_desk: Option<OtherDesk>,
}

/// What senders share.
pub(super) struct Shared {
    parts: DeliveryParts,
    api: Api,
    tokens: Tokens,
    under_way: Mutex<HashMap<ConversationId, AccountName>>,
    stopped: AtomicBool,
}

/// Replies that leave together.
struct Parcel {
    rows: Vec<OutboxSeq>,
    first: Queued,
    payload: Outgoing,
}

/// Threads that send; dropping it ends them after what is under way.
pub struct Delivery {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Why delivery cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Delivery {
    /// Decides first about what an earlier process left under way.
    pub fn start(parts: DeliveryParts) -> Result<Self, StartError> {
        let known = parts.accounts.all().map(|channel| Resumption {
            account: channel.account().clone(),
            repeats: channel.abilities().idempotent,
            asks_again: channel.abilities().asks_again,
        });
        parts.store.resume(&known.collect::<Vec<_>>(), parts.clock.now())?;
        let tokens = Tokens::new(Renewals::at(parts.renewals.clone()));
        let shared = Arc::new(Shared {
            parts,
            api: Api::new()?,
            tokens,
            under_way: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let (tasks, inbox) = sync_channel(SENDERS);
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::new();
        for n in 0..SENDERS {
            let (shared, inbox) = (Arc::clone(&shared), Arc::clone(&inbox));
            let name = format!("send-{n}");
            threads.push(
                std::thread::Builder::new().name(name).spawn(move || shared.senders(&inbox))?,
            );
        }
        // Apart from the senders: a platform that is silent keeps its courtesies waiting, no replies.
        let (typing, signs) = sync_channel(SENDERS);
        let (showing, name) = (Arc::clone(&shared), "typing".to_owned());
        let show =
            move || signs.iter().for_each(|(account, to)| showing.show_typing(&account, &to));
        threads.push(std::thread::Builder::new().name(name).spawn(show)?);
        let (looking, name) = (Arc::clone(&shared), "delivery".to_owned());
        let look = move || looking.look(&tasks, &typing);
        threads.push(std::thread::Builder::new().name(name).spawn(look)?);
        if let Some(desk) = shared.parts.other_desk.clone() {
            let (shared, name) = (Arc::clone(&shared), "announce".to_owned());
            let announcing = std::thread::Builder::new().name(name);
            threads.push(announcing.spawn(move || shared.announce(&desk))?);
        }
        Ok(Self { shared, threads })
    }

    /// For fetching: it shares the tokens.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // One that panicked has said so; what it sent is decided about at the next start.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.parts.bell.ring();
    }

    fn now(&self) -> UnixMs {
        self.parts.clock.now()
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<ConversationId, AccountName>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the conversation for one send; `false` where it or its account has enough under way.
    fn begin(&self, reply: &Queued) -> bool {
        let mut under_way = self.under_way();
        let of_account = under_way.values().filter(|account| **account == reply.account).count();
        if under_way.contains_key(&reply.conversation) || of_account >= SENDERS_OF_ONE {
            return false;
        }
        under_way.insert(reply.conversation.clone(), reply.account.clone());
        true
    }

    /// Until it is stopped; the senders end when both channels are dropped.
    fn look(&self, tasks: &SyncSender<Parcel>, typing: &SyncSender<(AccountName, Target)>) {
        let mut told = None;
        while !self.stopped() {
            let looked = self.hand_out(tasks).map_err(|e| e.to_string());
            if let Err(error) = &looked
                && told.as_ref() != Some(error)
            {
                tracing::error!(error, "the outbox cannot be read");
            }
            told = looked.err();
            for sign in self.parts.bell.wait(LOOK) {
                // A courtesy, left out where many wait already.
                let _ = typing.try_send(sign);
            }
        }
    }

    fn hand_out(&self, tasks: &SyncSender<Parcel>) -> Result<(), StoreError> {
        let now = self.now();
        self.parts.store.expire(now)?;
        for line in self.parts.store.due(now, LINES)? {
            let Some(first) = line.rows.first() else { continue };
            if !self.begin(first) {
                continue;
            }
            let conversation = first.conversation.clone();
            match self.plan(line, now) {
                Ok(Some(parcel)) => {
                    if tasks.try_send(parcel).is_err() {
                        // All are busy; whoever is done rings.
                        self.under_way().remove(&conversation);
                        return Ok(());
                    }
                }
                Ok(None) => {
                    self.under_way().remove(&conversation);
                }
                Err(error) => {
                    self.under_way().remove(&conversation);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What of the line leaves now; the rest of the plan is written down here.
    fn plan(&self, line: DueLine, now: UnixMs) -> Result<Option<Parcel>, StoreError> {
        let DueLine { rows, contact } = line;
        let Some(first) = rows.first().cloned() else { return Ok(None) };
        let seqs = |count: usize| rows.iter().take(count).map(|r| r.seq).collect::<Vec<_>>();
        let Some(channel) = self.parts.accounts.get(&first.account) else {
            let settled = Settled::Handed { why: Reason::SendFailed, note: "no_such_account" };
            self.parts.store.settle(&seqs(1), settled, now)?;
            return Ok(None);
        };
        let abilities = channel.abilities();
        // What is written at another of the platform's desks is said there.
        let here = rows.iter().take_while(|row| row.target.thread == first.target.thread);
        let pieces: Vec<Piece<'_>> = here.map(piece).collect();
        // What comes by an event's own code, or changes who has the customer, is no message.
        let left_together = rows.iter().take_while(|row| row.left_with == Some(first.seq)).count();
        let planned = match &first.payload {
            // The platform may know the key, and then what left under it.
            _ if left_together > 0 => Plan::Send(left_together),
            Outgoing::OnEvent { .. } | Outgoing::Transfer => Plan::Send(1),
            Outgoing::Text(_) | Outgoing::Menu(_) | Outgoing::Typing { .. } => {
                let room = room(&abilities.quotas, &contact, now);
                plan(&pieces, room, |text| abilities.text.holds(text))
            }
        };
        match planned {
            Plan::Send(count) => {
                let payload = joined(&rows[..count.clamp(1, rows.len())]);
                Ok(Some(Parcel { rows: seqs(count), first, payload }))
            }
            Plan::Hand(count, why) => {
                let settled = Settled::Handed { why, note: why.as_str() };
                self.parts.store.settle(&seqs(count), settled, now)?;
                Ok(None)
            }
            Plan::Drop => {
                self.parts.store.settle(&seqs(1), Settled::Dropped { note: "no_room" }, now)?;
                Ok(None)
            }
        }
    }

    fn senders(&self, inbox: &Mutex<Receiver<Parcel>>) {
        loop {
            let parcel = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(parcel) = parcel else { return };
            // Beside the attempt itself, which ends as unclear, hardly anything can panic; what does is
            // decided about at the next start.
            match catch_unwind(AssertUnwindSafe(|| self.send(&parcel))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a send could not be written down"),
                Err(_) => tracing::error!("a send panicked"),
            }
            self.under_way().remove(&parcel.first.conversation);
            // The next of the conversation may leave.
            self.parts.bell.ring();
        }
    }
}

fn piece(row: &Queued) -> Piece<'_> {
    let text = match &row.payload {
        Outgoing::Text(text) => Some(text.as_str()),
        Outgoing::Menu(_)
        | Outgoing::Typing { .. }
        | Outgoing::OnEvent { .. }
        | Outgoing::Transfer => None,
    };
    Piece { author: row.author, text }
}

/// One payload for replies that leave together: `quota` joins texts only.
fn joined(rows: &[Queued]) -> Outgoing {
    match rows {
        [one] => one.payload.clone(),
        many => {
            let texts: Vec<&str> = many.iter().filter_map(|row| piece(row).text).collect();
            Outgoing::Text(texts.join(BETWEEN))
        }
    }
}
