//! 企业微信: the callback of an app, its encrypted replies, and message/send.
//!
//! developer.work.weixin.qq.com, paths 90238 and 91144 (callback), 90236 (message/send).

use std::collections::HashMap;
use std::sync::Arc;
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
use super::xml::{self, Value as Member};
use super::{Answer, Call, Fault, Said, Seen, Side, SimulateError, What};

const TEXT_BYTES: usize = 2_048;
/// The platform names no window; this is what keeps strangers apart from customers.
const COLLEAGUE: Quota = Quota { count: u32::MAX, lasting: Duration::from_secs(48 * 3_600) };

#[derive(Clone)]
pub struct Settings {
    pub token: SecretString,
    pub corp_id: String,
    pub agent_id: i64,
    pub encoding_aes_key: SecretString,
    pub secret: Option<SecretString>,
}

pub struct Wecom {
    settings: Settings,
    envelope: Envelope,
    api: Arc<Api>,
}

impl Wecom {
    /// # Errors
    /// When the key is none.
    pub fn new(settings: Settings, api: Arc<Api>) -> Result<Self, SimulateError> {
        let key = &settings.encoding_aes_key;
        let envelope = Envelope::new(&settings.token, key, &settings.corp_id)?;
        Ok(Self { settings, envelope, api })
    }

    /// The query of the console's check, and what must come back.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn url_check(&self, now: i64) -> Result<(String, String), Fault> {
        self.envelope.url_check(now)
    }

    fn token(&self, query: &HashMap<String, String>) -> Result<Value, Answered> {
        let given = |name: &str| query.get(name).map(String::as_str);
        let secret = self.settings.secret.as_ref().map(ExposeSecret::expose_secret);
        if given("corpid") != Some(&self.settings.corp_id) || given("corpsecret") != secret {
            self.api.ledger.fault("a token was asked for with a wrong corpid or secret");
            return Err(Refusal::SecretWrong.into());
        }
        Ok(token_members(self.api.issue_token(true, false)?))
    }

    async fn send(&self, query: &HashMap<String, String>, body: &[u8]) -> Result<Value, Answered> {
        self.api.check_token(query.get("access_token").map(String::as_str))?;
        let asked = self.api.object(body)?;
        let told = self.api.chance().await?;
        let agent = asked.get("agentid").and_then(Value::as_i64);
        if agent != Some(self.settings.agent_id) || text(&asked, "/msgtype") != "text" {
            self.api.ledger.fault("message/send for another agentid, or of another type than text");
            return Err(Refusal::Malformed.into());
        }
        self.api.show(text(&asked, "/touser"), text(&asked, "/text/content"), TEXT_BYTES)?;
        told.with(json!({ "invaliduser": "", "msgid": "simulated" }))
    }
}

impl Side for Wecom {
    fn word(&self) -> &'static str {
        "wecom"
    }

    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault> {
        self.api.open_window(&said.customer, COLLEAGUE);
        let corp = xml::text(&self.settings.corp_id);
        let mut members = vec![
            ("ToUserName", corp.clone()),
            ("FromUserName", xml::text(&said.customer)),
            ("CreateTime", Member::Number(said.created)),
        ];
        let id = ("MsgId", Member::Number(i64::try_from(said.id).unwrap_or(i64::MAX)));
        match &said.what {
            What::Text(content) => {
                members.extend([
                    ("MsgType", xml::text("text")),
                    ("Content", xml::text(content)),
                    id,
                ]);
            }
            What::Image => members.extend([
                ("MsgType", xml::text("image")),
                ("PicUrl", xml::text("http://simulated/0")),
                ("MediaId", xml::text("media-simulated")),
                id,
            ]),
            What::Event(name) => {
                members.extend([("MsgType", xml::text("event")), ("Event", xml::text(name))]);
            }
        }
        members.push(("AgentID", Member::Number(self.settings.agent_id)));
        let beside =
            vec![("ToUserName", corp), ("AgentID", Member::Number(self.settings.agent_id))];
        self.envelope.xml(&xml::write(&members), beside, &[], now)
    }

    fn open(&self, said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let body = answer.body.as_slice();
        if body.is_empty() || body == b"success" {
            return Ok(Seen::Nothing);
        }
        let fields = self.envelope.open(&xml::read(body)?)?;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        if field("ToUserName") != said.customer || field("FromUserName") != self.settings.corp_id {
            return Err(Fault::new("a passive reply to or from somebody else"));
        }
        match (field("MsgType"), field("Content")) {
            ("text", content) if !content.is_empty() && content.len() <= TEXT_BYTES => {
                Ok(Seen::Text(content.to_owned()))
            }
            (kind, _) => Err(Fault::new(format!("a passive {kind:?} that cannot be shown"))),
        }
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/cgi-bin/gettoken", get(token))
            .route("/cgi-bin/message/send", post(send))
            .with_state(self)
    }
}

async fn token(
    State(side): State<Arc<Wecom>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    wechat(side.token(&query))
}

async fn send(
    State(side): State<Arc<Wecom>>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    wechat(side.send(&query, &body).await)
}
