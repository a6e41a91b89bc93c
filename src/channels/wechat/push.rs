//! The message push of 公众号, 小程序 and 微信小店: opened in any of its modes.

use super::Credentials;
use super::credentials::given;
use super::crypto::KeySlot;
use super::fields::{Field, Fields};
use super::query::PushQuery;
use crate::base::clock::UnixMs;
use crate::base::limits;
use crate::channels::{BodyFormat, Callback, PushError};

/// The message inside a push, verified and decrypted.
#[derive(Debug)]
pub(in crate::channels) struct Opened {
    pub(in crate::channels) message: Vec<u8>,
    pub(in crate::channels) format: BodyFormat,
    /// `None` where the push was plain.
    pub(in crate::channels) key: Option<KeySlot>,
}

/// Opens a callback of 企业微信, which is always encrypted.
pub(in crate::channels) fn open_corp(
    credentials: &Credentials,
    callback: &Callback<'_>,
) -> Result<Opened, PushError> {
    if callback.body.len() > limits::BODY_BYTES {
        return Err(PushError::Malformed("body is too large"));
    }
    let query = PushQuery::parse(callback.query)?;
    given(&query.msg_signature)?;
    let (format, fields) = Fields::parse(callback.body)?;
    let encrypted = fields.get(Field::Encrypt).ok_or(PushError::Malformed("no Encrypt part"))?;
    let (key, message) = credentials.open(&query, encrypted.trim(), callback.received_at)?;
    Ok(Opened { message, format, key: Some(key) })
}

/// Opens a push of any mode. `require_encryption`: refuse plain ones, whose signature covers the
/// query only and never the body.
///
/// A body with an `Encrypt` part is read through that part only, whatever `encrypt_type` says: the
/// plain fields that stand beside it in compatible mode are not signed.
pub(in crate::channels) fn open(
    credentials: &Credentials,
    require_encryption: bool,
    query: &PushQuery,
    body: &[u8],
    now: UnixMs,
) -> Result<Opened, PushError> {
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
        credentials.check_query(query, now)?;
    }
    let (format, fields) = Fields::parse(body)?;
    match fields.get(Field::Encrypt) {
        Some(encrypted) => {
            let (key, message) = credentials.open(query, encrypted.trim(), now)?;
            Ok(Opened { message, format, key: Some(key) })
        }
        None if expect_encrypted => Err(PushError::Malformed("no Encrypt part")),
        None if require_encryption => Err(PushError::EncryptionRequired),
        None => Ok(Opened { message: body.to_vec(), format, key: None }),
    }
}
