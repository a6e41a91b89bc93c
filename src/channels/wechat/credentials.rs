//! What signs, encrypts and opens: an account's token, keys and receiver id.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::crypto::{self, AesKey, CryptoError, KeySlot, Keys};
use super::envelope::Envelope;
use super::query::PushQuery;
use super::signature;
use crate::base::clock::UnixMs;
use crate::channels::{CallbackAnswer, ConfigError, PushError, ReplyError, Stamp};

/// Longest `echostr` that is echoed, bytes; the platform sends about twenty.
const ECHO_BYTES: usize = 256;

/// An account's secrets as the operator writes them.
pub(in crate::channels) struct Secrets<'a> {
    pub(in crate::channels) token: &'a SecretString,
    /// What stands at the end of every encrypted message: app id, corp id, or nothing.
    pub(in crate::channels) receiver: &'a str,
    pub(in crate::channels) encoding_aes_key: Option<&'a SecretString>,
    pub(in crate::channels) previous_encoding_aes_key: Option<&'a SecretString>,
    /// Seconds.
    pub(in crate::channels) replay_window_s: Option<u64>,
}

#[derive(Debug)]
pub(in crate::channels) struct Credentials {
    token: SecretString,
    receiver: String,
    keys: Option<Keys>,
    /// How far a callback's timestamp may lie from our time; `None`: not looked at.
    replay_window: Option<Duration>,
}

impl Credentials {
    pub(in crate::channels) fn new(secrets: &Secrets<'_>) -> Result<Self, ConfigError> {
        let token = secrets.token.expose_secret();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(ConfigError {
                field: "token",
                reason: "must not be empty or have white space in it",
            });
        }
        let current = parse_key("encoding_aes_key", secrets.encoding_aes_key)?;
        let previous = parse_key("previous_encoding_aes_key", secrets.previous_encoding_aes_key)?;
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
        Ok(Self {
            token: secrets.token.clone(),
            receiver: secrets.receiver.to_owned(),
            keys,
            replay_window: secrets.replay_window_s.map(Duration::from_secs),
        })
    }

    pub(in crate::channels) fn receiver(&self) -> &str {
        &self.receiver
    }

    pub(in crate::channels) fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// `signature` of a query: token, timestamp and nonce.
    pub(in crate::channels) fn query_signature(&self, timestamp: &str, nonce: &str) -> String {
        signature::sign(&[self.token.expose_secret(), timestamp, nonce])
    }

    /// `msg_signature`: the encrypted text besides.
    pub(in crate::channels) fn message_signature(
        &self,
        timestamp: &str,
        nonce: &str,
        encrypted: &str,
    ) -> String {
        signature::sign(&[self.token.expose_secret(), timestamp, nonce, encrypted])
    }

    /// Checks `signature`, which covers the query only, and that it is not too old at `now`.
    pub(in crate::channels) fn check_query(
        &self,
        query: &PushQuery,
        now: UnixMs,
    ) -> Result<(), PushError> {
        let (timestamp, nonce) = (given(&query.timestamp)?, given(&query.nonce)?);
        check(&[self.token.expose_secret(), timestamp, nonce], given(&query.signature)?)?;
        self.check_age(timestamp, now)
    }

    pub(in crate::channels) fn check_message(
        &self,
        timestamp: &str,
        nonce: &str,
        encrypted: &str,
        signature: &str,
    ) -> Result<(), PushError> {
        check(&[self.token.expose_secret(), timestamp, nonce, encrypted], signature)
    }

    /// Checks `msg_signature` and the age, then decrypts; also says which key it was.
    pub(in crate::channels) fn open(
        &self,
        query: &PushQuery,
        encrypted: &str,
        now: UnixMs,
    ) -> Result<(KeySlot, Vec<u8>), PushError> {
        let (timestamp, nonce) = (given(&query.timestamp)?, given(&query.nonce)?);
        self.check_message(timestamp, nonce, encrypted, given(&query.msg_signature)?)?;
        self.check_age(timestamp, now)?;
        let keys = self.keys.as_ref().ok_or(PushError::KeyMissing)?;
        keys.decrypt(encrypted, &self.receiver).map_err(PushError::from)
    }

    /// The plain `echostr` of a URL check, exactly as it is and as `text/plain`.
    pub(in crate::channels) fn echo(
        &self,
        query: &PushQuery,
        now: UnixMs,
    ) -> Result<String, PushError> {
        self.check_query(query, now)?;
        match &query.echostr {
            Some(echo)
                if echo.len() <= ECHO_BYTES && echo.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(echo.clone())
            }
            Some(_) | None => Err(PushError::Malformed("echostr")),
        }
    }

    /// The decrypted `echostr` of a URL check, byte for byte.
    pub(in crate::channels) fn echo_decrypted(
        &self,
        query: &PushQuery,
        now: UnixMs,
    ) -> Result<CallbackAnswer, PushError> {
        let Some(echo) = &query.echostr else { return Err(PushError::Malformed("echostr")) };
        // A base64 `+` that was sent without being encoded arrives as a space.
        let (_, plain) = self.open(query, &echo.replace(' ', "+"), now)?;
        Ok(CallbackAnswer::text(plain))
    }

    /// `message` encrypted with the key that opened the push, and signed.
    pub(in crate::channels) fn seal(
        &self,
        slot: KeySlot,
        message: &str,
        stamp: Stamp<'_>,
    ) -> Result<Envelope, ReplyError> {
        let key = self.keys.as_ref().and_then(|keys| keys.get(slot)).ok_or(ReplyError::KeyGone)?;
        let encrypted = key.encrypt(message.as_bytes(), &self.receiver, crypto::random_block()?);
        let timestamp = stamp.seconds.to_string();
        let signature = self.message_signature(&timestamp, stamp.nonce, &encrypted);
        Ok(Envelope {
            encrypted,
            signature,
            timestamp: stamp.seconds,
            nonce: stamp.nonce.to_owned(),
        })
    }

    /// Only after the signature: an unsigned timestamp says nothing.
    fn check_age(&self, timestamp: &str, now: UnixMs) -> Result<(), PushError> {
        let Some(window) = self.replay_window else { return Ok(()) };
        let seconds: i64 =
            timestamp.parse().map_err(|_| PushError::Malformed("timestamp is no number"))?;
        let apart = (now / 1_000).abs_diff(seconds);
        if apart <= window.as_secs() { Ok(()) } else { Err(PushError::Stale) }
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

/// Without it there is nothing to verify, which is as good as a wrong signature.
pub(super) fn given(parameter: &Option<String>) -> Result<&str, PushError> {
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
