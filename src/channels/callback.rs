//! One HTTP request of a platform, what is answered to it, and why it may be refused.

use crate::base::clock::UnixMs;

/// A request as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Callback<'a> {
    /// What stands after the `?`, undecoded.
    pub query: &'a str,
    /// Names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    pub received_at: UnixMs,
}

impl<'a> Callback<'a> {
    /// A header that comes once; one that comes twice counts as absent.
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        let mut found = self.headers.iter().filter(|(known, _)| *known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

/// An answer with status 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackAnswer {
    pub body: Vec<u8>,
    pub content_type: &'static str,
    /// Besides the content type.
    pub headers: Vec<(&'static str, String)>,
}

impl CallbackAnswer {
    pub(super) fn text(body: impl Into<Vec<u8>>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { body: body.into(), content_type, headers: Vec::new() }
    }

    pub(super) fn json(body: &serde_json::Value) -> Self {
        let content_type = "application/json; charset=utf-8";
        Self { body: body.to_string().into_bytes(), content_type, headers: Vec::new() }
    }
}

/// Why a callback was not taken. Nothing of it is worth a retry by the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The signature is missing or wrong: whoever sent this does not know the token.
    #[error("signature is missing or wrong")]
    SignatureMismatch,
    /// Rightly signed, but at a time outside of the account's replay window.
    #[error("the callback was signed too long ago, or ahead of time")]
    Stale,
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
            Self::SignatureMismatch | Self::Stale | Self::EncryptionRequired | Self::NotForUs => {
                403
            }
            Self::KeyMissing | Self::Malformed(_) => 400,
        }
    }

    /// Stable word for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::SignatureMismatch => "signature_mismatch",
            Self::Stale => "stale",
            Self::EncryptionRequired => "encryption_required",
            Self::NotForUs => "not_for_us",
            Self::KeyMissing => "key_missing",
            Self::Malformed(_) => "malformed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_comes_twice_is_none() {
        let headers = [("a", "1"), ("b", "2"), ("b", "3")];
        let callback = Callback { query: "", headers: &headers, body: b"", received_at: 0 };
        assert_eq!(callback.header("a"), Some("1"));
        assert_eq!(callback.header("b"), None);
        assert_eq!(callback.header("c"), None);
    }
}
