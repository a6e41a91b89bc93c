//! The marks of list items, where a format has no lists of its own.

/// Whether the line begins as an item of a list does.
pub(super) fn is_item(line: &str) -> bool {
    let line = line.trim_start();
    let mut chars = line.chars();
    let Some(first) = chars.next() else { return false };
    let rest = chars.as_str();
    match first {
        '•' | '●' | '○' | '■' | '□' | '◆' | '◇' | '▪' | '‣' | '\u{f06c}' | '\u{f0b7}' => {
            !rest.trim().is_empty()
        }
        '-' | '–' | '—' | '*' | '·' | '➢' => rest.starts_with([' ', '\t', '\u{3000}']),
        '①'..='⑳' => true,
        '(' | '（' => numbered(rest, &[')', '）'], 2),
        _ => numbered(line, &['.', '．', '、', ')', '）'], 3),
    }
}

/// Digits or Chinese numerals with one of `marks` behind; “1.5 元” is none.
fn numbered(text: &str, marks: &[char], most: usize) -> bool {
    let digits: usize = text.chars().take_while(char::is_ascii_digit).count();
    let han = text.chars().take_while(|c| "一二三四五六七八九十百".contains(*c)).count();
    let length = digits.max(han);
    if length == 0 || length > most {
        return false;
    }
    let mut behind = text.chars().skip(length);
    behind.next().is_some_and(|mark| marks.contains(&mark))
        && behind.next().is_some_and(|c| !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_what_looks_like_them() {
        for item in ["1. 打开", "2、点击", "（3）提交", "(1) a", "① 选择", "• 一", "- 二", "一、三"]
        {
            assert!(is_item(item), "{item}");
        }
        for text in ["1.5 元", "-5 度", "2026年", "（说明）如下", "打开", ""] {
            assert!(!is_item(text), "{text}");
        }
    }
}
