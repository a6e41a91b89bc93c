//! 支付宝生活号 (Alipay life account): signed form pushes, messages through the gateway.
//!
//! Protocol: docs.open.alipay.com/279/105937. A push is signed over the bytes of its own charset,
//! often GBK; only `sign` is left out of what is signed.

mod keys;
#[cfg(test)]
mod tests;
mod xml;

use std::collections::BTreeMap;
use std::time::Duration;

use encoding_rs::Encoding;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use self::keys::{PrivateKey, PublicKey};
use self::xml::Leaves;
use super::wechat::account::{check_id, text_limit};
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, ConfigError,
    FailureClass, Item, Push, PushError, Quota, Received, Refresh, Scene, Sending, Token,
    Unsupported, base_url, form,
};
use crate::base::clock::{UnixMs, format_beijing};
use crate::base::limits;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const GATEWAY: &str = "https://openapi.alipay.com/gateway.do";

const TEXT_BYTES: usize = 2_048;

/// Practice of other projects; the platform's pages do not name it, nor a count.
const WINDOW_S: u64 = 48 * 3_600;

/// Settings as the operator writes them; keys are PEM or bare base64.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlipayConfig {
    pub app_id: String,
    /// Ours: PKCS#8 or PKCS#1, 2048 to 4096 bits.
    pub private_key: SecretString,
    /// Alipay's, not the app's own.
    pub alipay_public_key: String,
    #[serde(default)]
    pub gateway: Option<String>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
    /// How long after a customer's message it may be answered, seconds.
    #[serde(default)]
    pub window_s: Option<u64>,
}

/// One 生活号.
#[derive(Debug)]
pub struct Alipay {
    name: AccountName,
    app_id: String,
    private_key: PrivateKey,
    alipay_public_key: PublicKey,
    gateway: String,
    abilities: Abilities,
}

impl Alipay {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &AlipayConfig) -> Result<Self, ConfigError> {
        check_id("app_id", &config.app_id)?;
        let window = Duration::from_secs(config.window_s.unwrap_or(WINDOW_S));
        let abilities = Abilities {
            passive_text: false,
            passive_transfer: false,
            passive_menu: false,
            asks_again: false,
            send: true,
            idempotent: false,
            typing: false,
            menu: false,
            media: false,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            quotas: vec![Quota { scene: Scene::Message, count: u32::MAX, window }],
        };
        Ok(Self {
            name,
            app_id: config.app_id.clone(),
            private_key: PrivateKey::parse(&config.private_key).ok_or(ConfigError {
                field: "private_key",
                reason: "must be an RSA key of 2048 to 4096 bits, PEM or base64",
            })?,
            alipay_public_key: PublicKey::parse(&config.alipay_public_key).ok_or(ConfigError {
                field: "alipay_public_key",
                reason: "must be an RSA key, PEM or base64",
            })?,
            gateway: base_url("gateway", config.gateway.as_deref(), GATEWAY)?,
            abilities,
        })
    }

    /// Whether the platform signed these parameters: all but `sign` in the order of their names.
    fn verify(&self, parameters: &Parameters) -> Result<(), PushError> {
        let sign = parameters.text("sign").ok_or(PushError::SignatureMismatch)?;
        if parameters.text("sign_type") != Some("RSA2") {
            return Err(PushError::Malformed("sign_type is not RSA2"));
        }
        // A `+` that was sent without being encoded arrives as a space.
        if self.alipay_public_key.verifies(&parameters.signed(), &sign.replace(' ', "+")) {
            Ok(())
        } else {
            Err(PushError::SignatureMismatch)
        }
    }

    /// What `alipay.service.check` waits for: our public key, signed.
    fn gateway_check(&self, charset: &str) -> Result<CallbackAnswer, PushError> {
        let public_key = self.private_key.public_key_base64();
        let response = format!("<success>true</success><biz_content>{public_key}</biz_content>");
        let sign = self.private_key.sign(response.as_bytes());
        let sign = sign.ok_or(PushError::Malformed("the answer cannot be signed"))?;
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"{charset}\"?><alipay><response>{response}</response>\
             <sign>{sign}</sign><sign_type>RSA2</sign_type></alipay>"
        );
        let content_type = "text/xml";
        Ok(CallbackAnswer { body: body.into_bytes(), content_type, headers: Vec::new() })
    }

    fn read(&self, message: &Leaves) -> Result<Push, PushError> {
        let sender = message.filled("FromAlipayUserId").or_else(|| message.filled("FromUserId"));
        let sender = sender.ok_or(PushError::Malformed("FromAlipayUserId"))?;
        if sender.len() > ID_BYTES || sender.contains(char::is_control) {
            return Err(PushError::Malformed("FromAlipayUserId"));
        }
        let created = message.filled("CreateTime").and_then(|text| text.parse().ok());
        let created: UnixMs = created.ok_or(PushError::Malformed("CreateTime"))?;
        let kind = message.filled("MsgType").ok_or(PushError::Malformed("MsgType"))?;
        let content = content(message, kind)?;
        let inbound = Inbound {
            platform: Platform::Alipay,
            account: self.name.clone(),
            sender: sender.to_owned(),
            dedupe_key: dedupe_key(message, created, &content, kind)?,
            sent_at: created,
            content,
        };
        let target = Target::customer(sender);
        Ok(Push { inbound, target, reply_address: None })
    }

    /// The common parameters of the gateway with a signature over all of them.
    fn call(&self, method: &str, content: &Value, now: UnixMs) -> Result<ApiRequest, Unsupported> {
        let (timestamp, content) = (format_beijing(now), content.to_string());
        let mut parameters = BTreeMap::from([
            ("app_id", self.app_id.as_str()),
            ("biz_content", &content),
            ("charset", "utf-8"),
            ("format", "JSON"),
            ("method", method),
            ("sign_type", "RSA2"),
            ("timestamp", &timestamp),
            ("version", "1.0"),
        ]);
        let pairs = parameters.iter().map(|(name, value)| format!("{name}={value}"));
        let signed = pairs.collect::<Vec<_>>().join("&");
        let sign = self.private_key.sign(signed.as_bytes());
        let sign = sign.ok_or(Unsupported("the request cannot be signed"))?;
        parameters.insert("sign", &sign);
        Ok(ApiRequest::post_form(self.gateway.clone(), parameters))
    }
}

/// Longest value that becomes part of a key, bytes.
const ID_BYTES: usize = 128;
const KEY_BYTES: usize = 2_048;

/// The parameters of a form, as bytes of its charset.
struct Parameters(BTreeMap<Vec<u8>, Vec<u8>>);

impl Parameters {
    fn read(body: &[u8]) -> Result<Self, PushError> {
        if body.len() > limits::BODY_BYTES {
            return Err(PushError::Malformed("body is too large"));
        }
        let mut parameters = BTreeMap::new();
        for (name, value) in form::decode(body) {
            if parameters.insert(name, value).is_some() {
                return Err(PushError::Malformed("a parameter comes twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter that is ASCII in every charset.
    fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.0.get(name.as_bytes())?).ok()
    }

    fn signed(&self) -> Vec<u8> {
        let mut signed = Vec::new();
        for (name, value) in self.0.iter().filter(|(name, _)| *name != b"sign") {
            if !signed.is_empty() {
                signed.push(b'&');
            }
            signed.extend_from_slice(name);
            signed.push(b'=');
            signed.extend_from_slice(value);
        }
        signed
    }

    /// What the platform calls the message, in its charset.
    fn content(&self, charset: &str) -> Result<String, PushError> {
        let encoding = Encoding::for_label(charset.as_bytes())
            .filter(|encoding| ["GBK", "gb18030", "UTF-8"].contains(&encoding.name()))
            .ok_or(PushError::Malformed("charset"))?;
        let bytes = self.0.get(&b"biz_content"[..]).ok_or(PushError::Malformed("biz_content"))?;
        let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
        text.map(Into::into).ok_or(PushError::Malformed("biz_content is not in its charset"))
    }
}

fn content(message: &Leaves, kind: &str) -> Result<Content, PushError> {
    Ok(match kind {
        "text" => {
            let text =
                message.get("Content").ok_or(PushError::Malformed("text without Content"))?;
            Content::Text(text.to_owned())
        }
        "image" => Content::Attachment {
            what: "image".to_owned(),
            reference: message.filled("MediaId").map(str::to_owned),
        },
        "event" => Content::Event {
            name: message.filled("EventType").ok_or(PushError::Malformed("EventType"))?.to_owned(),
            key: message.filled("ActionParam").map(str::to_owned),
        },
        other => Content::Unknown { what: other.to_owned() },
    })
}

/// Events carry no message id.
fn dedupe_key(
    message: &Leaves,
    created: UnixMs,
    content: &Content,
    kind: &str,
) -> Result<String, PushError> {
    let key = match (message.filled("MsgId"), content) {
        (Some(id), _) => format!("msg:{id}"),
        (None, Content::Event { name, key }) => {
            format!("event:{created}:{name}:{}", key.as_deref().unwrap_or_default())
        }
        (None, Content::Unknown { .. }) => format!("{kind}:{created}"),
        (
            None,
            Content::Text(_)
            | Content::Choice { .. }
            | Content::Voice { .. }
            | Content::Attachment { .. },
        ) => return Err(PushError::Malformed("MsgId")),
    };
    if key.len() > KEY_BYTES { Err(PushError::Malformed("MsgId")) } else { Ok(key) }
}

impl Channel for Alipay {
    fn platform(&self) -> Platform {
        Platform::Alipay
    }

    fn account(&self) -> &AccountName {
        &self.name
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// The window opens with whatever the customer does, as far as is known.
    fn scene(&self, content: &Content) -> Option<Scene> {
        (content.event() != Some("unfollow")).then_some(Scene::Message)
    }

    /// The platform checks an address with a POST; see [`Channel::receive`].
    fn check_url(&self, _callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        Err(PushError::Malformed("addresses are checked with a POST"))
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        let parameters = Parameters::read(callback.body)?;
        self.verify(&parameters)?;
        let charset = parameters.text("charset").unwrap_or("GBK");
        let message = xml::leaves(&parameters.content(charset)?)?;
        if message.filled("AppId").is_some_and(|app_id| app_id != self.app_id) {
            return Err(PushError::NotForUs);
        }
        let service = parameters.text("service").ok_or(PushError::Malformed("service"))?;
        if service == "alipay.service.check" {
            return self.gateway_check(charset).map(Received::Answer);
        }
        Ok(Received::Items(vec![Item::Push(self.read(&message)?)]))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("success")
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
        let text = what.words().ok_or(Unsupported("only texts"))?;
        let content = self.abilities.text.fit(text).ok_or(Unsupported("an empty text"))?;
        let content = json!({
            "to_user_id": to.customer,
            "msg_type": "text",
            "text": { "content": content },
            "chat": "1",
        });
        self.call("alipay.open.public.message.custom.send", &content, with.now)
    }

    /// The gateway's common codes: 10000 done, 20000 not available, everything else refused.
    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        let answer = response.json()?;
        let result = answer
            .get("alipay_open_public_message_custom_send_response")
            .or_else(|| answer.get("error_response"));
        let code = result.and_then(|r| r.get("code")).and_then(Value::as_str);
        let code: i64 = code.and_then(|c| c.parse().ok()).ok_or(ApiFailure::BROKEN)?;
        match code {
            10_000 => Ok(()),
            20_000 => Err(ApiFailure { class: FailureClass::Unclear, code }),
            _ => Err(ApiFailure { class: FailureClass::GiveUp, code }),
        }
    }

    fn media(&self, _reference: &str, _token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        Err(Unsupported("attachments are not fetched"))
    }
}
