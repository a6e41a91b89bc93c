//! Sends: in whose name, on what occasion, and how far they have come.

use crate::domain::knowledge::words;
use crate::domain::outgoing::Outgoing;

words!(
    /// In whose name something is sent.
    Author {
        Bot = "bot",
        Person = "person",
        /// Welcomes, and asks how it was: never at the cost of an answer, and no loss if it fails.
        Courtesy = "courtesy",
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

words!(
    /// What a customer did that platforms allow sends after, each for its own time and number.
    Occasion {
        /// Wrote.
        Message = "message",
        /// Tapped a menu, scanned a code, followed.
        Menu = "menu",
        /// Came into the conversation.
        Enter = "enter",
    }
);

/// What the customer reads first of it.
pub fn words_of(outgoing: &Outgoing) -> &str {
    match outgoing {
        Outgoing::Text(text) => text,
        Outgoing::Menu(menu) | Outgoing::OnEvent { menu, .. } => &menu.head,
        Outgoing::Typing { .. } | Outgoing::Transfer => "",
    }
}
