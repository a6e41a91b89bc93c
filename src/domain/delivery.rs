//! What goes out: to whom, in what form, in whose name, and how far it has come.

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::words;

/// Where a send to a customer goes; kept with each inbound message, so that a send needs nothing
/// else but the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The platform's id of the customer.
    pub customer: String,
    /// The conversation as the platform names it (`open_kfid`, `conversation_short_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The message that is answered (`server_message_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One line of a menu; a tap comes back with its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub id: String,
    pub text: String,
}

/// What is sent, before a channel gives it its platform's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "body")]
pub enum Outgoing {
    Text(String),
    Menu {
        head: String,
        items: Vec<Choice>,
        tail: String,
    },
    /// The customer sees that someone is writing.
    Typing {
        on: bool,
    },
    /// Answers an event that came with a code of its own (kf `welcome_code`).
    Welcome {
        code: String,
        text: String,
    },
    /// Gives the conversation to the platform's own desk.
    Transfer,
}

words!(
    /// In whose name something is sent.
    Author {
        Bot = "bot",
        Person = "person",
        /// Asks how it was; never at the cost of an answer.
        Survey = "survey",
    }
);

words!(
    /// How far a reply has come. Every one ends at `delivered`, `handed` or `dropped`.
    DeliveryState {
        /// Waits for its time to be sent.
        Pending = "pending",
        /// Stands in the answer to a callback; nobody knows yet that it left.
        Offered = "offered",
        /// Waits until the customer taps for it.
        Kept = "kept",
        /// A request to the platform is under way.
        Sending = "sending",
        Delivered = "delivered",
        /// It could not be sent, and a person has the case.
        Handed = "handed",
        /// Of no use any more (a welcome, a survey); nobody waits for it.
        Dropped = "dropped",
    }
);

impl DeliveryState {
    /// Nothing more will happen to it by itself.
    pub fn is_final(self) -> bool {
        match self {
            Self::Delivered | Self::Handed | Self::Dropped => true,
            Self::Pending | Self::Offered | Self::Kept | Self::Sending => false,
        }
    }
}
