//! Test data of the family: published vectors, one body of every message type.

use serde::Deserialize;

use crate::domain::message::Content;

/// `tests/fixtures/wechat/vectors.json`.
#[derive(Deserialize)]
pub(in crate::channels) struct Vectors {
    pub(in crate::channels) url_check: SignedQuery,
    pub(in crate::channels) plain_push: SignedQuery,
    pub(in crate::channels) open: Vec<Sealed>,
    pub(in crate::channels) seal: Sealed,
    pub(in crate::channels) refuse: Refused,
}

#[derive(Deserialize)]
pub(in crate::channels) struct SignedQuery {
    pub(in crate::channels) token: String,
    pub(in crate::channels) timestamp: String,
    pub(in crate::channels) nonce: String,
    pub(in crate::channels) signature: String,
    pub(in crate::channels) echostr: Option<String>,
}

#[derive(Deserialize)]
pub(in crate::channels) struct Sealed {
    pub(in crate::channels) name: String,
    pub(in crate::channels) token: String,
    pub(in crate::channels) encoding_aes_key: String,
    pub(in crate::channels) receiveid: String,
    pub(in crate::channels) timestamp: String,
    pub(in crate::channels) nonce: String,
    #[serde(default)]
    pub(in crate::channels) random: String,
    pub(in crate::channels) msg_signature: String,
    pub(in crate::channels) encrypt: String,
    pub(in crate::channels) message: String,
}

#[derive(Deserialize)]
pub(in crate::channels) struct Refused {
    pub(in crate::channels) encoding_aes_key: String,
    pub(in crate::channels) receiveid: String,
    pub(in crate::channels) control_valid: String,
    pub(in crate::channels) pad_zero: String,
    pub(in crate::channels) pad_bytes_differ: String,
    pub(in crate::channels) other_app_id: String,
}

pub(in crate::channels) fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/fixtures/wechat/vectors.json")).unwrap()
}

/// `tests/fixtures/wechat/messages.json`.
#[derive(Deserialize)]
pub(in crate::channels) struct Message {
    pub(in crate::channels) name: String,
    pub(in crate::channels) body: String,
    pub(in crate::channels) dedupe_key: String,
    pub(in crate::channels) content: Content,
}

pub(in crate::channels) fn messages() -> Vec<Message> {
    serde_json::from_str(include_str!("../../../tests/fixtures/wechat/messages.json")).unwrap()
}
