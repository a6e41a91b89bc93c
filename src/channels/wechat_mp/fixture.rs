//! A test account of this channel.

use super::simulate::Simulator;
use super::{WechatMp, WechatMpConfig};
use crate::domain::message::AccountName;

/// A test account with this key; `None` for plain mode.
pub(super) fn config(encoding_aes_key: Option<&str>) -> WechatMpConfig {
    WechatMpConfig {
        token: "aTokenOfTests".into(),
        app_id: "wx0123456789abcdef".to_owned(),
        encoding_aes_key: encoding_aes_key.map(Into::into),
        previous_encoding_aes_key: None,
        require_encryption: false,
        app_secret: None,
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    }
}

pub(super) fn service(config: &WechatMpConfig) -> WechatMp {
    WechatMp::new(AccountName("mp-main".to_owned()), config).unwrap()
}

pub(super) fn simulator(config: &WechatMpConfig) -> Simulator {
    Simulator::new(config, "gh_0123456789ab".to_owned()).unwrap()
}
