//! 公众号 (WeChat official account) message push: verify, decrypt, parse, and reply in kind.
//!
//! Everything here is a function over bytes; the HTTP handler passes the query and body in and
//! sends what comes out. [`WechatMp::receive`] takes a push in any of the platform's modes (plain,
//! compatible, safe; XML or JSON) and [`WechatMp::passive_text_reply`] answers in the same mode.
//! Protocol: developers.weixin.qq.com, "message push" and "message encryption".

pub mod crypto;
mod fields;
#[cfg(test)]
mod fixture;
mod inbound;
mod json;
mod reply;
pub mod signature;
pub mod simulate;
#[cfg(test)]
mod tests;
mod xml;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use self::crypto::{AesKey, CryptoError, KeySlot, Keys};
use self::fields::{Field, Fields};
use crate::base::limits;
use crate::domain::knowledge::words;
use crate::domain::message::{AccountName, Inbound};

words!(
    /// Wire format of a push, chosen in the platform's console; the reply comes in the same one.
    BodyFormat { Xml = "xml", Json = "json" }
);

/// Longest `echostr` that is echoed, bytes; the platform sends about twenty.
const ECHO_BYTES: usize = 256;

/// One account's secrets as the operator writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WechatMpConfig {
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
}

/// A setting that cannot work; fix the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    pub field: &'static str,
    pub reason: &'static str,
}

/// Query parameters of a callback, as the platform names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushQuery {
    pub signature: Option<String>,
    pub msg_signature: Option<String>,
    pub timestamp: Option<String>,
    pub nonce: Option<String>,
    pub encrypt_type: Option<String>,
    pub echostr: Option<String>,
}

/// Why a callback was not taken. Nothing of it is worth a retry by the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The signature is missing or wrong: whoever sent this does not know the token.
    #[error("signature is missing or wrong")]
    SignatureMismatch,
    /// A plain push to an account that accepts encrypted ones only.
    #[error("this account accepts encrypted pushes only")]
    EncryptionRequired,
    /// Rightly signed and encrypted, but for another app id.
    #[error("the push is meant for another account")]
    NotForUs,
    /// The account has no encoding_aes_key, but the push is encrypted; fix the configuration.
    #[error("the push is encrypted and no encoding_aes_key is configured")]
    KeyMissing,
    /// Not a body that the platform sends.
    #[error("malformed push: {0}")]
    Malformed(&'static str),
}

impl PushError {
    /// HTTP status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::SignatureMismatch | Self::EncryptionRequired | Self::NotForUs => 403,
            Self::KeyMissing | Self::Malformed(_) => 400,
        }
    }

    /// Stable word for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::SignatureMismatch => "signature_mismatch",
            Self::EncryptionRequired => "encryption_required",
            Self::NotForUs => "not_for_us",
            Self::KeyMissing => "key_missing",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl From<CryptoError> for PushError {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::Unreadable => Self::Malformed("the encrypted part cannot be read"),
            CryptoError::NotForUs => Self::NotForUs,
        }
    }
}

/// Why a reply could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The key that opened the push has been taken out of the configuration meanwhile.
    #[error("the key that opened the push is no longer configured")]
    KeyGone,
    #[error("no random bytes from the operating system: {0}")]
    Random(#[from] getrandom::Error),
}

/// A push that was verified, decrypted and parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub inbound: Inbound,
    pub reply_address: ReplyAddress,
}

/// Where a passive reply goes and what it must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyAddress {
    /// The customer's OpenID.
    pub customer: String,
    /// Our own id on the platform (`gh_…`).
    pub us: String,
    pub format: BodyFormat,
    /// The key to encrypt with; `None` where the push was plain.
    pub key: Option<KeySlot>,
}

/// Body and `Content-Type` of an answer to a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveReply {
    pub body: Vec<u8>,
    pub content_type: &'static str,
}

impl PassiveReply {
    /// "Received, nothing to say": never encrypted, stops the platform's retries.
    pub fn acknowledgement() -> Self {
        Self { body: b"success".to_vec(), content_type: "text/plain; charset=utf-8" }
    }
}

/// What signs, encrypts and opens; shared by the service and its simulator.
#[derive(Debug)]
struct Credentials {
    token: SecretString,
    app_id: String,
    keys: Option<Keys>,
}

impl Credentials {
    fn new(config: &WechatMpConfig) -> Result<Self, ConfigError> {
        let token = config.token.expose_secret();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(ConfigError {
                field: "token",
                reason: "must not be empty or have white space in it",
            });
        }
        if config.app_id.is_empty() || !config.app_id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError {
                field: "app_id",
                reason: "must be the AppID shown in the console",
            });
        }
        let current = parse_key("encoding_aes_key", config.encoding_aes_key.as_ref())?;
        let previous =
            parse_key("previous_encoding_aes_key", config.previous_encoding_aes_key.as_ref())?;
        let keys = match (current, previous) {
            (Some(current), previous) => Some(Keys { current, previous }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(ConfigError {
                    field: "previous_encoding_aes_key",
                    reason: "needs an encoding_aes_key beside it",
                });
            }
        };
        Ok(Self { token: config.token.clone(), app_id: config.app_id.clone(), keys })
    }

    /// `signature` of a query: token, timestamp and nonce.
    fn query_signature(&self, timestamp: &str, nonce: &str) -> String {
        signature::sign(&[self.token.expose_secret(), timestamp, nonce])
    }

    /// `msg_signature`: the encrypted text besides.
    fn message_signature(&self, timestamp: &str, nonce: &str, encrypted: &str) -> String {
        signature::sign(&[self.token.expose_secret(), timestamp, nonce, encrypted])
    }

    fn check_query(&self, query: &PushQuery) -> Result<(), PushError> {
        let parts = [self.token.expose_secret(), given(&query.timestamp)?, given(&query.nonce)?];
        check(&parts, given(&query.signature)?)
    }

    fn check_message(
        &self,
        timestamp: &str,
        nonce: &str,
        encrypted: &str,
        signature: &str,
    ) -> Result<(), PushError> {
        check(&[self.token.expose_secret(), timestamp, nonce, encrypted], signature)
    }
}

/// Without it there is nothing to verify, which is as good as a wrong signature.
fn given(parameter: &Option<String>) -> Result<&str, PushError> {
    parameter.as_deref().filter(|text| !text.is_empty()).ok_or(PushError::SignatureMismatch)
}

fn check(parts: &[&str], given: &str) -> Result<(), PushError> {
    if signature::verify(parts, given) { Ok(()) } else { Err(PushError::SignatureMismatch) }
}

fn parse_key(
    field: &'static str,
    key: Option<&SecretString>,
) -> Result<Option<AesKey>, ConfigError> {
    let Some(key) = key else { return Ok(None) };
    match AesKey::parse(key) {
        Some(key) => Ok(Some(key)),
        None => Err(ConfigError { field, reason: "must be 43 base64 characters" }),
    }
}

/// One bound 公众号.
#[derive(Debug)]
pub struct WechatMp {
    account: AccountName,
    credentials: Credentials,
    require_encryption: bool,
}

impl WechatMp {
    /// Checks the configuration; the error names the field.
    pub fn new(account: AccountName, config: &WechatMpConfig) -> Result<Self, ConfigError> {
        let credentials = Credentials::new(config)?;
        if config.require_encryption && credentials.keys.is_none() {
            return Err(ConfigError {
                field: "require_encryption",
                reason: "needs an encoding_aes_key",
            });
        }
        Ok(Self { account, credentials, require_encryption: config.require_encryption })
    }

    pub fn account(&self) -> &AccountName {
        &self.account
    }

    /// The `echostr` to answer a URL check with, exactly as it is and as `text/plain`.
    pub fn verify_url(&self, query: &PushQuery) -> Result<String, PushError> {
        self.credentials.check_query(query)?;
        match &query.echostr {
            Some(echo)
                if echo.len() <= ECHO_BYTES && echo.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(echo.clone())
            }
            Some(_) | None => Err(PushError::Malformed("echostr")),
        }
    }

    /// Reads a push of any mode.
    ///
    /// A body with an `Encrypt` part is read through that part only, whatever `encrypt_type` says:
    /// the plain fields that stand beside it in compatible mode are not signed.
    pub fn receive(&self, query: &PushQuery, body: &[u8]) -> Result<Push, PushError> {
        if body.len() > limits::BODY_BYTES {
            return Err(PushError::Malformed("body is too large"));
        }
        let expect_encrypted = match query.encrypt_type.as_deref() {
            Some("aes") => true,
            Some("raw") | None => false,
            Some(_) => return Err(PushError::Malformed("encrypt_type")),
        };
        if expect_encrypted {
            given(&query.msg_signature)?;
        } else {
            self.credentials.check_query(query)?;
        }
        let (format, fields) = Fields::parse(body)?;
        match fields.get(Field::Encrypt) {
            Some(encrypted) => {
                let (key, message) = self.open(query, encrypted.trim())?;
                self.push(&Fields::parse(&message)?.1, format, Some(key))
            }
            None if expect_encrypted => Err(PushError::Malformed("no Encrypt part")),
            None if self.require_encryption => Err(PushError::EncryptionRequired),
            None => self.push(&fields, format, None),
        }
    }

    fn open(&self, query: &PushQuery, encrypted: &str) -> Result<(KeySlot, Vec<u8>), PushError> {
        let (timestamp, nonce) = (given(&query.timestamp)?, given(&query.nonce)?);
        let signature = given(&query.msg_signature)?;
        self.credentials.check_message(timestamp, nonce, encrypted, signature)?;
        let keys = self.credentials.keys.as_ref().ok_or(PushError::KeyMissing)?;
        Ok(keys.decrypt(encrypted, &self.credentials.app_id)?)
    }

    fn push(
        &self,
        fields: &Fields,
        format: BodyFormat,
        key: Option<KeySlot>,
    ) -> Result<Push, PushError> {
        let inbound = inbound::read(fields, &self.account)?;
        let customer = inbound.sender.clone();
        let us = inbound::receiver(fields)?.to_owned();
        Ok(Push { inbound, reply_address: ReplyAddress { customer, us, format, key } })
    }

    /// The answer that shows `text` to the customer, in the push's format and mode.
    ///
    /// The text is cut to [`limits::PASSIVE_REPLY_BYTES`] (and an ellipsis) at the end of a
    /// sentence. A text with nothing to show becomes the acknowledgement, because the platform
    /// answers an empty `Content` with its outage notice.
    pub fn passive_text_reply(
        &self,
        address: &ReplyAddress,
        text: &str,
        now_seconds: i64,
        nonce: &str,
    ) -> Result<PassiveReply, ReplyError> {
        let text = reply::printable(text);
        let text = reply::fit(text.trim(), limits::PASSIVE_REPLY_BYTES);
        if text.is_empty() {
            return Ok(PassiveReply::acknowledgement());
        }
        let message = reply::text_message(address, &text, now_seconds);
        let body = match address.key {
            None => message,
            Some(slot) => self.seal(slot, &message, now_seconds, nonce)?.render(address.format),
        };
        let content_type = match address.format {
            BodyFormat::Xml => "application/xml; charset=utf-8",
            BodyFormat::Json => "application/json; charset=utf-8",
        };
        Ok(PassiveReply { body: body.into_bytes(), content_type })
    }

    fn seal(
        &self,
        slot: KeySlot,
        message: &str,
        now_seconds: i64,
        nonce: &str,
    ) -> Result<reply::Envelope, ReplyError> {
        let key = self.credentials.keys.as_ref().and_then(|keys| keys.get(slot));
        let key = key.ok_or(ReplyError::KeyGone)?;
        let random = crypto::random_block()?;
        let encrypted = key.encrypt(message.as_bytes(), &self.credentials.app_id, random);
        let signature =
            self.credentials.message_signature(&now_seconds.to_string(), nonce, &encrypted);
        Ok(reply::Envelope {
            encrypted,
            signature,
            timestamp: now_seconds,
            nonce: nonce.to_owned(),
        })
    }
}
