//! One spelling for what reads alike: width, case, script, characters nobody sees, gaps put into words.

use std::ops::Range;
use std::sync::LazyLock;

use ferrous_opencc::OpenCC;
use ferrous_opencc::config::BuiltinConfig;
use unicode_normalization::UnicodeNormalization;

use crate::base::text::is_han;

/// Traditional to simplified, by phrase where a character has two readings.
static TO_SIMPLIFIED: LazyLock<OpenCC> = LazyLock::new(|| {
    OpenCC::from_config(BuiltinConfig::T2s).expect("the dictionaries are compiled into the crate")
});

/// NFKC, lower case, without invisible characters.
pub fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !is_invisible(*c))
        .nfkc()
        .flat_map(char::to_lowercase)
        .filter(|c| !is_invisible(*c))
        .nfkc()
        .collect()
}

/// Traditional characters made simplified; everything else as it is.
pub fn simplified(text: &str) -> String {
    TO_SIMPLIFIED.convert(text)
}

/// Characters that cannot be seen: controls, joiners, direction marks, fillers, variation selectors.
pub fn is_invisible(c: char) -> bool {
    if c.is_whitespace() {
        return false;
    }
    c.is_control()
        || matches!(u32::from(c),
            0x00AD | 0x034F | 0x061C | 0x115F | 0x1160 | 0x180B..=0x180F | 0x200B..=0x200F
            | 0x202A..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
            | 0xFFF0..=0xFFFB | 0xFFFD | 0xE0000..=0xE0FFF)
}

/// Where a word may have been pulled apart: blanks and marks between two Han characters that end no
/// clause and enclose nothing (`保·本`, `转-人-工`, `报 警`). Bytes of the text, in order.
pub fn gaps(text: &str) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    // Where the last Han character ended, while only fillers have followed it.
    let mut open: Option<usize> = None;
    for (at, c) in text.char_indices() {
        if is_han(c) {
            gaps.extend(open.filter(|end| *end < at).map(|end| end..at));
            open = Some(at + c.len_utf8());
        } else if !is_filler(c) {
            open = None;
        }
    }
    gaps
}

fn is_filler(c: char) -> bool {
    const TELLING: &str = ",，。!！?？;；:：、()（）[]{}<>《》〈〉⟨⟩「」『』【】\"'“”‘’";
    !c.is_alphanumeric() && !TELLING.contains(c)
}

/// A text without its gaps, and the bytes of the new text at which they were.
pub fn closed(text: &str, gaps: &[Range<usize>]) -> (String, Vec<usize>) {
    let (mut closed, mut seams, mut from) = (String::with_capacity(text.len()), Vec::new(), 0);
    for gap in gaps {
        closed.push_str(&text[from..gap.start]);
        seams.push(closed.len());
        from = gap.end;
    }
    closed.push_str(&text[from..]);
    (closed, seams)
}

/// Whether one of the seams, which are in order, lies inside the span.
pub fn crosses(span: &Range<usize>, seams: &[usize]) -> bool {
    let next = seams.partition_point(|seam| *seam <= span.start);
    seams.get(next).is_some_and(|seam| *seam < span.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_alike_is_spelt_alike() {
        assert_eq!(plain("Ｌｉ\u{200b} Ｎａ"), "li na");
        assert_eq!(simplified(&plain("保\u{200b}證穩賺")), "保证稳赚");
    }

    #[test]
    fn gaps_are_closed_inside_clauses_only() {
        for (text, expected) in [
            ("保·本，稳 - 赚", "保本，稳赚"),
            ("转🙏人工", "转人工"),
            ("保\n本", "保本"),
            ("退款。本店", "退款。本店"),
            ("“最”好（说明）", "“最”好（说明）"),
            ("满 3 件", "满 3 件"),
            (" 好 ", " 好 "),
        ] {
            assert_eq!(closed(text, &gaps(text)).0, expected);
        }
        let (text, seams) = closed("我要 退款", &gaps("我要 退款"));
        let span = |part: &str| text.find(part).map(|at| at..at + part.len()).unwrap();
        assert!(crosses(&span("要退"), &seams));
        assert!(!crosses(&span("退款"), &seams));
        assert!(!crosses(&span("我要"), &seams));
    }
}
