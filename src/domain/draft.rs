//! A proposed reply whose every span names where it comes from.

use serde::{Deserialize, Serialize};

use crate::base::text::joined;
use crate::domain::knowledge::{EntryId, words};

words!(
    DraftMode {
        /// The approved answer as it stands.
        Verbatim = "verbatim",
        /// Chosen clauses of the evidence, in an order the generator chose.
        Composed = "composed",
        /// A fixed text of the service itself: greeting, handoff notice, hint.
        Notice = "notice",
    }
);

/// A piece of the reply and the entry it was taken from; `None` for connectives and notices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub text: String,
    pub source: Option<EntryId>,
}

/// Words of a draft that keep it from leaving by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objection {
    /// Id of the rule (`grounding.number`, `adlaw.first`).
    pub rule: String,
    pub words: String,
    /// What the rule says about them.
    #[serde(default)]
    pub message_zh: String,
    #[serde(default)]
    pub message_en: String,
    /// What may be said in their place, if a person finds it true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    pub mode: DraftMode,
    pub spans: Vec<Span>,
}

impl Draft {
    pub fn verbatim(source: EntryId, text: String) -> Self {
        let span = Span { text, source: Some(source) };
        Self { mode: DraftMode::Verbatim, spans: vec![span] }
    }

    pub fn notice(text: String) -> Self {
        Self { mode: DraftMode::Notice, spans: vec![Span { text, source: None }] }
    }

    /// What is said: texts that people wrote to the letter, chosen clauses as their script joins them.
    pub fn text(&self) -> String {
        let spans = self.spans.iter().map(|s| s.text.as_str());
        match self.mode {
            DraftMode::Verbatim | DraftMode::Notice => spans.collect(),
            DraftMode::Composed => joined(spans),
        }
    }

    /// The entries the reply stands on, each once, in order of appearance.
    pub fn citations(&self) -> Vec<&EntryId> {
        let mut seen = Vec::new();
        for source in self.spans.iter().filter_map(|s| s.source.as_ref()) {
            if !seen.contains(&source) {
                seen.push(source);
            }
        }
        seen
    }
}
