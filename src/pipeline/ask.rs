//! What a customer wants of us, as far as the message tells.

use crate::domain::decision::Reason;
use crate::domain::message::Content;

/// Events of customers who follow or enter a conversation.
const ARRIVALS: [&str; 6] = [
    "subscribe",
    "user_enter_tempsession",
    "enter_session",
    "im_enter_direct_msg",
    "follow",
    "enter",
];

#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Said(String),
    /// Follows or enters: is welcomed.
    Arrived,
    /// Needs no words: unsubscribes, taps a link, reports a position.
    Silent,
    /// Only a person can look at it.
    ForPerson(Reason),
}

impl From<&Content> for Ask {
    fn from(content: &Content) -> Self {
        match content {
            Content::Text(text) | Content::Choice { text, .. } => Self::Said(text.clone()),
            Content::Voice { transcript: Some(text) } => Self::Said(text.clone()),
            Content::Voice { transcript: None } | Content::Attachment { .. } => {
                Self::ForPerson(Reason::Attachment)
            }
            Content::Event { name, .. } if ARRIVALS.contains(&name.as_str()) => Self::Arrived,
            Content::Event { .. } => Self::Silent,
            Content::Unknown { .. } => Self::ForPerson(Reason::UnknownMessage),
        }
    }
}
