//! The queue port: cases, who has them, and what people do with them.

use std::time::Duration;

use crate::base::clock::UnixMs;
use crate::base::id::{CaseId, ConversationId, TraceId};
use crate::domain::decision::{Priority, Reason};
use crate::domain::delivery::{Author, DeliveryState};
use crate::domain::draft::{Draft, Objection};
use crate::domain::knowledge::Audience;
use crate::domain::label::Labelled;
use crate::domain::outgoing::{Outgoing, Target};
use crate::domain::ownership::Owner;
use crate::domain::trace::Trace;
use crate::store::StoreError;
use crate::store::outbox::Contact;

/// A case as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenCase {
    pub id: CaseId,
    pub conversation: ConversationId,
    pub priority: Priority,
    pub opened_at: UnixMs,
    pub closed_at: Option<UnixMs>,
    /// Why it waits beyond what its decision says: the reply could not be delivered.
    pub note: Option<Reason>,
    pub owner: Owner,
    pub trace: Trace,
    /// `None`: the customer can only be answered where the message was written.
    pub target: Option<Target>,
    pub contact: Contact,
    pub rating: Option<u8>,
}

/// Who said something, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    Customer,
    Us(Author),
}

/// One line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub speaker: Speaker,
    pub text: String,
    pub at: UnixMs,
    /// How far it has come; `None` for what the customer said and what was shown at once.
    pub state: Option<DeliveryState>,
}

/// What a person does about a case; each keeps the others out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Takes the conversation, until then unless it is prolonged.
    Claim {
        operator: String,
        until: UnixMs,
    },
    /// Speaks, which prolongs.
    Reply {
        operator: String,
        until: UnixMs,
        payload: Outgoing,
        /// Chosen by whoever asks: the same reply under the same key is sent once.
        key: Option<String>,
    },
    HandBack {
        operator: String,
    },
    /// Closes all open cases of the conversation and hands back.
    Resolve {
        operator: String,
        survey: Option<Outgoing>,
        /// What the person found to be the answer.
        label: Option<Labelled>,
    },
}

/// The contract; every implementation passes `store::contract`.
pub trait Queue {
    /// Most pressing first, then oldest.
    fn open_cases(&self, limit: u32, now: UnixMs) -> Result<Vec<OpenCase>, StoreError>;

    /// Oldest first: open cases that another desk was not told of yet.
    fn unannounced(&self, limit: u32, now: UnixMs) -> Result<Vec<OpenCase>, StoreError>;

    /// The other desk has it.
    fn announced(&self, case: &CaseId, now: UnixMs) -> Result<(), StoreError>;

    fn case(&self, id: &CaseId, now: UnixMs) -> Result<Option<OpenCase>, StoreError>;

    /// Oldest first, at most `limit` of the newest lines.
    fn spoken(&self, conversation: &ConversationId, limit: u32) -> Result<Vec<Spoken>, StoreError>;

    /// Does it, with its line in the audit log, and returns the owner afterwards.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when someone else has the conversation, [`StoreError::NoSuchCase`]
    /// when there is none or it is closed.
    fn act(&self, case: &CaseId, act: &Act, now: UnixMs) -> Result<Owner, StoreError>;

    /// Puts a draft into a decided turn's trace, for the person who has its case.
    fn propose(
        &self,
        trace: &TraceId,
        draft: &Draft,
        objections: &[Objection],
    ) -> Result<(), StoreError>;

    /// How many cases wait, and how long the last twenty that were closed had waited for a person.
    fn waiting(&self) -> Result<(u64, Option<Duration>), StoreError>;

    fn owner(&self, conversation: &ConversationId, now: UnixMs) -> Result<Owner, StoreError>;

    /// What the customer is to the company, and whether the customer wrote before `message`.
    fn audience(&self, conversation: &ConversationId) -> Result<Audience, StoreError>;

    fn set_audience(
        &self,
        conversation: &ConversationId,
        audience: Audience,
    ) -> Result<(), StoreError>;
}
