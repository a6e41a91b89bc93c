//! The platform's end of an account, as the configuration describes the account.

use std::sync::Arc;

use anyhow::Result;

use crate::channels::wechat_mp::WechatMpConfig;
use crate::config::Account;
use crate::simulate::Side;
use crate::simulate::api::Api;
use crate::simulate::wechat_mp::{Kind, Mode, Settings, WechatMp};

/// What is played, and where the service looks for it.
pub(super) struct Part {
    pub(super) side: Arc<dyn Side>,
    /// `None` where the account cannot send.
    pub(super) api: Option<Base>,
}

/// Where the account sends to.
pub(super) struct Base {
    /// The key of the account's table.
    pub(super) key: &'static str,
    /// What it says.
    pub(super) url: String,
    /// What the simulator's address ends with.
    pub(super) path: &'static str,
}

pub(super) fn of(account: &Account, mode: Mode, api: &Arc<Api>) -> Result<Part> {
    match account {
        Account::WechatMp(config) => shared(config, Kind::Official, mode, api),
        Account::WechatMini(config) => shared(config, Kind::MiniProgram, mode, api),
    }
}

fn shared(config: &WechatMpConfig, kind: Kind, mode: Mode, api: &Arc<Api>) -> Result<Part> {
    let settings = Settings {
        kind,
        mode,
        token: config.token.clone(),
        app_id: config.app_id.clone(),
        app_secret: config.app_secret.clone(),
        encoding_aes_key: config.encoding_aes_key.clone(),
    };
    let side = Arc::new(WechatMp::new(settings, Arc::clone(api))?);
    let base = Base { key: "api_base", url: config.api_base.clone().unwrap_or_default(), path: "" };
    Ok(Part { side, api: config.app_secret.is_some().then_some(base) })
}
