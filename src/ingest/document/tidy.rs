//! Text without what cannot be seen, on one line.

use crate::base::text::is_han;

/// One line: runs of white space become one space, and none where a line was broken between
/// Chinese characters, which know no spaces.
pub(super) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap: Option<bool> = None;
    for c in text.chars() {
        if c.is_whitespace() || c == '\u{feff}' {
            let broken = matches!(c, '\n' | '\r');
            gap = Some(gap.unwrap_or(false) || broken);
        } else if is_visible(c) {
            if let Some(broken) = gap.take() {
                let between_wide =
                    out.chars().next_back().is_some_and(is_wide) && is_wide(c) && broken;
                if !out.is_empty() && !between_wide {
                    out.push(' ');
                }
            }
            out.push(c);
        }
    }
    out
}

fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{fff9}'..='\u{fffb}')
}

/// Han characters and the marks set among them.
pub(super) fn is_wide(c: char) -> bool {
    is_han(c)
        || matches!(u32::from(c), 0x2E80..=0x303F | 0x3040..=0x30FF | 0xFF00..=0xFFEF | 0x2018..=0x201D)
}

/// Ends a sentence, or announces what follows it.
pub(super) fn is_ended(text: &str) -> bool {
    let last = text.trim_end().trim_end_matches(['”', '’', '」', '』', '）', ')', '》', '】', '"']);
    last.ends_with(['。', '！', '？', '；', '：', '.', '!', '?', ';', ':', '…'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_and_line_breaks() {
        assert_eq!(line("  退货\n  政策 \t 说明\u{200b}\u{0}  "), "退货政策 说明");
        assert_eq!(line("Refund\n policy，\n退货"), "Refund policy，退货");
        assert_eq!(line(" \n\u{feff} "), "");
    }
}
