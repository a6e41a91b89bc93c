//! 微信客服: callbacks that carry nothing, messages that are fetched page by page, sends with keys,
//! and who has the conversation.
//!
//! developer.work.weixin.qq.com, paths 94670 (callback, sync_msg), 94677 (send_msg), 94669
//! (service_state), 95122 (send_msg_on_event).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use super::seal::nonce;
use super::wechat_mp::token_members;
use super::xml::{self, Value as Member};
use super::{Answer, Call, Fault, Said, Seen, Side, SimulateError, What};
use crate::base::clock::UnixMs;

const TEXT_BYTES: usize = 2_048;
const MENU_ITEMS: usize = 10;
const MESSAGE_ID_CHARS: usize = 32;
const MESSAGE: Quota = Quota { count: 5, lasting: Duration::from_secs(48 * 3_600) };
/// A callback's token lifts the rate limit so long.
const PERMIT: UnixMs = 600_000;
/// Without one, so often.
const BARE_EVERY: UnixMs = 1_000;
/// A welcome must be said within.
const WELCOME: UnixMs = 20_000;
const PAGE: usize = 20;
/// Every so many pages one is empty and still has more behind it.
const EMPTY_EVERY: u64 = 3;

#[derive(Clone)]
pub struct Settings {
    pub token: SecretString,
    pub corp_id: String,
    pub encoding_aes_key: SecretString,
    pub secret: SecretString,
}

pub struct WechatKf {
    settings: Settings,
    envelope: Envelope,
    api: Arc<Api>,
    desk: Mutex<Desk>,
}

/// What the platform remembers.
#[derive(Default)]
struct Desk {
    /// In the order in which they are fetched.
    items: Vec<Value>,
    /// Messages that lie among them: a repeated callback adds nothing.
    told: HashSet<u64>,
    permits: HashMap<String, UnixMs>,
    bare_at: UnixMs,
    pages: u64,
    sessions: HashMap<String, Session>,
    /// What was sent under which msgid.
    sent: HashMap<String, String>,
    /// Codes with which an event may be answered: whose, and until when.
    codes: HashMap<String, (String, UnixMs)>,
}

/// `service_state`: 0 unhandled, 1 assistant, 2 pool, 3 person, 4 ended.
#[derive(Clone, Default)]
struct Session {
    state: i64,
    servicer: String,
}

impl WechatKf {
    const KF: &str = "wk-simulated";

    /// # Errors
    /// When the key is none.
    pub fn new(settings: Settings, api: Arc<Api>) -> Result<Self, SimulateError> {
        let Settings { token, corp_id, encoding_aes_key, secret: _ } = &settings;
        let envelope = Envelope::new(token, encoding_aes_key, corp_id)?;
        Ok(Self { settings, envelope, api, desk: Mutex::default() })
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, desk: &mut Desk, said: &Said) -> Result<Value, Fault> {
        let mut item = json!({
            "msgid": said.id.to_string(), "open_kfid": Self::KF, "external_userid": said.customer,
            "send_time": said.created, "origin": 3,
        });
        let (kind, body) = match &said.what {
            What::Text(content) => ("text", json!({ "content": content })),
            What::Image => ("image", json!({ "media_id": "media-simulated" })),
            What::Event(name) => {
                item["origin"] = json!(4);
                let code = nonce(16)?;
                let ends = self.api.clock.now() + WELCOME;
                desk.codes.insert(code.clone(), (said.customer.clone(), ends));
                let event = json!({
                    "event_type": name, "open_kfid": Self::KF, "external_userid": said.customer,
                    "scene": "simulated", "scene_param": "", "welcome_code": code,
                });
                ("event", event)
            }
        };
        item["msgtype"] = json!(kind);
        item[kind] = body;
        Ok(item)
    }
}

impl Side for WechatKf {
    fn word(&self) -> &'static str {
        "wechat-kf"
    }

    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault> {
        let mut desk = self.desk();
        if desk.told.insert(said.id) {
            let item = self.item(&mut desk, said)?;
            desk.items.push(item);
            if !matches!(said.what, What::Event(_)) {
                self.api.open_window(&said.customer, MESSAGE);
            }
        }
        let permit = nonce(16)?;
        desk.permits.insert(permit.clone(), self.api.clock.now() + PERMIT);
        drop(desk);
        let message = xml::write(&[
            ("ToUserName", xml::text(&self.settings.corp_id)),
            ("CreateTime", Member::Number(now)),
            ("MsgType", xml::text("event")),
            ("Event", xml::text("kf_msg_or_event")),
            ("Token", xml::text(&permit)),
            ("OpenKfId", xml::text(Self::KF)),
        ]);
        let beside =
            vec![("ToUserName", xml::text(&self.settings.corp_id)), ("AgentID", xml::text(""))];
        self.envelope.xml(&message, beside, &[], now)
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
            .route("/cgi-bin/gettoken", get(token))
            .route("/cgi-bin/kf/sync_msg", post(sync))
            .route("/cgi-bin/kf/send_msg", post(send))
            .route("/cgi-bin/kf/send_msg_on_event", post(send_on_event))
            .route("/cgi-bin/kf/service_state/get", post(state_get))
            .route("/cgi-bin/kf/service_state/trans", post(state_trans))
            .with_state(self)
    }
}

type Parameters = HashMap<String, String>;

impl WechatKf {
    fn checked(&self, query: &Parameters, body: &[u8]) -> Result<Value, Refusal> {
        self.api.check_token(query.get("access_token").map(String::as_str))?;
        self.api.object(body)
    }

    fn token(&self, query: &Parameters) -> Result<Value, Answered> {
        let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let secret = self.settings.secret.expose_secret();
        if given("corpid") != self.settings.corp_id || given("corpsecret") != secret {
            self.api.ledger.fault("a token was asked for with a wrong corpid or secret");
            return Err(Refusal::SecretWrong.into());
        }
        Ok(token_members(self.api.issue_token(true, false)?))
    }

    fn page(&self, query: &Parameters, body: &[u8]) -> Result<Value, Answered> {
        let asked = self.checked(query, body)?;
        let now = self.api.clock.now();
        let mut desk = self.desk();
        match text(&asked, "/token") {
            "" if now - desk.bare_at < BARE_EVERY => Err(Refusal::TooOften)?,
            "" => desk.bare_at = now,
            permit if desk.permits.get(permit).is_some_and(|ends| *ends > now) => {}
            _ => Err(Refusal::TokenWrong)?,
        }
        let cursor = text(&asked, "/cursor");
        let from = if cursor.is_empty() { Some(0) } else { cursor.parse::<usize>().ok() };
        let Some(from) = from.filter(|from| *from <= desk.items.len()) else {
            self.api
                .ledger
                .fault(format!("sync_msg with a cursor that was never given: {cursor:?}"));
            return Err(Refusal::Malformed.into());
        };
        let limit = asked.get("limit").and_then(Value::as_u64).unwrap_or(PAGE as u64);
        if !(1..=1_000).contains(&limit) || text(&asked, "/open_kfid") != Self::KF {
            self.api.ledger.fault("sync_msg with a wrong limit or open_kfid");
            return Err(Refusal::Malformed.into());
        }
        desk.pages += 1;
        let left = desk.items.len() - from;
        let empty = left > 0 && desk.pages.is_multiple_of(EMPTY_EVERY);
        let count = if empty { 0 } else { left.min(PAGE).min(limit as usize) };
        let end = from + count;
        Ok(json!({
            "next_cursor": end.to_string(), "has_more": i32::from(end < desk.items.len()),
            "msg_list": desk.items[from..end],
        }))
    }

    async fn send(&self, query: &Parameters, body: &[u8]) -> Result<Value, Answered> {
        let asked = self.checked(query, body)?;
        let told = self.api.chance().await?;
        let (customer, id) = (text(&asked, "/touser"), text(&asked, "/msgid"));
        let shown = self.shown(&asked)?;
        if text(&asked, "/open_kfid") != Self::KF || !self.well_named(id) {
            return Err(Refusal::Malformed.into());
        }
        let mut desk = self.desk();
        if desk.sessions.get(customer).is_some_and(|session| session.state > 1) {
            return Err(Refusal::WrongState.into());
        }
        let known = (!id.is_empty()).then(|| desk.sent.get(id).cloned()).flatten();
        match known {
            Some(before) if before != shown => {
                self.api.ledger.fault(format!("msgid {id} came again with another text"));
            }
            Some(_) => {}
            None => {
                self.api.show(customer, &shown, TEXT_BYTES)?;
                desk.sent.insert(id.to_owned(), shown);
            }
        }
        told.with(json!({ "msgid": id }))
    }

    fn well_named(&self, id: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let well = id.len() <= MESSAGE_ID_CHARS && id.bytes().all(plain);
        if !well {
            self.api.ledger.fault(format!("msgid {id:?} is no name of up to 32 of 0-9a-zA-Z_-"));
        }
        well
    }

    /// The text of a send as the customer reads it.
    fn shown(&self, asked: &Value) -> Result<String, Refusal> {
        let malformed = |what: String| {
            self.api.ledger.fault(what);
            Err(Refusal::Malformed)
        };
        match text(asked, "/msgtype") {
            "text" => Ok(text(asked, "/text/content").to_owned()),
            "msgmenu" => {
                let items = asked.pointer("/msgmenu/list").and_then(Value::as_array);
                let items = items.map(Vec::as_slice).unwrap_or_default();
                let label = |item: &Value| match text(item, "/type") {
                    "click" => text(item, "/click/content").to_owned(),
                    "view" => text(item, "/view/content").to_owned(),
                    _ => text(item, "/text/content").to_owned(),
                };
                let labels: Vec<String> = items.iter().map(label).collect();
                if labels.len() > MENU_ITEMS || labels.iter().any(|l| l.is_empty() || l.len() > 128)
                {
                    return malformed("a menu with too many, empty or too long items".into());
                }
                let head = text(asked, "/msgmenu/head_content").to_owned();
                if head.len() > 1_024 {
                    return malformed("a menu with a head over 1024 bytes".into());
                }
                Ok([vec![head], labels].concat().join("\n"))
            }
            other => malformed(format!("send_msg of type {other:?}")),
        }
    }

    async fn send_on_event(&self, query: &Parameters, body: &[u8]) -> Result<Value, Answered> {
        let asked = self.checked(query, body)?;
        let told = self.api.chance().await?;
        let shown = self.shown(&asked)?;
        let code = self.desk().codes.remove(text(&asked, "/code"));
        let Some((customer, ends)) = code else {
            self.api.ledger.fault("send_msg_on_event with a code that was never given, or twice");
            return Err(Refusal::Malformed.into());
        };
        if ends < self.api.clock.now() {
            return Err(Refusal::WindowClosed.into());
        }
        // A welcome counts for no quota.
        self.api.ledger.seen(&customer, &shown);
        told.with(json!({ "msgid": text(&asked, "/msgid") }))
    }

    fn state(&self, query: &Parameters, body: &[u8]) -> Result<Value, Answered> {
        let asked = self.checked(query, body)?;
        let desk = self.desk();
        let session =
            desk.sessions.get(text(&asked, "/external_userid")).cloned().unwrap_or_default();
        Ok(json!({ "service_state": session.state, "servicer_userid": session.servicer }))
    }

    fn transfer(&self, query: &Parameters, body: &[u8]) -> Result<Value, Answered> {
        let asked = self.checked(query, body)?;
        let to = asked.get("service_state").and_then(Value::as_i64).unwrap_or(-1);
        let customer = text(&asked, "/external_userid").to_owned();
        let servicer = text(&asked, "/servicer_userid").to_owned();
        let mut desk = self.desk();
        let session = desk.sessions.entry(customer.clone()).or_default();
        let allowed: &[i64] = match session.state {
            0 => &[1, 2, 3, 4],
            1 => &[2, 3, 4],
            2 | 3 => &[3, 4],
            _ => &[],
        };
        if !allowed.contains(&to) {
            return Err(Refusal::WrongState.into());
        }
        if to == 3 && servicer.is_empty() {
            self.api.ledger.fault("a conversation given to a person who is not named");
            return Err(Refusal::Malformed.into());
        }
        *session = Session { state: to, servicer: servicer.clone() };
        let code = nonce(16).map_err(|_| Refusal::Busy)?;
        if to == 3 {
            let count = desk.items.len();
            desk.items.push(json!({
                "msgid": format!("change-{count}"), "open_kfid": Self::KF,
                "external_userid": customer, "send_time": self.api.clock.now() / 1_000, "origin": 4,
                "msgtype": "event",
                "event": {
                    "event_type": "session_status_change", "open_kfid": Self::KF,
                    "external_userid": customer, "change_type": 1, "new_servicer_userid": servicer,
                },
            }));
        }
        Ok(json!({ "msg_code": code }))
    }
}

async fn token(State(side): State<Arc<WechatKf>>, Query(query): Query<Parameters>) -> Response {
    answer(side.token(&query))
}

async fn sync(
    State(side): State<Arc<WechatKf>>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Response {
    answer(side.page(&query, &body))
}

async fn send(
    State(side): State<Arc<WechatKf>>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Response {
    answer(side.send(&query, &body).await)
}

async fn send_on_event(
    State(side): State<Arc<WechatKf>>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Response {
    answer(side.send_on_event(&query, &body).await)
}

async fn state_get(
    State(side): State<Arc<WechatKf>>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Response {
    answer(side.state(&query, &body))
}

async fn state_trans(
    State(side): State<Arc<WechatKf>>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Response {
    answer(side.transfer(&query, &body))
}

/// 微信客服 has numbers of its own for what its windows refuse.
fn answer(result: Result<Value, Answered>) -> Response {
    let code = match &result {
        Err(Answered::Refused(Refusal::QuotaUsed)) => 95001,
        Err(Answered::Refused(Refusal::WindowClosed)) => 95002,
        Err(_) | Ok(_) => return wechat(result),
    };
    wechat(Ok(json!({ "errcode": code, "errmsg": "the window is closed or used up" })))
}
