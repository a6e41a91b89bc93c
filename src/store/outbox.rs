//! The outbox port: a reply from its decision until it has left or a person has it.

use crate::base::clock::UnixMs;
use crate::base::id::{CaseId, ConversationId, TraceId};
use crate::domain::decision::Reason;
use crate::domain::delivery::{Author, DeliveryState, Occasion};
use crate::domain::message::AccountName;
use crate::domain::outgoing::{Outgoing, Target};
use crate::domain::trace::Trace;
use crate::store::durable::Durable;
use crate::store::{Accepted, Arrival, MessageRow, StoreError};

/// Row number of a reply; within a conversation replies leave in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxSeq(pub i64);

/// How a reply is meant to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In the answer to the callback that waits for it; to be sent, if it may be, where earlier
    /// replies of the conversation have not left yet.
    Offer {
        may_send: bool,
    },
    Send,
    /// When the customer taps for it, until then.
    Keep {
        until: UnixMs,
    },
}

/// A reply that is to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReply {
    pub author: Author,
    pub target: Target,
    pub payload: Outgoing,
    pub way: Way,
}

/// What the work on a message came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub trace: Trace,
    /// Earlier messages that it answers as well, each with its own trace, which says nothing.
    pub joined: Vec<(MessageRow, Trace)>,
    /// Opens a case.
    pub for_person: bool,
    /// In this order; only the first can be offered.
    pub replies: Vec<NewReply>,
    /// The conversation is the platform's own desk's until then.
    pub transferred_until: Option<UnixMs>,
    /// Of the messages: what of them did not reach the disk has no decision.
    pub accepted: Vec<Durable>,
}

/// A reply on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub seq: OutboxSeq,
    /// 32 characters of `[0-9a-f]`, the same at every attempt.
    pub key: String,
    pub conversation: ConversationId,
    pub trace: Option<TraceId>,
    pub account: AccountName,
    pub author: Author,
    pub target: Target,
    pub payload: Outgoing,
    pub state: DeliveryState,
    /// Attempts to send it, the present one included.
    pub attempts: u32,
    pub created_at: UnixMs,
    /// The last failure, as a word.
    pub note: String,
    /// The reply with which it left, its own where it was the first, while it is not known whether
    /// the platform has that send: it is repeated as it was, under the same key.
    pub left_with: Option<OutboxSeq>,
}

/// What platforms count sends by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// When the customer last gave each kind of occasion.
    pub occasions: Vec<(Occasion, UnixMs)>,
    /// When something was last sent, newest first, at most twenty.
    pub sent: Vec<UnixMs>,
}

/// Replies of one conversation that may be sent now, in their order, and what room there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLine {
    pub rows: Vec<Queued>,
    pub contact: Contact,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Delivered,
    Again {
        at: UnixMs,
        note: &'static str,
        /// It may have been done.
        unclear: bool,
    },
    /// A person has to see to it.
    Handed {
        why: Reason,
        note: &'static str,
    },
    Dropped {
        note: &'static str,
    },
}

/// What is known at a start about an account's replies that were under way at the end before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumption {
    pub account: AccountName,
    /// The platform knows a send by its key: it may be repeated.
    pub repeats: bool,
    /// The platform asks again when it got no answer: silence is proof that it got one.
    pub asks_again: bool,
}

/// How far a thread was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub account: AccountName,
    pub thread: String,
    /// Empty: from the beginning.
    pub cursor: String,
    /// Given by the last callback; opens the fetch without a rate limit for ten minutes.
    pub token: String,
    /// The number of the last callback that asked for a fetch.
    pub wanted: i64,
}

/// What a fetched page changes, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Arrival>,
    /// Keys of replies that the platform took and could not deliver, with the reason.
    pub failures: Vec<(String, Reason)>,
    /// Customers whose session at the platform's desk began (until then) or ended.
    pub sessions: Vec<(String, Option<UnixMs>)>,
    pub next: String,
    /// No more pages: fetched up to this callback's number.
    pub complete: Option<i64>,
}

/// Numbers for `/metrics` and pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    pub waiting: u64,
    pub handed: u64,
    pub oldest_waiting: Option<UnixMs>,
    pub work: u64,
}

/// The contract; every implementation passes `store::contract`.
pub trait Outbox {
    /// Ends a message's work in one transaction, and that of those joined with it: decisions,
    /// evidence, a case if asked, and the reply.
    ///
    /// # Errors
    /// [`StoreError::AlreadyDecided`] the second time; [`StoreError::NotTheBots`] when there is
    /// something to say and a person has the conversation.
    fn decide(
        &self,
        message: MessageRow,
        decided: &Decided,
        now: UnixMs,
    ) -> Result<Option<Queued>, StoreError>;

    /// The reply once more, for the platform's retry of the message; `None` when it leaves, or has
    /// left, another way. A reply that waited is offered from now on.
    fn offer_again(&self, message: MessageRow, now: UnixMs) -> Result<Option<Queued>, StoreError>;

    /// The reply to that message of this conversation, or to the one it was joined with, which the
    /// customer taps for, offered; `None` when there is none yet or none any more.
    fn fetch_kept(
        &self,
        message: MessageRow,
        conversation: &ConversationId,
        now: UnixMs,
    ) -> Result<Option<Queued>, StoreError>;

    /// An offered reply left.
    fn confirm(&self, seq: OutboxSeq) -> Result<(), StoreError>;

    /// An offered reply did not leave: it is to be sent from `due` on.
    fn retract(&self, seq: OutboxSeq, due: UnixMs) -> Result<(), StoreError>;

    /// Conversations of which the first reply may be sent now and nothing is under way.
    fn due(&self, now: UnixMs, limit: u32) -> Result<Vec<DueLine>, StoreError>;

    /// Takes the replies for one send under the first one's key. False: something changed meanwhile;
    /// of replies of the bot to a person's conversation the case is opened.
    fn begin_send(&self, rows: &[OutboxSeq], now: UnixMs) -> Result<bool, StoreError>;

    /// Writes what became of replies that were taken, or cannot be sent at all.
    fn settle(&self, rows: &[OutboxSeq], settled: Settled, now: UnixMs) -> Result<(), StoreError>;

    /// The conversation went to the platform's own desk, until then.
    fn transferred(&self, conversation: &ConversationId, until: UnixMs) -> Result<(), StoreError>;

    /// Ends offered and kept replies whose time has passed; returns how many.
    fn expire(&self, now: UnixMs) -> Result<usize, StoreError>;

    /// Once at a start: decides about what was under way when the process ended.
    fn resume(&self, accounts: &[Resumption], now: UnixMs) -> Result<(), StoreError>;

    /// Newest first: what could not be delivered.
    fn undelivered(&self, limit: u32) -> Result<Vec<Queued>, StoreError>;

    fn outbox_counts(&self) -> Result<OutboxCounts, StoreError>;

    fn contact(&self, conversation: &ConversationId) -> Result<Contact, StoreError>;

    /// Remembers that a callback said there is something to fetch.
    fn want_fetch(
        &self,
        account: &AccountName,
        thread: &str,
        token: &str,
    ) -> Result<(), StoreError>;

    /// The same of every thread known: what callbacks said meanwhile nobody heard.
    fn want_all(&self) -> Result<(), StoreError>;

    /// Threads with callbacks that were not followed up.
    fn to_fetch(&self) -> Result<Vec<Cursor>, StoreError>;

    /// Takes a fetched page and moves the cursor in one transaction.
    fn take_page(
        &self,
        account: &AccountName,
        thread: &str,
        page: &Page,
        now: UnixMs,
    ) -> Result<Vec<(Arrival, Accepted)>, StoreError>;

    /// The last closed case of the conversation whose customer was asked since then how it was, and
    /// has not said.
    fn open_survey(
        &self,
        conversation: &ConversationId,
        since: UnixMs,
    ) -> Result<Option<CaseId>, StoreError>;

    /// Writes a satisfaction score down; false when the conversation has no such case
    /// or it was rated already.
    fn rate(
        &self,
        case: &CaseId,
        conversation: &ConversationId,
        score: u8,
        now: UnixMs,
    ) -> Result<bool, StoreError>;
}
