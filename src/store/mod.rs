//! The store port: what the service must remember, whatever database holds it.
//!
//! Calls block for a group commit; async callers go through a blocking thread.

pub mod durable;
pub mod governance;
pub mod outbox;
pub mod personal;
pub mod queue;
pub mod sqlite;

use std::path::PathBuf;

use crate::base::clock::UnixMs;
use crate::base::id::{ConversationId, TraceId};
use crate::domain::decision::Verdict;
use crate::domain::delivery::Occasion;
use crate::domain::draft::DraftMode;
use crate::domain::knowledge::{Change, Entry, EntryId, EntryState, Version, VersionedEntry};
use crate::domain::label::{Labelled, Purpose};
use crate::domain::message::{AccountName, Inbound, Utterance};
use crate::domain::outgoing::Target;
use crate::domain::ownership;
use crate::domain::release;
use crate::domain::trace::Trace;
use crate::gate::threshold::Promise;
use crate::store::durable::Durable;
use crate::store::governance::Governance;
use crate::store::outbox::Outbox;
use crate::store::personal::Personal;
use crate::store::queue::Queue;

/// Grouped by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, is locked by someone else, or the disk is full.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Written by a newer build: upgrade, or restore a backup.
    #[error(
        "the store has schema version {found}, this build knows up to {known}: use a newer huida"
    )]
    TooNew { found: u32, known: u32 },
    /// Stop what uses it, and try again.
    #[error("{} is in use by another process: stop the service first", .0.display())]
    InUse(PathBuf),
    /// Stop the other one, or serve another store.
    #[error("{} is served by another process already: stop that service first", .0.display())]
    Served(PathBuf),
    /// Wait until the restore has ended.
    #[error("{} is just being restored: try again when that has ended", .0.display())]
    Replaced(PathBuf),
    /// A stored row cannot be read back.
    #[error("a stored {what} cannot be read: {reason}")]
    Corrupt { what: &'static str, reason: String },
    /// The message was already decided; the first decision stands.
    #[error("message {0} was already decided")]
    AlreadyDecided(i64),
    /// A person, or the platform's desk, has the conversation: the bot may only suggest.
    #[error("a person has the conversation of message {0}")]
    NotTheBots(i64),
    /// Someone else has the conversation.
    #[error(transparent)]
    Refused(#[from] ownership::Refused),
    /// Another reply was sent under this key: a key is for one reply.
    #[error("this key was used for another reply")]
    KeyUsed,
    /// Nothing can be sent on this account: the customer has to be called.
    #[error("nothing can be sent to this customer")]
    NoWayToCustomer,
    /// There is no such open case.
    #[error("there is no open case {0}")]
    NoSuchCase(String),
    /// `kb release list` tells what waits.
    #[error("{0} waits for no release: `huida kb release list` tells what does")]
    NotWaiting(EntryId),
    /// Read the version that waits.
    #[error("version {waiting} of {entry} waits, not version {read}: read that one first")]
    OtherVersion { entry: EntryId, read: u32, waiting: u32 },
    /// Someone else has to, or something is missing.
    #[error(transparent)]
    Vote(#[from] release::Refused),
    /// `kb history` lists the versions that there are.
    #[error("{entry} has no version {version}")]
    NoSuchVersion { entry: EntryId, version: u32 },
}

/// Row number of an inbound message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageRow(pub i64);

/// What became of an inbound message when it was offered to the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    pub message: MessageRow,
    pub conversation: ConversationId,
    pub state: AcceptedState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AcceptedState {
    /// First time seen: it is now this service's duty.
    New,
    /// Seen before, decision still to come.
    Undecided,
    /// Seen before and decided: the same reply goes out again.
    Decided { trace: TraceId, verdict: Verdict, reply: String },
}

/// Entries that come in together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    pub entries: Vec<Entry>,
    /// The document whose passages the entries are, all of them: what an earlier reading of it left
    /// and this one does not hold is archived.
    pub document: Option<String>,
    pub change: Change,
}

impl Import {
    /// Entries of their own, not of a document.
    pub fn of(entries: Vec<Entry>, change: Change) -> Self {
        Self { entries, document: None, change }
    }
}

/// What an import changed, entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOutcome {
    pub added: Vec<EntryId>,
    pub changed: Vec<EntryId>,
    pub archived: Vec<EntryId>,
    /// Of the added and changed ones those that wait for their release.
    pub held: Vec<EntryId>,
    pub unchanged: usize,
}

/// The version that an entry is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: EntryId,
    pub version: u32,
    pub state: EntryState,
}

/// A message as it comes in, with what a reply to it needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Masked of personal data.
    pub inbound: Inbound,
    /// Where a reply can be sent; `None` where it can only be shown at once.
    pub target: Option<Target>,
    /// What the platform lets be sent after it.
    pub occasion: Option<Occasion>,
    /// What was masked, sealed; `None` where there was nothing, or it is not kept.
    pub sealed: Option<Vec<u8>>,
}

impl Arrival {
    /// Said where the reply is waited for: at the command line, on the chat page.
    pub fn in_person(inbound: Inbound) -> Self {
        Self { inbound, target: None, occasion: None, sealed: None }
    }
}

/// Which part of a conversation a message may lean on.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub conversation: &'a ConversationId,
    /// This one and later ones are left out …
    pub message: MessageRow,
    /// … and what a person said after it was received.
    pub received_at: UnixMs,
    /// Earlier messages are left out, with the replies to them.
    pub since: UnixMs,
    /// Most utterances.
    pub limit: u32,
}

/// An accepted message that no decision covers: the process ended in between.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    pub message: MessageRow,
    pub conversation: ConversationId,
    pub arrival: Arrival,
    pub received_at: UnixMs,
    /// How often it was taken up again.
    pub tries: u32,
}

/// What became of a message, for whoever checks the service from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    pub sender: String,
    pub dedupe_key: String,
    /// `None`: not yet.
    pub decided: Option<Decided>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub verdict: Verdict,
    pub reply: String,
    /// How the proposed reply was made, where there was one.
    pub draft: Option<DraftMode>,
    /// It has a case, open or closed.
    pub for_person: bool,
    /// It was answered together with a later one.
    pub joined: bool,
}

/// Labels of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFile {
    pub source: String,
    pub purpose: Purpose,
    pub labels: Vec<Labelled>,
}

/// Where the audit chain is broken, if it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditState {
    Intact { rows: i64 },
    BrokenAt { seq: i64 },
}

/// The contract; every implementation passes `store::contract`.
pub trait Store: Governance + Outbox + Personal + Queue + Send + Sync {
    /// Adds or changes entries by id, all of them with their line in the audit log or none; an
    /// equal entry keeps its version. Marketing text that is to be published waits for its release.
    fn import_entries(&self, import: &Import, now: UnixMs) -> Result<ImportOutcome, StoreError>;

    /// Every entry at its current version, by id.
    fn entries(&self) -> Result<Vec<VersionedEntry>, StoreError>;

    /// The named entries at their current versions, in that order; unknown ones are left out.
    fn entries_by_id(&self, ids: &[EntryId]) -> Result<Vec<VersionedEntry>, StoreError>;

    /// Grows with every version that is made; equal numbers mean equal knowledge.
    fn revision(&self) -> Result<i64, StoreError>;

    /// Of every entry, by id: cheap enough to compare with what serves.
    fn heads(&self) -> Result<Vec<Head>, StoreError>;

    /// All versions of an entry, oldest first; none for an unknown one.
    fn history(&self, id: &EntryId) -> Result<Vec<Version>, StoreError>;

    /// Makes an earlier version the current one again, as a new version; marketing text waits for its
    /// release again. Rolling back to what is current changes nothing.
    fn roll_back(
        &self,
        id: &EntryId,
        to: u32,
        change: &Change,
        now: UnixMs,
    ) -> Result<VersionedEntry, StoreError>;

    /// Adds labels that are not there yet, of all files with their lines in the audit log or of
    /// none; returns how many of each file were new.
    fn add_labels(
        &self,
        files: &[LabelFile],
        author: &str,
        now: UnixMs,
    ) -> Result<Vec<usize>, StoreError>;

    /// In the order in which they came, each with what was last said of its message, for whichever
    /// purpose.
    fn labels(&self, purpose: Purpose) -> Result<Vec<Labelled>, StoreError>;

    /// The labels of either purpose that came at `since` or later, in the order in which they came.
    fn labels_since(&self, since: UnixMs) -> Result<Vec<Labelled>, StoreError>;

    /// Writes into the audit log how the training of a generation ended.
    fn note_training(
        &self,
        generation: &str,
        outcome: &str,
        author: &str,
        now: UnixMs,
    ) -> Result<(), StoreError>;

    /// Remembers the promise that the gate is to be fitted to, with its line in the audit log.
    fn set_promise(&self, promise: Promise, author: &str, now: UnixMs) -> Result<(), StoreError>;

    /// What [`Store::set_promise`] last remembered.
    fn promise(&self) -> Result<Option<Promise>, StoreError>;

    /// Remembers a message. Personal data must already be masked.
    fn accept(&self, arrival: &Arrival, now: UnixMs) -> Result<Accepted, StoreError> {
        let (accepted, durable) = self.accept_ahead(arrival, now)?;
        durable.wait()?;
        Ok(accepted)
    }

    /// The same for who works on the message while it is on its way to the disk, where its decision
    /// comes with it or later. Nobody may be answered before.
    fn accept_ahead(
        &self,
        arrival: &Arrival,
        now: UnixMs,
    ) -> Result<(Accepted, Durable), StoreError>;

    /// What was said before a message in its conversation, oldest first.
    fn context(&self, before: &Before<'_>) -> Result<Vec<Utterance>, StoreError>;

    /// Accepted, but never decided; oldest first.
    fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError>;

    /// These are taken up once more; written before it is done, since it may end the process.
    fn taken_up(&self, messages: &[MessageRow]) -> Result<(), StoreError>;

    /// What became of an account's messages received at `since` or later, in the order in which they
    /// were accepted.
    fn fates(&self, account: &AccountName, since: UnixMs) -> Result<Vec<Fate>, StoreError>;

    fn trace(&self, id: &TraceId) -> Result<Option<Trace>, StoreError>;

    /// Newest first.
    fn recent_traces(&self, limit: u32) -> Result<Vec<Trace>, StoreError> {
        let mut traces = Vec::new();
        self.visit_recent_traces(limit, &mut |trace| traces.push(trace))?;
        Ok(traces)
    }

    /// The same, one in memory at a time.
    fn visit_recent_traces(
        &self,
        limit: u32,
        each: &mut dyn FnMut(Trace),
    ) -> Result<(), StoreError>;

    fn verify_audit(&self) -> Result<AuditState, StoreError>;
}

#[cfg(test)]
pub(crate) mod contract;
