//! 微信小店: JSON pushes and commkf/sendmsg.
//!
//! developers.weixin.qq.com/doc/store/shop, "customer service".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::api::{Answered, Api, Quota, Refusal, text, wechat};
use super::envelope::Envelope;
use super::wechat_mp::token_members;
use super::{Answer, Call, Fault, Said, Seen, Side, SimulateError, What};

const TEXT_BYTES: usize = 2_048;
/// The documents name none; this is what keeps strangers apart from customers.
const MESSAGE: Quota = Quota { count: u32::MAX, lasting: Duration::from_secs(48 * 3_600) };

#[derive(Clone)]
pub struct Settings {
    pub token: SecretString,
    pub app_id: String,
    pub app_secret: SecretString,
    pub encoding_aes_key: SecretString,
}

pub struct WechatShop {
    settings: Settings,
    envelope: Envelope,
    api: Arc<Api>,
    /// What was sent under which request_id.
    sent: Mutex<HashMap<String, String>>,
}

impl WechatShop {
    const US: &str = "gh_simulated_shop";

    /// # Errors
    /// When the key is none.
    pub fn new(settings: Settings, api: Arc<Api>) -> Result<Self, SimulateError> {
        let key = &settings.encoding_aes_key;
        let envelope = Envelope::new(&settings.token, key, &settings.app_id)?;
        Ok(Self { settings, envelope, api, sent: Mutex::default() })
    }

    fn issue(&self, app_id: &str, secret: &str, stable: bool, force: bool) -> Response {
        let right =
            app_id == self.settings.app_id && secret == self.settings.app_secret.expose_secret();
        let issued = if right {
            self.api.issue_token(stable, force)
        } else {
            self.api.ledger.fault("a token was asked for with a wrong app id or secret");
            Err(Refusal::SecretWrong)
        };
        wechat(issued.map(token_members).map_err(Answered::from))
    }

    async fn send(&self, query: &HashMap<String, String>, body: &[u8]) -> Result<Value, Answered> {
        self.api.check_token(query.get("access_token").map(String::as_str))?;
        let asked = self.api.object(body)?;
        let told = self.api.chance().await?;
        let (request, customer) = (text(&asked, "/request_id"), text(&asked, "/open_id"));
        let shown = text(&asked, "/text/content");
        if request.is_empty() || text(&asked, "/msg_type") != "text" {
            self.api.ledger.fault("sendmsg without a request_id, or of another type than text");
            return Err(Refusal::Malformed.into());
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match sent.get(request) {
            Some(before) if before != shown => {
                let what = format!("request_id {request} came again with another text");
                self.api.ledger.fault(what);
            }
            Some(_) => {}
            None => {
                self.api.show(customer, shown, TEXT_BYTES)?;
                sent.insert(request.to_owned(), shown.to_owned());
            }
        }
        told.with(json!({ "msg_id": request }))
    }
}

impl Side for WechatShop {
    fn word(&self) -> &'static str {
        "wechat-shop"
    }

    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault> {
        self.api.open_window(&said.customer, MESSAGE);
        let mut push = json!({
            "ToUserName": Self::US, "FromUserName": said.customer, "CreateTime": said.created,
            "MsgType": "event",
        });
        let (kind, body) = match &said.what {
            What::Text(content) => ("text", json!({ "content": content })),
            What::Image => ("image", json!({ "url": "https://simulated/0" })),
            What::Event(name) => {
                push["Event"] = json!(name);
                return self.envelope.json(&push, Self::US, now);
            }
        };
        push["Event"] = json!("commkf_send_msg_to_kf");
        push["msg_id"] = json!(said.id.to_string());
        push["msg_type"] = json!(kind);
        push["msg_event"] = json!("EVENT_TYPE_SEND_MSG");
        push[kind] = body;
        self.envelope.json(&push, Self::US, now)
    }

    fn open(&self, _said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let body = answer.body.as_slice();
        match body {
            b"" | b"success" => Ok(Seen::Nothing),
            _ => Err(Fault::new("this callback takes no reply in its answer")),
        }
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/cgi-bin/token", get(plain_token))
            .route("/cgi-bin/stable_token", post(stable_token))
            .route("/channels/ec/commkf/sendmsg", post(send))
            .with_state(self)
    }
}

async fn plain_token(
    State(side): State<Arc<WechatShop>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    side.issue(given("appid"), given("secret"), false, false)
}

async fn stable_token(State(side): State<Arc<WechatShop>>, body: Bytes) -> Response {
    match side.api.object(&body) {
        Err(refusal) => wechat(Err(refusal.into())),
        Ok(asked) => {
            let force = asked.get("force_refresh").and_then(Value::as_bool).unwrap_or(false);
            side.issue(text(&asked, "/appid"), text(&asked, "/secret"), true, force)
        }
    }
}

async fn send(
    State(side): State<Arc<WechatShop>>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    wechat(side.send(&query, &body).await)
}
