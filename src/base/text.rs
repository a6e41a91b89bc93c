//! Cutting text without breaking it.

/// The longest prefix of `text` with at most `max` characters.
pub fn prefix_chars(text: &str, max: usize) -> &str {
    match text.char_indices().nth(max) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

/// The longest prefix of `text` with at most `max` bytes that ends at a character.
pub fn prefix_bytes(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Han characters, the unit in which Chinese text is matched.
pub fn is_han(c: char) -> bool {
    matches!(u32::from(c), 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_characters() {
        assert_eq!(prefix_chars("退款多久", 2), "退款");
        assert_eq!(prefix_bytes("退款多久", 7), "退款");
        assert_eq!(prefix_bytes("ok", 7), "ok");
        assert_eq!(prefix_bytes("😀😀", 5), "😀");
    }
}
