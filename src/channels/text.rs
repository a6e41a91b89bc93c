//! Texts as a platform takes them: within its limit, cut where a sentence ends.

use std::borrow::Cow;

use crate::base::text::{prefix_bytes, prefix_chars};

/// Stands at the end of a text that was cut.
const ELLIPSIS: &str = "…";

/// The longest text of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLimit {
    /// Of UTF-8.
    Bytes(usize),
    Characters(usize),
}

impl TextLimit {
    pub fn holds(self, text: &str) -> bool {
        match self {
            Self::Bytes(most) => text.len() <= most,
            Self::Characters(most) => text.chars().nth(most).is_none(),
        }
    }

    /// The text as it may be sent: without what cannot be shown, cut to the limit, ellipsis
    /// included, at the end of a sentence. `None` if nothing is left to show.
    pub fn fit(self, text: &str) -> Option<String> {
        let text = printable(text);
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if self.holds(text) {
            return Some(text.to_owned());
        }
        let room = match self {
            Self::Bytes(most) => prefix_bytes(text, most.saturating_sub(ELLIPSIS.len())).len(),
            Self::Characters(most) => prefix_chars(text, most.saturating_sub(1)).len(),
        };
        Some(cut(text, room))
    }
}

/// Without the characters that XML 1.0 cannot carry at all, not even escaped: the platform would
/// refuse the whole reply for one of them.
fn printable(text: &str) -> Cow<'_, str> {
    let forbidden = |c: char| matches!(c, '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}');
    if text.contains(forbidden) {
        Cow::Owned(text.chars().filter(|c| !forbidden(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The beginning of `text` with an ellipsis after it: up to the last sentence that ends within
/// `room` bytes, or, if that would lose more than half of the room, up to the last character.
fn cut(text: &str, room: usize) -> String {
    let room = prefix_bytes(text, room);
    let kept = match last_sentence_end(text, room.len()) {
        Some(end) if end * 2 >= room.len() => &text[..end],
        Some(_) | None => room,
    };
    format!("{}{ELLIPSIS}", kept.trim_end())
}

/// Byte offset after the last sentence of `text` that ends at or before `limit`, closing quotes
/// and brackets included. A Western mark counts only before white space, so that neither `3.50`
/// nor an address is cut.
fn last_sentence_end(text: &str, limit: usize) -> Option<usize> {
    let mut last = None;
    let mut ended = false;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        if end > limit {
            break;
        }
        let next = characters.peek().map(|(_, next)| *next);
        ended = match character {
            '。' | '！' | '？' | '；' | '\n' => true,
            '.' | '!' | '?' | ';' => next.is_none_or(char::is_whitespace),
            '”' | '’' | '」' | '』' | '）' | '》' | '】' => ended,
            _ => false,
        };
        if ended {
            last = Some(end);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(text: &str, bytes: usize) -> String {
        TextLimit::Bytes(bytes).fit(text).unwrap()
    }

    #[test]
    fn cuts_after_a_sentence() {
        assert_eq!(fit("第一句。第二句。", 24), "第一句。第二句。");
        assert_eq!(fit("第一句。第二句。", 23), "第一句。…");
        assert_eq!(fit("他说“好。”然后走了很远", 27), "他说“好。”…");
        assert_eq!(fit("a b. Pay 3.50 at x.y/z?q=1 now", 29), "a b. Pay 3.50 at x.y/z?q=1…");
        assert_eq!(fit("Go to the desk. Pay 3.50 there", 27), "Go to the desk.…");
    }

    #[test]
    fn cuts_after_a_character_where_no_sentence_ends() {
        assert_eq!(fit("一二三四五", 13), "一二三…");
        assert_eq!(fit("嗯。一二三四五六七八九", 23), "嗯。一二三四…");
        assert_eq!(fit(&"😀".repeat(1_000), 2_047), format!("{}…", "😀".repeat(511)));
    }

    #[test]
    fn characters_are_counted_where_the_platform_counts_them() {
        let limit = TextLimit::Characters(5);
        assert_eq!(limit.fit("一二三四五").as_deref(), Some("一二三四五"));
        assert_eq!(limit.fit("一二三四五六").as_deref(), Some("一二三四…"));
        assert!(limit.holds("一二三四五") && !limit.holds("一二三四五六"));
    }

    #[test]
    fn what_cannot_be_shown_is_dropped() {
        assert_eq!(printable("a\0b\u{1b}[1mc\u{FFFF}\n\td\r"), "ab[1mc\n\td\r");
        assert_eq!(TextLimit::Bytes(9).fit(" \n\0"), None);
    }

    proptest! {
        #[test]
        fn a_cut_text_fits_and_is_a_prefix(text in "(😀|。|好|[a-z .?]|\n){0,80}", max in 8_usize..120) {
            for limit in [TextLimit::Bytes(max), TextLimit::Characters(max)] {
                let trimmed = text.trim();
                match limit.fit(&text) {
                    None => prop_assert!(trimmed.is_empty()),
                    Some(whole) if limit.holds(trimmed) => prop_assert_eq!(whole, trimmed),
                    Some(cut) => {
                        prop_assert!(limit.holds(&cut));
                        prop_assert!(trimmed.starts_with(cut.strip_suffix(ELLIPSIS).unwrap()));
                    }
                }
            }
        }
    }
}
