//! 支付宝 生活号: form posts signed with RSA over bytes of their own charset, and the gateway.
//!
//! docs.open.alipay.com/279/105937 (callbacks), opendocs.alipay.com, "signing" (gateway).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoding_rs::GBK;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::api::{Answered, Api, Quota, Refusal, text};
use super::{Answer, Call, Fault, Said, Seen, Side, SimulateError, What};

const TEXT_BYTES: usize = 2_048;
/// As practice has it; the documents name no number of messages.
const MESSAGE: Quota = Quota { count: u32::MAX, lasting: Duration::from_secs(48 * 3_600) };
const SEND: &str = "alipay.open.public.message.custom.send";

#[derive(Clone)]
pub struct Settings {
    pub app_id: String,
    /// The account's own, with which the service signs.
    pub private_key: SecretString,
    /// Alipay's, with which callbacks are signed; the service knows its public half.
    pub platform_key: SecretString,
}

pub struct Alipay {
    app_id: String,
    service_key: UnparsedPublicKey<Vec<u8>>,
    platform_key: KeyPair,
    random: SystemRandom,
    api: Arc<Api>,
}

impl Alipay {
    /// # Errors
    /// When one of the keys is no RSA key.
    pub fn new(settings: &Settings, api: Arc<Api>) -> Result<Self, SimulateError> {
        let service = key("private_key", &settings.private_key)?;
        let public = service.public_key().as_ref().to_vec();
        Ok(Self {
            app_id: settings.app_id.clone(),
            service_key: UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public),
            platform_key: key("the platform's key", &settings.platform_key)?,
            random: SystemRandom::new(),
            api,
        })
    }

    fn sign(&self, bytes: &[u8]) -> Result<String, Fault> {
        let mut signature = vec![0; self.platform_key.public().modulus_len()];
        self.platform_key
            .sign(&RSA_PKCS1_SHA256, &self.random, bytes, &mut signature)
            .map_err(|_| Fault::new("a callback could not be signed"))?;
        Ok(STANDARD.encode(signature))
    }

    /// A form in which everything but `sign` is signed, sorted by name.
    fn form(&self, pairs: &BTreeMap<&str, Vec<u8>>) -> Result<Vec<u8>, Fault> {
        let signed: Vec<Vec<u8>> = pairs
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_slice()].concat())
            .collect();
        let signature = self.sign(&signed.join(&b'&'))?;
        let all = pairs.iter().map(|(name, value)| (*name, value.as_slice()));
        let encoded = all.chain([("sign", signature.as_bytes())]).map(|(name, value)| {
            let value: String = value.iter().map(|byte| format!("%{byte:02X}")).collect();
            format!("{name}={value}")
        });
        Ok(encoded.collect::<Vec<_>>().join("&").into_bytes())
    }

    fn message(&self, said: &Said) -> String {
        let part = |name: &str, value: &str| format!("<{name}><![CDATA[{value}]]></{name}>");
        let head = part("AppId", &self.app_id)
            + &part("FromAlipayUserId", &said.customer)
            + &part("CreateTime", &(said.created * 1_000).to_string())
            + &part("MsgId", &said.id.to_string());
        let body = match &said.what {
            What::Text(content) => {
                let content = content.replace("]]>", "]]]]><![CDATA[>");
                let text = format!("<Text>{}</Text>", part("Content", &content));
                part("MsgType", "text") + &text
            }
            What::Image => {
                let image = format!("<Image>{}</Image>", part("MediaId", "media-simulated"));
                part("MsgType", "image") + &image
            }
            What::Event(name) => part("MsgType", "event") + &part("EventType", name),
        };
        format!("<XML>{head}{body}</XML>")
    }

    async fn send(&self, query: &str, body: &[u8]) -> Result<Value, Answered> {
        let body = std::str::from_utf8(body).map_err(|_| Refusal::Malformed)?;
        let asked = pairs(&[query, body].join("&"));
        self.check_signature(&asked)?;
        let field = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
        let told = self.api.chance().await?;
        if field("method") != SEND || field("app_id") != self.app_id {
            self.api.ledger.fault(format!("the gateway was asked for {:?}", field("method")));
            return Err(Refusal::Malformed.into());
        }
        let content = self.api.object(field("biz_content").as_bytes())?;
        if text(&content, "/msg_type") != "text" {
            self.api.ledger.fault("custom.send of another type than text");
            return Err(Refusal::Malformed.into());
        }
        let (customer, shown) = (text(&content, "/to_user_id"), text(&content, "/text/content"));
        self.api.show(customer, shown, TEXT_BYTES)?;
        told.with(json!({ "code": "10000", "msg": "Success" }))
    }

    fn check_signature(&self, asked: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let signature = asked.get("sign").and_then(|sign| STANDARD.decode(sign).ok());
        let signed: Vec<String> = asked
            .iter()
            .filter(|(name, value)| *name != "sign" && !value.is_empty())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let signed = signed.join("&");
        let good =
            signature.is_some_and(|s| self.service_key.verify(signed.as_bytes(), &s).is_ok());
        if good {
            return Ok(());
        }
        self.api.ledger.fault("a call of the gateway whose signature is wrong");
        Err(Refusal::SecretWrong)
    }

    fn answer(&self, result: Result<Value, Answered>) -> Response {
        let response = match result {
            Ok(members) => members,
            Err(Answered::Unreadable(answer)) => return answer.into_response(),
            Err(Answered::Refused(refusal)) => {
                let (code, sub) = numbers(refusal);
                json!({ "code": code, "msg": "refused", "sub_code": sub, "sub_msg": "" })
            }
        };
        let Ok(sign) = self.sign(response.to_string().as_bytes()) else {
            return answer_unsigned();
        };
        let name = format!("{}_response", SEND.replace('.', "_"));
        axum::Json(json!({ (name): response, "sign": sign })).into_response()
    }
}

fn answer_unsigned() -> Response {
    (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "no signature").into_response()
}

/// `code` and `sub_code`: opendocs.alipay.com, "common error codes".
fn numbers(refusal: Refusal) -> (&'static str, &'static str) {
    match refusal {
        Refusal::Busy => ("20000", "isp.unknow-error"),
        Refusal::TokenExpired | Refusal::TokenMissing | Refusal::TokenWrong => {
            ("20001", "aop.invalid-auth-token")
        }
        Refusal::SecretWrong => ("40002", "isv.invalid-signature"),
        Refusal::Malformed => ("40002", "isv.invalid-parameter"),
        Refusal::TooOften => ("40005", "isv.call-limited"),
        Refusal::Forbidden => ("40006", "isv.insufficient-isv-permissions"),
        Refusal::WindowClosed | Refusal::QuotaUsed => ("40004", "PUB.MSG_OUT_OF_TIME"),
        Refusal::NoSuchCustomer
        | Refusal::TextEmpty
        | Refusal::TextTooLong
        | Refusal::WrongState
        | Refusal::TypingUnknown
        | Refusal::TypingAlready => ("40004", "PUB.MSG_SEND_FAILED"),
    }
}

/// Names and values of a form or a query; the last of equal names wins.
fn pairs(form: &str) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://form/?{form}"));
    let Ok(url) = url else { return BTreeMap::new() };
    let pairs = url.query_pairs().filter(|(name, _)| !name.is_empty());
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// An RSA key as PEM or bare base64, PKCS#8 or PKCS#1.
fn key(what: &str, text: &SecretString) -> Result<KeyPair, SimulateError> {
    let lines = text.expose_secret().lines().filter(|line| !line.starts_with("-----"));
    let base64: String = lines.flat_map(str::split_whitespace).collect();
    let bytes = STANDARD.decode(base64).ok();
    let pair =
        bytes.and_then(|der| KeyPair::from_pkcs8(&der).or_else(|_| KeyPair::from_der(&der)).ok());
    pair.ok_or_else(|| SimulateError::Input(format!("{what}: no RSA key of 2048 bits or more")))
}

impl Side for Alipay {
    fn word(&self) -> &'static str {
        "alipay"
    }

    fn call(&self, said: &Said, _now: i64) -> Result<Call, Fault> {
        self.api.open_window(&said.customer, MESSAGE);
        let message = self.message(said);
        // Half of them in the charset that Alipay's own examples have.
        let (charset, bytes) = if said.id.is_multiple_of(2) {
            ("UTF-8", Cow::Borrowed(message.as_bytes()))
        } else {
            let (bytes, _, unmappable) = GBK.encode(&message);
            if unmappable { ("UTF-8", Cow::Borrowed(message.as_bytes())) } else { ("GBK", bytes) }
        };
        let form = BTreeMap::from([
            ("service", b"alipay.mobile.public.message.notify".to_vec()),
            ("charset", charset.as_bytes().to_vec()),
            ("sign_type", b"RSA2".to_vec()),
            ("biz_content", bytes.into_owned()),
        ]);
        let body = self.form(&form)?;
        Ok(Call { content_type: "application/x-www-form-urlencoded", body, ..Call::default() })
    }

    fn open(&self, _said: &Said, answer: &Answer) -> Result<Seen, Fault> {
        let body = answer.body.as_slice();
        let acknowledged = body == b"success" || body.windows(3).any(|word| word == b"ack");
        if acknowledged { Ok(Seen::Nothing) } else { Err(Fault::new("no acknowledgement")) }
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new().route("/gateway.do", post(gateway)).with_state(self)
    }
}

async fn gateway(
    State(side): State<Arc<Alipay>>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let result = side.send(&query.unwrap_or_default(), &body).await;
    side.answer(result)
}
