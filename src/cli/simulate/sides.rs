//! The platform's end of an account, as the configuration describes the account.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use secrecy::SecretString;

use crate::channels::wechat_mp::WechatMpConfig;
use crate::channels::wecom::AgentId;
use crate::config::Account;
use crate::simulate::api::Api;
use crate::simulate::wechat_mp::{Kind, Mode};
use crate::simulate::{Side, alipay, douyin, webhook, wechat_kf, wechat_mp, wechat_shop, wecom};

/// What the configuration cannot know: it is the platform's.
pub(super) struct Console<'a> {
    pub(super) mode: Mode,
    pub(super) alipay_key: &'a Option<PathBuf>,
}

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
    pub(super) url: Option<String>,
    /// What the simulator's address ends with.
    pub(super) path: &'static str,
}

fn api_base(url: &Option<String>) -> Base {
    Base { key: "api_base", url: url.clone(), path: "" }
}

pub(super) fn of(account: &Account, console: &Console<'_>, api: &Arc<Api>) -> Result<Part> {
    let shared = Arc::clone(api);
    let (side, api): (Arc<dyn Side>, Option<Base>) = match account {
        Account::WechatMp(config) => return push(config, Kind::Official, console, shared),
        Account::WechatMini(config) => return push(config, Kind::MiniProgram, console, shared),
        Account::Wecom(config) => {
            let settings = wecom::Settings {
                token: config.token.clone(),
                corp_id: config.corp_id.clone(),
                agent_id: agent(config.agent_id.as_ref())?,
                encoding_aes_key: config.encoding_aes_key.clone(),
                secret: config.secret.clone(),
            };
            let base = config.secret.is_some().then(|| api_base(&config.api_base));
            (Arc::new(wecom::Wecom::new(settings, shared)?), base)
        }
        Account::WechatKf(config) => {
            let settings = wechat_kf::Settings {
                token: config.token.clone(),
                corp_id: config.corp_id.clone(),
                encoding_aes_key: config.encoding_aes_key.clone(),
                secret: config.secret.clone(),
            };
            let side = wechat_kf::WechatKf::new(settings, shared)?;
            (Arc::new(side), Some(api_base(&config.api_base)))
        }
        Account::WechatShop(config) => {
            let settings = wechat_shop::Settings {
                token: config.token.clone(),
                app_id: config.app_id.clone(),
                app_secret: config.app_secret.clone(),
                encoding_aes_key: config.encoding_aes_key.clone(),
            };
            let side = wechat_shop::WechatShop::new(settings, shared)?;
            (Arc::new(side), Some(api_base(&config.api_base)))
        }
        Account::Alipay(config) => {
            let file = console.alipay_key.as_ref();
            let file = file.context("--alipay-key: the private half of alipay_public_key")?;
            let key = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let settings = alipay::Settings {
                app_id: config.app_id.clone(),
                private_key: config.private_key.clone(),
                platform_key: SecretString::from(key),
            };
            let base = Base { key: "gateway", url: config.gateway.clone(), path: "/gateway.do" };
            (Arc::new(alipay::Alipay::new(&settings, shared)?), Some(base))
        }
        Account::Douyin(config) => {
            let settings = douyin::Settings {
                client_key: config.client_key.clone(),
                client_secret: config.client_secret.clone(),
                open_id: config.open_id.clone(),
            };
            let base = config.refresh_token.is_some().then(|| api_base(&config.api_base));
            (Arc::new(douyin::Douyin::new(settings, shared)), base)
        }
        Account::Webhook(config) => {
            let base = config.reply_url.is_some().then(|| Base {
                key: "reply_url",
                url: config.reply_url.clone(),
                path: "/reply",
            });
            (Arc::new(webhook::Webhook::new(&config.secret, shared)), base)
        }
    };
    Ok(Part { side, api })
}

fn push(config: &WechatMpConfig, kind: Kind, console: &Console<'_>, api: Arc<Api>) -> Result<Part> {
    let settings = wechat_mp::Settings {
        kind,
        mode: console.mode,
        token: config.token.clone(),
        app_id: config.app_id.clone(),
        app_secret: config.app_secret.clone(),
        encoding_aes_key: config.encoding_aes_key.clone(),
    };
    let base = config.app_secret.is_some().then(|| api_base(&config.api_base));
    Ok(Part { side: Arc::new(wechat_mp::WechatMp::new(settings, api)?), api: base })
}

fn agent(id: Option<&AgentId>) -> Result<i64> {
    match id {
        None => Ok(0),
        Some(AgentId::Number(number)) => Ok(i64::try_from(*number)?),
        Some(AgentId::Text(text)) => text.parse().context("agent_id must be a number"),
    }
}
