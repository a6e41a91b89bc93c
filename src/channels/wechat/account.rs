//! An account that receives the message push and sends 客服消息: 公众号 and 小程序.

use secrecy::SecretString;
use serde::Deserialize;

use super::crypto::KeySlot;
use super::fields::Fields;
use super::{Credentials, PushQuery, Secrets, api, inbound, push};
use crate::channels::{
    ApiRequest, BodyFormat, Callback, CallbackAnswer, ConfigError, Item, Push, PushError, Received,
    Refresh, ReplyAddress, ReplyError, Stamp, TextLimit, Token, Unsupported, base_url,
};
use crate::domain::message::{AccountName, Platform};
use crate::domain::outgoing::Target;

/// Practice of other projects; the platform's own pages name no limit for replies.
const TEXT_BYTES: usize = 2_048;

/// One account's settings as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushConfig {
    pub token: SecretString,
    pub app_id: String,
    /// 43 characters from the console; without it only plain pushes can be read.
    #[serde(default)]
    pub encoding_aes_key: Option<SecretString>,
    /// The key before the last change, kept until no push comes with it any more.
    #[serde(default)]
    pub previous_encoding_aes_key: Option<SecretString>,
    /// Refuse plain pushes: their signature covers the query only, never the body.
    #[serde(default)]
    pub require_encryption: bool,
    /// With it the account can send.
    #[serde(default)]
    pub app_secret: Option<SecretString>,
    #[serde(default)]
    pub api_base: Option<String>,
    /// Seconds that a callback's timestamp may lie from our time; without it, any.
    #[serde(default)]
    pub replay_window_s: Option<u64>,
    /// Longest text of a message.
    #[serde(default)]
    pub text_bytes: Option<usize>,
}

impl PushConfig {
    pub(in crate::channels) fn secrets(&self) -> Secrets<'_> {
        Secrets {
            token: &self.token,
            receiver: &self.app_id,
            encoding_aes_key: self.encoding_aes_key.as_ref(),
            previous_encoding_aes_key: self.previous_encoding_aes_key.as_ref(),
            replay_window_s: self.replay_window_s,
        }
    }
}

#[derive(Debug)]
pub(in crate::channels) struct PushAccount {
    pub(in crate::channels) platform: Platform,
    pub(in crate::channels) name: AccountName,
    pub(in crate::channels) credentials: Credentials,
    pub(in crate::channels) api_base: String,
    pub(in crate::channels) text: TextLimit,
    require_encryption: bool,
    app_id: String,
    app_secret: Option<SecretString>,
}

impl PushAccount {
    /// Checks the configuration; the error names the field.
    pub(in crate::channels) fn new(
        platform: Platform,
        name: AccountName,
        config: &PushConfig,
    ) -> Result<Self, ConfigError> {
        check_id("app_id", &config.app_id)?;
        let credentials = Credentials::new(&config.secrets())?;
        if config.require_encryption && credentials.keys().is_none() {
            return Err(ConfigError {
                field: "require_encryption",
                reason: "needs an encoding_aes_key",
            });
        }
        Ok(Self {
            platform,
            name,
            credentials,
            api_base: base_url("api_base", config.api_base.as_deref(), API_BASE)?,
            text: text_limit(config.text_bytes, TEXT_BYTES)?,
            require_encryption: config.require_encryption,
            app_id: config.app_id.clone(),
            app_secret: config.app_secret.clone(),
        })
    }

    pub(in crate::channels) fn can_send(&self) -> bool {
        self.app_secret.is_some()
    }

    pub(in crate::channels) fn check_url(
        &self,
        callback: &Callback<'_>,
    ) -> Result<CallbackAnswer, PushError> {
        let query = PushQuery::parse(callback.query)?;
        self.credentials.echo(&query, callback.received_at).map(CallbackAnswer::text)
    }

    /// A push of any mode, as one message or event.
    pub(in crate::channels) fn receive(
        &self,
        callback: &Callback<'_>,
    ) -> Result<Received, PushError> {
        let opened = self.open(callback)?;
        let (_, fields) = Fields::parse(&opened.message)?;
        if opened.key.is_some() && fields.is_no_message() {
            return Ok(Received::Items(vec![Item::Notice("a push that is no message".to_owned())]));
        }
        let message = inbound::read(&fields, self.platform, &self.name)?;
        let address = ReplyAddress {
            customer: message.sender.clone(),
            us: inbound::receiver(&fields)?.to_owned(),
            format: opened.format,
            key: opened.key,
        };
        let push = Push {
            target: Target::customer(message.sender.clone()),
            inbound: message,
            reply_address: Some(address),
        };
        Ok(Received::Items(vec![Item::Push(push)]))
    }

    pub(in crate::channels) fn open(
        &self,
        callback: &Callback<'_>,
    ) -> Result<push::Opened, PushError> {
        let query = PushQuery::parse(callback.query)?;
        let (body, now) = (callback.body, callback.received_at);
        push::open(&self.credentials, self.require_encryption, &query, body, now)
    }

    /// `message` as the answer to a callback, encrypted if the push was.
    pub(in crate::channels) fn answer(
        &self,
        to: &ReplyAddress,
        message: String,
        stamp: Stamp<'_>,
    ) -> Result<CallbackAnswer, ReplyError> {
        answer(&self.credentials, to.key, to.format, message, stamp)
    }

    pub(in crate::channels) fn token_request(&self, how: Refresh) -> Option<ApiRequest> {
        let secret = self.app_secret.as_ref()?;
        Some(api::stable_token_request(&self.api_base, &self.app_id, secret, how))
    }

    pub(in crate::channels) fn media(
        &self,
        reference: &str,
        token: Option<&Token>,
    ) -> Result<ApiRequest, Unsupported> {
        media(&self.api_base, reference, token)
    }
}

/// Where 公众号, 小程序 and 微信小店 have their API.
pub(in crate::channels) const API_BASE: &str = "https://api.weixin.qq.com";

/// `message` in the push's format, encrypted with the key that opened it.
pub(in crate::channels) fn answer(
    credentials: &Credentials,
    key: Option<KeySlot>,
    format: BodyFormat,
    message: String,
    stamp: Stamp<'_>,
) -> Result<CallbackAnswer, ReplyError> {
    let body = match key {
        None => message,
        Some(slot) => credentials.seal(slot, &message, stamp)?.render(format),
    };
    let content_type = match format {
        BodyFormat::Xml => "application/xml; charset=utf-8",
        BodyFormat::Json => "application/json; charset=utf-8",
    };
    Ok(CallbackAnswer { body: body.into_bytes(), content_type, headers: Vec::new() })
}

/// The bytes behind a media id. A reference that is an address already opens in a browser.
pub(in crate::channels) fn media(
    api_base: &str,
    reference: &str,
    token: Option<&Token>,
) -> Result<ApiRequest, Unsupported> {
    if reference.contains("://") {
        return Err(Unsupported("the reference is an address, not a media id"));
    }
    let token = token.ok_or(Unsupported("no token"))?;
    Ok(api::media_request(api_base, reference, token))
}

pub(in crate::channels) fn check_id(field: &'static str, id: &str) -> Result<(), ConfigError> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ConfigError { field, reason: "must be the id shown in the console" });
    }
    Ok(())
}

pub(in crate::channels) fn text_limit(
    bytes: Option<usize>,
    usual: usize,
) -> Result<TextLimit, ConfigError> {
    match bytes.unwrap_or(usual) {
        bytes @ 64.. => Ok(TextLimit::Bytes(bytes)),
        _ => Err(ConfigError { field: "text_bytes", reason: "must be at least 64" }),
    }
}
