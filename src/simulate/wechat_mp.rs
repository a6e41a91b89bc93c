//! 公众号 and 小程序: pushes in the console's mode, passive replies, custom/send and typing.
//!
//! developers.weixin.qq.com: "message push", "message encryption", "customer service messages".

use std::collections::{BTreeMap, HashMap};
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
use super::seal::{nonce, signature};
use super::xml::{self, Value as Member};
use super::{Answer, Call, Fault, Said, Seen, Side, SimulateError, What, query};
use crate::base::clock::UnixMs;
use crate::domain::knowledge::words;

words!(
    /// How the console is set.
    Mode {
        /// 明文: the fields as they are.
        Plain = "plain",
        /// 兼容: the fields and, beside them, the same encrypted.
        Compatible = "compatible",
        /// 安全: only the receiver's name and the encrypted part.
        Safe = "safe",
    }
);
words!(
    /// Which of the two that share a protocol.
    Kind { Official = "wechat-mp", MiniProgram = "wechat-mini" }
);

const TEXT_BYTES: usize = 2_048;
const MESSAGE: Quota = Quota { count: 5, lasting: Duration::from_secs(48 * 3_600) };
/// Follow, scan and menu click at a 公众号; entering the session at a 小程序.
const FOLLOWED: Quota = Quota { count: 3, lasting: Duration::from_secs(60) };
const ENTERED: Quota = Quota { count: 2, lasting: Duration::from_secs(60) };
/// The customer sees "typing" so long, and must have done something so recently.
const TYPING: UnixMs = 15_000;
const RECENT: UnixMs = 30_000;

/// As the account's console and configuration have it.
#[derive(Clone)]
pub struct Settings {
    pub kind: Kind,
    pub mode: Mode,
    pub token: SecretString,
    pub app_id: String,
    pub app_secret: Option<SecretString>,
    pub encoding_aes_key: Option<SecretString>,
}

/// The platform's end of one account.
pub struct WechatMp {
    settings: Settings,
    envelope: Option<Envelope>,
    api: Arc<Api>,
    presence: Mutex<HashMap<String, Presence>>,
}

/// When the customer last did something, and until when "typing" is shown.
#[derive(Clone, Copy, Default)]
struct Presence {
    active: UnixMs,
    typing_until: UnixMs,
}

impl WechatMp {
    /// The account's own id on the platform.
    const US: &str = "gh_simulated";

    /// # Errors
    /// When the mode needs a key that is not there.
    pub fn new(settings: Settings, api: Arc<Api>) -> Result<Self, SimulateError> {
        let key = settings.encoding_aes_key.as_ref();
        let envelope = key.map(|key| Envelope::new(&settings.token, key, &settings.app_id));
        let envelope = envelope.transpose()?;
        if envelope.is_none() && settings.mode != Mode::Plain {
            let reason = "compatible and safe mode need the account's encoding_aes_key";
            return Err(SimulateError::Input(reason.into()));
        }
        Ok(Self { settings, envelope, api, presence: Mutex::default() })
    }

    /// The query of the console's check of a new address, and what must come back.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn url_check(&self, now: i64) -> Result<(String, String), Fault> {
        let (stamp, nonce, echo) = (now.to_string(), nonce(8)?, nonce(10)?);
        let signed = signature(&[self.settings.token.expose_secret(), &stamp, &nonce]);
        let pairs = [
            ("signature", signed.as_str()),
            ("timestamp", &stamp),
            ("nonce", &nonce),
            ("echostr", &echo),
        ];
        Ok((query(&pairs), echo))
    }

    fn members(&self, said: &Said) -> Vec<(&'static str, Member)> {
        let mut members = vec![
            ("ToUserName", xml::text(Self::US)),
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
                ("PicUrl", xml::text("http://mmbiz.qpic.cn/simulated/0")),
                ("MediaId", xml::text("media-simulated")),
                id,
            ]),
            What::Event(name) => members.extend([
                ("MsgType", xml::text("event")),
                ("Event", xml::text(name)),
                ("EventKey", xml::text("")),
            ]),
        }
        members
    }

    fn note_presence(&self, said: &Said) {
        let quota = match (&said.what, self.settings.kind) {
            (What::Text(_) | What::Image, _) => MESSAGE,
            (What::Event(_), Kind::Official) => FOLLOWED,
            (What::Event(_), Kind::MiniProgram) => ENTERED,
        };
        self.api.open_window(&said.customer, quota);
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        presence.entry(said.customer.clone()).or_default().active = self.api.clock.now();
    }

    /// The members of a passive reply, opened and checked.
    fn opened(&self, body: &[u8]) -> Result<BTreeMap<String, String>, Fault> {
        let outer = xml::read(body)?;
        match (outer.contains_key("Encrypt"), &self.envelope) {
            (true, Some(envelope)) => envelope.open(&outer),
            (true, None) => Err(Fault::new("an encrypted reply without a key")),
            (false, _) if self.settings.mode == Mode::Safe => {
                Err(Fault::new("a plain reply in safe mode"))
            }
            (false, _) => Ok(outer),
        }
    }
}

impl Side for WechatMp {
    fn word(&self) -> &'static str {
        self.settings.kind.as_str()
    }

    fn call(&self, said: &Said, now: i64) -> Result<Call, Fault> {
        self.note_presence(said);
        let (stamp, nonce) = (now.to_string(), nonce(8)?);
        let signed = signature(&[self.settings.token.expose_secret(), &stamp, &nonce]);
        let members = self.members(said);
        let message = xml::write(&members);
        let beside = match self.settings.mode {
            Mode::Plain => None,
            Mode::Compatible => Some(members),
            Mode::Safe => Some(vec![("ToUserName", xml::text(Self::US))]),
        };
        let (Some(beside), Some(envelope)) = (beside, &self.envelope) else {
            let query = query(&[
                ("signature", &signed),
                ("timestamp", &stamp),
                ("nonce", &nonce),
                ("openid", &said.customer),
            ]);
            let body = message.into_bytes();
            return Ok(Call { query, content_type: "text/xml", body, ..Call::default() });
        };
        let more = [("openid", said.customer.as_str()), ("encrypt_type", "aes")];
        envelope.xml(&message, beside, &more, now)
    }

    fn open(&self, said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let body = answer.body.as_slice();
        if body.is_empty() || body == b"success" {
            return Ok(Seen::Nothing);
        }
        let fields = self.opened(body)?;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        if field("ToUserName") != said.customer || field("FromUserName") != Self::US {
            return Err(Fault::new("a passive reply to or from somebody else"));
        }
        if field("CreateTime").parse::<i64>().is_err() {
            return Err(Fault::new("a passive reply without CreateTime"));
        }
        match field("MsgType") {
            "text" => match field("Content") {
                "" => Err(Fault::new("an empty passive reply, which shows as an outage")),
                content if content.len() > TEXT_BYTES => Err(Fault::new("a reply over 2048 bytes")),
                content => Ok(Seen::Text(content.to_owned())),
            },
            "transfer_customer_service" if !matches!(said.what, What::Event(_)) => {
                Ok(Seen::Transferred)
            }
            other => Err(Fault::new(format!("a passive reply of type {other:?}"))),
        }
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/cgi-bin/token", get(plain_token))
            .route("/cgi-bin/stable_token", post(stable_token))
            .route("/cgi-bin/message/custom/send", post(send))
            .route("/cgi-bin/message/custom/typing", post(typing))
            .route("/cgi-bin/message/custom/business/typing", post(typing))
            .with_state(self)
    }
}

type Parameters = Query<HashMap<String, String>>;

impl WechatMp {
    fn check_secret(&self, app_id: &str, secret: &str) -> Result<(), Refusal> {
        let ours = self.settings.app_secret.as_ref().map(ExposeSecret::expose_secret);
        if app_id == self.settings.app_id && Some(secret) == ours {
            return Ok(());
        }
        self.api.ledger.fault("a token was asked for with a wrong app id or secret");
        Err(Refusal::SecretWrong)
    }

    fn check_call(&self, query: &HashMap<String, String>, body: &[u8]) -> Result<Value, Refusal> {
        self.api.check_token(query.get("access_token").map(String::as_str))?;
        self.api.object(body)
    }

    fn typing(&self, query: &HashMap<String, String>, body: &[u8]) -> Result<Value, Answered> {
        let object = self.check_call(query, body)?;
        let now = self.api.clock.now();
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        let one = presence.get_mut(text(&object, "/touser")).ok_or(Refusal::NoSuchCustomer)?;
        match text(&object, "/command") {
            "Typing" if now - one.active > RECENT => Err(Refusal::WindowClosed)?,
            "Typing" if one.typing_until > now => Err(Refusal::TypingAlready)?,
            "Typing" => one.typing_until = now + TYPING,
            "CancelTyping" => one.typing_until = 0,
            _ => {
                self.api.ledger.fault("an unknown typing command");
                Err(Refusal::TypingUnknown)?;
            }
        }
        Ok(json!({}))
    }

    async fn send(&self, query: &HashMap<String, String>, body: &[u8]) -> Result<Value, Answered> {
        let object = self.check_call(query, body)?;
        let told = self.api.chance().await?;
        let customer = text(&object, "/touser");
        let shown = match text(&object, "/msgtype") {
            "text" => text(&object, "/text/content").to_owned(),
            "msgmenu" => menu(&object),
            "link" if self.settings.kind == Kind::MiniProgram => {
                text(&object, "/link/title").to_owned()
            }
            other => {
                self.api.ledger.fault(format!("custom/send of type {other:?}"));
                return Err(Refusal::Malformed.into());
            }
        };
        self.api.show(customer, &shown, TEXT_BYTES)?;
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        presence.entry(customer.to_owned()).or_default().typing_until = 0;
        told.with(json!({}))
    }
}

/// A menu as the customer reads it.
fn menu(object: &Value) -> String {
    let items = object.pointer("/msgmenu/list").and_then(Value::as_array);
    let items = items.into_iter().flatten().map(|item| text(item, "/content"));
    let lines = [text(object, "/msgmenu/head_content")].into_iter().chain(items);
    lines.chain([text(object, "/msgmenu/tail_content")]).collect::<Vec<_>>().join("\n")
}

async fn plain_token(State(side): State<Arc<WechatMp>>, Query(query): Parameters) -> Response {
    let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let checked = side.check_secret(given("appid"), given("secret"));
    let issued = checked.and_then(|()| side.api.issue_token(false, false));
    wechat(issued.map(token_members).map_err(Answered::from))
}

async fn stable_token(State(side): State<Arc<WechatMp>>, body: Bytes) -> Response {
    let issued = side.api.object(&body).and_then(|asked| {
        side.check_secret(text(&asked, "/appid"), text(&asked, "/secret"))?;
        let force = asked.get("force_refresh").and_then(Value::as_bool).unwrap_or(false);
        side.api.issue_token(true, force)
    });
    wechat(issued.map(token_members).map_err(Answered::from))
}

pub(super) fn token_members((token, seconds): (String, i64)) -> Value {
    json!({ "access_token": token, "expires_in": seconds })
}

async fn send(
    State(side): State<Arc<WechatMp>>,
    Query(query): Parameters,
    body: Bytes,
) -> Response {
    wechat(side.send(&query, &body).await)
}

async fn typing(
    State(side): State<Arc<WechatMp>>,
    Query(query): Parameters,
    body: Bytes,
) -> Response {
    wechat(side.typing(&query, &body))
}
