//! Test data of the family: published vectors, one body of every message type.

use serde::Deserialize;

use super::crypto::AesKey;
use super::signature;
use crate::channels::BodyFormat;
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

pub(in crate::channels) const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
pub(in crate::channels) const OTHER_KEY: &str = "0123456789ABCDEFGabcdefghijklmnopqrstuvwxyz";
pub(in crate::channels) const TOKEN: &str = "aTokenOfTests";

/// A callback as its platform would send it.
pub(in crate::channels) struct Genuine {
    pub(in crate::channels) query: String,
    pub(in crate::channels) body: String,
}

/// `message` encrypted for `receiver` with `key`, in an envelope of 企业微信 or a JSON one.
pub(in crate::channels) fn sealed(
    message: &str,
    receiver: &str,
    key: &str,
    format: BodyFormat,
) -> Genuine {
    let key = AesKey::parse(&key.into()).unwrap();
    let encrypt = key.encrypt(message.as_bytes(), receiver, [7; 16]);
    let (timestamp, nonce) = ("1790000001", "n1");
    let signature = signature::sign(&[TOKEN, timestamp, nonce, &encrypt]);
    let query =
        format!("msg_signature={signature}&timestamp={timestamp}&nonce={nonce}&encrypt_type=aes");
    let body = match format {
        BodyFormat::Xml => format!(
            "<xml><ToUserName><![CDATA[{receiver}]]></ToUserName><AgentID><![CDATA[7]]></AgentID>\
             <Encrypt><![CDATA[{encrypt}]]></Encrypt></xml>"
        ),
        BodyFormat::Json => format!("{{\"encrypt\":\"{encrypt}\"}}"),
    };
    Genuine { query, body }
}
