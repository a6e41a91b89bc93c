//! 公众号 (WeChat official account): message push, passive reply, 客服消息.
//!
//! Protocol: developers.weixin.qq.com, "message push" and "message encryption".

#[cfg(test)]
mod fixture;
pub(super) mod reply;
pub mod simulate;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::wechat::account::PushAccount;
use super::wechat::{api, custom};
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, ConfigError,
    PushError, Quota, Received, Refresh, ReplyAddress, ReplyError, Scene, Sending, Stamp, Token,
    Unsupported,
};
use crate::domain::message::{AccountName, Content, Platform};
use crate::domain::outgoing::{Outgoing, Target};

pub use super::wechat::account::PushConfig as WechatMpConfig;

/// Since 2023-06-12, developers.weixin.qq.com, "客服消息".
const QUOTAS: [Quota; 2] = [
    Quota { scene: Scene::Message, count: 5, window: Duration::from_secs(48 * 3_600) },
    Quota { scene: Scene::Menu, count: 3, window: Duration::from_secs(60) },
];

/// One bound 公众号.
#[derive(Debug)]
pub struct WechatMp {
    account: PushAccount,
    abilities: Abilities,
}

impl WechatMp {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WechatMpConfig) -> Result<Self, ConfigError> {
        let account = PushAccount::new(Platform::WechatMp, name, config)?;
        let send = account.can_send();
        let abilities = Abilities {
            passive_text: true,
            passive_transfer: true,
            passive_menu: true,
            asks_again: true,
            send,
            idempotent: false,
            typing: send,
            menu: send,
            media: send,
            text: account.text,
            quotas: QUOTAS.to_vec(),
        };
        Ok(Self { account, abilities })
    }
}

impl Channel for WechatMp {
    fn platform(&self) -> Platform {
        Platform::WechatMp
    }

    fn account(&self) -> &AccountName {
        &self.account.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn scene(&self, content: &Content) -> Option<Scene> {
        match content {
            Content::Text(_)
            | Content::Voice { .. }
            | Content::Attachment { .. }
            | Content::Unknown { .. } => Some(Scene::Message),
            Content::Choice { .. } => Some(Scene::Menu),
            Content::Event { name, .. } => match name.as_str() {
                "subscribe" | "SCAN" | "CLICK" | "scancode_push" | "scancode_waitmsg" => {
                    Some(Scene::Menu)
                }
                _ => None,
            },
        }
    }

    fn check_url(&self, callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        self.account.check_url(callback)
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        self.account.receive(callback)
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("success")
    }

    fn passive(
        &self,
        to: &ReplyAddress,
        what: &Outgoing,
        stamp: Stamp<'_>,
    ) -> Result<CallbackAnswer, ReplyError> {
        let limit = self.account.text;
        let text = match what {
            Outgoing::Text(text) => limit.fit(text),
            Outgoing::Menu(menu) => reply::menu_text(menu, limit),
            Outgoing::Transfer => {
                return self.account.answer(to, reply::transfer(to, stamp.seconds), stamp);
            }
            Outgoing::Typing { .. } | Outgoing::OnEvent { .. } => {
                return Err(Unsupported("not in an answer").into());
            }
        };
        // The platform answers an empty `Content` with its outage notice.
        let Some(text) = text else { return Ok(self.acknowledgement()) };
        self.account.answer(to, reply::text_message(to, &text, stamp.seconds), stamp)
    }

    fn token_request(&self, how: Refresh) -> Option<ApiRequest> {
        self.account.token_request(how)
    }

    fn read_token(&self, response: &ApiResponse) -> Result<Token, ApiFailure> {
        api::read_token(response)
    }

    fn send(
        &self,
        to: &Target,
        what: &Outgoing,
        with: &Sending<'_>,
    ) -> Result<ApiRequest, Unsupported> {
        let desk = custom::Desk {
            api_base: &self.account.api_base,
            typing_path: "/cgi-bin/message/custom/typing",
            menu: true,
            text: self.account.text,
        };
        desk.send(to, what, with.token.ok_or(Unsupported("no token"))?)
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        api::read(response).map(drop)
    }

    fn media(&self, reference: &str, token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        self.account.media(reference, token)
    }
}
