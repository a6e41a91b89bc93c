//! What the company knows: entries with their three dimensions, validity and state.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;

/// Stable name of an entry, chosen by the operator (`shop.refund.time`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub String);

impl EntryId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Enums that are words in files, rows and pages: one table gives each its name.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[derive(::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// `None` for a word that is not in the table.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words!(
    /// What the customer comes for.
    Scene { Inquiry = "inquiry", Complaint = "complaint", Suggestion = "suggestion", Fault = "fault" }
);
words!(
    /// A secondary entry refines its parent.
    Level { Primary = "primary", Secondary = "secondary" }
);
words!(
    /// The mood in which the entry's question is asked.
    Tone { Neutral = "neutral", Negative = "negative", Urgent = "urgent" }
);
words!(
    /// The rules that apply to the answer.
    Domain { General = "general", Finance = "finance", Medical = "medical" }
);
words!(
    /// Only published entries are indexed and may answer.
    EntryState { Draft = "draft", Published = "published", Archived = "archived" }
);

/// When an entry may answer: from `from` (inclusive) until `until` (exclusive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    pub from: Option<UnixMs>,
    pub until: Option<UnixMs>,
}

impl Validity {
    pub fn contains(&self, at: UnixMs) -> bool {
        self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until)
    }
}

/// One knowledge item as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EntryId,
    pub question: String,
    pub similar_questions: Vec<String>,
    /// The approved answer. `None`: the question is known, but only a person may answer it.
    pub answer: Option<String>,
    pub scene: Scene,
    pub level: Level,
    pub parent: Option<EntryId>,
    pub tone: Tone,
    pub domain: Domain,
    pub validity: Validity,
    pub state: EntryState,
}

impl Entry {
    /// The texts under which the entry can be found: the standard question first.
    pub fn phrasings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.question.as_str())
            .chain(self.similar_questions.iter().map(String::as_str))
    }
}

/// An entry with the version that was current when it was read; versions count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionedEntry {
    pub version: u32,
    #[serde(flatten)]
    pub entry: Entry,
}
