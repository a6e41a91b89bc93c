//! The channel as a whole: signatures, every kind of webhook, sends.

use proptest::prelude::*;

use super::*;
use crate::channels::testing::{
    answer, damage, only_item, only_push, post, refusal, sent, survey, text as says,
};

const SECRET: &str = "test_secret";

fn config() -> DouyinConfig {
    DouyinConfig {
        client_key: "abc".to_owned(),
        client_secret: SECRET.into(),
        open_id: "our-open-id".to_owned(),
        refresh_token: Some("rft.1".into()),
        api_base: Some("http://127.0.0.1:9".to_owned()),
        send_path: None,
    }
}

fn channel() -> Douyin {
    Douyin::new(AccountName("douyin".to_owned()), &config()).unwrap()
}

fn signature(body: &[u8]) -> String {
    hex(&Sha1::digest([SECRET.as_bytes(), body].concat()))
}

fn told(body: &[u8]) -> Result<Received, PushError> {
    post(&channel(), "", &[("x-douyin-signature", &signature(body)), ("msg-id", "h1")], body)
}

fn webhook(event: &str, from: &str, to: &str, content: &Value) -> Vec<u8> {
    json!({ "event": event, "client_key": "abc", "from_user_id": from, "to_user_id": to,
            "content": content, "log_id": "l1" })
    .to_string()
    .into_bytes()
}

fn message(kind: &str) -> Value {
    json!({
        "conversation_short_id": "c1", "server_message_id": "s1", "message_type": kind,
        "text": "多久发货", "resource_url": "https://p/1", "create_time": 1_790_000_000_123_i64,
        "user_infos": [{ "open_id": "o1", "nick_name": "n", "avatar": "a" }],
    })
}

fn received(kind: &str) -> Vec<u8> {
    webhook("im_receive_msg", "o1", "our-open-id", &message(kind))
}

#[test]
fn the_address_is_checked_over_a_known_signature() {
    // Computed from the documented rule, apart from this code.
    let body = br#"{"event":"verify_webhook","client_key":"abc","content":{"challenge":12345}}"#;
    let known = "ff779a3b9e9daa2d1484d22450cd02e9fcfc4e62";
    let answered = post(&channel(), "", &[("x-douyin-signature", known)], body).unwrap();
    let Received::Answer(answer) = answered else { panic!("{answered:?}") };
    assert_eq!(answer.body, br#"{"challenge":12345}"#);
    for wrong in ["", "ff779a3b9e9daa2d1484d22450cd02e9fcfc4e63", &known.to_uppercase()] {
        let refused = post(&channel(), "", &[("x-douyin-signature", wrong)], body);
        assert_eq!(refused, Err(PushError::SignatureMismatch));
    }
    assert_eq!(post(&channel(), "", &[], body), Err(PushError::SignatureMismatch));
}

#[test]
fn every_kind_of_message() {
    let attachment = |what: &str, reference: Option<&str>| Content::Attachment {
        what: what.to_owned(),
        reference: reference.map(str::to_owned),
    };
    for (kind, expected) in [
        ("text", Content::Text("多久发货".into())),
        ("image", attachment("image", Some("https://p/1"))),
        ("emoji", attachment("emoji", Some("https://p/1"))),
        ("video", attachment("video", Some("https://p/1"))),
        ("retain_consult_card", attachment("retain_consult_card", None)),
        ("other", Content::Unknown { what: "other".into() }),
    ] {
        let push = only_push(told(&received(kind)));
        assert_eq!(push.inbound.content, expected);
        assert_eq!(push.inbound.dedupe_key, "msg:s1");
        assert_eq!(push.inbound.sent_at, 1_790_000_000_123);
        let target = Target {
            thread: Some("c1".into()),
            message: Some("s1".into()),
            ..Target::customer("o1")
        };
        assert_eq!(push.target, target);
    }
    // The content may come as text.
    let content = Value::String(message("text").to_string());
    let push = only_push(told(&webhook("im_receive_msg", "o1", "our-open-id", &content)));
    assert_eq!(push.inbound.content, Content::Text("多久发货".into()));
}

#[test]
fn events_and_echoes_are_told_apart() {
    let entered = message("text");
    let entered = webhook("im_enter_direct_msg", "o1", "our-open-id", &entered);
    let push = only_push(told(&entered));
    let event = Content::Event { name: "im_enter_direct_msg".into(), key: None };
    assert_eq!((&push.inbound.content, push.target.code.as_deref()), (&event, Some(ENTER)));
    assert_eq!(push.inbound.dedupe_key, "event:im_enter_direct_msg:1790000000123:s1");
    assert_eq!(channel().scene(&event), Some(Scene::Enter));

    let bare = webhook("im_group_join", "o1", "our-open-id", &Value::Null);
    assert_eq!(only_push(told(&bare)).inbound.dedupe_key, "event:im_group_join:h1");

    let mut echo = message("text");
    echo["source"] = "abc".into();
    let ours = only_item(told(&webhook("im_send_msg", "our-open-id", "o1", &echo)));
    assert!(matches!(ours, Item::Notice(_)), "{ours:?}");
    echo["source"] = "app".into();
    let person = only_item(told(&webhook("im_send_msg", "our-open-id", "o1", &echo)));
    let Item::Colleague(person) = person else { panic!("{person:?}") };
    assert_eq!(person.content, Content::Text("多久发货".into()));
    assert_eq!(person.target.customer, "o1");

    let other = only_item(told(&webhook("im_receive_msg", "o1", "another", &message("text"))));
    assert!(matches!(other, Item::Notice(_)), "{other:?}");
}

#[test]
fn what_is_not_whole_is_refused() {
    let refused = |body: &[u8]| told(body).unwrap_err();
    let text = String::from_utf8(received("text")).unwrap();
    let changed = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        refused(changed.as_bytes())
    };
    assert_eq!(changed("\"abc\"", "\"xyz\""), PushError::NotForUs);
    assert_eq!(changed("\"event\"", "\"e\""), PushError::Malformed("event"));
    assert_eq!(changed("server_message_id", "s"), PushError::Malformed("server_message_id"));
    assert_eq!(changed("message_type", "m"), PushError::Malformed("message_type"));
    assert_eq!(refused(b"").status(), 400);
    assert_eq!(refused(b"[").status(), 400);
    assert_eq!(refused("[".repeat(100_000).as_bytes()).status(), 400);
    let nested = format!(r#"{{"event":"x","content":"{}"}}"#, "[".repeat(100_000));
    assert_eq!(refused(nested.as_bytes()).status(), 400);
}

#[test]
fn messages_are_as_other_projects_send_them() {
    let channel = channel();
    let to = only_push(told(&received("text"))).target;
    let (url, body, headers) = sent(&channel, &to, &says("三天内发货。")).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/im/send/msg/?open_id=our-open-id");
    assert!(headers.contains(&("access-token", "T".to_owned())));
    assert_eq!(
        body,
        json!({ "scene": "im_reply_msg", "msg_id": "s1", "conversation_id": "c1",
                "to_user_id": "o1", "content": { "msg_type": 1, "text": { "text": "三天内发货。" } } })
    );
    let entered = Target { code: Some(ENTER.to_owned()), ..to.clone() };
    let (_, body, _) = sent(&channel, &entered, &says("欢迎")).unwrap();
    assert_eq!(body["scene"], "im_enter_direct_msg");
    let (_, body, _) = sent(&channel, &to, &says(&"长".repeat(1_200))).unwrap();
    let text = body["content"]["text"]["text"].as_str().unwrap();
    assert_eq!(text.chars().count(), 1_000);
    assert!(sent(&channel, &to, &Outgoing::Menu(survey())).is_err());
    assert!(sent(&channel, &Target::customer("o1"), &says("x")).is_err());
}

#[test]
fn tokens_are_asked_for_and_refusals_say_what_to_do() {
    let channel = channel();
    let request = channel.token_request(Refresh::Usual).unwrap();
    assert_eq!(request.url, "http://127.0.0.1:9/oauth/refresh_token/");
    assert_eq!(request.body, b"client_key=abc&grant_type=refresh_token&refresh_token=rft.1");
    let body = r#"{"data":{"access_token":"act.1","expires_in":1296000,"error_code":0}}"#;
    let token = channel.read_token(&answer(body)).unwrap();
    assert_eq!((token.expose(), token.lifetime.as_secs()), ("act.1", 1_296_000));
    let none = Douyin { refresh_token: None, ..super::tests::channel() };
    assert!(none.token_request(Refresh::Usual).is_none());

    use FailureClass::{GiveUp, QuotaUsed, RefreshToken, Retry, Unclear, WindowClosed};
    assert_eq!(refusal(&channel, r#"{"data":{"error_code":0}}"#), None);
    for (code, class) in [
        (28_003_070, QuotaUsed),
        (28_003_080, WindowClosed),
        (28_003_081, WindowClosed),
        (28_003_018, Retry),
        (2_100_004, Retry),
        (28_001_005, Retry),
        (28_001_006, Unclear),
        (28_001_008, RefreshToken),
        (28_029_004, GiveUp),
        (2_190_002, RefreshToken),
        (2_190_008, RefreshToken),
        (1, GiveUp),
    ] {
        for body in [
            format!("{{\"data\":{{\"error_code\":{code}}}}}"),
            format!("{{\"data\":{{\"error_code\":0}},\"extra\":{{\"error_code\":{code}}}}}"),
            format!("{{\"err_no\":{code}}}"),
        ] {
            assert_eq!(refusal(&channel, &body), Some(class), "{body}");
        }
    }
    assert_eq!(refusal(&channel, "{}"), Some(Unclear));
}

#[test]
fn a_refresh_token_is_renewed_and_the_renewed_one_gets_tokens() {
    let channel = channel();
    let renewal = channel.renewal().unwrap();
    assert!(Douyin { refresh_token: None, ..super::tests::channel() }.renewal().is_none());
    let asked = renewal.token_request_with(&"rft.2".into());
    assert_eq!(asked.body, b"client_key=abc&grant_type=refresh_token&refresh_token=rft.2");
    let said = r#"{"data":{"access_token":"a","expires_in":1,"refresh_expires_in":86400}}"#;
    assert_eq!(renewal.lifetime(&answer(said)), None, "an answer without a code is broken");
    let said = said.replace("\"expires_in\"", "\"error_code\":0,\"expires_in\"");
    assert_eq!(renewal.lifetime(&answer(&said)).map(|left| left.as_secs()), Some(86_400));
    let request = renewal.renew(&"rft.1".into());
    assert_eq!(request.url, "http://127.0.0.1:9/oauth/renew_refresh_token/");
    assert_eq!(request.body, b"client_key=abc&refresh_token=rft.1");
    let renewed =
        |body: &str| renewal.read_renewed(&answer(body)).map(|t| t.expose_secret().into());
    let body = r#"{"data":{"refresh_token":"rft.2","expires_in":2592000,"error_code":0}}"#;
    assert_eq!(renewed(body), Ok::<String, _>("rft.2".into()));
    assert!(renewed(r#"{"data":{"error_code":10020}}"#).is_err());
    assert!(renewed(r#"{"data":{"error_code":0}}"#).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_webhooks_never_panic(damages in proptest::collection::vec(damage(), 1..5)) {
        let mut bytes = received("text");
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        let unsigned = post(&channel(), "", &[("x-douyin-signature", &signature(b"x"))], &bytes);
        prop_assert_eq!(unsigned, Err(PushError::SignatureMismatch));
        let _ = told(&bytes);
    }
}

#[test]
fn a_wrong_configuration_names_its_field() {
    let field =
        |config: &DouyinConfig| Douyin::new(AccountName("a".to_owned()), config).unwrap_err().field;
    assert_eq!(field(&DouyinConfig { client_key: String::new(), ..config() }), "client_key");
    assert_eq!(field(&DouyinConfig { client_secret: "".into(), ..config() }), "client_secret");
    assert_eq!(field(&DouyinConfig { open_id: "a b".into(), ..config() }), "open_id");
    assert_eq!(field(&DouyinConfig { send_path: Some("x".into()), ..config() }), "send_path");
}
