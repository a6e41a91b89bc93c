//! What the tests of several channels do alike: callbacks, sends, damaged bytes.

use proptest::prelude::*;
use serde_json::Value;

use super::wechat::fixture::Genuine;
use super::{
    ApiFailure, ApiResponse, Callback, Channel, FailureClass, Item, Push, PushError, Received,
    Sending, Token, Unsupported,
};
use crate::domain::outgoing::{IdempotencyKey, Menu, MenuItem, Outgoing, Target};

/// Seconds; callbacks of the tests are received then.
pub(super) const NOW: i64 = 1_790_000_002;

pub(super) fn post(
    channel: &dyn Channel,
    query: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Received, PushError> {
    channel.receive(&Callback { query, headers, body, received_at: NOW * 1_000 })
}

pub(super) fn post_genuine(
    channel: &dyn Channel,
    genuine: &Genuine,
) -> Result<Received, PushError> {
    post(channel, &genuine.query, &[], genuine.body.as_bytes())
}

pub(super) fn only_item(received: Result<Received, PushError>) -> Item {
    match received {
        Ok(Received::Items(mut items)) if items.len() == 1 => items.remove(0),
        other => panic!("not one item: {other:?}"),
    }
}

pub(super) fn only_push(received: Result<Received, PushError>) -> Push {
    let item = only_item(received);
    let Item::Push(push) = item else { panic!("no push: {item:?}") };
    push
}

/// Address, body and headers.
pub(super) type Sent = (String, Value, Vec<(&'static str, String)>);

/// What a send goes out as. No channel may escape Chinese.
pub(super) fn sent(
    channel: &dyn Channel,
    to: &Target,
    what: &Outgoing,
) -> Result<Sent, Unsupported> {
    let key = IdempotencyKey::try_from("key-1".to_owned()).unwrap();
    let token = Token::new("T", 7_200);
    let with = Sending { key: &key, token: Some(&token), now: NOW * 1_000 };
    let request = channel.send(to, what, &with)?;
    let text = String::from_utf8(request.body).unwrap();
    assert!(!text.contains("\\u"), "{text}");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok((request.url, body, request.headers))
}

pub(super) fn text(text: &str) -> Outgoing {
    Outgoing::Text(text.to_owned())
}

pub(super) fn survey() -> Menu {
    let item = |id: &str, text: &str| MenuItem { id: id.into(), text: text.into() };
    Menu {
        head: "您满意吗？".into(),
        items: vec![item("101", "满意"), item("102", "不满意")],
        tail: "谢谢".into(),
    }
}

pub(super) fn answer(body: &str) -> ApiResponse {
    ApiResponse { status: 200, body: body.as_bytes().to_vec() }
}

/// What an answer with this body is refused with.
pub(super) fn refusal(channel: &dyn Channel, body: &str) -> Option<FailureClass> {
    channel.read_sent(&answer(body)).err().map(|ApiFailure { class, .. }| class)
}

/// A random damage. Positions are taken modulo the length.
#[derive(Clone, Debug)]
pub(super) enum Damage {
    Flip { at: usize, bit: u8 },
    Truncate { at: usize },
    Insert { at: usize, byte: u8 },
    Duplicate { from: usize, len: usize, at: usize },
}

impl Damage {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        let size = bytes.len().max(1);
        match *self {
            Self::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(at % size) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Truncate { at } => bytes.truncate(at % size),
            Self::Insert { at, byte } => bytes.insert(at % size.min(bytes.len() + 1), byte),
            Self::Duplicate { from, len, at } => {
                let from = from % size;
                let to = (from + len).min(bytes.len());
                let chunk = bytes[from.min(to)..to].to_vec();
                let at = at % size;
                bytes.splice(at..at, chunk);
            }
        }
    }
}

pub(super) fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        any::<usize>().prop_map(|at| Damage::Truncate { at }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
        (any::<usize>(), 0_usize..200, any::<usize>())
            .prop_map(|(from, len, at)| Damage::Duplicate { from, len, at }),
    ]
}
