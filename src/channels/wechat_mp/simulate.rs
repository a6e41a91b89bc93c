//! The platform's side of the conversation: signs and encrypts pushes, opens passive replies.
//!
//! Used by `huida simulate wechat-mp` and by the tests, so that what the service accepts is what a
//! second reading of the protocol makes.

use serde_json::{Number, Value};

use super::WechatMpConfig;
use crate::base::digest::hex;
use crate::channels::wechat::crypto::{self, KeySlot};
use crate::channels::wechat::envelope::cdata;
use crate::channels::wechat::fields::{Field, Fields};
use crate::channels::wechat::{Credentials, PushQuery};
use crate::channels::{BodyFormat, ConfigError, PushError};
use crate::domain::knowledge::words;

words!(
    /// How the platform's console is set.
    PushMode {
        /// 明文: the fields as they are.
        Plain = "plain",
        /// 兼容: the fields and, beside them, the same encrypted.
        Compatible = "compatible",
        /// 安全: only the receiver's name and the encrypted part.
        Safe = "safe",
    }
);

/// How a push is put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    pub mode: PushMode,
    pub format: BodyFormat,
}

/// What changes from request to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since the epoch.
    pub timestamp: i64,
    pub nonce: String,
    /// See [`crypto::random_block`].
    pub random: [u8; crypto::RANDOM_BYTES],
}

/// Something that a customer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedMessage {
    /// The customer's OpenID.
    pub sender: String,
    /// Seconds since the epoch.
    pub created: i64,
    pub what: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Text { content: String, msg_id: u64 },
    Event { name: String, key: String },
}

/// A request as the platform would send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedPush {
    pub query: PushQuery,
    pub body: Vec<u8>,
    pub content_type: &'static str,
}

/// A passive reply as the customer would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenedReply {
    /// `success` or nothing: the customer sees nothing.
    Acknowledged,
    Text {
        /// The customer's OpenID.
        to: String,
        /// Our own id.
        from: String,
        /// Seconds since the epoch.
        created: i64,
        content: String,
        /// The key that opened it; `None` where it came plain.
        key: Option<KeySlot>,
    },
}

/// A stand-in for the platform, bound to one account.
#[derive(Debug)]
pub struct Simulator {
    credentials: Credentials,
    us: String,
}

impl Simulator {
    /// `us` is the account's own id on the platform (`gh_…`).
    pub fn new(config: &WechatMpConfig, us: String) -> Result<Self, ConfigError> {
        Ok(Self { credentials: Credentials::new(&config.secrets())?, us })
    }

    /// The query of the GET with which the console checks a new callback address.
    pub fn url_check(&self, echostr: &str, stamp: &Stamp) -> PushQuery {
        PushQuery { echostr: Some(echostr.to_owned()), ..self.query(stamp) }
    }

    /// A push as the platform would send it; the error says that the mode needs a key.
    pub fn push(
        &self,
        message: &SimulatedMessage,
        wire: Wire,
        stamp: &Stamp,
    ) -> Result<SimulatedPush, ConfigError> {
        let plain = self.members(message);
        let receiver = vec![("ToUserName", Member::Text(self.us.clone()))];
        let mut outer = match wire.mode {
            PushMode::Plain => return Ok(pack(self.query(stamp), &plain, wire.format)),
            PushMode::Compatible => plain.clone(),
            PushMode::Safe => receiver,
        };
        let keys = self.credentials.keys().ok_or(ConfigError {
            field: "encoding_aes_key",
            reason: "compatible and safe mode need it",
        })?;
        let message = render(&plain, wire.format);
        let app_id = self.credentials.receiver();
        let encrypted = keys.current.encrypt(message.as_bytes(), app_id, stamp.random);
        let timestamp = stamp.timestamp.to_string();
        let signed = self.credentials.message_signature(&timestamp, &stamp.nonce, &encrypted);
        let query = PushQuery {
            encrypt_type: Some("aes".to_owned()),
            msg_signature: Some(signed),
            ..self.query(stamp)
        };
        outer.push(("Encrypt", Member::Text(encrypted)));
        Ok(pack(query, &outer, wire.format))
    }

    /// Reads a passive reply as strictly as the platform would.
    pub fn open_reply(&self, body: &[u8]) -> Result<OpenedReply, PushError> {
        if body.is_empty() || body == b"success" {
            return Ok(OpenedReply::Acknowledged);
        }
        let (_, outer) = Fields::parse(body)?;
        let Some(encrypted) = outer.get(Field::Encrypt) else {
            return read_text(&outer, None);
        };
        let part = |field| outer.get(field).ok_or(PushError::Malformed("envelope"));
        let (timestamp, nonce) = (part(Field::TimeStamp)?, part(Field::Nonce)?);
        let signature = part(Field::MsgSignature)?;
        self.credentials.check_message(timestamp, nonce, encrypted, signature)?;
        let keys = self.credentials.keys().ok_or(PushError::KeyMissing)?;
        let (key, message) = keys.decrypt(encrypted, self.credentials.receiver())?;
        read_text(&Fields::parse(&message)?.1, Some(key))
    }

    fn query(&self, stamp: &Stamp) -> PushQuery {
        let timestamp = stamp.timestamp.to_string();
        PushQuery {
            signature: Some(self.credentials.query_signature(&timestamp, &stamp.nonce)),
            timestamp: Some(timestamp),
            nonce: Some(stamp.nonce.clone()),
            ..PushQuery::default()
        }
    }

    fn members(&self, message: &SimulatedMessage) -> Vec<(&'static str, Member)> {
        let text = |value: &str| Member::Text(value.to_owned());
        let mut members = vec![
            ("ToUserName", text(&self.us)),
            ("FromUserName", text(&message.sender)),
            ("CreateTime", Member::Number(Number::from(message.created))),
        ];
        match &message.what {
            Said::Text { content, msg_id } => members.extend([
                ("MsgType", text("text")),
                ("Content", text(content)),
                ("MsgId", Member::Number(Number::from(*msg_id))),
            ]),
            Said::Event { name, key } => members.extend([
                ("MsgType", text("event")),
                ("Event", text(name)),
                ("EventKey", text(key)),
            ]),
        }
        members
    }
}

impl Stamp {
    /// A stamp with a random nonce.
    pub fn fresh(timestamp: i64) -> Result<Self, getrandom::Error> {
        let nonce = hex(&crypto::random_block()?[..8]);
        Ok(Self { timestamp, nonce, random: crypto::random_block()? })
    }
}

/// A field's value, with the type that it has in JSON.
#[derive(Clone, Debug)]
enum Member {
    Text(String),
    Number(Number),
}

fn render(members: &[(&'static str, Member)], format: BodyFormat) -> String {
    match format {
        BodyFormat::Xml => {
            let element = |(name, member): &(&'static str, Member)| match member {
                Member::Text(text) => format!("<{name}>{}</{name}>", cdata(text)),
                Member::Number(number) => format!("<{name}>{number}</{name}>"),
            };
            format!("<xml>{}</xml>", members.iter().map(element).collect::<String>())
        }
        BodyFormat::Json => {
            let member = |(name, member): &(&'static str, Member)| {
                let value = match member {
                    Member::Text(text) => Value::from(text.as_str()),
                    Member::Number(number) => Value::Number(number.clone()),
                };
                ((*name).to_owned(), value)
            };
            Value::Object(members.iter().map(member).collect()).to_string()
        }
    }
}

fn pack(query: PushQuery, members: &[(&'static str, Member)], format: BodyFormat) -> SimulatedPush {
    let content_type = match format {
        BodyFormat::Xml => "text/xml",
        BodyFormat::Json => "application/json",
    };
    SimulatedPush { query, body: render(members, format).into_bytes(), content_type }
}

fn read_text(fields: &Fields, key: Option<KeySlot>) -> Result<OpenedReply, PushError> {
    let owned = |field, name| match fields.get(field) {
        Some(value) => Ok(str::to_owned(value)),
        None => Err(PushError::Malformed(name)),
    };
    if fields.get(Field::MsgType) != Some("text") {
        return Err(PushError::Malformed("MsgType"));
    }
    let created = fields.get(Field::CreateTime).and_then(|text| text.parse().ok());
    Ok(OpenedReply::Text {
        to: owned(Field::ToUserName, "ToUserName")?,
        from: owned(Field::FromUserName, "FromUserName")?,
        created: created.ok_or(PushError::Malformed("CreateTime"))?,
        content: owned(Field::Content, "Content")?,
        key,
    })
}
