//! The platform's end of an account, as the configuration describes the account.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use secrecy::SecretString;

use crate::channels::alipay::AlipayConfig;
use crate::channels::wechat_kf::WechatKfConfig;
use crate::channels::wechat_mp::WechatMpConfig;
use crate::channels::wechat_shop::WechatShopConfig;
use crate::channels::wecom::{AgentId, WecomConfig};
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
    let api = Arc::clone(api);
    match account {
        Account::WechatMp(config) => push(config, Kind::Official, console, api),
        Account::WechatMini(config) => push(config, Kind::MiniProgram, console, api),
        Account::Wecom(config) => wecom(config, api),
        Account::WechatKf(config) => kf(config, api),
        Account::WechatShop(config) => shop(config, api),
        Account::Alipay(config) => alipay(config, console, api),
        Account::Douyin(config) => {
            let settings = douyin::Settings {
                client_key: config.client_key.clone(),
                client_secret: config.client_secret.clone(),
                open_id: config.open_id.clone(),
            };
            let base = config.refresh_token.is_some().then(|| api_base(&config.api_base));
            Ok(Part { side: Arc::new(douyin::Douyin::new(settings, api)), api: base })
        }
        Account::Webhook(config) => {
            let url = config.reply_url.clone();
            let base = url.is_some().then_some(Base { key: "reply_url", url, path: "/reply" });
            let side = webhook::Webhook::new(&config.secret, api);
            Ok(Part { side: Arc::new(side), api: base })
        }
    }
}

fn wecom(config: &WecomConfig, api: Arc<Api>) -> Result<Part> {
    let settings = wecom::Settings {
        token: config.token.clone(),
        corp_id: config.corp_id.clone(),
        agent_id: agent(config.agent_id.as_ref())?,
        encoding_aes_key: config.encoding_aes_key.clone(),
        secret: config.secret.clone(),
    };
    let base = config.secret.is_some().then(|| api_base(&config.api_base));
    Ok(Part { side: Arc::new(wecom::Wecom::new(settings, api)?), api: base })
}

fn kf(config: &WechatKfConfig, api: Arc<Api>) -> Result<Part> {
    let settings = wechat_kf::Settings {
        token: config.token.clone(),
        corp_id: config.corp_id.clone(),
        encoding_aes_key: config.encoding_aes_key.clone(),
        secret: config.secret.clone(),
    };
    let side = wechat_kf::WechatKf::new(settings, api)?;
    Ok(Part { side: Arc::new(side), api: Some(api_base(&config.api_base)) })
}

fn shop(config: &WechatShopConfig, api: Arc<Api>) -> Result<Part> {
    let settings = wechat_shop::Settings {
        token: config.token.clone(),
        app_id: config.app_id.clone(),
        app_secret: config.app_secret.clone(),
        encoding_aes_key: config.encoding_aes_key.clone(),
    };
    let side = wechat_shop::WechatShop::new(settings, api)?;
    Ok(Part { side: Arc::new(side), api: Some(api_base(&config.api_base)) })
}

fn alipay(config: &AlipayConfig, console: &Console<'_>, api: Arc<Api>) -> Result<Part> {
    let file = console.alipay_key.as_ref();
    let file = file.context("--alipay-key: the private half of alipay_public_key")?;
    let key = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let settings = alipay::Settings {
        app_id: config.app_id.clone(),
        private_key: config.private_key.clone(),
        platform_key: SecretString::from(key),
    };
    let side = alipay::Alipay::new(&settings, api)?;
    let base = Base { key: "gateway", url: config.gateway.clone(), path: "/gateway.do" };
    Ok(Part { side: Arc::new(side), api: Some(base) })
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
