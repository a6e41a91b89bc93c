//! Headings told by their own words, where a format does not mark them.

use super::tidy;

/// Longest line that may be a heading, characters.
const HEADING_CHARS: usize = 40;

/// The level of a line that counts itself as chapter, section or point; `None` for any other.
pub(super) fn level(line: &str) -> Option<u8> {
    let line = line.trim();
    let ended = tidy::is_ended(line) && !line.ends_with(['？', '?']);
    if line.chars().count() > HEADING_CHARS || ended || line.contains(['，', '。', '；']) {
        return None;
    }
    if let Some(rest) = line.strip_prefix('第') {
        let behind = rest.trim_start_matches(|c: char| {
            c.is_ascii_digit() || c == ' ' || "一二三四五六七八九十百零".contains(c)
        });
        if behind.len() == rest.len() {
            return None;
        }
        return match behind.chars().next()? {
            '编' | '篇' | '部' | '章' => Some(1),
            '节' => Some(2),
            _ => None,
        };
    }
    let numerals = line.chars().take_while(|c| "一二三四五六七八九十".contains(*c)).count();
    if (1..=3).contains(&numerals) {
        return (line.chars().nth(numerals) == Some('、')).then_some(2);
    }
    decimal(line)
}

/// `1.2 运费` is of level 2 as its number has two parts; `1. 打开` is a list item.
fn decimal(line: &str) -> Option<u8> {
    let number: &str = line.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let parts: Vec<&str> = number.trim_end_matches('.').split('.').collect();
    let counted = (2..=4).contains(&parts.len())
        && parts.iter().all(|p| !p.is_empty() && p.len() <= 2 && !p.starts_with('0'));
    // A number with something of its own behind it is an amount: “1.5 元”, “2.0版”.
    let rest = &line[number.len()..];
    let named = rest.starts_with([' ', '\u{3000}', '\t']) && rest.trim().chars().count() > 1;
    (counted && named).then_some(u8::try_from(parts.len()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_count_themselves() {
        assert_eq!(level("第一章 退货政策"), Some(1));
        assert_eq!(level("第 12 节 运费"), Some(2));
        assert_eq!(level("二、如何申请退款？"), Some(2));
        assert_eq!(level("1.2.1 到账时间"), Some(3));
        for text in
            ["第一次退货", "一、先登录，再申请。", "1. 打开", "1.5 元", "2026.1.31 更新", "退货"]
        {
            assert_eq!(level(text), None, "{text}");
        }
    }
}
