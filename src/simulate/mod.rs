//! Floor 5: the platforms' side of the conversation, to try the running service against.
//!
//! A second reading of the protocols: nothing here is shared with `channels`, so that what both
//! agree on was read twice. A [`Side`] makes callbacks as its platform would, opens the answers, and
//! serves the platform's API; the driver sends, the [`ledger`] keeps what was accepted and what the
//! customers saw, and [`audit`] compares that with the store.

pub mod alipay;
pub mod api;
pub mod audit;
pub mod child;
pub mod douyin;
pub mod driver;
pub mod envelope;
pub mod flood;
pub mod ledger;
pub mod load;
pub mod questions;
pub mod run;
pub mod scenario;
pub mod seal;
pub mod series;
pub mod webhook;
pub mod wechat_kf;
pub mod wechat_mp;
pub mod wechat_shop;
pub mod wecom;
mod xml;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;

/// Something that the service, or what stands in its way, did against the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// Mend the command line, the configuration or the scenario.
    #[error("{0}")]
    Input(String),
    /// The service did not start, or does not answer.
    #[error("{0}")]
    Service(String),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("no client: {0}")]
    Client(#[from] reqwest::Error),
}

/// One thing that a customer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The platform's id of the customer.
    pub customer: String,
    /// The platform's id of the message; the same one again is a retry.
    pub id: u64,
    /// Seconds since the epoch.
    pub created: i64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Text(String),
    /// An attachment that the platform names by a media id.
    Image,
    /// In the platform's own word: `subscribe`, `enter_session`, `user_enter_tempsession`, `follow`.
    Event(String),
}

/// A request to the service's callback address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// What stands after the `?`, encoded.
    pub query: String,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Call {
    /// The same with a signature that is not its own, wherever the platform has it.
    pub fn forged(self) -> Self {
        self.signed_otherwise("signature=", "signature=0", "sign=", "sign=0")
    }

    /// The same without a signature.
    pub fn unsigned(self) -> Self {
        let call = self.signed_otherwise("signature=", "nothing=", "sign=", "nothing=");
        Self { headers: Vec::new(), ..call }
    }

    /// In the query, in every header, or, where neither has any, in the form.
    fn signed_otherwise(mut self, query: &str, other: &str, form: &str, instead: &str) -> Self {
        for (_, value) in &mut self.headers {
            value.insert(0, '0');
        }
        if self.query.contains(query) {
            self.query = self.query.replace(query, other);
        } else if self.headers.is_empty() {
            let body = String::from_utf8_lossy(&self.body).replace(form, instead);
            self.body = body.into_bytes();
        }
        self
    }
}

/// A 200 that came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// What the customer sees of the answer to a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Received, nothing said.
    Nothing,
    Text(String),
    /// The platform's own desk takes over.
    Transferred,
}

/// One platform's end of one account.
pub trait Side: Send + Sync {
    /// As it stands in the callback's address: `/channels/<word>/<account>`.
    fn word(&self) -> &'static str;

    /// The request with which the platform tells of it. `now` in seconds since the epoch.
    ///
    /// # Errors
    /// When the account's settings do not allow it.
    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault>;

    /// Reads the answer as strictly as the platform would.
    ///
    /// # Errors
    /// What in it the platform would not take.
    fn open(&self, said: &Said, answer: &Answer) -> Result<Seen, Fault>;

    /// The platform's API.
    fn routes(self: Arc<Self>) -> Router;
}

/// Percent-encodes what may not stand in a query as it is.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let encode = |value: &str| {
        let byte = |b: u8| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        };
        value.bytes().map(byte).collect::<String>()
    };
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}
