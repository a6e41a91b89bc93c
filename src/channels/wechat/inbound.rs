//! Turns the fields of a push into the domain's inbound message; 公众号, 小程序 and 企业微信 share them.

use super::fields::{Field, Fields};
use crate::base::clock::UnixMs;
use crate::channels::PushError;
use crate::domain::message::{AccountName, Content, Inbound, Platform};

/// Longest value that becomes part of a key, bytes. OpenIDs have 28, message ids 20.
const ID_BYTES: usize = 128;
/// Longest `EventKey`, bytes; `VIEW` puts a whole address there.
const EVENT_KEY_BYTES: usize = 2_048;

/// The sender's and receiver's ids, the time and the content; `Malformed` where one is missing
/// that the platform always sends.
pub(in crate::channels) fn read(
    fields: &Fields,
    platform: Platform,
    account: &AccountName,
) -> Result<Inbound, PushError> {
    let sender = identifier(fields, Field::FromUserName, "FromUserName")?;
    let kind = identifier(fields, Field::MsgType, "MsgType")?;
    let created = created(fields)?;
    let content = content(fields, kind)?;
    Ok(Inbound {
        platform,
        account: account.clone(),
        sender: sender.to_owned(),
        dedupe_key: dedupe_key(fields, kind, created, &content)?,
        sent_at: created.saturating_mul(1_000),
        content,
    })
}

/// Our own id (`gh_…`), which a passive reply names as its sender.
pub(in crate::channels) fn receiver(fields: &Fields) -> Result<&str, PushError> {
    identifier(fields, Field::ToUserName, "ToUserName")
}

fn identifier<'a>(
    fields: &'a Fields,
    field: Field,
    reason: &'static str,
) -> Result<&'a str, PushError> {
    match fields.get(field).map(str::trim) {
        Some(value)
            if (1..=ID_BYTES).contains(&value.len()) && !value.contains(char::is_control) =>
        {
            Ok(value)
        }
        Some(_) | None => Err(PushError::Malformed(reason)),
    }
}

/// Seconds since the epoch as the platform states them.
pub(in crate::channels) fn created(fields: &Fields) -> Result<UnixMs, PushError> {
    fields
        .get(Field::CreateTime)
        .and_then(|text| text.trim().parse().ok())
        .ok_or(PushError::Malformed("CreateTime"))
}

fn content(fields: &Fields, kind: &str) -> Result<Content, PushError> {
    let owned = |field: Field| fields.filled(field).map(str::to_owned);
    let attachment =
        |what: &str, reference| Content::Attachment { what: what.to_owned(), reference };
    Ok(match kind {
        "text" => match (fields.get(Field::Content), owned(Field::MenuId)) {
            (Some(text), None) => Content::Text(text.to_owned()),
            (Some(text), Some(id)) => Content::Choice { id, text: text.to_owned() },
            (None, _) => return Err(PushError::Malformed("text without Content")),
        },
        "voice" => match owned(Field::Recognition) {
            Some(transcript) => Content::Voice { transcript: Some(transcript) },
            // Nothing can be read in it; a person has to listen.
            None => attachment("voice", owned(Field::MediaId)),
        },
        "image" => attachment("image", owned(Field::PicUrl).or_else(|| owned(Field::MediaId))),
        "video" | "shortvideo" => attachment("video", owned(Field::MediaId)),
        "location" => attachment("location", place(fields)),
        "link" => attachment("link", owned(Field::Url)),
        "miniprogrampage" => attachment("miniprogram", owned(Field::PagePath)),
        "event" => {
            let name = identifier(fields, Field::Event, "event without Event")?.to_owned();
            let key = owned(Field::EventKey).or_else(|| owned(Field::SessionFrom));
            Content::Event { name, key }
        }
        other => Content::Unknown { what: other.to_owned() },
    })
}

/// `23.134521,113.358803 label`, latitude first.
fn place(fields: &Fields) -> Option<String> {
    let (x, y) = (fields.filled(Field::LocationX)?, fields.filled(Field::LocationY)?);
    let label = fields.get(Field::Label).unwrap_or_default();
    Some(format!("{x},{y} {label}").trim_end().to_owned())
}

/// What makes a retry recognisable. Events carry no message id; types that this build does not
/// know may carry none either.
fn dedupe_key(
    fields: &Fields,
    kind: &str,
    created: UnixMs,
    content: &Content,
) -> Result<String, PushError> {
    match content {
        Content::Event { name, key } => {
            let key = key.as_deref().unwrap_or_default();
            if key.len() > EVENT_KEY_BYTES {
                return Err(PushError::Malformed("EventKey"));
            }
            Ok(format!("event:{created}:{name}:{key}"))
        }
        Content::Unknown { .. } if fields.filled(Field::MsgId).is_none() => {
            Ok(format!("{kind}:{created}"))
        }
        Content::Text(_)
        | Content::Choice { .. }
        | Content::Voice { .. }
        | Content::Attachment { .. }
        | Content::Unknown { .. } => {
            Ok(format!("msg:{}", identifier(fields, Field::MsgId, "MsgId")?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::wechat::fixture;

    fn read_body(body: &str) -> Result<Inbound, PushError> {
        let (_, fields) = Fields::parse(body.as_bytes())?;
        read(&fields, Platform::WechatMp, &AccountName("mp-main".to_owned()))
    }

    #[test]
    fn every_kind_of_message() {
        let messages = fixture::messages();
        assert!(messages.len() >= 20);
        for message in messages {
            let inbound = read_body(&message.body).unwrap();
            assert_eq!(inbound.content, message.content, "{}", message.name);
            assert_eq!(inbound.dedupe_key, message.dedupe_key, "{}", message.name);
            assert_eq!(inbound.sender, "o6_openid_of_a_customer_0001", "{}", message.name);
            assert_eq!(inbound.sent_at, 1_790_000_000_000, "{}", message.name);
            assert_eq!(inbound.platform, Platform::WechatMp);
            assert_eq!(inbound.account.as_str(), "mp-main");
        }
    }

    #[test]
    fn what_the_platform_always_sends_must_be_there() {
        let whole = "<xml><ToUserName>gh_1</ToUserName><FromUserName>o1</FromUserName>\
                     <CreateTime>1790000000</CreateTime><MsgType>text</MsgType>\
                     <Content>hi</Content><MsgId>1</MsgId></xml>";
        assert!(read_body(whole).is_ok());
        for (remove, put, reason) in [
            ("<FromUserName>o1</FromUserName>", "", "FromUserName"),
            ("<FromUserName>o1<", "<FromUserName> <", "FromUserName"),
            ("<FromUserName>o1<", "<FromUserName>o&#10;1<", "FromUserName"),
            ("<MsgType>text</MsgType>", "", "MsgType"),
            ("<CreateTime>1790000000</CreateTime>", "", "CreateTime"),
            ("1790000000", "yesterday", "CreateTime"),
            ("1790000000", "99999999999999999999", "CreateTime"),
            ("<Content>hi</Content>", "", "text without Content"),
            ("<MsgId>1</MsgId>", "", "MsgId"),
            ("<MsgType>text<", "<MsgType>event<", "event without Event"),
        ] {
            let body = whole.replace(remove, put);
            assert_ne!(body, whole);
            assert_eq!(read_body(&body), Err(PushError::Malformed(reason)), "{body}");
        }
        let long = whole.replace(">o1<", &format!(">{}<", "o".repeat(ID_BYTES + 1)));
        assert_eq!(read_body(&long), Err(PushError::Malformed("FromUserName")));
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let body = format!(
            "{{\"FromUserName\":\"o1\",\"CreateTime\":{},\"MsgType\":\"text\",\
             \"Content\":\"\",\"MsgId\":\"1\"}}",
            i64::MAX
        );
        assert_eq!(read_body(&body).unwrap().sent_at, i64::MAX);
    }
}
