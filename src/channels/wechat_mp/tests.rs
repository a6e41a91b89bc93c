//! The channel as a whole: published vectors, round trips, forgeries, mutations.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::fixture::{config, service, simulator};
use super::simulate::{
    OpenedReply, PushMode, Said, SimulatedMessage, SimulatedPush, Stamp as Signed, Wire,
};
use super::*;
use crate::base::limits;
use crate::channels::testing::{damage, post, survey};
use crate::channels::wechat::PushQuery;
use crate::channels::wechat::crypto::{AesKey, KeySlot};
use crate::channels::wechat::fields::{Field, Fields};
use crate::channels::wechat::fixture::{Vectors, vectors};
use crate::channels::wechat::signature;
use crate::channels::{BodyFormat, Item};
use crate::domain::message::Inbound;

const NOW: i64 = 1_790_000_002;

/// What a push of this channel always brings.
#[derive(Debug, PartialEq)]
struct Push {
    inbound: Inbound,
    reply_address: ReplyAddress,
}

/// The channel as these tests call it.
impl WechatMp {
    fn verify_url(&self, query: &PushQuery) -> Result<String, PushError> {
        let query = query.to_query_string();
        let callback =
            Callback { query: &query, headers: &[], body: b"", received_at: NOW * 1_000 };
        self.check_url(&callback).map(|answer| String::from_utf8(answer.body).unwrap())
    }

    fn receive(&self, query: &PushQuery, body: &[u8]) -> Result<Push, PushError> {
        let query = query.to_query_string();
        let callback = Callback { query: &query, headers: &[], body, received_at: NOW * 1_000 };
        let received = Channel::receive(self, &callback)?;
        let Received::Items(mut items) = received else { panic!("{received:?}") };
        let Some(Item::Push(push)) = items.pop() else { panic!("no push") };
        assert!(items.is_empty());
        assert_eq!(push.target, Target::customer(push.inbound.sender.clone()));
        Ok(Push { inbound: push.inbound, reply_address: push.reply_address.unwrap() })
    }

    fn passive_text_reply(
        &self,
        to: &ReplyAddress,
        text: &str,
        seconds: i64,
        nonce: &str,
    ) -> Result<CallbackAnswer, ReplyError> {
        self.passive(to, &Outgoing::Text(text.to_owned()), Stamp { seconds, nonce })
    }
}

const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
const OTHER_KEY: &str = "0123456789ABCDEFGabcdefghijklmnopqrstuvwxyz";

fn every_wire() -> impl Iterator<Item = Wire> {
    let formats = |mode| BodyFormat::ALL.iter().map(move |&format| Wire { mode, format });
    PushMode::ALL.iter().copied().flat_map(formats)
}

fn says(content: &str) -> SimulatedMessage {
    let what = Said::Text { content: content.to_owned(), msg_id: 24_000_000_000_000_001 };
    SimulatedMessage { sender: "o6_a_customer".to_owned(), created: 1_790_000_000, what }
}

fn stamp() -> Signed {
    Signed { timestamp: 1_790_000_001, nonce: "486452656".to_owned(), random: [42; 16] }
}

fn push_text(config: &WechatMpConfig, content: &str, wire: Wire) -> SimulatedPush {
    simulator(config).push(&says(content), wire, &stamp()).unwrap()
}

fn content_of(opened: OpenedReply) -> String {
    match opened {
        OpenedReply::Text { content, .. } => content,
        OpenedReply::Acknowledged => panic!("acknowledged only"),
    }
}

fn official(token: &str, encoding_aes_key: Option<&str>) -> WechatMp {
    service(&WechatMpConfig {
        token: token.into(),
        app_id: "wxba5fad812f8e6fb9".to_owned(),
        ..config(encoding_aes_key)
    })
}

#[test]
fn published_url_check_is_echoed() {
    let v = vectors().url_check;
    let query = PushQuery {
        signature: Some(v.signature),
        timestamp: Some(v.timestamp),
        nonce: Some(v.nonce),
        echostr: v.echostr.clone(),
        ..PushQuery::default()
    };
    let service = official(&v.token, None);
    assert_eq!(service.verify_url(&query), Ok(v.echostr.unwrap()));

    let refused = |change: fn(&mut PushQuery), error: PushError| {
        let mut changed = query.clone();
        change(&mut changed);
        assert_eq!(service.verify_url(&changed), Err(error), "{changed:?}");
    };
    refused(|q| q.signature = None, PushError::SignatureMismatch);
    refused(|q| q.timestamp = None, PushError::SignatureMismatch);
    refused(|q| q.nonce = Some(String::new()), PushError::SignatureMismatch);
    refused(|q| q.nonce = Some("1514711493".to_owned()), PushError::SignatureMismatch);
    refused(|q| q.echostr = None, PushError::Malformed("echostr"));
    refused(|q| q.echostr = Some("<a b>".to_owned()), PushError::Malformed("echostr"));
    refused(|q| q.echostr = Some("1".repeat(300)), PushError::Malformed("echostr"));
}

#[test]
fn published_plain_push_signature_is_taken() {
    let v = vectors().plain_push;
    let body = r#"{"ToUserName":"gh_97417a04a28d","FromUserName":"o9AgO5Kd5ggOC-bXrbNODIiE3bGY",
        "CreateTime":1714037059,"MsgType":"event","Event":"debug_demo","debug_str":"hello world"}"#;
    let query = PushQuery {
        signature: Some(v.signature),
        timestamp: Some(v.timestamp),
        nonce: Some(v.nonce),
        ..PushQuery::default()
    };
    let push = official(&v.token, None).receive(&query, body.as_bytes()).unwrap();
    assert_eq!(push.inbound.dedupe_key, "event:1714037059:debug_demo:");
    assert_eq!(push.reply_address.us, "gh_97417a04a28d");
}

#[test]
fn published_encrypted_push_is_received() {
    let Vectors { open, .. } = vectors();
    let v = &open[0];
    let query = PushQuery {
        msg_signature: Some(v.msg_signature.clone()),
        timestamp: Some(v.timestamp.clone()),
        nonce: Some(v.nonce.clone()),
        encrypt_type: Some("aes".to_owned()),
        ..PushQuery::default()
    };
    let body = format!(r#"{{"ToUserName":"gh_97417a04a28d","Encrypt":"{}"}}"#, v.encrypt);
    let service = official(&v.token, Some(&v.encoding_aes_key));
    let push = service.receive(&query, body.as_bytes()).unwrap();
    assert_eq!(push.inbound.sender, "o9AgO5Kd5ggOC-bXrbNODIiE3bGY");
    assert_eq!(push.inbound.sent_at, 1_714_112_445_000);
    assert_eq!(push.reply_address.format, BodyFormat::Json);
    assert_eq!(push.reply_address.key, Some(KeySlot::Current));
}

#[test]
fn a_push_for_another_app_is_not_for_us() {
    let ours = config(Some(KEY));
    let theirs = WechatMpConfig { app_id: "wxfedcba9876543210".to_owned(), ..ours.clone() };
    let wire = Wire { mode: PushMode::Safe, format: BodyFormat::Xml };
    let push = push_text(&theirs, "hi", wire);
    let error = service(&ours).receive(&push.query, &push.body).unwrap_err();
    assert_eq!((error, error.status()), (PushError::NotForUs, 403));
}

#[test]
fn what_is_genuine_and_no_message_is_taken_note_of() {
    let v = vectors().refuse;
    let service = official("AAAAA", Some(&v.encoding_aes_key));
    let receive = |encrypted: &str| {
        let signature = signature::sign(&["AAAAA", "1714112445", "415670741", encrypted]);
        let query = format!(
            "timestamp=1714112445&nonce=415670741&encrypt_type=aes&msg_signature={signature}"
        );
        let body = format!("<xml><ToUserName>gh</ToUserName><Encrypt>{encrypted}</Encrypt></xml>");
        post(&service, &query, &[], body.as_bytes())
    };
    let Ok(Received::Items(items)) = receive(&v.control_valid) else { panic!() };
    assert!(matches!(items[..], [Item::Notice(_)]), "{items:?}");
    assert_eq!(receive(&v.pad_zero).unwrap_err().status(), 400);
    assert_eq!(receive(&v.pad_bytes_differ).unwrap_err().status(), 400);
    assert_eq!(receive(&v.other_app_id).unwrap_err().status(), 403);
    // In the clear there is nothing genuine about it.
    let signature = signature::sign(&["AAAAA", "1", "n"]);
    let plain = format!("timestamp=1&nonce=n&signature={signature}");
    assert_eq!(post(&service, &plain, &[], b"<xml>x</xml>").unwrap_err().status(), 400);
}

#[test]
fn menus_and_transfers_are_said_in_the_answer() {
    let config = config(Some(KEY));
    let service = service(&config);
    for wire in every_wire() {
        let push = push_text(&config, "hi", wire);
        let address = service.receive(&push.query, &push.body).unwrap().reply_address;
        let stamp = Stamp { seconds: NOW, nonce: "n" };
        let menu = service.passive(&address, &Outgoing::Menu(survey()), stamp).unwrap();
        let shown = content_of(simulator(&config).open_reply(&menu.body).unwrap());
        assert!(shown.contains("msgmenuid=101\">满意</a>"), "{shown}");

        let transfer = service.passive(&address, &Outgoing::Transfer, stamp).unwrap();
        let fields = match address.key {
            None => Fields::parse(&transfer.body).unwrap().1,
            Some(_) => {
                let (_, outer) = Fields::parse(&transfer.body).unwrap();
                let key = AesKey::parse(&KEY.into()).unwrap();
                let encrypted = outer.get(Field::Encrypt).unwrap();
                Fields::parse(&key.decrypt(encrypted, &config.app_id).unwrap()).unwrap().1
            }
        };
        assert_eq!(fields.get(Field::MsgType), Some("transfer_customer_service"));
        assert_eq!(fields.get(Field::ToUserName), Some("o6_a_customer"));
        assert!(service.passive(&address, &Outgoing::Typing { on: true }, stamp).is_err());
    }
}

#[test]
fn what_a_customer_did_opens_its_quota() {
    let service = service(&config(None));
    let event = |name: &str| Content::Event { name: name.to_owned(), key: None };
    for (content, scene) in [
        (Content::Text("x".into()), Some(Scene::Message)),
        (Content::Choice { id: "1".into(), text: "x".into() }, Some(Scene::Menu)),
        (event("subscribe"), Some(Scene::Menu)),
        (event("SCAN"), Some(Scene::Menu)),
        (event("CLICK"), Some(Scene::Menu)),
        (event("unsubscribe"), None),
        (event("VIEW"), None),
    ] {
        assert_eq!(service.scene(&content), scene, "{content:?}");
    }
    assert!(!service.abilities().send);
    let sends = WechatMpConfig { app_secret: Some("s".into()), ..config(None) };
    let sends = WechatMp::new(AccountName("a".to_owned()), &sends).unwrap();
    assert!(sends.abilities().send && sends.token_request(Refresh::Usual).is_some());
}

#[test]
fn keys_rotate_without_losing_a_message() {
    let old = config(Some(OTHER_KEY));
    let new =
        WechatMpConfig { previous_encoding_aes_key: Some(OTHER_KEY.into()), ..config(Some(KEY)) };
    let wire = Wire { mode: PushMode::Safe, format: BodyFormat::Xml };
    let rotated = service(&new);
    for (sender, slot) in [(&old, KeySlot::Previous), (&new, KeySlot::Current)] {
        let push = push_text(sender, "退款", wire);
        let received = rotated.receive(&push.query, &push.body).unwrap();
        assert_eq!(received.reply_address.key, Some(slot));
        let reply = rotated.passive_text_reply(&received.reply_address, "好的。", 1, "n").unwrap();
        // Whoever sent it can read the answer: it is encrypted with the sender's current key.
        let opened = simulator(sender).open_reply(&reply.body).unwrap();
        assert_eq!(content_of(opened), "好的。");
    }
    let push = push_text(&old, "退款", wire);
    let address = rotated.receive(&push.query, &push.body).unwrap().reply_address;
    let after = service(&config(Some(KEY)));
    assert!(matches!(after.passive_text_reply(&address, "x", 1, "n"), Err(ReplyError::KeyGone)));
    let error = after.receive(&push.query, &push.body).unwrap_err();
    assert_eq!((error.code(), error.status()), ("malformed", 400));
}

#[test]
fn in_compatible_mode_only_the_encrypted_part_counts() {
    let config = config(Some(KEY));
    let service = service(&config);
    for format in BodyFormat::ALL.iter().copied() {
        let push = push_text(&config, "genuine", Wire { mode: PushMode::Compatible, format });
        let body = String::from_utf8(push.body).unwrap();
        let forged = body.replace("genuine", "forgery").replace("o6_a_customer", "o6_else");
        assert_ne!(forged, body);
        let received = service.receive(&push.query, forged.as_bytes()).unwrap();
        assert_eq!(received.inbound.content, Content::Text("genuine".to_owned()));
        assert_eq!(received.inbound.sender, "o6_a_customer");
        assert_eq!(received.reply_address.customer, "o6_a_customer");

        // Taking the mode out of the query does not make the plain fields count.
        for encrypt_type in [None, Some("raw".to_owned())] {
            let stripped = PushQuery { encrypt_type, ..push.query.clone() };
            let received = service.receive(&stripped, forged.as_bytes()).unwrap();
            assert_eq!(received.inbound.content, Content::Text("genuine".to_owned()));
            let unsigned = PushQuery { msg_signature: None, ..stripped };
            let error = service.receive(&unsigned, forged.as_bytes()).unwrap_err();
            assert_eq!(error, PushError::SignatureMismatch);
        }
        // Nor does `signature`, which an eavesdropper knows, stand in for `msg_signature`.
        let swapped =
            PushQuery { msg_signature: push.query.signature.clone(), ..push.query.clone() };
        let error = service.receive(&swapped, body.as_bytes()).unwrap_err();
        assert_eq!(error, PushError::SignatureMismatch);
    }
}

#[test]
fn errors_say_what_the_caller_can_do() {
    let with_key = config(Some(KEY));
    let strict = WechatMpConfig { require_encryption: true, ..with_key.clone() };
    let plain = push_text(&with_key, "hi", Wire { mode: PushMode::Plain, format: BodyFormat::Xml });
    let safe = push_text(&with_key, "hi", Wire { mode: PushMode::Safe, format: BodyFormat::Xml });
    let expect = |config: &WechatMpConfig, query: &PushQuery, body: &[u8], code, status| {
        let error = service(config).receive(query, body).unwrap_err();
        assert_eq!((error.code(), error.status()), (code, status), "{error}");
    };
    expect(&strict, &plain.query, &plain.body, "encryption_required", 403);
    expect(&config(None), &safe.query, &safe.body, "key_missing", 400);
    expect(&with_key, &safe.query, &plain.body, "malformed", 400);
    expect(&with_key, &plain.query, b"", "malformed", 400);
    expect(&with_key, &plain.query, b"<xml>\xFF</xml>", "malformed", 400);
    expect(&with_key, &plain.query, &vec![b' '; limits::BODY_BYTES + 1], "malformed", 400);
    expect(&with_key, &PushQuery::default(), &plain.body, "signature_mismatch", 403);
    let odd = PushQuery { encrypt_type: Some("des".to_owned()), ..safe.query.clone() };
    expect(&with_key, &odd, &safe.body, "malformed", 400);
    let unsigned = PushQuery { msg_signature: None, ..safe.query };
    expect(&with_key, &unsigned, b"", "signature_mismatch", 403);
}

#[test]
fn a_wrong_configuration_names_its_field() {
    let field = |config: &WechatMpConfig| {
        WechatMp::new(AccountName("a".to_owned()), config).unwrap_err().field
    };
    let base = config(Some(KEY));
    assert_eq!(field(&WechatMpConfig { token: "".into(), ..base.clone() }), "token");
    assert_eq!(field(&WechatMpConfig { token: "a b".into(), ..base.clone() }), "token");
    assert_eq!(field(&WechatMpConfig { app_id: "wx 1".to_owned(), ..base.clone() }), "app_id");
    assert_eq!(field(&config(Some("short"))), "encoding_aes_key");
    let previous = WechatMpConfig { previous_encoding_aes_key: Some("!".into()), ..base };
    assert_eq!(field(&previous), "previous_encoding_aes_key");
    let alone = WechatMpConfig { previous_encoding_aes_key: Some(KEY.into()), ..config(None) };
    assert_eq!(field(&alone), "previous_encoding_aes_key");
    let strict = WechatMpConfig { require_encryption: true, ..config(None) };
    assert_eq!(field(&strict), "require_encryption");
}

#[test]
fn no_secret_is_printed() {
    let config =
        WechatMpConfig { previous_encoding_aes_key: Some(OTHER_KEY.into()), ..config(Some(KEY)) };
    let shown = format!("{config:?} {:?} {:?}", service(&config), simulator(&config));
    for secret in ["aTokenOfTests", &KEY[4..16], &OTHER_KEY[8..20]] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_configuration_is_read_and_typing_errors_are_found() {
    let read = |text: &str| toml::from_str::<WechatMpConfig>(text);
    let config = read("token = 't'\napp_id = 'wx1'\n").unwrap();
    assert!(config.encoding_aes_key.is_none() && !config.require_encryption);
    assert!(read("token = 't'\napp_id = 'wx1'\nencoding_aeskey = 'x'\n").is_err());
}

#[test]
fn long_replies_are_cut_and_empty_ones_acknowledged() {
    let config = config(Some(KEY));
    let service = service(&config);
    for wire in every_wire() {
        let push = push_text(&config, "hi", wire);
        let address = service.receive(&push.query, &push.body).unwrap().reply_address;
        let reply = |text: &str| {
            let reply = service.passive_text_reply(&address, text, 1_790_000_002, "n1").unwrap();
            simulator(&config).open_reply(&reply.body).unwrap()
        };
        let emoji = content_of(reply(&"😀".repeat(2_000)));
        assert_eq!(emoji, format!("{}…", "😀".repeat(511)));
        let sentences = content_of(reply(&"这是一句话。".repeat(300)));
        assert!(sentences.ends_with("。…") && sentences.len() <= 2_048);
        assert_eq!(reply(" \n\u{0}"), OpenedReply::Acknowledged);
    }
    assert_eq!(service.acknowledgement().body, b"success");
}

#[test]
fn the_simulated_url_check_passes_and_its_query_is_encoded() {
    let config = config(None);
    let query = simulator(&config).url_check("4375+1209", &Signed::fresh(1_790_000_000).unwrap());
    assert_eq!(service(&config).verify_url(&query), Ok("4375+1209".to_owned()));
    let encoded = query.to_query_string();
    assert!(encoded.starts_with("signature="), "{encoded}");
    assert!(encoded.contains("&echostr=4375%2B1209&timestamp=1790000000&nonce="), "{encoded}");
    let wire = Wire { mode: PushMode::Safe, format: BodyFormat::Xml };
    assert!(simulator(&config).push(&says("hi"), wire, &stamp()).is_err());
}

#[test]
fn a_reply_that_was_tampered_with_is_not_opened() {
    let config = config(Some(KEY));
    let wire = Wire { mode: PushMode::Safe, format: BodyFormat::Json };
    let push = push_text(&config, "hi", wire);
    let service = service(&config);
    let address = service.receive(&push.query, &push.body).unwrap().reply_address;
    let reply = service.passive_text_reply(&address, "好", 1_790_000_002, "n1").unwrap();
    let text = String::from_utf8(reply.body).unwrap();
    let opened = simulator(&config).open_reply(text.replace("n1", "n2").as_bytes());
    assert_eq!(opened, Err(PushError::SignatureMismatch));
}

proptest! {
    #[test]
    fn round_trip_in_every_mode(
        said in "(\\PC|[\\n\\t<>&\"]|\\]\\]>){0,60}",
        answer in "(\\PC|[<>&\"]|\\]\\]>){1,60}",
        nonce in "[0-9a-zA-Z]{1,16}",
        event in "[A-Za-z_]{1,20}",
    ) {
        let config = config(Some(KEY));
        let (service, simulator) = (service(&config), simulator(&config));
        let stamp = Signed { nonce, ..stamp() };
        for wire in every_wire() {
            let push = simulator.push(&says(&said), wire, &stamp).unwrap();
            let received = service.receive(&push.query, &push.body).unwrap();
            prop_assert_eq!(&received.inbound.content, &Content::Text(said.clone()));
            prop_assert_eq!(&received.inbound.dedupe_key, "msg:24000000000000001");
            let address = received.reply_address;
            prop_assert_eq!(address.format, wire.format);
            prop_assert_eq!(address.key.is_some(), wire.mode != PushMode::Plain);

            let reply =
                service.passive_text_reply(&address, &answer, 1_790_000_003, "n").unwrap();
            let opened = simulator.open_reply(&reply.body).unwrap();
            let expected = match answer.trim() {
                "" => OpenedReply::Acknowledged,
                content => OpenedReply::Text {
                    to: "o6_a_customer".to_owned(),
                    from: "gh_0123456789ab".to_owned(),
                    created: 1_790_000_003,
                    content: content.to_owned(),
                    key: address.key,
                },
            };
            prop_assert_eq!(opened, expected);

            let what = Said::Event { name: event.clone(), key: said.clone() };
            let told = SimulatedMessage { what, ..says("") };
            let push = simulator.push(&told, wire, &stamp).unwrap();
            let key = (!said.is_empty()).then(|| said.clone());
            prop_assert_eq!(
                service.receive(&push.query, &push.body).unwrap().inbound.content,
                Content::Event { name: event.clone(), key }
            );
        }
    }
}

/// The part of a callback that is damaged; `Body` more often than the rest.
#[derive(Clone, Copy, Debug)]
enum Part {
    Body,
    Signature,
    MsgSignature,
    Timestamp,
    Nonce,
    EncryptType,
}

impl Part {
    fn parameter(self, query: &mut PushQuery) -> Option<&mut String> {
        match self {
            Self::Body => None,
            Self::Signature => query.signature.as_mut(),
            Self::MsgSignature => query.msg_signature.as_mut(),
            Self::Timestamp => query.timestamp.as_mut(),
            Self::Nonce => query.nonce.as_mut(),
            Self::EncryptType => query.encrypt_type.as_mut(),
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        5 => Just(Part::Body),
        1 => Just(Part::Signature),
        1 => Just(Part::MsgSignature),
        1 => Just(Part::Timestamp),
        1 => Just(Part::Nonce),
        1 => Just(Part::EncryptType),
    ]
}

struct Genuine {
    wire: Wire,
    push: SimulatedPush,
    received: Push,
}

/// A service and one genuine callback of every mode and format.
static GENUINE: LazyLock<(WechatMp, Vec<Genuine>)> = LazyLock::new(|| {
    let config =
        WechatMpConfig { previous_encoding_aes_key: Some(OTHER_KEY.into()), ..config(Some(KEY)) };
    let service = service(&config);
    let callbacks = every_wire().map(|wire| {
        let push = push_text(&config, "我要退款，订单号 20260917，<急>&]]>", wire);
        let received = service.receive(&push.query, &push.body).unwrap();
        Genuine { wire, push, received }
    });
    let callbacks = callbacks.collect();
    (service, callbacks)
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Nothing that is damaged panics. What is encrypted is accepted unchanged or not at all,
    /// whichever parts are damaged; a plain body is not covered by the signature, its query is.
    #[test]
    fn damaged_callbacks_never_change_their_content(
        which in 0_usize..6,
        damages in proptest::collection::vec((part(), damage()), 1..4),
    ) {
        let (service, callbacks) = &*GENUINE;
        let Genuine { wire, push: SimulatedPush { query, body, .. }, received } =
            &callbacks[which];
        let (mut damaged_query, mut damaged_body) = (query.clone(), body.clone());
        for (part, damage) in &damages {
            if matches!(part, Part::Body) {
                damage.apply(&mut damaged_body);
            } else if let Some(value) = part.parameter(&mut damaged_query) {
                let mut bytes = value.clone().into_bytes();
                damage.apply(&mut bytes);
                *value = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        let signed = match wire.mode {
            PushMode::Plain => |q: &PushQuery| {
                [q.signature.clone(), q.timestamp.clone(), q.nonce.clone()]
            },
            PushMode::Compatible | PushMode::Safe => |q: &PushQuery| {
                [q.msg_signature.clone(), q.timestamp.clone(), q.nonce.clone()]
            },
        };
        let outcome = service.receive(&damaged_query, &damaged_body);
        if signed(&damaged_query) != signed(query) {
            prop_assert!(outcome.is_err(), "accepted {damaged_query:?}");
        }
        if let Ok(accepted) = outcome
            && (wire.mode != PushMode::Plain || damaged_body == *body)
        {
            prop_assert_eq!(&accepted, received);
        }
    }
}
