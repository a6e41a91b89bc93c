//! The port of what was masked in messages: sealed bytes beside them, and who had them opened.

use crate::base::clock::UnixMs;
use crate::base::id::{CaseId, TraceId};
use crate::domain::message::Inbound;
use crate::store::{MessageRow, StoreError};

/// Most messages of a case's conversation that are opened at once; the newest.
pub const MESSAGES: u32 = 100;

/// Whose personal data is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of the message that a turn decided.
    Turn(TraceId),
    /// That of a case's conversation: customers rarely repeat their number when they ask for a person.
    Case(CaseId),
}

/// A message of which something was masked and sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub message: MessageRow,
    /// Masked.
    pub inbound: Inbound,
    pub received_at: UnixMs,
    pub sealed: Vec<u8>,
}

/// The contract; every implementation passes `store::contract`.
pub trait Personal {
    /// Oldest first, at most [`MESSAGES`].
    fn kept(&self, whose: &Whose) -> Result<Vec<Kept>, StoreError>;

    /// Writes into the audit log who has what was kept of these messages shown.
    fn note_shown(
        &self,
        whose: &Whose,
        messages: &[MessageRow],
        by: &str,
        now: UnixMs,
    ) -> Result<(), StoreError>;
}
