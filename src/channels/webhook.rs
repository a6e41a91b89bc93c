//! Our own signed JSON, for every platform that has no channel of its own.
//!
//! In: a POST with `X-Huida-Timestamp` (Unix seconds) and `X-Huida-Signature`, the lower-case hex
//! HMAC-SHA256 of the timestamp, a full stop and the body. The body:
//!
//! ```json
//! {"id": "m-1", "customer": "c-1", "type": "text", "text": "多久发货"}
//! ```
//!
//! `type` is `text` (`text`), `choice` (`choice`: the tapped item's id, `text`), `voice` (`text`: the
//! transcript, or `url`), `event` (`event`: its name, `key`), or an attachment: `image`, `video`,
//! `file`, `location`, `link` (`url`). `thread` and `sent_at` (milliseconds) may stand beside them.
//! Anything else is kept and handed to a person.
//!
//! Out, signed alike: `{"reply": …}` in the answer, `null` if there is none yet; later the same object
//! in a POST to `reply_url`: `{"id": …, "customer": …, "type": "text", "text": …}`, where `type` may
//! also be `menu` (`text`, `items`, `tail`), `typing` (`on`) and `transfer`. The same `id` is the same
//! reply. A status below 300 says that it was taken, 409 that it had been before.

use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{id, text};
use super::wechat::account::text_limit;
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, BodyFormat, Callback, CallbackAnswer, Channel,
    ConfigError, FailureClass, Item, Push, PushError, Received, Refresh, ReplyAddress, ReplyError,
    Scene, Sending, Stamp, Token, Unsupported, base_url,
};
use crate::base::clock::UnixMs;
use crate::base::digest::hex;
use crate::base::limits;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const TIMESTAMP: &str = "x-huida-timestamp";
const SIGNATURE: &str = "x-huida-signature";

const REPLAY_WINDOW_S: u64 = 300;
const TEXT_BYTES: usize = 4_096;

/// Settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    pub secret: SecretString,
    /// With it the account can send.
    #[serde(default)]
    pub reply_url: Option<String>,
    /// Seconds that a timestamp may lie from our time.
    #[serde(default)]
    pub replay_window_s: Option<u64>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
}

/// One system on the other side.
#[derive(Debug)]
pub struct Webhook {
    name: AccountName,
    secret: SecretString,
    reply_url: Option<String>,
    replay_window_s: u64,
    abilities: Abilities,
}

/// A POST that is signed as this channel's are, for other systems that share a secret with us.
pub fn signed_post(url: &str, secret: &SecretString, seconds: i64, body: &Value) -> ApiRequest {
    let mut request = ApiRequest::post_json(url.to_owned(), body);
    request.headers.extend(signed(secret, seconds, &request.body));
    request
}

fn key(secret: &SecretString) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
}

fn signed(secret: &SecretString, seconds: i64, body: &[u8]) -> [(&'static str, String); 2] {
    let timestamp = seconds.to_string();
    let whole = [timestamp.as_bytes(), b".", body].concat();
    let signature = hex(hmac::sign(&key(secret), &whole).as_ref());
    [(TIMESTAMP, timestamp), (SIGNATURE, signature)]
}

impl Webhook {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WebhookConfig) -> Result<Self, ConfigError> {
        if config.secret.expose_secret().len() < 16 {
            let reason = "must have at least 16 characters";
            return Err(ConfigError { field: "secret", reason });
        }
        let reply_url = match config.reply_url.as_deref() {
            Some(url) => Some(base_url("reply_url", Some(url), url)?),
            None => None,
        };
        let send = reply_url.is_some();
        let abilities = Abilities {
            passive_text: true,
            passive_transfer: true,
            passive_menu: true,
            asks_again: false,
            send,
            idempotent: true,
            typing: send,
            menu: send,
            media: false,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            quotas: Vec::new(),
        };
        let replay_window_s = config.replay_window_s.unwrap_or(REPLAY_WINDOW_S);
        Ok(Self { name, secret: config.secret.clone(), reply_url, replay_window_s, abilities })
    }

    fn key(&self) -> hmac::Key {
        key(&self.secret)
    }

    fn verify(&self, callback: &Callback<'_>) -> Result<(), PushError> {
        let timestamp = callback.header(TIMESTAMP).ok_or(PushError::SignatureMismatch)?;
        let given = callback.header(SIGNATURE).ok_or(PushError::SignatureMismatch)?;
        let given = unhex(given).ok_or(PushError::SignatureMismatch)?;
        let signed = [timestamp.as_bytes(), b".", callback.body].concat();
        // In a time that does not tell how much of it was right.
        hmac::verify(&self.key(), &signed, &given).map_err(|_| PushError::SignatureMismatch)?;
        let seconds: i64 =
            timestamp.parse().map_err(|_| PushError::Malformed("timestamp is no number"))?;
        let apart = (callback.received_at / 1_000).abs_diff(seconds);
        if apart <= self.replay_window_s { Ok(()) } else { Err(PushError::Stale) }
    }

    /// The two headers that a body goes out with.
    fn sign(&self, seconds: i64, body: &[u8]) -> [(&'static str, String); 2] {
        signed(&self.secret, seconds, body)
    }

    fn read(&self, message: &Value, received_at: UnixMs) -> Result<Push, PushError> {
        let customer = id(message, "customer").ok_or(PushError::Malformed("customer"))?;
        let message_id = id(message, "id").ok_or(PushError::Malformed("id"))?;
        let inbound = Inbound {
            platform: Platform::Webhook,
            account: self.name.clone(),
            sender: customer.clone(),
            dedupe_key: format!("msg:{message_id}"),
            sent_at: message.get("sent_at").and_then(Value::as_i64).unwrap_or(received_at),
            content: content(message)?,
        };
        let target = Target {
            thread: id(message, "thread"),
            message: Some(message_id),
            ..Target::customer(customer.clone())
        };
        let us = String::new();
        let address = ReplyAddress { customer, us, format: BodyFormat::Json, key: None };
        Ok(Push { inbound, target, reply_address: Some(address) })
    }

    /// What is said or done, as the other side reads it.
    fn body(&self, what: &Outgoing) -> Result<Value, Unsupported> {
        let fit = |text: &str| self.abilities.text.fit(text);
        match what {
            Outgoing::Text(text) => {
                let text = fit(text).ok_or(Unsupported("an empty text"))?;
                Ok(json!({ "type": "text", "text": text }))
            }
            Outgoing::Menu(menu) => {
                let items = menu.items.iter();
                let items = items.map(|item| json!({ "id": item.id, "text": item.text }));
                Ok(json!({
                    "type": "menu",
                    "text": fit(&menu.head).unwrap_or_default(),
                    "items": items.collect::<Vec<_>>(),
                    "tail": fit(&menu.tail).unwrap_or_default(),
                }))
            }
            Outgoing::Typing { on } => Ok(json!({ "type": "typing", "on": on })),
            Outgoing::Transfer => Ok(json!({ "type": "transfer" })),
            Outgoing::OnEvent { .. } => Err(Unsupported("events bring no code")),
        }
    }

    fn answer(&self, reply: &Value, seconds: i64) -> CallbackAnswer {
        let mut answer = CallbackAnswer::json(&json!({ "reply": reply }));
        answer.headers = self.sign(seconds, &answer.body).into();
        answer
    }
}

fn content(message: &Value) -> Result<Content, PushError> {
    let kind = text(message, "type").ok_or(PushError::Malformed("type"))?;
    let part = |name: &str| text(message, name).map(str::to_owned);
    let said = || part("text").ok_or(PushError::Malformed("text"));
    Ok(match kind {
        "text" => Content::Text(said()?),
        "choice" => {
            let id = id(message, "choice").ok_or(PushError::Malformed("choice"))?;
            Content::Choice { id, text: said()? }
        }
        "voice" => match part("text").filter(|text| !text.is_empty()) {
            Some(transcript) => Content::Voice { transcript: Some(transcript) },
            None => Content::Attachment { what: kind.to_owned(), reference: part("url") },
        },
        "event" => Content::Event {
            name: id(message, "event").ok_or(PushError::Malformed("event"))?,
            key: part("key"),
        },
        "image" | "video" | "file" | "location" | "link" => {
            Content::Attachment { what: kind.to_owned(), reference: part("url") }
        }
        other => Content::Unknown { what: other.to_owned() },
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

impl Channel for Webhook {
    fn platform(&self) -> Platform {
        Platform::Webhook
    }

    fn account(&self) -> &AccountName {
        &self.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// No quotas of ours; the other side knows its own.
    fn scene(&self, _content: &Content) -> Option<Scene> {
        Some(Scene::Message)
    }

    fn check_url(&self, _callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        Err(PushError::Malformed("addresses are not checked"))
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        if callback.body.len() > limits::BODY_BYTES {
            return Err(PushError::Malformed("body is too large"));
        }
        self.verify(callback)?;
        let message: Value = serde_json::from_slice(callback.body)
            .map_err(|_| PushError::Malformed("body is not JSON"))?;
        let push = self.read(&message, callback.received_at)?;
        Ok(Received::Items(vec![Item::Push(push)]))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::json(&json!({ "reply": null }))
    }

    fn passive(
        &self,
        _to: &ReplyAddress,
        what: &Outgoing,
        stamp: Stamp<'_>,
    ) -> Result<CallbackAnswer, ReplyError> {
        if let Outgoing::Text(text) = what
            && self.abilities.text.fit(text).is_none()
        {
            return Ok(self.acknowledgement());
        }
        Ok(self.answer(&self.body(what)?, stamp.seconds))
    }

    fn token_request(&self, _how: Refresh) -> Option<ApiRequest> {
        None
    }

    fn read_token(&self, _response: &ApiResponse) -> Result<Token, ApiFailure> {
        Err(ApiFailure::BROKEN)
    }

    fn send(
        &self,
        to: &Target,
        what: &Outgoing,
        with: &Sending<'_>,
    ) -> Result<ApiRequest, Unsupported> {
        let url = self.reply_url.clone().ok_or(Unsupported("no reply_url"))?;
        let mut body = self.body(what)?;
        body["id"] = with.key.as_str().into();
        body["customer"] = to.customer.as_str().into();
        for (name, value) in [("thread", &to.thread), ("message", &to.message)] {
            if let Some(value) = value {
                body[name] = value.as_str().into();
            }
        }
        let mut request = ApiRequest::post_json(url, &body);
        request.headers.extend(self.sign(with.now / 1_000, &request.body));
        Ok(request)
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        let class = match response.status {
            200..300 | 409 => return Ok(()),
            408 | 425 | 429 => FailureClass::Retry,
            500.. => FailureClass::Unclear,
            _ => FailureClass::GiveUp,
        };
        Err(ApiFailure { class, code: i64::from(response.status) })
    }

    fn media(&self, _reference: &str, _token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        Err(Unsupported("attachments come as addresses"))
    }
}

#[cfg(test)]
mod tests;
