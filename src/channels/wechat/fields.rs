//! The fields of a push body that this service reads, whatever format they came in.

use std::collections::BTreeMap;

use super::{json, xml};
use crate::channels::{BodyFormat, PushError};

/// Most elements (XML) or members (JSON) a body may have; the largest real push has some forty.
pub(in crate::channels) const MAX_FIELDS: usize = 256;
/// Deepest nesting; the platform's photo events reach five.
pub(in crate::channels) const MAX_DEPTH: usize = 8;

/// A field by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::channels) enum Field {
    ToUserName,
    FromUserName,
    CreateTime,
    MsgType,
    MsgId,
    Content,
    PicUrl,
    MediaId,
    Recognition,
    LocationX,
    LocationY,
    Label,
    Url,
    Event,
    EventKey,
    /// The item of a menu message that was tapped.
    MenuId,
    PagePath,
    SessionFrom,
    /// 微信客服: with it messages may be fetched.
    Token,
    OpenKfId,
    Encrypt,
    MsgSignature,
    TimeStamp,
    Nonce,
}

const NAMES: [(&str, Field); 25] = [
    ("ToUserName", Field::ToUserName),
    ("FromUserName", Field::FromUserName),
    ("CreateTime", Field::CreateTime),
    ("MsgType", Field::MsgType),
    ("MsgId", Field::MsgId),
    ("Content", Field::Content),
    ("PicUrl", Field::PicUrl),
    ("MediaId", Field::MediaId),
    ("Recognition", Field::Recognition),
    ("Location_X", Field::LocationX),
    ("Location_Y", Field::LocationY),
    ("Label", Field::Label),
    ("Url", Field::Url),
    ("Event", Field::Event),
    ("EventKey", Field::EventKey),
    ("bizmsgmenuid", Field::MenuId),
    ("PagePath", Field::PagePath),
    ("SessionFrom", Field::SessionFrom),
    ("Token", Field::Token),
    ("OpenKfId", Field::OpenKfId),
    ("Encrypt", Field::Encrypt),
    // As 企业微信's bots write it.
    ("encrypt", Field::Encrypt),
    ("MsgSignature", Field::MsgSignature),
    ("TimeStamp", Field::TimeStamp),
    ("Nonce", Field::Nonce),
];

impl Field {
    /// `None` for a field that nothing here reads.
    pub(in crate::channels) fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

/// The known fields of one body. A field that comes twice is refused rather than chosen from: the
/// platform never does it, and two readers that choose differently could be played off.
#[derive(Debug, Default)]
pub(in crate::channels) struct Fields(BTreeMap<Field, String>);

impl Fields {
    /// Reads XML or JSON, told apart by the first character.
    pub(in crate::channels) fn parse(body: &[u8]) -> Result<(BodyFormat, Self), PushError> {
        let text =
            std::str::from_utf8(body).map_err(|_| PushError::Malformed("body is not UTF-8"))?;
        let text = text.trim_start_matches('\u{FEFF}').trim();
        match text.as_bytes().first() {
            Some(b'<') => Ok((BodyFormat::Xml, xml::parse(text)?)),
            Some(b'{') => Ok((BodyFormat::Json, json::parse(text)?)),
            Some(_) => Err(PushError::Malformed("body is neither XML nor JSON")),
            None => Err(PushError::Malformed("body is empty")),
        }
    }

    pub(in crate::channels) fn insert(
        &mut self,
        field: Field,
        value: String,
    ) -> Result<(), PushError> {
        match self.0.insert(field, value) {
            None => Ok(()),
            Some(_) => Err(PushError::Malformed("a field comes twice")),
        }
    }

    /// Whether nothing of a message is in it: rightly sent, it needs no answer but a line in the log.
    pub(in crate::channels) fn is_no_message(&self) -> bool {
        [Field::FromUserName, Field::MsgType].iter().all(|field| self.get(*field).is_none())
    }

    pub(in crate::channels) fn get(&self, field: Field) -> Option<&str> {
        self.0.get(&field).map(String::as_str)
    }

    /// A field that is there and not empty.
    pub(in crate::channels) fn filled(&self, field: Field) -> Option<&str> {
        self.get(field).filter(|value| !value.is_empty())
    }
}
