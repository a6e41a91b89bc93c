//! What the WeChat family wraps around a message: signature in the query, ciphertext in the body.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::seal::{Seal, nonce, signature};
use super::xml::{self, Value as Member};
use super::{Call, Fault, SimulateError, query};

/// One account's token and key.
pub struct Envelope {
    token: SecretString,
    seal: Seal,
}

/// Query parameters that every wrapped push has.
struct Stamp {
    timestamp: String,
    nonce: String,
    signature: String,
}

impl Envelope {
    /// `receiver`: app id or corp id.
    ///
    /// # Errors
    /// When the key is none.
    pub fn new(
        token: &SecretString,
        key: &SecretString,
        receiver: &str,
    ) -> Result<Self, SimulateError> {
        let seal = Seal::new(key.expose_secret(), receiver)?;
        Ok(Self { token: token.clone(), seal })
    }

    fn stamp(&self, encrypted: &str, now: i64) -> Result<Stamp, Fault> {
        let (timestamp, nonce) = (now.to_string(), nonce(8)?);
        let signature = signature(&[self.token.expose_secret(), &timestamp, &nonce, encrypted]);
        Ok(Stamp { timestamp, nonce, signature })
    }

    /// An XML push with what stands beside the ciphertext, and `more` in the query.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub(super) fn xml(
        &self,
        message: &str,
        mut beside: Vec<(&str, Member)>,
        more: &[(&str, &str)],
        now: i64,
    ) -> Result<Call, Fault> {
        let encrypted = self.seal.encrypt(message.as_bytes())?;
        let query = self.stamp(&encrypted, now)?.query(more);
        beside.push(("Encrypt", xml::text(&encrypted)));
        let body = xml::write(&beside).into_bytes();
        Ok(Call { query, content_type: "text/xml", body, ..Call::default() })
    }

    /// A JSON push to `receiver`.
    ///
    /// # Errors
    /// As [`Self::xml`].
    pub fn json(&self, message: &Value, receiver: &str, now: i64) -> Result<Call, Fault> {
        let encrypted = self.seal.encrypt(message.to_string().as_bytes())?;
        let query = self.stamp(&encrypted, now)?.query(&[("encrypt_type", "aes")]);
        let body = json!({ "ToUserName": receiver, "Encrypt": encrypted }).to_string().into_bytes();
        Ok(Call { query, content_type: "application/json", body, ..Call::default() })
    }

    /// The query of the console's check, its `echostr` encrypted, and what must come back.
    ///
    /// # Errors
    /// As [`Self::xml`].
    pub fn url_check(&self, now: i64) -> Result<(String, String), Fault> {
        let echo = nonce(10)?;
        let encrypted = self.seal.encrypt(echo.as_bytes())?;
        Ok((self.stamp(&encrypted, now)?.query(&[("echostr", &encrypted)]), echo))
    }

    /// The members inside of an encrypted XML reply.
    ///
    /// # Errors
    /// What the platform would not take.
    pub(super) fn open(
        &self,
        outer: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let part = |name: &str| {
            outer.get(name).map(String::as_str).ok_or_else(|| Fault::new(format!("no {name}")))
        };
        let (stamp, nonce, encrypted) = (part("TimeStamp")?, part("Nonce")?, part("Encrypt")?);
        let right = signature(&[self.token.expose_secret(), stamp, nonce, encrypted]);
        if part("MsgSignature")? != right {
            return Err(Fault::new("a reply's MsgSignature is wrong"));
        }
        xml::read(&self.seal.decrypt(encrypted)?)
    }
}

impl Stamp {
    fn query(&self, more: &[(&str, &str)]) -> String {
        let own = [
            ("msg_signature", self.signature.as_str()),
            ("timestamp", &self.timestamp),
            ("nonce", &self.nonce),
        ];
        query(&[more, &own].concat())
    }
}
