//! What is done with a message, and why: three verdicts, one table of reasons.

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::words;

words!(
    Verdict {
        /// The reply leaves by itself.
        AutoReply = "auto_reply",
        /// A person sees the draft and decides.
        Suggest = "suggest",
        /// A person answers; no draft is trusted.
        Handoff = "handoff",
    }
);

words!(
    /// Stable codes: they appear in JSON, metrics, the queue and the trace.
    Reason {
        // Hard rules, most pressing first.
        SelfHarm = "self_harm",
        SecurityIncident = "security_incident",
        LegalThreat = "legal_threat",
        AngryComplaint = "angry_complaint",
        HumanRequest = "human_request",
        /// The message instructs or probes the machine instead of asking the company.
        Injection = "injection",
        Attachment = "attachment",
        UnknownMessage = "unknown_message",
        // Answerable?
        NoEvidence = "no_evidence",
        LowConfidence = "low_confidence",
        NoApprovedAnswer = "no_approved_answer",
        /// No valid document entitles the company to give this answer.
        Unqualified = "unqualified",
        /// The approved answer does not fit into one reply; cutting it could lose a condition.
        AnswerTooLong = "answer_too_long",
        /// The answer names a variable of which nothing is known for this customer.
        VariableOpen = "variable_open",
        Unreadable = "unreadable",
        TooShort = "too_short",
        // Grounded and compliant?
        Ungrounded = "ungrounded",
        Noncompliant = "noncompliant",
        // The service itself.
        ConfidenceReached = "confidence_reached",
        Greeting = "greeting",
        Notice = "notice",
        Timeout = "timeout",
        ModelUnavailable = "model_unavailable",
        Overloaded = "overloaded",
        InternalError = "internal_error",
        // Delivery.
        /// A person has the conversation; the bot only suggests.
        PersonOwns = "person_owns",
        /// It may have arrived or not; to say it again could be twice.
        DeliveryUnknown = "delivery_unknown",
        /// The platform lets nothing more be sent until the customer writes again.
        WindowClosed = "window_closed",
        /// What the platform lets be sent is used up, but for what is kept for a person.
        QuotaUsed = "quota_used",
        /// The platform refuses it for good.
        SendFailed = "send_failed",
        /// The customer never tapped for the answer.
        NotFetched = "not_fetched",
    }
);

words!(
    /// How soon a person should look.
    Priority { Normal = "normal", High = "high", Urgent = "urgent" }
);

impl Reason {
    pub fn priority(self) -> Priority {
        match self {
            Self::SelfHarm | Self::SecurityIncident => Priority::Urgent,
            Self::LegalThreat | Self::AngryComplaint => Priority::High,
            Self::HumanRequest
            | Self::Injection
            | Self::Attachment
            | Self::UnknownMessage
            | Self::NoEvidence
            | Self::LowConfidence
            | Self::NoApprovedAnswer
            | Self::Unqualified
            | Self::AnswerTooLong
            | Self::VariableOpen
            | Self::Unreadable
            | Self::TooShort
            | Self::Ungrounded
            | Self::Noncompliant
            | Self::ConfidenceReached
            | Self::Greeting
            | Self::Notice
            | Self::Timeout
            | Self::ModelUnavailable
            | Self::Overloaded
            | Self::InternalError
            | Self::PersonOwns
            | Self::DeliveryUnknown
            | Self::WindowClosed
            | Self::QuotaUsed
            | Self::SendFailed
            | Self::NotFetched => Priority::Normal,
        }
    }
}

/// The gate's answer for one turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub verdict: Verdict,
    /// Most pressing first; never empty.
    pub reasons: Vec<Reason>,
    /// Calibrated probability that the best evidence answers the message, 0 to 1.
    pub confidence: f32,
    /// Ids of the rules that fired (`security.stolen_account`, `grounding.number`).
    pub rules: Vec<String>,
}

impl Decision {
    pub fn priority(&self) -> Priority {
        self.reasons.iter().map(|r| r.priority()).max().unwrap_or(Priority::Normal)
    }
}
