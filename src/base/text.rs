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

/// The pieces one after the other, without whitespace around the whole. Between two that would run
/// into each other stands a space, unless one of them is written in a script without spaces.
pub fn joined<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for piece in pieces {
        let edges = joined.chars().next_back().zip(piece.chars().next());
        if edges.is_some_and(|(before, after)| !needs_no_space(before) && !needs_no_space(after)) {
            joined.push(' ');
        }
        joined.push_str(piece);
    }
    joined.trim().to_owned()
}

/// Whitespace, and everything from the East Asian blocks on: Han characters, their marks, wide forms.
fn needs_no_space(c: char) -> bool {
    c.is_whitespace() || u32::from(c) >= 0x2E80
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

    #[test]
    fn pieces_are_joined_as_their_script_is_written() {
        assert_eq!(
            joined(["Tap Orders.", "Refunds take a day."]),
            "Tap Orders. Refunds take a day."
        );
        assert_eq!(joined(["Tap Orders. ", "Refunds.\n", "Bye. "]), "Tap Orders. Refunds.\nBye.");
        assert_eq!(
            joined(["退款三天到账。", "运费由我们承担。"]),
            "退款三天到账。运费由我们承担。"
        );
        assert_eq!(
            joined(["请打开App", "退款。", "See FAQ.", "谢谢！"]),
            "请打开App退款。See FAQ.谢谢！"
        );
        assert_eq!(joined([" 甲。 "]), "甲。");
        assert_eq!(joined([]), "");
    }
}
