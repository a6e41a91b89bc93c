//! 抖音 (Douyin) private messages: signed JSON webhooks, answers through the API.
//!
//! Protocol: developer.open-douyin.com, "webhooks"; how a message is sent is what three other
//! projects do alike, so that its path is a setting.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::json::{id, text};
use super::wechat::account::check_id;
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, Colleague,
    ConfigError, FailureClass, Item, Push, PushError, Quota, Received, Refresh, Renewal, Scene,
    Sending, TextLimit, Token, Unsupported, base_url, form,
};
use crate::base::digest::hex;
use crate::base::limits;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const API_BASE: &str = "https://open.douyin.com";
const SEND_PATH: &str = "/im/send/msg/";

const TEXT: TextLimit = TextLimit::Characters(1_000);

const QUOTAS: [Quota; 2] = [
    Quota { scene: Scene::Message, count: 6, window: Duration::from_secs(24 * 3_600) },
    Quota { scene: Scene::Enter, count: 3, window: Duration::from_secs(30) },
];

/// The platform's scenes, which a send has to name.
const REPLY: &str = "im_reply_msg";
const ENTER: &str = "im_enter_direct_msg";

/// Settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DouyinConfig {
    pub client_key: String,
    pub client_secret: SecretString,
    /// Of the Douyin account that customers write to.
    pub open_id: String,
    /// With it the account can send. It ends after 30 days and is renewed before, five times: then the
    /// account has to be authorised again.
    #[serde(default)]
    pub refresh_token: Option<SecretString>,
    #[serde(default)]
    pub api_base: Option<String>,
    #[serde(default)]
    pub send_path: Option<String>,
}

/// One Douyin account.
#[derive(Debug)]
pub struct Douyin {
    name: AccountName,
    client_key: String,
    client_secret: SecretString,
    open_id: String,
    refresh_token: Option<SecretString>,
    api_base: String,
    send_path: String,
    abilities: Abilities,
}

impl Douyin {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &DouyinConfig) -> Result<Self, ConfigError> {
        check_id("client_key", &config.client_key)?;
        check_id("open_id", &config.open_id)?;
        if config.client_secret.expose_secret().is_empty() {
            return Err(ConfigError { field: "client_secret", reason: "must not be empty" });
        }
        let send_path = config.send_path.as_deref().unwrap_or(SEND_PATH);
        if !send_path.starts_with('/') || send_path.contains(['?', '#', ' ']) {
            return Err(ConfigError {
                field: "send_path",
                reason: "must begin with / and be bare",
            });
        }
        let abilities = Abilities {
            passive_text: false,
            passive_transfer: false,
            passive_menu: false,
            asks_again: false,
            send: config.refresh_token.is_some(),
            idempotent: false,
            typing: false,
            menu: false,
            media: false,
            text: TEXT,
            quotas: QUOTAS.to_vec(),
        };
        Ok(Self {
            name,
            client_key: config.client_key.clone(),
            client_secret: config.client_secret.clone(),
            open_id: config.open_id.clone(),
            refresh_token: config.refresh_token.clone(),
            api_base: base_url("api_base", config.api_base.as_deref(), API_BASE)?,
            send_path: send_path.to_owned(),
            abilities,
        })
    }

    /// `X-Douyin-Signature`: SHA-1 over the client secret and the body as it came.
    fn verify(&self, callback: &Callback<'_>) -> Result<(), PushError> {
        let mut hasher = Sha1::new();
        hasher.update(self.client_secret.expose_secret().as_bytes());
        hasher.update(callback.body);
        let right = hex(&hasher.finalize());
        let given = callback.header("x-douyin-signature").unwrap_or_default();
        if bool::from(right.as_bytes().ct_eq(given.as_bytes())) {
            Ok(())
        } else {
            Err(PushError::SignatureMismatch)
        }
    }

    fn read(&self, told: &Told<'_>) -> Result<Item, PushError> {
        let (from, to) = (id(told.body, "from_user_id"), id(told.body, "to_user_id"));
        match told.event {
            "im_send_msg" if from.as_deref() == Some(&self.open_id) => self.echo(told, to),
            "im_receive_msg" if to.as_deref() == Some(&self.open_id) => {
                let target = told.target(from.ok_or(PushError::Malformed("from_user_id"))?);
                let message = id(&told.content, "server_message_id");
                let message = message.ok_or(PushError::Malformed("server_message_id"))?;
                let dedupe_key = format!("msg:{message}");
                Ok(self.push(told, target, dedupe_key, content(&told.content)?))
            }
            // For another account that the same app serves.
            "im_send_msg" | "im_receive_msg" => {
                Ok(Item::Notice(format!("{} of another", told.event)))
            }
            event => match from.filter(|from| *from != self.open_id) {
                Some(from) => {
                    let enter = (event == ENTER).then(|| ENTER.to_owned());
                    let target = Target { code: enter, ..told.target(from) };
                    let content = Content::Event { name: event.to_owned(), key: None };
                    Ok(self.push(told, target, told.dedupe_key()?, content))
                }
                None => Ok(Item::Notice(event.to_owned())),
            },
        }
    }

    /// A message of our side: of a person at Douyin's own desk, unless we sent it ourselves.
    fn echo(&self, told: &Told<'_>, to: Option<String>) -> Result<Item, PushError> {
        if text(&told.content, "source") == Some(&self.client_key) {
            return Ok(Item::Notice("our own message".to_owned()));
        }
        let message = id(&told.content, "server_message_id");
        Ok(Item::Colleague(Colleague {
            dedupe_key: format!(
                "msg:{}",
                message.ok_or(PushError::Malformed("server_message_id"))?
            ),
            at: told.at(),
            target: told.target(to.ok_or(PushError::Malformed("to_user_id"))?),
            servicer: None,
            content: content(&told.content)?,
        }))
    }

    fn push(&self, told: &Told<'_>, target: Target, dedupe_key: String, content: Content) -> Item {
        let inbound = Inbound {
            platform: Platform::Douyin,
            account: self.name.clone(),
            sender: target.customer.clone(),
            dedupe_key,
            sent_at: told.at(),
            content,
        };
        Item::Push(Push { inbound, target, reply_address: None })
    }
}

/// What a webhook tells.
struct Told<'a> {
    event: &'a str,
    body: &'a Value,
    content: Value,
    callback: &'a Callback<'a>,
}

impl Told<'_> {
    fn target(&self, customer: String) -> Target {
        Target {
            thread: id(&self.content, "conversation_short_id"),
            message: id(&self.content, "server_message_id"),
            ..Target::customer(customer)
        }
    }

    /// Milliseconds; some events carry no time.
    fn at(&self) -> i64 {
        let at = self.content.get("create_time").and_then(Value::as_i64);
        at.unwrap_or(self.callback.received_at)
    }

    /// By what is signed; the header, which is not, only where nothing else tells.
    fn dedupe_key(&self) -> Result<String, PushError> {
        let event = self.event;
        let named = ["create_time", "server_message_id"].map(|name| id(&self.content, name));
        let named: Vec<String> = named.into_iter().flatten().collect();
        if !named.is_empty() {
            return Ok(format!("event:{event}:{}", named.join(":")));
        }
        match self.callback.header("msg-id") {
            Some(id) if (1..=128).contains(&id.len()) => Ok(format!("event:{event}:{id}")),
            Some(_) | None => Err(PushError::Malformed("nothing tells this event from another")),
        }
    }
}

fn content(message: &Value) -> Result<Content, PushError> {
    let kind = text(message, "message_type").ok_or(PushError::Malformed("message_type"))?;
    let address = || text(message, "resource_url").map(str::to_owned);
    Ok(match kind {
        "text" => {
            let text = text(message, "text").ok_or(PushError::Malformed("text"))?;
            Content::Text(text.to_owned())
        }
        "image" | "emoji" | "video" => {
            Content::Attachment { what: kind.to_owned(), reference: address() }
        }
        "retain_consult_card" => {
            Content::Attachment { what: kind.to_owned(), reference: id(message, "card_id") }
        }
        other => Content::Unknown { what: other.to_owned() },
    })
}

impl Channel for Douyin {
    fn platform(&self) -> Platform {
        Platform::Douyin
    }

    fn account(&self) -> &AccountName {
        &self.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn scene(&self, content: &Content) -> Option<Scene> {
        match content.event() {
            None => Some(Scene::Message),
            Some(event) => (event == ENTER).then_some(Scene::Enter),
        }
    }

    /// The platform checks an address with a POST; see [`Channel::receive`].
    fn check_url(&self, _callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        Err(PushError::Malformed("addresses are checked with a POST"))
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        if callback.body.len() > limits::BODY_BYTES {
            return Err(PushError::Malformed("body is too large"));
        }
        self.verify(callback)?;
        const NOT_JSON: PushError = PushError::Malformed("body is not the JSON of a webhook");
        let body: Value = serde_json::from_slice(callback.body).map_err(|_| NOT_JSON)?;
        let event = text(&body, "event").ok_or(PushError::Malformed("event"))?;
        if text(&body, "client_key").is_some_and(|key| key != self.client_key) {
            return Err(PushError::NotForUs);
        }
        // An object, or the same as text.
        let content = match body.get("content") {
            Some(Value::String(text)) if text.is_empty() => Value::Null,
            Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| NOT_JSON)?,
            Some(content) => content.clone(),
            None => Value::Null,
        };
        if event == "verify_webhook" {
            let challenge = content.get("challenge").ok_or(PushError::Malformed("challenge"))?;
            return Ok(Received::Answer(CallbackAnswer::json(&json!({ "challenge": challenge }))));
        }
        let item = self.read(&Told { event, body: &body, content, callback })?;
        Ok(Received::Items(vec![item]))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("success")
    }

    fn token_request(&self, _how: Refresh) -> Option<ApiRequest> {
        Some(self.token_request_with(self.refresh_token.as_ref()?))
    }

    fn renewal(&self) -> Option<&dyn Renewal> {
        Some(self).filter(|channel| channel.refresh_token.is_some()).map(|own| own as &dyn Renewal)
    }

    fn read_token(&self, response: &ApiResponse) -> Result<Token, ApiFailure> {
        let answer = read(response)?;
        let data = answer.get("data").ok_or(ApiFailure::BROKEN)?;
        let value = text(data, "access_token").filter(|value| !value.is_empty());
        let seconds = data.get("expires_in").and_then(Value::as_u64);
        match (value, seconds) {
            (Some(value), Some(seconds)) => Ok(Token::new(value, seconds)),
            _ => Err(ApiFailure::BROKEN),
        }
    }

    fn send(
        &self,
        to: &Target,
        what: &Outgoing,
        with: &Sending<'_>,
    ) -> Result<ApiRequest, Unsupported> {
        let (text, scene) = match (what, what.words()) {
            (Outgoing::OnEvent { code, menu }, _) if menu.items.is_empty() => {
                (menu.head.as_str(), code.as_str())
            }
            (_, Some(words)) => (words, to.code.as_deref().unwrap_or(REPLY)),
            (_, None) => return Err(Unsupported("only texts")),
        };
        let text = TEXT.fit(text).ok_or(Unsupported("an empty text"))?;
        let conversation = to.thread.as_deref().ok_or(Unsupported("the conversation's id"))?;
        let message = to.message.as_deref().ok_or(Unsupported("the message's id"))?;
        let token = with.token.ok_or(Unsupported("no token"))?;
        let body = json!({
            "scene": scene,
            "msg_id": message,
            "conversation_id": conversation,
            "to_user_id": to.customer,
            "content": { "msg_type": 1, "text": { "text": text } },
        });
        let query = form::encode([("open_id", self.open_id.as_str())]);
        let url = format!("{}{}?{query}", self.api_base, self.send_path);
        let mut request = ApiRequest::post_json(url, &body);
        request.headers.push(("access-token", token.expose().to_owned()));
        Ok(request)
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        read(response).map(drop)
    }

    fn media(&self, _reference: &str, _token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        Err(Unsupported("attachments come as addresses"))
    }
}

impl Renewal for Douyin {
    fn configured(&self) -> &SecretString {
        // Without one there is no renewal.
        self.refresh_token.as_ref().unwrap_or(&self.client_secret)
    }

    fn token_request_with(&self, long_lived: &SecretString) -> ApiRequest {
        let url = format!("{}/oauth/refresh_token/", self.api_base);
        ApiRequest::post_form(
            url,
            [
                ("client_key", self.client_key.as_str()),
                ("grant_type", "refresh_token"),
                ("refresh_token", long_lived.expose_secret()),
            ],
        )
    }

    fn lifetime(&self, response: &ApiResponse) -> Option<Duration> {
        let answer = read(response).ok()?;
        answer.pointer("/data/refresh_expires_in")?.as_u64().map(Duration::from_secs)
    }

    fn renew(&self, long_lived: &SecretString) -> ApiRequest {
        let url = format!("{}/oauth/renew_refresh_token/", self.api_base);
        ApiRequest::post_form(
            url,
            [
                ("client_key", self.client_key.as_str()),
                ("refresh_token", long_lived.expose_secret()),
            ],
        )
    }

    fn read_renewed(&self, response: &ApiResponse) -> Result<SecretString, ApiFailure> {
        let answer = read(response)?;
        let renewed = answer.get("data").and_then(|data| text(data, "refresh_token"));
        renewed.filter(|token| !token.is_empty()).map(Into::into).ok_or(ApiFailure::BROKEN)
    }
}

/// The platform writes its code in one of several places; an answer without any is broken.
fn read(response: &ApiResponse) -> Result<Value, ApiFailure> {
    let answer = response.json()?;
    let places = [
        answer.pointer("/data/error_code"),
        answer.pointer("/extra/error_code"),
        answer.get("err_no"),
        answer.get("error_code"),
    ];
    let codes: Vec<i64> = places.into_iter().flatten().filter_map(Value::as_i64).collect();
    match codes.iter().copied().find(|code| *code != 0) {
        Some(code) => Err(ApiFailure { class: class(code), code }),
        None if codes.is_empty() => Err(ApiFailure::BROKEN),
        None => Ok(answer),
    }
}

fn class(code: i64) -> FailureClass {
    match code {
        // Busy by the old table and the new one, and called too often.
        2_100_004 | 28_001_005 | 28_003_018 => FailureClass::Retry,
        28_001_006 => FailureClass::Unclear,
        2_190_002 | 2_190_008 | 28_001_008 => FailureClass::RefreshToken,
        28_003_080 | 28_003_081 => FailureClass::WindowClosed,
        28_003_070 => FailureClass::QuotaUsed,
        _ => FailureClass::GiveUp,
    }
}

#[cfg(test)]
mod tests;
