//! The channel as a whole: the published sample, passive replies, bots, forgeries, sends.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::channels::FailureClass;
use crate::channels::testing::{
    NOW, answer, damage, only_push, post, post_genuine, refusal, sent, survey, text,
};
use crate::channels::wechat::crypto::AesKey;
use crate::channels::wechat::fixture::{KEY, OTHER_KEY, Sealed, TOKEN, Vectors, sealed, vectors};
use crate::channels::wechat::signature;

const CORP: &str = "ww0123456789abcdef";

fn config(corp_id: &str) -> WecomConfig {
    WecomConfig {
        token: TOKEN.into(),
        corp_id: corp_id.to_owned(),
        agent_id: Some(AgentId::Text("1000002".to_owned())),
        encoding_aes_key: KEY.into(),
        previous_encoding_aes_key: Some(OTHER_KEY.into()),
        secret: (!corp_id.is_empty()).then(|| "s3cret".into()),
        api_base: Some("http://127.0.0.1:9".to_owned()),
        replay_window_s: None,
        text_bytes: None,
    }
}

fn open(config: &WecomConfig) -> Wecom {
    Wecom::new(AccountName("app".to_owned()), config).unwrap()
}

/// The account of the platform's own sample.
fn sample(v: &Sealed) -> Wecom {
    open(&WecomConfig {
        token: v.token.as_str().into(),
        corp_id: v.receiveid.clone(),
        encoding_aes_key: v.encoding_aes_key.as_str().into(),
        previous_encoding_aes_key: None,
        ..config(CORP)
    })
}

fn get(channel: &Wecom, query: &str) -> Result<Vec<u8>, PushError> {
    let callback = Callback { query, headers: &[], body: b"", received_at: NOW * 1_000 };
    channel.check_url(&callback).map(|answer| answer.body)
}

fn query_of(v: &Sealed, signature: &str) -> PushQuery {
    PushQuery {
        msg_signature: Some(signature.to_owned()),
        timestamp: Some(v.timestamp.clone()),
        nonce: Some(v.nonce.clone()),
        ..PushQuery::default()
    }
}

#[test]
fn the_published_url_check_is_decrypted_and_echoed() {
    let Vectors { open: published, .. } = vectors();
    let v = &published[1];
    let channel = sample(v);
    let query = PushQuery { echostr: Some(v.encrypt.clone()), ..query_of(v, &v.msg_signature) };
    assert_eq!(get(&channel, &query.to_query_string()).unwrap(), v.message.as_bytes());
    // A `+` that nobody encoded.
    let raw = query.to_query_string().replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
    assert!(raw.contains('+'));
    assert_eq!(get(&channel, &raw).unwrap(), v.message.as_bytes());

    let forged = query.to_query_string().replace(&v.msg_signature[..8], "00000000");
    assert_eq!(get(&channel, &forged), Err(PushError::SignatureMismatch));
    let bare = query_of(v, &v.msg_signature).to_query_string();
    assert_eq!(get(&channel, &bare), Err(PushError::Malformed("echostr")));
    let other = open(&WecomConfig {
        corp_id: CORP.to_owned(),
        token: v.token.as_str().into(),
        encoding_aes_key: v.encoding_aes_key.as_str().into(),
        ..config(CORP)
    });
    assert_eq!(get(&other, &query.to_query_string()), Err(PushError::NotForUs));
}

#[test]
fn the_published_message_is_read_and_its_answer_can_be_opened() {
    let Vectors { open: published, .. } = vectors();
    let v = &published[2];
    let channel = sample(v);
    let query = query_of(v, &v.msg_signature).to_query_string();
    let body = format!("<xml><ToUserName>x</ToUserName><Encrypt>{}</Encrypt></xml>", v.encrypt);
    let push = only_push(post(&channel, &query, &[], body.as_bytes()));
    assert_eq!(push.inbound.content, Content::Text("hello".to_owned()));
    assert_eq!(push.inbound.sender, "mycreate");
    assert_eq!(push.inbound.dedupe_key, "msg:4561255354251345929");
    assert_eq!(push.target, Target::customer("mycreate"));

    let stamp = Stamp { seconds: NOW, nonce: "n2" };
    let address = push.reply_address.unwrap();
    let reply = channel.passive(&address, &text("您好"), stamp).unwrap();
    let (_, outer) = Fields::parse(&reply.body).unwrap();
    let part = |field| outer.get(field).unwrap();
    let encrypt = part(Field::Encrypt);
    let parts = [&*v.token, part(Field::TimeStamp), part(Field::Nonce), encrypt];
    assert!(signature::verify(&parts, part(Field::MsgSignature)));
    let key = AesKey::parse(&v.encoding_aes_key.as_str().into()).unwrap();
    let message = key.decrypt(encrypt, &v.receiveid).unwrap();
    let (_, inner) = Fields::parse(&message).unwrap();
    assert_eq!(inner.get(Field::Content), Some("您好"));
    assert_eq!(inner.get(Field::ToUserName), Some("mycreate"));
    assert_eq!(inner.get(Field::FromUserName), Some(&*v.receiveid));
    assert_eq!(channel.acknowledgement().body, b"");
    assert!(channel.passive(&address, &Outgoing::Menu(survey()), stamp).is_err());
}

fn bot_message(kind: &str, body: &Value) -> String {
    let mut message = json!({
        "msgid": "m1", "aibotid": "b1", "chatid": "g1", "chattype": "group",
        "from": { "userid": "u1" }, "msgtype": kind, "create_time": 1_790_000_000,
    });
    message[kind] = body.clone();
    message.to_string()
}

#[test]
fn a_bot_without_corp_id_speaks_json() {
    let channel = open(&config(""));
    let message = bot_message("text", &json!({ "content": "多久发货" }));
    let push = only_push(post_genuine(&channel, &sealed(&message, "", KEY, BodyFormat::Json)));
    assert_eq!(push.inbound.content, Content::Text("多久发货".to_owned()));
    assert_eq!(push.inbound.dedupe_key, "msg:m1");
    assert_eq!(push.inbound.sent_at, 1_790_000_000_000);
    assert_eq!(push.target.thread.as_deref(), Some("g1"));

    let address = push.reply_address.unwrap();
    let stamp = Stamp { seconds: NOW, nonce: "n2" };
    let reply = channel.passive(&address, &text("三天"), stamp).unwrap();
    let outer: Value = serde_json::from_slice(&reply.body).unwrap();
    let names: Vec<&str> = outer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["encrypt", "msgsignature", "nonce", "timestamp"]);
    let encrypt = outer["encrypt"].as_str().unwrap();
    let timestamp = outer["timestamp"].to_string();
    let signed = signature::sign(&[TOKEN, &timestamp, "n2", encrypt]);
    assert_eq!(outer["msgsignature"], signed);
    let key = AesKey::parse(&KEY.into()).unwrap();
    let inner: Value = serde_json::from_slice(&key.decrypt(encrypt, "").unwrap()).unwrap();
    assert_eq!(
        inner,
        json!({ "msgtype": "stream", "stream": { "id": "n2", "finish": true, "content": "三天" } })
    );

    // What is encrypted for a company is not for the bot, and the other way round.
    let theirs = post_genuine(&channel, &sealed(&message, CORP, KEY, BodyFormat::Json));
    assert_eq!(theirs.unwrap_err(), PushError::NotForUs);
    let app = open(&config(CORP));
    let ours = post_genuine(&app, &sealed(&message, "", KEY, BodyFormat::Json));
    assert_eq!(ours.unwrap_err(), PushError::NotForUs);
}

#[test]
fn every_kind_of_bot_message() {
    let channel = open(&config(""));
    let attachment = |what: &str, reference: &str| Content::Attachment {
        what: what.to_owned(),
        reference: Some(reference.to_owned()),
    };
    let picture = json!({ "msgtype": "image", "image": { "url": "https://p/1" } });
    let words = json!({ "msgtype": "text", "text": { "content": "看" } });
    for (kind, body, expected) in [
        ("voice", json!({ "content": "退款" }), Content::Voice { transcript: Some("退款".into()) }),
        ("image", json!({ "url": "https://p/1" }), attachment("image", "https://p/1")),
        ("file", json!({ "url": "https://p/2" }), attachment("file", "https://p/2")),
        ("mixed", json!({ "msg_item": [words, picture] }), attachment("image", "https://p/1")),
        (
            "event",
            json!({ "eventtype": "enter_chat" }),
            Content::Event { name: "enter_chat".into(), key: None },
        ),
        (
            "stream",
            json!({ "id": "s1" }),
            Content::Event { name: "stream".into(), key: Some("s1".into()) },
        ),
        ("hologram", json!({}), Content::Unknown { what: "hologram".into() }),
    ] {
        let genuine = sealed(&bot_message(kind, &body), "", KEY, BodyFormat::Json);
        let push = only_push(post_genuine(&channel, &genuine));
        assert_eq!(push.inbound.content, expected);
        let event = matches!(expected, Content::Event { .. });
        assert_eq!(push.reply_address.is_none(), event, "{kind}");
    }
}

#[test]
fn refusals_say_why() {
    let channel = open(&config(CORP));
    let message = "<xml><ToUserName>ww</ToUserName><FromUserName>u</FromUserName>\
                   <CreateTime>1790000000</CreateTime><MsgType>text</MsgType>\
                   <Content>hi</Content><MsgId>1</MsgId><AgentID>7</AgentID></xml>";
    let genuine = sealed(message, CORP, KEY, BodyFormat::Xml);
    assert!(post_genuine(&channel, &genuine).is_ok());
    let rotated = sealed(message, CORP, OTHER_KEY, BodyFormat::Xml);
    let push = only_push(post_genuine(&channel, &rotated));
    let previous = crate::channels::wechat::crypto::KeySlot::Previous;
    assert_eq!(push.reply_address.unwrap().key, Some(previous));

    let refused = |query: &str, body: &str| {
        let error = post(&channel, query, &[], body.as_bytes()).unwrap_err();
        (error.code(), error.status())
    };
    let (query, body) = (&genuine.query, &genuine.body);
    assert_eq!(refused("", body), ("signature_mismatch", 403));
    assert_eq!(refused(&query.replace("=n1", "=n2"), body), ("signature_mismatch", 403));
    assert_eq!(refused(query, message), ("malformed", 400));
    assert_eq!(refused(query, ""), ("malformed", 400));
    assert_eq!(refused(&format!("{query}&nonce=n1"), body), ("malformed", 400));
    let unreadable = sealed(message, CORP, &"Z".repeat(43), BodyFormat::Xml);
    assert_eq!(refused(&unreadable.query, &unreadable.body), ("malformed", 400));
    let theirs = sealed(message, "ww2", KEY, BodyFormat::Xml);
    assert_eq!(refused(&theirs.query, &theirs.body), ("not_for_us", 403));
}

#[test]
fn a_callback_outside_of_the_window_is_stale() {
    let message = "<xml><ToUserName>ww</ToUserName><FromUserName>u</FromUserName>\
                   <CreateTime>1</CreateTime><MsgType>event</MsgType><Event>click</Event></xml>";
    let genuine = sealed(message, CORP, KEY, BodyFormat::Xml);
    let at = |window: Option<u64>, seconds: i64| {
        let channel = open(&WecomConfig { replay_window_s: window, ..config(CORP) });
        let (query, body) = (genuine.query.as_str(), genuine.body.as_bytes());
        let callback = Callback { query, headers: &[], body, received_at: seconds * 1_000 };
        channel.receive(&callback).map(drop)
    };
    // Signed at 1790000001.
    assert_eq!(at(Some(60), 1_790_000_061), Ok(()));
    assert_eq!(at(Some(60), 1_790_000_062), Err(PushError::Stale));
    assert_eq!(at(Some(60), 1_789_999_940), Err(PushError::Stale));
    assert_eq!(at(None, 2_000_000_000), Ok(()));
    assert_eq!(PushError::Stale.status(), 403);
}

#[test]
fn messages_to_members_are_as_documented() {
    let channel = open(&config(CORP));
    let to = Target::customer("u1");
    let (url, body, _) = sent(&channel, &to, &text("三天内发货。")).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/cgi-bin/message/send?access_token=T");
    assert_eq!(
        body,
        json!({
            "touser": "u1", "msgtype": "text", "agentid": 1_000_002,
            "text": { "content": "三天内发货。" }
        })
    );
    assert!(sent(&channel, &to, &Outgoing::Transfer).is_err());
    let request = channel.token_request(Refresh::Usual).unwrap();
    assert_eq!(
        request.url,
        format!("http://127.0.0.1:9/cgi-bin/gettoken?corpid={CORP}&corpsecret=s3cret")
    );
    assert_eq!(refusal(&channel, r#"{"errcode":0,"invaliduser":""}"#), None);
    let unreached = refusal(&channel, r#"{"errcode":0,"invaliduser":"u1"}"#);
    assert_eq!(unreached, Some(FailureClass::GiveUp));
    assert_eq!(refusal(&channel, r#"{"errcode":45009}"#), Some(FailureClass::Retry));
    assert_eq!(refusal(&channel, r#"{"errcode":42001}"#), Some(FailureClass::RefreshToken));
    assert!(channel.read_token(&answer("{}")).is_err());
    let media = channel.media("m/1", Some(&Token::new("T", 1))).unwrap();
    assert_eq!(media.url, "http://127.0.0.1:9/cgi-bin/media/get?access_token=T&media_id=m%2F1");
}

#[test]
fn a_wrong_configuration_names_its_field() {
    let field =
        |config: &WecomConfig| Wecom::new(AccountName("a".to_owned()), config).unwrap_err().field;
    assert_eq!(field(&WecomConfig { corp_id: "w w".into(), ..config(CORP) }), "corp_id");
    assert_eq!(field(&WecomConfig { agent_id: None, ..config(CORP) }), "agent_id");
    let agent_id = Some(AgentId::Text("x".into()));
    assert_eq!(field(&WecomConfig { agent_id, ..config(CORP) }), "agent_id");
    let api_base = Some("http://elsewhere.example".into());
    assert_eq!(field(&WecomConfig { api_base, ..config(CORP) }), "api_base");
    assert_eq!(field(&WecomConfig { text_bytes: Some(3), ..config(CORP) }), "text_bytes");
    let read = |text: &str| toml::from_str::<WecomConfig>(text);
    let keys = "token='t'\ncorp_id=''\nencoding_aes_key='k'\n";
    assert!(read(keys).is_ok() && read(&format!("{keys}agent_id=7\n")).is_ok());
    assert!(read(&format!("{keys}agentid=7\n")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Damaged callbacks are refused or read unchanged; damaged messages never panic.
    #[test]
    fn damage_is_found(
        damages in proptest::collection::vec(damage(), 1..4),
        inside in any::<bool>(),
        json in any::<bool>(),
    ) {
        let message = if json {
            bot_message("mixed", &json!({ "msg_item": [{ "image": { "url": "u" } }] }))
        } else {
            "<xml><ToUserName>ww</ToUserName><FromUserName>u</FromUserName><CreateTime>1\
             </CreateTime><MsgType>text</MsgType><Content>hi</Content><MsgId>1</MsgId></xml>".into()
        };
        let format = if json { BodyFormat::Json } else { BodyFormat::Xml };
        let channel = open(&config(CORP));
        if inside {
            let mut bytes = message.into_bytes();
            damages.iter().for_each(|damage| damage.apply(&mut bytes));
            let message = String::from_utf8_lossy(&bytes);
            let _ = post_genuine(&channel, &sealed(&message, CORP, KEY, format));
        } else {
            let genuine = sealed(&message, CORP, KEY, format);
            let whole = post_genuine(&channel, &genuine);
            let mut bytes = genuine.body.into_bytes();
            damages.iter().for_each(|damage| damage.apply(&mut bytes));
            let damaged = post(&channel, &genuine.query, &[], &bytes);
            prop_assert!(damaged.is_err() || damaged == whole);
        }
    }
}
