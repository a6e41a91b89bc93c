//! Messages of 企业微信's bots (智能机器人): JSON with an object named after the type.

use serde_json::{Value, json};

use crate::base::clock::UnixMs;
use crate::channels::json::{id, text, text_at};
use crate::channels::wechat::crypto::KeySlot;
use crate::channels::{BodyFormat, Push, PushError, ReplyAddress};
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::Target;

pub(super) fn read(
    message: &[u8],
    account: &AccountName,
    key: Option<KeySlot>,
    received_at: UnixMs,
) -> Result<Push, PushError> {
    let message: Value = serde_json::from_slice(message)
        .map_err(|_| PushError::Malformed("the message is not JSON"))?;
    let sender = message.get("from").and_then(|from| id(from, "userid"));
    let sender = sender.ok_or(PushError::Malformed("from.userid"))?;
    let msg_id = id(&message, "msgid").ok_or(PushError::Malformed("msgid"))?;
    let kind = text(&message, "msgtype").ok_or(PushError::Malformed("msgtype"))?;
    let seconds = message.get("create_time").and_then(Value::as_i64);
    let content = content(&message, kind)?;
    // Only messages are answered with a text that is written bit by bit; events want cards.
    let answered = !matches!(content, Content::Event { .. });
    let address = ReplyAddress {
        customer: sender.clone(),
        us: id(&message, "aibotid").unwrap_or_default(),
        format: BodyFormat::Json,
        key,
    };
    let target = Target { thread: id(&message, "chatid"), ..Target::customer(sender.clone()) };
    let inbound = Inbound {
        platform: Platform::Wecom,
        account: account.clone(),
        sender,
        dedupe_key: format!("msg:{msg_id}"),
        sent_at: seconds.map_or(received_at, |s| s.saturating_mul(1_000)),
        content,
    };
    Ok(Push { inbound, target, reply_address: answered.then_some(address) })
}

fn content(message: &Value, kind: &str) -> Result<Content, PushError> {
    let part = |name: &str| text_at(message, &[kind, name]).map(str::to_owned);
    let attachment = |reference| Content::Attachment { what: kind.to_owned(), reference };
    Ok(match kind {
        "text" => Content::Text(part("content").ok_or(PushError::Malformed("text.content"))?),
        "voice" => Content::Voice { transcript: part("content").filter(|t| !t.is_empty()) },
        "image" | "file" | "video" => attachment(part("url")),
        "mixed" => Content::Attachment { what: "image".to_owned(), reference: picture(message) },
        "event" => {
            let name = part("eventtype").ok_or(PushError::Malformed("event.eventtype"))?;
            Content::Event { name, key: None }
        }
        // The platform asks for the rest of a reply; ours come whole.
        "stream" => Content::Event { name: kind.to_owned(), key: part("id") },
        other => Content::Unknown { what: other.to_owned() },
    })
}

/// The first picture of texts and pictures in one message.
fn picture(message: &Value) -> Option<String> {
    let items = message.get("mixed")?.get("msg_item")?.as_array()?;
    items.iter().find_map(|item| text_at(item, &["image", "url"])).map(str::to_owned)
}

/// A whole answer, in the form in which bots write bit by bit.
pub(super) fn text_message(text: &str, id: &str) -> String {
    json!({ "msgtype": "stream", "stream": { "id": id, "finish": true, "content": text } })
        .to_string()
}
