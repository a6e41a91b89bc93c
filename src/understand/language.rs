//! Which language a message is in, told by its script.

use crate::base::text::is_han;
use crate::domain::knowledge::words;

words!(
    Language {
        Chinese = "zh",
        /// Written in Latin letters; by far mostly English here.
        English = "en",
        /// Kana, Hangul, Cyrillic, Arabic and the rest.
        Other = "other",
        /// No letters at all.
        None = "none",
    }
);

/// A Han character weighs as much as a Latin word, so that “iPhone 怎么退” is Chinese.
pub fn detect(text: &str) -> Language {
    let (mut han, mut latin_words, mut kana, mut other) = (0, 0, 0, 0);
    let mut in_word = false;
    for c in text.chars() {
        let latin = c.is_alphabetic() && u32::from(c) < 0x0250;
        latin_words += usize::from(latin && !in_word);
        in_word = latin;
        if is_han(c) {
            han += 1;
        } else if matches!(u32::from(c), 0x3041..=0x30FF) {
            kana += 1;
        } else if c.is_alphabetic() && !latin {
            other += 1;
        }
    }
    // Japanese mixes Han with kana; a single kana (の) is a Chinese fashion.
    if kana > 1 && kana * 3 > han || other > han && other > latin_words {
        Language::Other
    } else if han > 0 && han >= latin_words {
        Language::Chinese
    } else if latin_words > 0 {
        Language::English
    } else {
        Language::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_by_script() {
        for (text, expected) in [
            ("怎么退款", Language::Chinese),
            ("iPhone 15 怎么退", Language::Chinese),
            ("How do I return my 订单?", Language::English),
            ("refund", Language::English),
            ("返品したいです", Language::Other),
            ("환불해 주세요", Language::Other),
            ("Как вернуть", Language::Other),
            ("奶茶の店", Language::Chinese),
            ("12345 !!! 😀", Language::None),
            ("", Language::None),
        ] {
            assert_eq!(detect(text), expected, "{text}");
        }
    }
}
