//! 微信客服: a callback only tells that messages lie ready; they are fetched, answered and handed
//! over through the API.
//!
//! Protocol: developer.work.weixin.qq.com, paths 94670, 94677, 94669, 95122.

mod page;
mod send;
#[cfg(test)]
mod tests;

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::wechat::account::{check_id, media, text_limit};
use super::wechat::fields::{Field, Fields};
use super::wechat::{Credentials, PushQuery, Secrets, api, push};
use super::wecom::API_BASE;
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, ConfigError,
    Item, Page, Pull, PushError, Quota, Ready, Received, Refresh, Scene, Sending, Session,
    SessionState, Sessions, Token, Unsupported, base_url, json as members,
};
use crate::base::limits::PAGE_MESSAGES;
use crate::domain::message::{AccountName, Content, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const TEXT_BYTES: usize = 2_048;

const QUOTA: Quota =
    Quota { scene: Scene::Message, count: 5, window: Duration::from_secs(48 * 3_600) };

/// Settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WechatKfConfig {
    pub token: SecretString,
    pub corp_id: String,
    /// 43 characters from the console.
    pub encoding_aes_key: SecretString,
    #[serde(default)]
    pub previous_encoding_aes_key: Option<SecretString>,
    /// Of the app that may call 微信客服's API.
    pub secret: SecretString,
    #[serde(default)]
    pub api_base: Option<String>,
    /// Seconds that a callback's timestamp may lie from our time; without it, any.
    #[serde(default)]
    pub replay_window_s: Option<u64>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
}

/// The 微信客服 of one company; its desks (`open_kfid`) are threads.
#[derive(Debug)]
pub struct WechatKf {
    name: AccountName,
    credentials: Credentials,
    secret: SecretString,
    api_base: String,
    abilities: Abilities,
}

impl WechatKf {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WechatKfConfig) -> Result<Self, ConfigError> {
        check_id("corp_id", &config.corp_id)?;
        let credentials = Credentials::new(&Secrets {
            token: &config.token,
            receiver: &config.corp_id,
            encoding_aes_key: Some(&config.encoding_aes_key),
            previous_encoding_aes_key: config.previous_encoding_aes_key.as_ref(),
            replay_window_s: config.replay_window_s,
        })?;
        let abilities = Abilities {
            passive_text: false,
            passive_transfer: false,
            passive_menu: false,
            asks_again: false,
            send: true,
            idempotent: true,
            typing: false,
            menu: true,
            media: true,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            quotas: vec![QUOTA],
        };
        let api_base = base_url("api_base", config.api_base.as_deref(), API_BASE)?;
        Ok(Self { name, credentials, secret: config.secret.clone(), api_base, abilities })
    }

    fn post(&self, path: &str, token: &Token, body: &Value) -> ApiRequest {
        ApiRequest::post_json(api::url(&self.api_base, path, token), body)
    }
}

impl Channel for WechatKf {
    fn platform(&self) -> Platform {
        Platform::WechatKf
    }

    fn account(&self) -> &AccountName {
        &self.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Events are answered by their code alone.
    fn scene(&self, content: &Content) -> Option<Scene> {
        content.event().is_none().then_some(Scene::Message)
    }

    fn check_url(&self, callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        let query = PushQuery::parse(callback.query)?;
        self.credentials.echo_decrypted(&query, callback.received_at)
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        let opened = push::open_corp(&self.credentials, callback)?;
        let (_, fields) = Fields::parse(&opened.message)?;
        let event = fields.filled(Field::Event).ok_or(PushError::Malformed("Event"))?;
        if event != "kf_msg_or_event" {
            return Ok(Received::Items(vec![Item::Notice(event.to_owned())]));
        }
        let thread = fields.filled(Field::OpenKfId).ok_or(PushError::Malformed("OpenKfId"))?;
        let permit = fields.filled(Field::Token).ok_or(PushError::Malformed("Token"))?;
        Ok(Received::Ready(Ready { thread: thread.to_owned(), permit: Some(permit.to_owned()) }))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("")
    }

    fn token_request(&self, _how: Refresh) -> Option<ApiRequest> {
        let corp_id = self.credentials.receiver();
        Some(api::corp_token_request(&self.api_base, corp_id, &self.secret))
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
        let token = with.token.ok_or(Unsupported("no token"))?;
        if *what == Outgoing::Transfer {
            return self.transition(to, SessionState::Waiting, None, token);
        }
        let (path, body) = send::message(to, what, with.key, self.abilities.text)?;
        Ok(self.post(path, token, &body))
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        api::read_with(response, api::corp_class).map(drop)
    }

    fn media(&self, reference: &str, token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        media(&self.api_base, reference, token)
    }

    fn pull(&self) -> Option<&dyn Pull> {
        Some(self)
    }

    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }
}

impl Pull for WechatKf {
    fn fetch(&self, ready: &Ready, cursor: &str, token: &Token) -> ApiRequest {
        let mut body =
            json!({ "limit": PAGE_MESSAGES, "voice_format": 0, "open_kfid": ready.thread });
        if !cursor.is_empty() {
            body["cursor"] = cursor.into();
        }
        if let Some(permit) = &ready.permit {
            body["token"] = permit.as_str().into();
        }
        self.post("/cgi-bin/kf/sync_msg", token, &body)
    }

    fn read_page(&self, response: &ApiResponse) -> Result<Page, ApiFailure> {
        page::read(&api::read_with(response, api::corp_class)?, &self.name)
    }
}

impl Sessions for WechatKf {
    fn state_request(&self, of: &Target, token: &Token) -> Result<ApiRequest, Unsupported> {
        let body = json!({ "open_kfid": send::desk(of)?, "external_userid": of.customer });
        Ok(self.post("/cgi-bin/kf/service_state/get", token, &body))
    }

    fn read_state(&self, response: &ApiResponse) -> Result<Session, ApiFailure> {
        let answer = api::read_with(response, api::corp_class)?;
        let number = answer.get("service_state").and_then(Value::as_u64);
        let state = number.and_then(SessionState::of_number).ok_or(ApiFailure::BROKEN)?;
        Ok(Session { state, servicer: members::id(&answer, "servicer_userid") })
    }

    fn transition(
        &self,
        of: &Target,
        to: SessionState,
        servicer: Option<&str>,
        token: &Token,
    ) -> Result<ApiRequest, Unsupported> {
        let mut body = json!({
            "open_kfid": send::desk(of)?,
            "external_userid": of.customer,
            "service_state": to.number(),
        });
        match (to, servicer) {
            (SessionState::Person, Some(servicer)) => body["servicer_userid"] = servicer.into(),
            (SessionState::Person, None) => return Err(Unsupported("no person is named")),
            (
                SessionState::Unhandled
                | SessionState::Assistant
                | SessionState::Waiting
                | SessionState::Ended,
                _,
            ) => {}
        }
        Ok(self.post("/cgi-bin/kf/service_state/trans", token, &body))
    }

    fn read_transition(&self, response: &ApiResponse) -> Result<Option<String>, ApiFailure> {
        let answer = api::read_with(response, api::corp_class)?;
        Ok(members::id(&answer, "msg_code"))
    }
}
