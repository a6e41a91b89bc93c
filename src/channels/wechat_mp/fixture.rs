//! Test data of this channel: published vectors, one body of every message type, a test account.

use serde::Deserialize;

use super::simulate::Simulator;
use super::{WechatMp, WechatMpConfig};
use crate::domain::message::{AccountName, Content};

/// `tests/fixtures/wechat/vectors.json`.
#[derive(Deserialize)]
pub(super) struct Vectors {
    pub(super) url_check: SignedQuery,
    pub(super) plain_push: SignedQuery,
    pub(super) open: Vec<Sealed>,
    pub(super) seal: Sealed,
    pub(super) refuse: Refused,
}

#[derive(Deserialize)]
pub(super) struct SignedQuery {
    pub(super) token: String,
    pub(super) timestamp: String,
    pub(super) nonce: String,
    pub(super) signature: String,
    pub(super) echostr: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Sealed {
    pub(super) name: String,
    pub(super) token: String,
    pub(super) encoding_aes_key: String,
    pub(super) receiveid: String,
    pub(super) timestamp: String,
    pub(super) nonce: String,
    #[serde(default)]
    pub(super) random: String,
    pub(super) msg_signature: String,
    pub(super) encrypt: String,
    pub(super) message: String,
}

#[derive(Deserialize)]
pub(super) struct Refused {
    pub(super) encoding_aes_key: String,
    pub(super) receiveid: String,
    pub(super) control_valid: String,
    pub(super) pad_zero: String,
    pub(super) pad_bytes_differ: String,
    pub(super) other_app_id: String,
}

/// `tests/fixtures/wechat/messages.json`.
#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) body: String,
    pub(super) dedupe_key: String,
    pub(super) content: Content,
}

pub(super) fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/fixtures/wechat/vectors.json")).unwrap()
}

pub(super) fn messages() -> Vec<Message> {
    serde_json::from_str(include_str!("../../../tests/fixtures/wechat/messages.json")).unwrap()
}

/// A test account with this key; `None` for plain mode.
pub(super) fn config(encoding_aes_key: Option<&str>) -> WechatMpConfig {
    WechatMpConfig {
        token: "aTokenOfTests".into(),
        app_id: "wx0123456789abcdef".to_owned(),
        encoding_aes_key: encoding_aes_key.map(Into::into),
        previous_encoding_aes_key: None,
        require_encryption: false,
    }
}

pub(super) fn service(config: &WechatMpConfig) -> WechatMp {
    WechatMp::new(AccountName("mp-main".to_owned()), config).unwrap()
}

pub(super) fn simulator(config: &WechatMpConfig) -> Simulator {
    Simulator::new(config, "gh_0123456789ab".to_owned()).unwrap()
}
