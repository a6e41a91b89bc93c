//! Rows that this build cannot read: named once, and left out, so that the others go on.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::base::clock::UnixMs;
use crate::base::id::{ConversationId, TraceId};
use crate::domain::decision::{Decision, Reason, Verdict};
use crate::domain::message::AccountName;
use crate::domain::trace::{Trace, Understanding};
use crate::store::StoreError;

/// What was named already: some are met at every look.
static TOLD: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());

/// Names a row of `kind`, once in a process.
pub(super) fn tell(kind: &'static str, row: impl ToString, error: &StoreError) {
    let row = row.to_string();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert((kind, row.clone())) {
        tracing::error!(kind, row, %error, "a row cannot be read and is left out");
    }
}

/// What is known of a turn without its trace.
pub(super) struct Turn {
    pub(super) id: TraceId,
    pub(super) conversation: ConversationId,
    pub(super) account: AccountName,
    pub(super) received_at: UnixMs,
    pub(super) message: String,
    pub(super) verdict: Verdict,
    pub(super) reply: String,
}

impl Turn {
    /// Enough for a person to take the case.
    pub(super) fn trace(self) -> Trace {
        let Self { id, conversation, account, received_at, message, verdict, reply } = self;
        let reasons = vec![Reason::InternalError];
        Trace {
            id,
            conversation,
            account,
            received_at,
            message,
            context: Vec::new(),
            generation: String::new(),
            understanding: Understanding::default(),
            evidence: Vec::new(),
            draft: None,
            objections: Vec::new(),
            decision: Decision { verdict, reasons, confidence: 0.0, rules: Vec::new() },
            reply,
            answered_by: None,
            timings_ms: Default::default(),
        }
    }
}
