//! Who said what was right: a message with the entry that answers it, or none.

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::{EntryId, words};
use crate::domain::message::Utterance;

words!(
    /// What a label may be used for; a calibration label is never trained on.
    Purpose { Train = "train", Calibrate = "calibrate" }
);

/// One labelled message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    pub text: String,
    /// What was said before, oldest first.
    #[serde(default)]
    pub context: Vec<Utterance>,
    /// The entry that answers the message; `None` when no entry does.
    pub answer: Option<EntryId>,
}

/// Two questions, and whether they ask the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionPair {
    pub one: String,
    pub other: String,
    pub same: bool,
}

/// A message with the class that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classed {
    pub text: String,
    pub class: String,
    /// Rows of a dialogue stand one after the other.
    pub said_in: Option<SaidIn>,
}

impl Classed {
    pub fn said_by(&self) -> Option<&str> {
        self.said_in.as_ref().map(|said| said.speaker.as_str())
    }
}

/// Where a message was said, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaidIn {
    pub dialog: String,
    pub speaker: String,
}
