//! What the company knows: entries with their three dimensions, validity and state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;
use crate::domain::message::AccountName;
use crate::domain::qualification::QualificationId;

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
    /// How well the company knows the customer.
    Audience { New = "new", Normal = "normal", Vip = "vip" }
);
words!(
    /// What an entry's text is for. Marketing text is published by two people.
    Nature { Service = "service", Marketing = "marketing" }
);
words!(
    /// Only published entries are indexed and may answer.
    EntryState {
        Draft = "draft",
        /// To be published once two people have released it.
        Pending = "pending",
        Published = "published",
        Archived = "archived",
    }
);

impl Domain {
    /// Answers only with the approved text, and only by whoever is licensed to.
    pub fn is_regulated(self) -> bool {
        match self {
            Self::General => false,
            Self::Finance | Self::Medical => true,
        }
    }
}

impl Nature {
    fn usual() -> Self {
        Self::Service
    }

    fn is_service(&self) -> bool {
        *self == Self::Service
    }
}

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

/// Where an entry that was read from a document stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The document's file name.
    pub document: String,
    /// Headings above the passage, outermost first.
    pub headings: Vec<String>,
    /// Counted from 1; `None` for kinds of files without pages.
    pub page: Option<u32>,
    /// Characters from where its section begins: first, and one past the last. An edit in another
    /// section moves nothing here.
    pub range: [usize; 2],
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
    #[serde(default = "Nature::usual", skip_serializing_if = "Nature::is_service")]
    pub nature: Nature,
    /// The documents that entitle the company to give this answer; all of them must hold.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub qualifications: BTreeSet<QualificationId>,
    /// For whom; empty for everyone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub audiences: BTreeSet<Audience>,
    /// Where it may answer; empty for every account.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub accounts: BTreeSet<AccountName>,
    /// The answer in other words for some accounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wordings: BTreeMap<AccountName, String>,
    /// `None` for an entry that was written as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// Who asks where: decides which entries may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub account: AccountName,
    pub audience: Audience,
}

impl Entry {
    /// A published entry of the usual kind, without an answer.
    pub fn new(id: EntryId, question: String) -> Self {
        Self {
            id,
            question,
            similar_questions: Vec::new(),
            answer: None,
            scene: Scene::Inquiry,
            level: Level::Primary,
            parent: None,
            tone: Tone::Neutral,
            domain: Domain::General,
            validity: Validity::default(),
            state: EntryState::Published,
            nature: Nature::Service,
            qualifications: BTreeSet::new(),
            audiences: BTreeSet::new(),
            accounts: BTreeSet::new(),
            wordings: BTreeMap::new(),
            place: None,
        }
    }

    /// Whether it may answer this customer on this account.
    pub fn is_for(&self, asker: &Asker) -> bool {
        let account = self.accounts.is_empty() || self.accounts.contains(&asker.account);
        account && (self.audiences.is_empty() || self.audiences.contains(&asker.audience))
    }

    /// The answer in the words for an account.
    pub fn answer_on(&self, account: &AccountName) -> Option<&str> {
        self.wordings.get(account).or(self.answer.as_ref()).map(String::as_str)
    }

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

/// Who changes knowledge, why, and from which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub author: String,
    /// The author's words; may be empty.
    pub reason: String,
    pub source: String,
}

impl Change {
    /// By `author`, from `source`, without further words.
    pub fn by(author: &str, source: &str) -> Self {
        Self { author: author.into(), reason: String::new(), source: source.into() }
    }
}

/// One version of an entry and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub versioned: VersionedEntry,
    pub change: Change,
    pub at: UnixMs,
}
