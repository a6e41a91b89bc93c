//! Requests to a platform's API, its answers, and what to do when it refuses.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{ConfigError, form};
use crate::domain::knowledge::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// A request as it must go out. It may hold secrets anywhere, so that `Debug` shows the path only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiRequest {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.url.split('?').next().unwrap_or_default();
        write!(f, "ApiRequest({:?} {path}, {} bytes)", self.method, self.body.len())
    }
}

impl ApiRequest {
    pub(super) fn get(url: String) -> Self {
        Self { method: Method::Get, url, headers: Vec::new(), body: Vec::new() }
    }

    /// Chinese goes out as it is, not as `\u` escapes: some platforms show those to the customer.
    pub(super) fn post_json(url: String, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
        Self { method: Method::Post, url, headers, body: body.to_string().into_bytes() }
    }

    pub(super) fn post_form<'a>(
        url: String,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let content_type = "application/x-www-form-urlencoded;charset=utf-8".to_owned();
        let headers = vec![("content-type", content_type)];
        Self { method: Method::Post, url, headers, body: form::encode(pairs).into_bytes() }
    }
}

/// What came back. Bodies are bounded by whoever reads them from the socket, and not shown by
/// `Debug`: one may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiResponse {
    pub status: u16,
    pub body: Vec<u8>,
}

impl fmt::Debug for ApiResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiResponse({}, {} bytes)", self.status, self.body.len())
    }
}

impl ApiResponse {
    /// The JSON object of a successful answer.
    pub(super) fn json(&self) -> Result<Value, ApiFailure> {
        let failed = |class| ApiFailure { class, code: i64::from(self.status) };
        match self.status {
            200..300 => match serde_json::from_slice::<Value>(&self.body) {
                Ok(value) if value.is_object() => Ok(value),
                Ok(_) | Err(_) => Err(failed(FailureClass::Unclear)),
            },
            429 => Err(failed(FailureClass::Retry)),
            500.. => Err(failed(FailureClass::Unclear)),
            _ => Err(failed(FailureClass::GiveUp)),
        }
    }
}

words!(
    /// What to do about a refusal.
    FailureClass {
        /// Not done; the same again, later.
        Retry = "retry",
        /// Perhaps done: a broken answer, an error of the server. The same again where a repeated
        /// send is delivered once.
        Unclear = "unclear",
        /// Get another token, then the same again, once.
        RefreshToken = "refresh_token",
        /// The customer has to write first.
        WindowClosed = "window_closed",
        /// Nothing more until the customer writes again.
        QuotaUsed = "quota_used",
        /// The platform's own desk has the conversation, or nobody has any more: ask for its state.
        WrongState = "wrong_state",
        /// It will not be taken, however often; a person or the operator has to look.
        GiveUp = "give_up",
    }
);

/// A refusal by the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the platform refused with {code} ({class})")]
pub struct ApiFailure {
    pub class: FailureClass,
    /// The platform's own code, or the HTTP status where it gave none.
    pub code: i64,
}

impl ApiFailure {
    /// An answer that lacks what it must have.
    pub(super) const BROKEN: Self = Self { class: FailureClass::Unclear, code: 200 };
}

/// What opens a platform's API for some time.
#[derive(Clone, Debug)]
pub struct Token {
    pub value: SecretString,
    pub lifetime: Duration,
}

impl Token {
    pub(super) fn new(value: &str, seconds: u64) -> Self {
        Self { value: value.into(), lifetime: Duration::from_secs(seconds) }
    }

    pub(super) fn expose(&self) -> &str {
        self.value.expose_secret()
    }
}

/// The configured address, or the usual one, without the slash at its end.
pub(super) fn base_url(
    field: &'static str,
    configured: Option<&str>,
    usual: &str,
) -> Result<String, ConfigError> {
    let reason = "must be an https address, or http on this machine";
    trusted(configured.unwrap_or(usual)).ok_or(ConfigError { field, reason })
}

/// An address that secrets and customers' messages may be sent to: https, or this machine.
fn trusted(text: &str) -> Option<String> {
    let url = text.trim_end_matches('/');
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = url.bytes().all(|b| b.is_ascii_graphic()) && !url.contains(['?', '#', '@']);
    let name = match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = ["localhost", "127.0.0.1", "::1"].contains(&name);
    let allowed = scheme == "https" || (scheme == "http" && loopback);
    (plain && !name.is_empty() && allowed).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_or_classed() {
        let class = |status, body: &[u8]| {
            ApiResponse { status, body: body.to_vec() }.json().map_err(|e| e.class)
        };
        assert!(class(200, b"{\"a\":1}").is_ok());
        for broken in [&b""[..], b"<html>", b"[1]", b"{\"a\":", b"\xFF"] {
            assert_eq!(class(200, broken), Err(FailureClass::Unclear));
        }
        assert_eq!(class(502, b"{}"), Err(FailureClass::Unclear));
        assert_eq!(class(429, b"{}"), Err(FailureClass::Retry));
        assert_eq!(class(404, b"{}"), Err(FailureClass::GiveUp));
        assert_eq!(class(302, b"{}"), Err(FailureClass::GiveUp));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000));
        assert_eq!(class(200, deep.as_bytes()), Err(FailureClass::Unclear));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let url = "https://api.weixin.qq.com/x?access_token=S3CRET".to_owned();
        let mut request = ApiRequest::post_json(url, &serde_json::json!({ "secret": "S3CRET" }));
        request.headers.push(("access-token", "S3CRET".into()));
        let response = ApiResponse { status: 200, body: b"S3CRET".to_vec() };
        let shown = format!("{request:?} {response:?} {:?}", Token::new("S3CRET", 1));
        assert!(shown.contains("weixin.qq.com/x,") && !shown.contains("S3CRET"), "{shown}");
        assert!(!shown.contains("83, 51"), "{shown}");
    }

    #[test]
    fn secrets_go_over_https_or_to_this_machine() {
        for right in
            ["https://a.example", "http://127.0.0.1:9", "http://localhost", "http://[::1]:9/a"]
        {
            assert_eq!(trusted(right).as_deref(), Some(right));
        }
        assert_eq!(trusted("https://a.example/").as_deref(), Some("https://a.example"));
        for wrong in [
            "",
            "a.example",
            "http://a.example",
            "http://127.0.0.1.a.example",
            "ftp://a.example",
            "http://127.0.0.1@a.example",
            "https://",
            "https://a.example?x=1",
            "https://a b",
            "http://localhost.a.example",
        ] {
            assert_eq!(trusted(wrong), None, "{wrong}");
        }
    }
}
