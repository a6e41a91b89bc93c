//! The channel as a whole: signatures over GBK, the address check, every kind of push, sends.

use encoding_rs::GBK;
use proptest::prelude::*;

use super::*;
use crate::channels::testing::{damage, only_push, post, refusal, sent, survey, text};

/// Made for these tests; of no account.
pub(super) const APP_KEY: &str = include_str!("../../../tests/fixtures/alipay/app_private.pem");
pub(super) const APP_PUBLIC_KEY: &str =
    include_str!("../../../tests/fixtures/alipay/app_public.pem");
const PLATFORM_KEY: &str = include_str!("../../../tests/fixtures/alipay/platform_private.pem");
const PLATFORM_PUBLIC_KEY: &str =
    include_str!("../../../tests/fixtures/alipay/platform_public.pem");

const APP: &str = "2021000000000001";

fn config() -> AlipayConfig {
    AlipayConfig {
        app_id: APP.to_owned(),
        private_key: APP_KEY.into(),
        alipay_public_key: PLATFORM_PUBLIC_KEY.to_owned(),
        gateway: Some("http://127.0.0.1:9/gateway.do".to_owned()),
        text_bytes: None,
        window_s: None,
    }
}

fn channel() -> Alipay {
    Alipay::new(AccountName("life".to_owned()), &config()).unwrap()
}

fn bytes_escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// A form as the platform would send it: signed over the bytes of its charset.
fn pushed(service: &str, charset: &str, content: &str) -> String {
    let content = match charset {
        "UTF-8" => content.as_bytes().to_vec(),
        _ => GBK.encode(content).0.into_owned(),
    };
    let mut signed = b"biz_content=".to_vec();
    signed.extend_from_slice(&content);
    signed.extend_from_slice(
        format!("&charset={charset}&service={service}&sign_type=RSA2").as_bytes(),
    );
    let sign = PrivateKey::parse(&PLATFORM_KEY.into()).unwrap().sign(&signed).unwrap();
    format!(
        "service={service}&charset={charset}&sign={}&sign_type=RSA2&biz_content={}",
        form::escape(&sign),
        bytes_escaped(&content),
    )
}

const NOTIFY: &str = "alipay.mobile.public.message.notify";

fn message(kind: &str, rest: &str) -> String {
    format!(
        "<XML><AppId><![CDATA[{APP}]]></AppId><FromAlipayUserId><![CDATA[2088000000000001]]>\
         </FromAlipayUserId><CreateTime><![CDATA[1790000000123]]></CreateTime><MsgType>\
         <![CDATA[{kind}]]></MsgType>{rest}</XML>"
    )
}

fn told(form: &str) -> Result<Received, PushError> {
    post(&channel(), "", &[], form.as_bytes())
}

#[test]
fn every_kind_of_push_in_either_charset() {
    let event = |name: &str, key: Option<&str>| Content::Event {
        name: name.to_owned(),
        key: key.map(str::to_owned),
    };
    let image = Content::Attachment { what: "image".to_owned(), reference: Some("i1".to_owned()) };
    for (kind, rest, expected, dedupe_key) in [
        (
            "text",
            "<Text><Content><![CDATA[多久发货？]]></Content></Text><MsgId>m1</MsgId>",
            Content::Text("多久发货？".to_owned()),
            "msg:m1",
        ),
        ("image", "<Image><MediaId>i1</MediaId></Image><MsgId>m2</MsgId>", image, "msg:m2"),
        (
            "event",
            "<EventType>follow</EventType><ActionParam></ActionParam>",
            event("follow", None),
            "event:1790000000123:follow:",
        ),
        (
            "event",
            "<EventType>click</EventType><ActionParam>查快递</ActionParam>",
            event("click", Some("查快递")),
            "event:1790000000123:click:查快递",
        ),
        ("hologram", "", Content::Unknown { what: "hologram".into() }, "hologram:1790000000123"),
    ] {
        for charset in ["GBK", "UTF-8", "gb2312"] {
            let push = only_push(told(&pushed(NOTIFY, charset, &message(kind, rest))));
            assert_eq!(push.inbound.content, expected, "{kind} in {charset}");
            assert_eq!(push.inbound.dedupe_key, dedupe_key);
            assert_eq!(push.inbound.sent_at, 1_790_000_000_123);
            assert_eq!(push.target, Target::customer("2088000000000001"));
        }
    }
    let older = message("text", "<Text><Content>x</Content></Text><MsgId>1</MsgId>")
        .replace("FromAlipayUserId", "FromUserId");
    let push = only_push(told(&pushed(NOTIFY, "GBK", &older)));
    assert_eq!(push.inbound.sender, "2088000000000001");
}

#[test]
fn a_push_that_openssl_signed_is_read() {
    let form = include_str!("../../../tests/fixtures/alipay/push_gbk.form");
    let push = only_push(told(form));
    assert_eq!(push.inbound.content, Content::Text("退款多久到账？".to_owned()));
    assert_eq!(push.inbound.dedupe_key, "msg:180101");
    // A `+` of base64 that nobody encoded.
    let raw = form.replace("%2B", "+");
    assert_ne!(raw, form);
    assert_eq!(only_push(told(&raw)), push);
}

#[test]
fn the_gateway_check_is_answered_with_our_signed_key() {
    let check = message("event", "<EventType>verifygw</EventType>");
    let answered = told(&pushed("alipay.service.check", "GBK", &check)).unwrap();
    let Received::Answer(answer) = answered else { panic!("{answered:?}") };
    let body = String::from_utf8(answer.body).unwrap();
    let between = |from: &str, to: &str| {
        let (_, rest) = body.split_once(from).unwrap();
        rest.split_once(to).unwrap().0
    };
    let response = between("<response>", "</response>");
    let public = PublicKey::parse(APP_PUBLIC_KEY).unwrap();
    assert!(public.verifies(response.as_bytes(), between("<sign>", "</sign>")));
    assert!(response.starts_with("<success>true</success><biz_content>MII"));
    assert!(body.ends_with("<sign_type>RSA2</sign_type></alipay>"));
}

#[test]
fn what_is_not_genuine_is_refused() {
    let form = pushed(NOTIFY, "GBK", &message("text", "<Content>x</Content><MsgId>1</MsgId>"));
    assert!(told(&form).is_ok());
    let refused = |form: &str| {
        let error = told(form).unwrap_err();
        (error.code(), error.status())
    };
    assert_eq!(refused(&form.replace("notify", "notifx")), ("signature_mismatch", 403));
    assert_eq!(refused(&form.replace("charset=GBK", "charset=UTF-8")), ("signature_mismatch", 403));
    assert_eq!(refused(&form.replace("sign=", "signs=")), ("signature_mismatch", 403));
    assert_eq!(refused(&form.replace("RSA2", "RSA")), ("malformed", 400));
    assert_eq!(refused(&format!("{form}&charset=GBK")), ("malformed", 400));
    assert_eq!(refused(""), ("signature_mismatch", 403));
    let theirs = message("text", "<Content>x</Content><MsgId>1</MsgId>").replace(APP, "20210");
    assert_eq!(refused(&pushed(NOTIFY, "GBK", &theirs)), ("not_for_us", 403));
    for (content, reason) in [
        (message("text", "<MsgId>1</MsgId>"), "text without Content"),
        (message("text", "<Content>x</Content>"), "MsgId"),
        (message("event", ""), "EventType"),
        (message("text", "").replace("1790000000123", "soon"), "CreateTime"),
    ] {
        assert_eq!(told(&pushed(NOTIFY, "GBK", &content)), Err(PushError::Malformed(reason)));
    }
    let odd = pushed(NOTIFY, "latin1", &message("text", "<Content>x</Content><MsgId>1</MsgId>"));
    assert_eq!(told(&odd), Err(PushError::Malformed("charset")));
}

#[test]
fn messages_are_signed_as_the_gateway_wants_them() {
    let channel = channel();
    let to = Target::customer("2088000000000001");
    let (url, body, headers) = sent(&channel, &to, &text("三天内发货。")).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/gateway.do");
    assert!(headers[0].1.starts_with("application/x-www-form-urlencoded"));
    let form = Parameters::read(body.as_str().unwrap().as_bytes()).unwrap();
    let public = PublicKey::parse(APP_PUBLIC_KEY).unwrap();
    assert!(public.verifies(&form.signed(), form.text("sign").unwrap()));
    let names: Vec<&str> = form.0.keys().map(|name| std::str::from_utf8(name).unwrap()).collect();
    assert_eq!(
        names,
        [
            "app_id",
            "biz_content",
            "charset",
            "format",
            "method",
            "sign",
            "sign_type",
            "timestamp",
            "version",
        ]
    );
    assert_eq!(form.text("method"), Some("alipay.open.public.message.custom.send"));
    // 1790000002 in China's time.
    assert_eq!(form.text("timestamp"), Some("2026-09-21 22:13:22"));
    let content: Value = serde_json::from_str(form.text("biz_content").unwrap()).unwrap();
    assert_eq!(
        content,
        json!({ "to_user_id": "2088000000000001", "msg_type": "text",
                "text": { "content": "三天内发货。" }, "chat": "1" })
    );
    assert!(sent(&channel, &to, &Outgoing::Menu(survey())).is_err());
}

#[test]
fn refusals_say_what_to_do() {
    let channel = channel();
    let answer = |code: &str| {
        format!("{{\"alipay_open_public_message_custom_send_response\":{{\"code\":\"{code}\"}}}}")
    };
    assert_eq!(refusal(&channel, &answer("10000")), None);
    assert_eq!(refusal(&channel, &answer("20000")), Some(FailureClass::Unclear));
    assert_eq!(refusal(&channel, &answer("40004")), Some(FailureClass::GiveUp));
    let error = r#"{"error_response":{"code":"40002","sub_code":"isv.invalid-signature"}}"#;
    assert_eq!(refusal(&channel, error), Some(FailureClass::GiveUp));
    assert_eq!(refusal(&channel, "{}"), Some(FailureClass::Unclear));
}

#[test]
fn a_wrong_configuration_names_its_field() {
    let field =
        |config: &AlipayConfig| Alipay::new(AccountName("a".to_owned()), config).unwrap_err().field;
    assert_eq!(field(&AlipayConfig { app_id: String::new(), ..config() }), "app_id");
    assert_eq!(field(&AlipayConfig { private_key: "x".into(), ..config() }), "private_key");
    let alipay_public_key = "x".to_owned();
    assert_eq!(field(&AlipayConfig { alipay_public_key, ..config() }), "alipay_public_key");
    let gateway = Some("http://elsewhere.example".to_owned());
    assert_eq!(field(&AlipayConfig { gateway, ..config() }), "gateway");
    assert!(!format!("{:?} {:?}", config(), channel()).contains(&APP_KEY[40..80]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn damage_is_found(damages in proptest::collection::vec(damage(), 1..4)) {
        let form = pushed(NOTIFY, "GBK", &message("text", "<Content>你</Content><MsgId>1</MsgId>"));
        let whole = told(&form);
        let mut bytes = form.into_bytes();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        let damaged = post(&channel(), "", &[], &bytes);
        prop_assert!(damaged.is_err() || damaged == whole);
    }
}
