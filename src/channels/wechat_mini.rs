//! 小程序客服 (mini program customer service): the same push as 公众号, answers by 客服消息 only.

use std::time::Duration;

use super::wechat::account::PushAccount;
use super::wechat::{api, custom};
use super::wechat_mp::{WechatMpConfig, reply};
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, ConfigError,
    PushError, Quota, Received, Refresh, ReplyAddress, ReplyError, Scene, Sending, Stamp, Token,
    Unsupported,
};
use crate::domain::message::{AccountName, Content, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const QUOTAS: [Quota; 2] = [
    Quota { scene: Scene::Message, count: 5, window: Duration::from_secs(48 * 3_600) },
    Quota { scene: Scene::Enter, count: 2, window: Duration::from_secs(60) },
];

/// One bound 小程序.
#[derive(Debug)]
pub struct WechatMini {
    account: PushAccount,
    abilities: Abilities,
}

impl WechatMini {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WechatMpConfig) -> Result<Self, ConfigError> {
        let account = PushAccount::new(Platform::WechatMini, name, config)?;
        let send = account.can_send();
        let abilities = Abilities {
            passive_text: false,
            passive_transfer: true,
            passive_menu: false,
            asks_again: true,
            send,
            idempotent: false,
            typing: send,
            menu: false,
            media: send,
            text: account.text,
            quotas: QUOTAS.to_vec(),
        };
        Ok(Self { account, abilities })
    }
}

impl Channel for WechatMini {
    fn platform(&self) -> Platform {
        Platform::WechatMini
    }

    fn account(&self) -> &AccountName {
        &self.account.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn scene(&self, content: &Content) -> Option<Scene> {
        match content.event() {
            None => Some(Scene::Message),
            Some(event) => (event == "user_enter_tempsession").then_some(Scene::Enter),
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
        match what {
            Outgoing::Transfer => {
                self.account.answer(to, reply::transfer(to, stamp.seconds), stamp)
            }
            Outgoing::Text(_)
            | Outgoing::Menu(_)
            | Outgoing::Typing { .. }
            | Outgoing::OnEvent { .. } => Err(Unsupported("not in an answer").into()),
        }
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
            typing_path: "/cgi-bin/message/custom/business/typing",
            menu: false,
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

#[cfg(test)]
mod tests;
