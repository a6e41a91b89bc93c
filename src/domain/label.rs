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
