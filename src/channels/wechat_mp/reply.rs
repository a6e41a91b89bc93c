//! Builds the bodies of passive replies: the text message, its encrypted envelope, its length.

use std::borrow::Cow;

use serde_json::json;

use super::{BodyFormat, ReplyAddress};
use crate::base::text::prefix_bytes;

/// Stands at the end of a text that was cut.
const ELLIPSIS: &str = "…";

/// A text message from us to the customer, both taken from the push.
pub(super) fn text_message(address: &ReplyAddress, text: &str, now_seconds: i64) -> String {
    match address.format {
        BodyFormat::Xml => format!(
            "<xml><ToUserName>{}</ToUserName><FromUserName>{}</FromUserName>\
             <CreateTime>{now_seconds}</CreateTime><MsgType><![CDATA[text]]></MsgType>\
             <Content>{}</Content></xml>",
            cdata(&address.customer),
            cdata(&address.us),
            cdata(text),
        ),
        BodyFormat::Json => json!({
            "ToUserName": address.customer,
            "FromUserName": address.us,
            "CreateTime": now_seconds,
            "MsgType": "text",
            "Content": text,
        })
        .to_string(),
    }
}

/// What an encrypted reply is wrapped in.
pub(super) struct Envelope {
    pub(super) encrypted: String,
    pub(super) signature: String,
    /// Seconds since the epoch.
    pub(super) timestamp: i64,
    pub(super) nonce: String,
}

impl Envelope {
    pub(super) fn render(&self, format: BodyFormat) -> String {
        match format {
            BodyFormat::Xml => format!(
                "<xml><Encrypt>{}</Encrypt><MsgSignature>{}</MsgSignature>\
                 <TimeStamp>{}</TimeStamp><Nonce>{}</Nonce></xml>",
                cdata(&self.encrypted),
                cdata(&self.signature),
                self.timestamp,
                cdata(&self.nonce),
            ),
            BodyFormat::Json => json!({
                "Encrypt": self.encrypted,
                "MsgSignature": self.signature,
                "TimeStamp": self.timestamp,
                "Nonce": self.nonce,
            })
            .to_string(),
        }
    }
}

/// A CDATA section that holds exactly `text`: `]]>` is split over two sections.
pub(super) fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

/// Without the characters that XML 1.0 cannot carry at all, not even escaped: the platform would
/// refuse the whole reply for one of them.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let forbidden = |c: char| matches!(c, '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}');
    if text.contains(forbidden) {
        Cow::Owned(text.chars().filter(|c| !forbidden(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// At most `max` bytes of `text` and, if that is not all of it, an ellipsis after them. The cut is
/// after the last sentence that fits; if that would lose more than half of the room, after the
/// last character that fits.
pub(super) fn fit(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let room = prefix_bytes(text, max);
    let kept = match last_sentence_end(text, room.len()) {
        Some(end) if end * 2 >= max => &text[..end],
        Some(_) | None => room,
    };
    Cow::Owned(format!("{}{ELLIPSIS}", kept.trim_end()))
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
    use crate::base::limits::PASSIVE_REPLY_BYTES;

    #[test]
    fn cuts_after_a_sentence() {
        assert_eq!(fit("第一句。第二句。", 24), "第一句。第二句。");
        assert_eq!(fit("第一句。第二句。", 23), "第一句。…");
        assert_eq!(fit("他说“好。”然后走了很远", 24), "他说“好。”…");
        assert_eq!(fit("a b. Pay 3.50 at x.y/z?q=1 now", 26), "a b. Pay 3.50 at x.y/z?q=1…");
        assert_eq!(fit("Go to the desk. Pay 3.50 there", 24), "Go to the desk.…");
    }

    #[test]
    fn cuts_after_a_character_where_no_sentence_ends() {
        assert_eq!(fit("一二三四五", 10), "一二三…");
        assert_eq!(fit("嗯。一二三四五六七八九", 20), "嗯。一二三四…");
        let emoji = "😀".repeat(1_000);
        let cut = fit(&emoji, PASSIVE_REPLY_BYTES - 1);
        assert_eq!(cut, format!("{}…", "😀".repeat(PASSIVE_REPLY_BYTES / 4 - 1)));
    }

    #[test]
    fn cdata_cannot_be_closed_from_inside() {
        assert_eq!(cdata("a]]>b"), "<![CDATA[a]]]]><![CDATA[>b]]>");
        assert_eq!(cdata("]]"), "<![CDATA[]]]]>");
    }

    #[test]
    fn what_xml_cannot_carry_is_dropped() {
        assert_eq!(printable("a\0b\u{1b}[1mc\u{FFFF}\n\td\r"), "ab[1mc\n\td\r");
    }

    proptest! {
        #[test]
        fn a_cut_text_fits_and_is_a_prefix(text in "(😀|。|好|[a-z .?]|\n){0,80}", max in 8_usize..120) {
            let cut = fit(&text, max);
            if text.len() <= max {
                prop_assert_eq!(cut.as_ref(), text.as_str());
            } else {
                let kept = cut.strip_suffix(ELLIPSIS).unwrap();
                prop_assert!(kept.len() <= max);
                prop_assert!(text.starts_with(kept));
            }
        }
    }
}
