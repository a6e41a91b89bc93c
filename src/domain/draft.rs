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
            DraftMode::Composed => {
                let pieces: Vec<String> = (0..self.spans.len()).map(|at| self.piece(at)).collect();
                joined(pieces.iter().map(String::as_str))
            }
        }
    }

    /// A span as it stands in the reply: before words of another source its sentence is ended, so that
    /// no sentence is read out of two.
    fn piece(&self, at: usize) -> String {
        let Span { text, source } = &self.spans[at];
        let goes_on = self.spans.get(at + 1).is_some_and(|next| next.source != *source);
        let bare = text.trim_end();
        match bare.chars().next_back() {
            Some(last) if goes_on && !ends_sentence(last) => {
                let open = bare.trim_end_matches(['，', ',', '、', '：', ':']);
                format!("{open}{}", if last.is_ascii() { ". " } else { "。" })
            }
            Some(_) | None => text.clone(),
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

fn ends_sentence(last: char) -> bool {
    "。！？；.!?;…”’」』）)～~".contains(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(spans: &[(&str, &str)]) -> String {
        let span = |(source, text): &(&str, &str)| Span {
            text: (*text).into(),
            source: Some(EntryId((*source).into())),
        };
        Draft { mode: DraftMode::Composed, spans: spans.iter().map(span).collect() }.text()
    }

    #[test]
    fn no_sentence_runs_from_one_source_into_another() {
        assert_eq!(
            composed(&[("a", "不支持"), ("b", "退货运费由商家承担。")]),
            "不支持。退货运费由商家承担。"
        );
        assert_eq!(composed(&[("a", "不支持，"), ("b", "运费到付")]), "不支持。运费到付");
        assert_eq!(
            composed(&[("a", "Not supported"), ("b", "It is free.")]),
            "Not supported. It is free."
        );
        assert_eq!(
            composed(&[("a", "您好，"), ("a", "可以退货。"), ("b", "好的！")]),
            "您好，可以退货。好的！"
        );
    }
}
