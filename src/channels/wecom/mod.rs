//! 企业微信: callbacks of an app or a bot, passive replies, messages to members.
//!
//! Protocol: developer.work.weixin.qq.com, paths 91144 (apps) and 101033 (bots). A bot has no corp
//! id: its messages end in nothing, and come and go as JSON.

mod bot;
#[cfg(test)]
mod tests;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::wechat::account::{answer, check_id, media, text_limit};
use super::wechat::fields::{Field, Fields};
use super::wechat::{Credentials, PushQuery, Secrets, api, inbound, push};
use super::wechat_mp::reply;
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, BodyFormat, Callback, CallbackAnswer, Channel,
    ConfigError, FailureClass, Item, Push, PushError, Received, Refresh, ReplyAddress, ReplyError,
    Scene, Sending, Stamp, Token, Unsupported, base_url,
};
use crate::domain::message::{AccountName, Content, Platform};
use crate::domain::outgoing::{Outgoing, Target};

pub(super) const API_BASE: &str = "https://qyapi.weixin.qq.com";

const TEXT_BYTES: usize = 2_048;

/// An app's, or a bot's, settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WecomConfig {
    pub token: SecretString,
    /// The receiver in every message: the corp id, a suite's id, empty for a bot.
    pub corp_id: String,
    /// Needed to send.
    #[serde(default)]
    pub agent_id: Option<AgentId>,
    /// 43 characters from the console.
    pub encoding_aes_key: SecretString,
    #[serde(default)]
    pub previous_encoding_aes_key: Option<SecretString>,
    /// With it the account can send.
    #[serde(default)]
    pub secret: Option<SecretString>,
    #[serde(default)]
    pub api_base: Option<String>,
    /// Seconds that a callback's timestamp may lie from our time; without it, any.
    #[serde(default)]
    pub replay_window_s: Option<u64>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
}

/// A number that the environment can only give as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum AgentId {
    Number(u64),
    Text(String),
}

impl AgentId {
    fn number(&self) -> Result<u64, ConfigError> {
        let reason = "must be the number shown in the console";
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) => text.parse().map_err(|_| ConfigError { field: "agent_id", reason }),
        }
    }
}

/// What sends messages to members.
#[derive(Debug)]
struct Sender {
    corp_id: String,
    secret: SecretString,
    agent_id: u64,
}

/// One app or bot.
#[derive(Debug)]
pub struct Wecom {
    name: AccountName,
    credentials: Credentials,
    sender: Option<Sender>,
    api_base: String,
    abilities: Abilities,
}

impl Wecom {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WecomConfig) -> Result<Self, ConfigError> {
        if !config.corp_id.is_empty() {
            check_id("corp_id", &config.corp_id)?;
        }
        let credentials = Credentials::new(&Secrets {
            token: &config.token,
            receiver: &config.corp_id,
            encoding_aes_key: Some(&config.encoding_aes_key),
            previous_encoding_aes_key: config.previous_encoding_aes_key.as_ref(),
            replay_window_s: config.replay_window_s,
        })?;
        let sender = sender(config)?;
        let send = sender.is_some();
        let abilities = Abilities {
            passive_text: true,
            passive_transfer: false,
            passive_menu: false,
            asks_again: true,
            send,
            idempotent: false,
            typing: false,
            menu: false,
            media: send,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            quotas: Vec::new(),
        };
        let api_base = base_url("api_base", config.api_base.as_deref(), API_BASE)?;
        Ok(Self { name, credentials, sender, api_base, abilities })
    }

    fn read(&self, opened: &push::Opened, callback: &Callback<'_>) -> Result<Item, PushError> {
        let (format, fields) = Fields::parse(&opened.message)?;
        if format == BodyFormat::Json && fields.get(Field::FromUserName).is_none() {
            let (key, received_at) = (opened.key, callback.received_at);
            return bot::read(&opened.message, &self.name, key, received_at).map(Item::Push);
        }
        if fields.is_no_message() {
            return Ok(Item::Notice("a callback that is no message".to_owned()));
        }
        let message = inbound::read(&fields, Platform::Wecom, &self.name)?;
        let address = ReplyAddress {
            customer: message.sender.clone(),
            us: inbound::receiver(&fields)?.to_owned(),
            format: opened.format,
            key: opened.key,
        };
        Ok(Item::Push(Push {
            target: Target::customer(message.sender.clone()),
            inbound: message,
            reply_address: Some(address),
        }))
    }
}

fn sender(config: &WecomConfig) -> Result<Option<Sender>, ConfigError> {
    let Some(secret) = config.secret.clone() else { return Ok(None) };
    check_id("corp_id", &config.corp_id)?;
    let missing = ConfigError { field: "agent_id", reason: "is needed beside secret" };
    let agent_id = config.agent_id.as_ref().ok_or(missing)?.number()?;
    Ok(Some(Sender { corp_id: config.corp_id.clone(), secret, agent_id }))
}

impl Channel for Wecom {
    fn platform(&self) -> Platform {
        Platform::Wecom
    }

    fn account(&self) -> &AccountName {
        &self.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Members of the company can be written to at any time.
    fn scene(&self, _content: &Content) -> Option<Scene> {
        Some(Scene::Message)
    }

    fn check_url(&self, callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        let query = PushQuery::parse(callback.query)?;
        self.credentials.echo_decrypted(&query, callback.received_at)
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        let opened = push::open_corp(&self.credentials, callback)?;
        Ok(Received::Items(vec![self.read(&opened, callback)?]))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("")
    }

    fn passive(
        &self,
        to: &ReplyAddress,
        what: &Outgoing,
        stamp: Stamp<'_>,
    ) -> Result<CallbackAnswer, ReplyError> {
        let text = what.words().ok_or(Unsupported("not in an answer"))?;
        let Some(text) = self.abilities.text.fit(text) else { return Ok(self.acknowledgement()) };
        match to.format {
            BodyFormat::Xml => {
                let message = reply::text_message(to, &text, stamp.seconds);
                answer(&self.credentials, to.key, to.format, message, stamp)
            }
            BodyFormat::Json => {
                let key = to.key.ok_or(ReplyError::KeyGone)?;
                let message = bot::text_message(&text, stamp.nonce);
                let body = self.credentials.seal(key, &message, stamp)?.render_for_bot();
                let content_type = "application/json; charset=utf-8";
                Ok(CallbackAnswer { body: body.into_bytes(), content_type, headers: Vec::new() })
            }
        }
    }

    fn token_request(&self, _how: Refresh) -> Option<ApiRequest> {
        let sender = self.sender.as_ref()?;
        Some(api::corp_token_request(&self.api_base, &sender.corp_id, &sender.secret))
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
        let text = what.words().ok_or(Unsupported("only texts"))?;
        let sender = self.sender.as_ref().ok_or(Unsupported("no secret"))?;
        let content = self.abilities.text.fit(text).ok_or(Unsupported("an empty text"))?;
        let token = with.token.ok_or(Unsupported("no token"))?;
        let body = json!({
            "touser": to.customer,
            "msgtype": "text",
            "agentid": sender.agent_id,
            "text": { "content": content },
        });
        Ok(ApiRequest::post_json(api::url(&self.api_base, "/cgi-bin/message/send", token), &body))
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        let answer = api::read_with(response, api::corp_class)?;
        // Success with the only receiver listed as one that cannot be reached.
        let unreached = |name: &str| answer.get(name).is_some_and(|list| list != "");
        if unreached("invaliduser") || unreached("unlicenseduser") {
            return Err(ApiFailure { class: FailureClass::GiveUp, code: ALL_INVALID });
        }
        Ok(())
    }

    fn media(&self, reference: &str, token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        media(&self.api_base, reference, token)
    }
}

/// The platform's own code for "none of the receivers is valid".
const ALL_INVALID: i64 = 81_013;
