//! A system of the operator's own on our signed JSON: what `channels::webhook` documents, from the
//! other side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::api::{Answered, Api, Quota, Refusal, text};
use super::{Answer, Call, Fault, Said, Seen, Side, What};
use crate::base::digest::hex;

const TEXT_BYTES: usize = 4_096;
const STALE_S: u64 = 300;
/// No limit but that somebody has written.
const MESSAGE: Quota = Quota { count: u32::MAX, lasting: Duration::from_secs(48 * 3_600) };

pub struct Webhook {
    key: hmac::Key,
    api: Arc<Api>,
    /// What came under which id.
    taken: Mutex<HashMap<String, Value>>,
}

impl Webhook {
    pub fn new(secret: &SecretString, api: Arc<Api>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        Self { key, api, taken: Mutex::default() }
    }

    fn signature(&self, timestamp: &str, body: &[u8]) -> String {
        let signed = [timestamp.as_bytes(), b".", body].concat();
        hex(hmac::sign(&self.key, &signed).as_ref())
    }

    /// By whoever knows the secret, and not long ago.
    fn signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let timestamp = header("x-huida-timestamp").unwrap_or_default();
        let right = self.signature(timestamp, body);
        let seconds: i64 = timestamp.parse().unwrap_or_default();
        let stale = (self.api.clock.now() / 1_000).abs_diff(seconds) > STALE_S;
        header("x-huida-signature") == Some(right.as_str()) && !stale
    }

    /// What the customer is shown of a reply object.
    fn shown(&self, reply: &Value) -> Result<Option<String>, Refusal> {
        let label = |item: &Value| text(item, "/text").to_owned();
        match text(reply, "/type") {
            "text" => Ok(Some(text(reply, "/text").to_owned())),
            "menu" => {
                let items = reply.get("items").and_then(Value::as_array);
                let items = items.into_iter().flatten().map(label);
                let head = [text(reply, "/text").to_owned()];
                Ok(Some(head.into_iter().chain(items).collect::<Vec<_>>().join("\n")))
            }
            "typing" | "transfer" => Ok(None),
            other => {
                self.api.ledger.fault(format!("a reply of type {other:?}"));
                Err(Refusal::Malformed)
            }
        }
    }

    async fn take(&self, headers: &HeaderMap, body: &[u8]) -> Result<StatusCode, Answered> {
        if !self.signed(headers, body) {
            self.api.ledger.fault("a reply whose signature is wrong or old");
            return Err(Refusal::SecretWrong.into());
        }
        let reply = self.api.object(body)?;
        let told = self.api.chance().await?;
        let id = text(&reply, "/id").to_owned();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get(&id) {
            Some(before) if *before == reply => return Ok(StatusCode::CONFLICT),
            Some(_) => self.api.ledger.fault(format!("id {id} came again with another reply")),
            None => {
                if let Some(shown) = self.shown(&reply)? {
                    self.api.show(text(&reply, "/customer"), &shown, TEXT_BYTES)?;
                }
                taken.insert(id, reply);
            }
        }
        told.with(json!({}))?;
        Ok(StatusCode::OK)
    }
}

impl Side for Webhook {
    fn word(&self) -> &'static str {
        "webhook"
    }

    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault> {
        self.api.open_window(&said.customer, MESSAGE);
        let mut message = json!({
            "id": said.id.to_string(), "customer": said.customer,
            "sent_at": said.created * 1_000,
        });
        let (kind, member, value) = match &said.what {
            What::Text(content) => ("text", "text", content.as_str()),
            What::Image => ("image", "url", "https://simulated/0"),
            What::Event(name) => ("event", "event", name.as_str()),
        };
        message["type"] = json!(kind);
        message[member] = json!(value);
        let (timestamp, body) = (now.to_string(), message.to_string().into_bytes());
        let signature = self.signature(&timestamp, &body);
        let headers = vec![("X-Huida-Timestamp", timestamp), ("X-Huida-Signature", signature)];
        Ok(Call { headers, content_type: "application/json", body, ..Call::default() })
    }

    fn open(&self, _said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let told: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| Fault::new("an answer that is no JSON"))?;
        let Some(reply) = told.get("reply").filter(|reply| !reply.is_null()) else {
            return Ok(Seen::Nothing);
        };
        if !self.signed(&answer.headers, &answer.body) {
            return Err(Fault::new("an answer whose signature is wrong or old"));
        }
        if text(reply, "/type") == "transfer" {
            return Ok(Seen::Transferred);
        }
        let shown = self.shown(reply).map_err(|_| Fault::new("a reply of an unknown type"))?;
        Ok(shown.map_or(Seen::Nothing, Seen::Text))
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new().route("/reply", post(reply)).with_state(self)
    }
}

async fn reply(State(side): State<Arc<Webhook>>, headers: HeaderMap, body: Bytes) -> Response {
    match side.take(&headers, &body).await {
        Ok(status) => status.into_response(),
        Err(Answered::Unreadable(answer)) => answer.into_response(),
        Err(Answered::Refused(refusal)) => status(refusal).into_response(),
    }
}

fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::TooOften | Refusal::QuotaUsed => StatusCode::TOO_MANY_REQUESTS,
        Refusal::SecretWrong
        | Refusal::TokenExpired
        | Refusal::TokenMissing
        | Refusal::TokenWrong => StatusCode::UNAUTHORIZED,
        Refusal::WindowClosed | Refusal::Forbidden => StatusCode::FORBIDDEN,
        Refusal::NoSuchCustomer => StatusCode::NOT_FOUND,
        Refusal::WrongState | Refusal::TypingAlready => StatusCode::CONFLICT,
        Refusal::Malformed | Refusal::TextEmpty | Refusal::TextTooLong | Refusal::TypingUnknown => {
            StatusCode::BAD_REQUEST
        }
    }
}
