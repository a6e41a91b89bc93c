//! Text made comparable: one spelling for width, script, case and noise, and a verdict on whether it is readable at all.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;

use crate::base::limits;
use crate::base::spelling::{closed, gaps, is_invisible, plain, simplified};
use crate::base::text::prefix_chars;

/// Passes after which [`normalize`] gives up on reaching a fixed point; two suffice in practice,
/// more only where cutting at the limit splits a phrase.
const MAX_PASSES: usize = 8;

/// The form in which texts are compared: NFKC, simplified, lower case, without invisible
/// characters, runs of spaces and repeated marks, at most [`limits::QUESTION_CHARS`] characters.
///
/// Idempotent. The caller keeps the original.
pub fn normalize(text: &str) -> String {
    let mut current = pass(prefix_chars(text, limits::QUESTION_CHARS));
    for _ in 0..MAX_PASSES {
        let next = pass(&current);
        if next == current {
            break;
        }
        current = next;
    }
    current
}

fn pass(text: &str) -> String {
    let simplified = simplified(&plain(text));
    let mut out = String::with_capacity(simplified.len());
    let mut last = ' ';
    for c in simplified.chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if c == last && (c == ' ' || is_foldable(c)) {
            continue;
        }
        out.push(c);
        last = c;
    }
    prefix_chars(&out, limits::QUESTION_CHARS).trim().to_owned()
}

/// Marks whose repetition is emphasis, not content (`C++`, `//` and `##` are content).
fn is_foldable(c: char) -> bool {
    matches!(c, '!' | '?' | '.' | ',' | ';' | ':' | '~' | '-' | '_' | '^')
        || (!c.is_ascii() && !c.is_alphanumeric())
}

/// A text folded character by character for pattern matching, with the way back to the source.
///
/// Unlike [`normalize`] it is not cut and keeps every visible mark, so that a match can be shown
/// (or masked) where the customer wrote it.
#[derive(Clone, Debug)]
pub struct Folded {
    text: String,
    /// Source byte range of the character that each byte of `text` came from.
    origin: Vec<(usize, usize)>,
}

impl Folded {
    pub fn new(source: &str) -> Self {
        let mut plain = String::with_capacity(source.len());
        let mut origins = Vec::with_capacity(source.len());
        for (start, c) in source.char_indices() {
            if is_invisible(c) {
                continue;
            }
            let end = start + c.len_utf8();
            for folded in std::iter::once(c).nfkc().flat_map(char::to_lowercase) {
                plain.push(if folded.is_whitespace() { ' ' } else { folded });
                origins.push((start, end));
            }
        }
        let simplified = simplified(&plain);
        // The way back needs one character for one; a phrase rule that breaks this is not used.
        let text = if simplified.chars().count() == origins.len() { simplified } else { plain };
        let origin =
            text.chars().zip(origins).flat_map(|(c, at)| std::iter::repeat_n(at, c.len_utf8()));
        Self { origin: origin.collect(), text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text without gaps in its words (`报 警`), and the bytes of it at which they were; `None` if
    /// there are none.
    pub fn without_gaps(&self) -> Option<(Self, Vec<usize>)> {
        let gaps = gaps(&self.text);
        if gaps.is_empty() {
            return None;
        }
        let (text, seams) = closed(&self.text, &gaps);
        let mut origin = Vec::with_capacity(text.len());
        let mut from = 0;
        for gap in &gaps {
            origin.extend_from_slice(&self.origin[from..gap.start]);
            from = gap.end;
        }
        origin.extend_from_slice(&self.origin[from..]);
        Some((Self { text, origin }, seams))
    }

    /// The bytes of the source that a non-empty byte range of [`Folded::text`] came from.
    pub fn source(&self, range: &Range<usize>) -> Range<usize> {
        let start = self.origin.get(range.start).map_or(0, |at| at.0);
        let last = range.end.checked_sub(1).and_then(|last| self.origin.get(last));
        start..last.map_or(start, |at| at.1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling_for_many() {
        for (raw, expected) in [
            ("  ＡＢＣ１２３ 退款  ", "abc123 退款"),
            ("請問怎麼退貨", "请问怎么退货"),
            ("退\u{200b}款\u{feff}", "退款"),
            ("怎么退款！！！！", "怎么退款!"),
            ("好😭😭😭吗", "好😭吗"),
            ("退款\r\n\t 多久", "退款 多久"),
            ("会C++吗", "会c++吗"),
            ("哈哈哈", "哈哈哈"),
            ("…………", "."),
            ("", ""),
        ] {
            assert_eq!(normalize(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn reads_no_further_than_the_limit() {
        assert_eq!(normalize(&"退".repeat(20_000)).chars().count(), limits::QUESTION_CHARS);
    }

    #[test]
    fn folded_text_leads_back_to_the_source() {
        let source = "我\u{200b}的手機１３８Ａ號";
        let folded = Folded::new(source);
        assert_eq!(folded.text(), "我的手机138a号");
        let at = folded.text().find("机138a").unwrap();
        assert_eq!(&source[folded.source(&(at..at + "机138a".len()))], "機１３８Ａ");
        assert_eq!(Folded::new("").source(&(0..0)), 0..0);
        let (whole, seams) = Folded::new("已報 \u{200b}警").without_gaps().unwrap();
        assert_eq!((whole.text(), seams), ("已报警", vec!["已报".len()]));
        assert_eq!(whole.source(&(0..9)), 0.."已報 \u{200b}警".len());
        assert!(folded.without_gaps().is_none());
    }

    proptest! {
        #[test]
        fn is_idempotent_and_bounded(text in "\\PC{0,80}|[\\s\\S]{0,60}|[發髮乾幹後后里裡週周!！?？\u{200b}㈱ﷺİ]{0,40}") {
            let once = normalize(&text);
            prop_assert!(once.chars().count() <= limits::QUESTION_CHARS);
            prop_assert_eq!(normalize(&once), once.clone());
        }

        #[test]
        fn every_folded_character_has_a_source(text in "\\PC{0,40}|[\\s\\S]{0,40}") {
            let folded = Folded::new(&text);
            for (at, c) in folded.text().char_indices() {
                let range = folded.source(&(at..at + c.len_utf8()));
                prop_assert_eq!(text[range].chars().count(), 1);
            }
        }
    }
}
