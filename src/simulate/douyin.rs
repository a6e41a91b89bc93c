//! 抖音: webhooks signed over the raw body, and im/send/msg.
//!
//! developer.open-douyin.com, "webhooks"; the send as repositories that use it agree on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::api::{Answered, Api, Quota, Refusal, text};
use super::{Answer, Call, Fault, Said, Seen, Side, What};
use crate::base::digest::hex;

const TEXT_CHARS: usize = 1_000;
const DAY_S: u64 = 24 * 3_600;
/// Begins every refresh token that was renewed here.
const RENEWED: &str = "renewed";
/// A character of Chinese takes three bytes and of others up to four.
const TEXT_BYTES: usize = 4 * TEXT_CHARS;
const MESSAGE: Quota = Quota { count: 6, lasting: Duration::from_secs(24 * 3_600) };
const ENTERED: Quota = Quota { count: 3, lasting: Duration::from_secs(30) };

#[derive(Clone)]
pub struct Settings {
    pub client_key: String,
    pub client_secret: SecretString,
    /// The account's own id.
    pub open_id: String,
}

pub struct Douyin {
    settings: Settings,
    api: Arc<Api>,
    /// The refresh token that we gave first has been renewed.
    renewed: AtomicBool,
}

impl Douyin {
    pub fn new(settings: Settings, api: Arc<Api>) -> Self {
        Self { settings, api, renewed: false.into() }
    }

    async fn send(
        &self,
        owner: Option<&str>,
        token: Option<&str>,
        body: &[u8],
    ) -> Result<Value, Answered> {
        self.api.check_token(token)?;
        let asked = self.api.object(body)?;
        let told = self.api.chance().await?;
        let customer = text(&asked, "/to_user_id");
        let malformed = |what: &str| {
            self.api.ledger.fault(format!("im/send/msg {what}"));
            Err(Refusal::Malformed.into())
        };
        if owner != Some(&self.settings.open_id) {
            return malformed("for another open_id");
        }
        if text(&asked, "/conversation_id") != conversation(customer) {
            return malformed("into another conversation than the customer's");
        }
        if text(&asked, "/scene") == "im_reply_msg" && text(&asked, "/msg_id").is_empty() {
            return malformed("as a reply to no message");
        }
        if asked.pointer("/content/msg_type").and_then(Value::as_i64) != Some(1) {
            return malformed("of another type than text");
        }
        let shown = text(&asked, "/content/text/text");
        if shown.chars().count() > TEXT_CHARS {
            return malformed("over 1000 characters");
        }
        self.api.show(customer, shown, TEXT_BYTES)?;
        told.with(json!({ "msg_id": "simulated" }))
    }
}

fn conversation(customer: &str) -> String {
    format!("conversation-{customer}")
}

impl Side for Douyin {
    fn word(&self) -> &'static str {
        "douyin"
    }

    fn call(&self, said: &Said, _now: i64) -> Result<Call, Fault> {
        let mut content = json!({
            "conversation_short_id": conversation(&said.customer),
            "server_message_id": said.id.to_string(),
            "create_time": said.created * 1_000,
            "user_infos": [{ "open_id": said.customer, "nick_name": "顾客", "avatar": "" }],
        });
        let event = match &said.what {
            What::Text(text) => {
                content["message_type"] = json!("text");
                content["text"] = json!(text);
                "im_receive_msg"
            }
            What::Image => {
                content["message_type"] = json!("image");
                "im_receive_msg"
            }
            What::Event(name) => name,
        };
        let quota = if event == "im_receive_msg" { MESSAGE } else { ENTERED };
        self.api.open_window(&said.customer, quota);
        // Half of them as an object, half as text that holds one: both have been seen.
        let content = if said.id.is_multiple_of(2) { content } else { json!(content.to_string()) };
        let body = json!({
            "event": event, "client_key": self.settings.client_key, "from_user_id": said.customer,
            "to_user_id": self.settings.open_id, "content": content,
            "log_id": said.id.to_string(),
        });
        let body = body.to_string().into_bytes();
        let secret = self.settings.client_secret.expose_secret().as_bytes();
        let signed = hex(&Sha1::digest([secret, &body].concat()));
        let headers = vec![("X-Douyin-Signature", signed), ("Msg-Id", said.id.to_string())];
        Ok(Call { headers, content_type: "application/json", body, ..Call::default() })
    }

    fn open(&self, _said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let body = answer.body.as_slice();
        match body {
            b"" | b"success" | b"{}" => Ok(Seen::Nothing),
            _ => Err(Fault::new("this callback takes no reply in its answer")),
        }
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/oauth/refresh_token/", post(token))
            .route("/oauth/client_token/", post(token))
            .route("/oauth/renew_refresh_token/", post(renew))
            .route("/im/send/msg/", post(send))
            .with_state(self)
    }
}

/// Form or JSON; whoever knows the key gets one.
async fn token(State(side): State<Arc<Douyin>>, body: Bytes) -> Response {
    let asked = String::from_utf8_lossy(&body);
    if !asked.contains(&side.settings.client_key) {
        side.api.ledger.fault("a token was asked for without our client_key");
        return answer(Err(Refusal::SecretWrong.into()));
    }
    let given = form_value(&asked, "refresh_token");
    let renewed = given.starts_with(RENEWED);
    if side.renewed.load(Ordering::SeqCst) && !renewed {
        side.api.ledger.fault("a refresh token was used that had been renewed");
        return answer(Err(Refusal::SecretWrong.into()));
    }
    // The configured one is old; a renewed one is good for thirty days.
    let left = if renewed { 30 * DAY_S } else { 10 * DAY_S };
    let issued = side.api.issue_token(true, false).map_err(Answered::from);
    answer(issued.map(|(token, seconds)| {
        json!({
            "access_token": token, "expires_in": seconds, "open_id": side.settings.open_id,
            "refresh_token": given, "refresh_expires_in": left,
        })
    }))
}

/// The old one is no good from then on.
async fn renew(State(side): State<Arc<Douyin>>, body: Bytes) -> Response {
    let asked = String::from_utf8_lossy(&body);
    if !asked.contains(&side.settings.client_key) {
        side.api.ledger.fault("a renewal was asked for without our client_key");
        return answer(Err(Refusal::SecretWrong.into()));
    }
    side.renewed.store(true, Ordering::SeqCst);
    answer(Ok(json!({
        "refresh_token": format!("{RENEWED}-{}", form_value(&asked, "refresh_token")),
        "expires_in": 30 * DAY_S,
    })))
}

fn form_value<'a>(form: &'a str, name: &str) -> &'a str {
    let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

async fn send(
    State(side): State<Arc<Douyin>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let token = headers.get("access-token").and_then(|value| value.to_str().ok());
    answer(side.send(query.get("open_id").map(String::as_str), token, &body).await)
}

/// `data.error_code` says how it went; `extra` repeats it.
fn answer(result: Result<Value, Answered>) -> Response {
    let (code, mut data) = match result {
        Ok(data) => (0, data),
        Err(Answered::Unreadable(answer)) => return answer.into_response(),
        Err(Answered::Refused(refusal)) => (number(refusal), json!({})),
    };
    data["error_code"] = json!(code);
    data["description"] = json!("");
    let extra = json!({ "error_code": code, "description": "", "logid": "simulated", "now": 0 });
    axum::Json(json!({ "data": data, "extra": extra })).into_response()
}

fn number(refusal: Refusal) -> i64 {
    match refusal {
        Refusal::Busy => 2_100_004,
        Refusal::TokenMissing | Refusal::TokenWrong | Refusal::SecretWrong => 2_190_002,
        Refusal::TokenExpired => 2_190_008,
        Refusal::TooOften => 28_003_018,
        Refusal::QuotaUsed => 28_003_070,
        Refusal::WindowClosed => 28_003_080,
        Refusal::Forbidden => 28_029_004,
        Refusal::Malformed
        | Refusal::NoSuchCustomer
        | Refusal::TextEmpty
        | Refusal::TextTooLong
        | Refusal::WrongState
        | Refusal::TypingUnknown
        | Refusal::TypingAlready => 2_100_005,
    }
}
