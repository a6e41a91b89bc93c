//! 微信小店 and 视频号客服 (`commkf`): JSON pushes, answers through the API.
//!
//! Protocol: developers.weixin.qq.com/doc/store/shop. What an older route pushes (entering a
//! session, after-sales, complaints, orders) has the fields of 公众号 and is kept as events.

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{id, text, text_at};
use super::wechat::account::{API_BASE, check_id, text_limit};
use super::wechat::fields::{Field, Fields};
use super::wechat::{Credentials, PushQuery, Secrets, api, inbound, push};
use super::{
    Abilities, ApiFailure, ApiRequest, ApiResponse, Callback, CallbackAnswer, Channel, ConfigError,
    Item, Push, PushError, Received, Refresh, Scene, Sending, Token, Unsupported, base_url,
};
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::{Outgoing, Target};

const TEXT_BYTES: usize = 2_048;

/// Settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WechatShopConfig {
    pub token: SecretString,
    pub app_id: String,
    /// 43 characters from the console.
    pub encoding_aes_key: SecretString,
    #[serde(default)]
    pub previous_encoding_aes_key: Option<SecretString>,
    pub app_secret: SecretString,
    #[serde(default)]
    pub api_base: Option<String>,
    /// Seconds that a callback's timestamp may lie from our time; without it, any.
    #[serde(default)]
    pub replay_window_s: Option<u64>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
}

/// One shop.
#[derive(Debug)]
pub struct WechatShop {
    name: AccountName,
    credentials: Credentials,
    app_secret: SecretString,
    api_base: String,
    abilities: Abilities,
}

impl WechatShop {
    /// Checks the configuration; the error names the field.
    pub fn new(name: AccountName, config: &WechatShopConfig) -> Result<Self, ConfigError> {
        check_id("app_id", &config.app_id)?;
        let credentials = Credentials::new(&Secrets {
            token: &config.token,
            receiver: &config.app_id,
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
            menu: false,
            media: false,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            quotas: Vec::new(),
        };
        let api_base = base_url("api_base", config.api_base.as_deref(), API_BASE)?;
        Ok(Self { name, credentials, app_secret: config.app_secret.clone(), api_base, abilities })
    }
}

impl Channel for WechatShop {
    fn platform(&self) -> Platform {
        Platform::WechatShop
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
            Some(event) => (event == "user_enter_tempsession").then_some(Scene::Enter),
        }
    }

    fn check_url(&self, callback: &Callback<'_>) -> Result<CallbackAnswer, PushError> {
        let query = PushQuery::parse(callback.query)?;
        self.credentials.echo(&query, callback.received_at).map(CallbackAnswer::text)
    }

    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError> {
        let query = PushQuery::parse(callback.query)?;
        let (body, now) = (callback.body, callback.received_at);
        let opened = push::open(&self.credentials, true, &query, body, now)?;
        let (_, fields) = Fields::parse(&opened.message)?;
        let inbound = match fields.get(Field::Event) {
            Some("commkf_send_msg_to_kf") => read(&opened.message, &fields, &self.name)?,
            Some(_) | None => inbound::read(&fields, Platform::WechatShop, &self.name)?,
        };
        let target = Target::customer(inbound.sender.clone());
        Ok(Received::Items(vec![Item::Push(Push { inbound, target, reply_address: None })]))
    }

    fn acknowledgement(&self) -> CallbackAnswer {
        CallbackAnswer::text("success")
    }

    fn token_request(&self, how: Refresh) -> Option<ApiRequest> {
        let app_id = self.credentials.receiver();
        Some(api::stable_token_request(&self.api_base, app_id, &self.app_secret, how))
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
        let content = self.abilities.text.fit(text).ok_or(Unsupported("an empty text"))?;
        let token = with.token.ok_or(Unsupported("no token"))?;
        let body = json!({
            "request_id": with.key.as_str(),
            "open_id": to.customer,
            "msg_type": "text",
            "text": { "content": content },
        });
        let url = api::url(&self.api_base, "/channels/ec/commkf/sendmsg", token);
        Ok(ApiRequest::post_json(url, &body))
    }

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure> {
        api::read(response).map(drop)
    }

    fn media(&self, _reference: &str, _token: Option<&Token>) -> Result<ApiRequest, Unsupported> {
        Err(Unsupported("attachments come as addresses"))
    }
}

/// A customer's message: `msg_id`, `msg_type`, and an object named after the type.
fn read(message: &[u8], fields: &Fields, account: &AccountName) -> Result<Inbound, PushError> {
    let message: Value = serde_json::from_slice(message)
        .map_err(|_| PushError::Malformed("the message is not JSON"))?;
    let sender = id(&message, "FromUserName").ok_or(PushError::Malformed("FromUserName"))?;
    let msg_id = id(&message, "msg_id").ok_or(PushError::Malformed("msg_id"))?;
    let kind = text(&message, "msg_type").ok_or(PushError::Malformed("msg_type"))?;
    let event = text(&message, "msg_event").filter(|event| *event != "EVENT_TYPE_SEND_MSG");
    let content = match event {
        Some(event) => Content::Event { name: event.to_owned(), key: None },
        None => content(&message, kind)?,
    };
    Ok(Inbound {
        platform: Platform::WechatShop,
        account: account.clone(),
        sender,
        dedupe_key: format!("msg:{msg_id}"),
        sent_at: inbound::created(fields)?.saturating_mul(1_000),
        content,
    })
}

fn content(message: &Value, kind: &str) -> Result<Content, PushError> {
    let part = |name: &str| text_at(message, &[kind, name]).map(str::to_owned);
    let named = |name: &str| message.get(kind).and_then(|body| id(body, name));
    let attachment =
        |what: &str, reference| Content::Attachment { what: what.to_owned(), reference };
    let file = || part("url").or_else(|| part("cos_url")).or_else(|| part("media_id"));
    Ok(match kind {
        "text" => Content::Text(part("content").ok_or(PushError::Malformed("text.content"))?),
        "image" | "video" | "file" | "voice" => attachment(kind, file()),
        "product_share" => attachment("product", named("product_id")),
        "order_share" => attachment("order", named("order_id")),
        other => Content::Unknown { what: other.to_owned() },
    })
}

#[cfg(test)]
mod tests;
