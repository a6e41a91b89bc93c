//! The stored record of a turn: enough to show every step and to run it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;
use crate::base::id::{ConversationId, TraceId};
use crate::domain::decision::Decision;
use crate::domain::draft::{Draft, Objection};
use crate::domain::evidence::Evidence;
use crate::domain::message::{AccountName, Utterance};

/// What the understanding step found; texts are masked of personal data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Understanding {
    /// The question that was searched for: masked, normalised, made to stand alone.
    pub question: String,
    /// True when the conversation was needed to make it stand alone.
    pub rewritten: bool,
    pub language: String,
    /// Rule ids of the signals found (`human.request`).
    pub signals: Vec<String>,
    /// Kinds of personal data that were masked (`phone`), one per span.
    pub personal_data: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub id: TraceId,
    pub conversation: ConversationId,
    pub account: AccountName,
    pub received_at: UnixMs,
    /// The customer's message, masked of personal data.
    pub message: String,
    pub context: Vec<Utterance>,
    /// Which knowledge generation answered.
    pub generation: String,
    pub understanding: Understanding,
    pub evidence: Vec<Evidence>,
    /// What was proposed; `None` when no evidence could carry a draft.
    pub draft: Option<Draft>,
    /// What in the draft stands in no evidence, or breaks a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objections: Vec<Objection>,
    pub decision: Decision,
    /// What the customer was told.
    pub reply: String,
    /// Nothing was said to this message alone: it was answered together with a later one, there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<TraceId>,
    /// Milliseconds per step, by step name.
    pub timings_ms: BTreeMap<String, f64>,
}
