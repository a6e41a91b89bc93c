//! Models behind an OpenAI-compatible HTTP service, under the same two traits as the local ones.
//!
//! The key comes from an environment variable, is sent to the configured address only (no
//! redirects), and is neither logged nor shown. A request lasts until the caller's deadline, and
//! never longer than [`LONGEST`]; an answer is read up to [`MOST_BYTES`].

mod choose;
mod embedder;
mod generator;

pub(super) use choose::RULES;

use std::io::Read;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{Control, ModelError};

pub use embedder::RemoteEmbedder;
pub use generator::RemoteGenerator;

const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer; a batch of several callers has no deadline of its own.
const LONGEST: Duration = Duration::from_secs(30);
/// Largest answer: a batch of vectors written as text is a few MB.
const MOST_BYTES: u64 = 32 << 20;

/// Where a remote model is.
#[derive(Clone, Debug)]
pub struct Address {
    base: Url,
    model: String,
    key: Option<SecretString>,
}

impl Address {
    /// `base_url` ends before `/embeddings`; `key_variable` empty: no key is sent.
    ///
    /// # Errors
    /// Says what to correct.
    pub fn new(base_url: &str, model: &str, key_variable: &str) -> Result<Self, String> {
        let base = check_url(base_url, !key_variable.is_empty())?;
        if model.is_empty() {
            return Err("model is empty: name the model that the service knows".into());
        }
        let key = match key_variable {
            "" => None,
            name => Some(read_key(name)?),
        };
        Ok(Self { base, model: model.to_owned(), key })
    }
}

fn read_key(variable: &str) -> Result<SecretString, String> {
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(key.into()),
        Ok(_) | Err(_) => {
            Err(format!("api_key_env names `{variable}`, which is not set: put the key there"))
        }
    }
}

/// An address that a key may be sent to.
///
/// # Errors
/// Says what to correct; the address is not quoted, a secret may stand in it.
pub fn check_url(base_url: &str, with_key: bool) -> Result<Url, String> {
    let url = Url::parse(base_url).map_err(|e| format!("base_url: {e}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("base_url holds a name, a password or a query: use api_key_env".into());
    }
    let host = url.host_str().unwrap_or_default();
    let loopback = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback || !with_key => Ok(url),
        "http" => Err("base_url: a key would travel unencrypted: use https".into()),
        other => Err(format!("base_url: `{other}` is neither http nor https")),
    }
}

/// One model of a service.
struct Service {
    address: Address,
    client: Client,
}

impl Service {
    fn new(address: Address) -> Result<Self, ModelError> {
        // Fails when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT).redirect(Policy::none()).build();
        let client = client.map_err(|e| ModelError::Inference(e.without_url().to_string()))?;
        Ok(Self { address, client })
    }

    fn model(&self) -> &str {
        &self.address.model
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address.base.as_str().trim_end_matches('/'))
    }

    /// Sends `body` and reads what comes back.
    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        control: &Control,
    ) -> Result<T, ModelError> {
        control.check()?;
        let url = self.url(path);
        let left = control.deadline.map_or(LONGEST, |d| d.remaining().min(LONGEST));
        let mut request = self.client.post(&url).timeout(left).json(body);
        if let Some(key) = &self.address.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let failed = |reason: String| {
            // A deadline that passed meanwhile is the caller's, not the service's fault.
            control.check().err().unwrap_or(ModelError::Unreachable { url: url.clone(), reason })
        };
        let response = request.send().map_err(|e| failed(told(&e)))?;
        let response = accepted(response, &url)?;
        let mut bytes = Vec::new();
        response.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
        control.check()?;
        let malformed = |reason: String| ModelError::Malformed { url: url.clone(), reason };
        if bytes.len() as u64 > MOST_BYTES {
            return Err(malformed(format!("more than {} MiB", MOST_BYTES >> 20)));
        }
        // The parser's complaint about a wrong type quotes the value, which may be what a customer
        // wrote.
        serde_json::from_slice(&bytes)
            .map_err(|e| malformed(format!("not the expected JSON (at byte {})", e.column())))
    }

    fn malformed(&self, path: &str, reason: impl std::fmt::Display) -> ModelError {
        ModelError::Malformed { url: self.url(path), reason: reason.to_string() }
    }
}

/// The innermost cause, without the address.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn accepted(response: Response, url: &str) -> Result<Response, ModelError> {
    let (url, status) = (url.to_owned(), response.status());
    match status {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(ModelError::Refused { url, status: status.as_u16() })
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Err(ModelError::Overloaded { url, status: status.as_u16() })
        }
        other if other.is_server_error() => {
            Err(ModelError::Unreachable { url, reason: format!("HTTP {}", other.as_u16()) })
        }
        other => Err(ModelError::Malformed { url, reason: format!("HTTP {}", other.as_u16()) }),
    }
}
