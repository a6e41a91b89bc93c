//! The channel as a whole: signatures, every kind of message, answers, sends.

use proptest::prelude::*;

use super::*;
use crate::channels::testing::{NOW, damage, only_push, post, sent, survey, text as says};
use crate::domain::outgoing::Outgoing;

const SECRET: &str = "a-secret-of-the-tests";

fn channel() -> Webhook {
    let config = WebhookConfig {
        secret: SECRET.into(),
        reply_url: Some("http://127.0.0.1:9/huida".to_owned()),
        replay_window_s: None,
        text_bytes: None,
    };
    Webhook::new(AccountName("hook".to_owned()), &config).unwrap()
}

/// The documented signature, by another road than the channel's.
fn signature(seconds: i64, body: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(SECRET.as_bytes()).for_each(|(b, s)| *b ^= s);
        block
    };
    let signed = [format!("{seconds}.").as_bytes(), body].concat();
    let inner = Sha256::digest([&pad(0x36)[..], &signed].concat());
    hex(&Sha256::digest([&pad(0x5C)[..], &inner].concat()))
}

fn told(body: &[u8]) -> Result<Received, PushError> {
    let (timestamp, signature) = (NOW.to_string(), signature(NOW, body));
    post(&channel(), "", &[(TIMESTAMP, &timestamp), (SIGNATURE, &signature)], body)
}

#[test]
fn every_kind_of_message() {
    let attachment = |what: &str, reference: Option<&str>| Content::Attachment {
        what: what.to_owned(),
        reference: reference.map(str::to_owned),
    };
    for (rest, expected) in [
        (r#""type":"text","text":"多久发货""#, Content::Text("多久发货".into())),
        (
            r#""type":"choice","choice":"101","text":"满意""#,
            Content::Choice { id: "101".into(), text: "满意".into() },
        ),
        (r#""type":"voice","text":"退款""#, Content::Voice { transcript: Some("退款".into()) }),
        (r#""type":"voice","url":"https://p/1""#, attachment("voice", Some("https://p/1"))),
        (r#""type":"image","url":"https://p/2""#, attachment("image", Some("https://p/2"))),
        (r#""type":"location""#, attachment("location", None)),
        (
            r#""type":"event","event":"enter","key":"k""#,
            Content::Event { name: "enter".into(), key: Some("k".into()) },
        ),
        (r#""type":"hologram""#, Content::Unknown { what: "hologram".into() }),
    ] {
        let body = format!(r#"{{"id":"m1","customer":"c1","thread":"t1",{rest}}}"#);
        let push = only_push(told(body.as_bytes()));
        assert_eq!(push.inbound.content, expected, "{rest}");
        assert_eq!(
            (push.inbound.dedupe_key.as_str(), push.inbound.sent_at),
            ("msg:m1", NOW * 1_000)
        );
        assert_eq!(push.target.thread.as_deref(), Some("t1"));
    }
    for (body, reason) in [
        (r#"{"customer":"c1","type":"text","text":"x"}"#, "id"),
        (r#"{"id":"m1","type":"text","text":"x"}"#, "customer"),
        (r#"{"id":"m1","customer":"c1"}"#, "type"),
        (r#"{"id":"m1","customer":"c1","type":"text"}"#, "text"),
        (r#"{"id":"m1""#, "body is not JSON"),
    ] {
        assert_eq!(told(body.as_bytes()), Err(PushError::Malformed(reason)));
    }
}

#[test]
fn only_what_is_signed_lately_is_taken() {
    let body = br#"{"id":"m1","customer":"c1","type":"text","text":"x"}"#;
    let at = |seconds: i64, signature: &str| {
        let timestamp = seconds.to_string();
        post(&channel(), "", &[(TIMESTAMP, &timestamp), (SIGNATURE, signature)], body).map(drop)
    };
    assert_eq!(at(NOW - 300, &signature(NOW - 300, body)), Ok(()));
    assert_eq!(at(NOW - 301, &signature(NOW - 301, body)), Err(PushError::Stale));
    assert_eq!(at(NOW + 301, &signature(NOW + 301, body)), Err(PushError::Stale));
    let right = signature(NOW, body);
    let wrong = PushError::SignatureMismatch;
    assert_eq!(at(NOW + 1, &right), Err(wrong));
    for bad in ["", "x", &right[1..], &right.to_uppercase(), &signature(NOW, b"other")] {
        assert_eq!(at(NOW, bad), Err(wrong));
    }
    assert_eq!(post(&channel(), "", &[(TIMESTAMP, "1")], body), Err(wrong));
    assert_eq!(post(&channel(), "", &[], body), Err(wrong));
}

#[test]
fn answers_and_sends_are_signed_alike() {
    let channel = channel();
    let body = br#"{"id":"m1","customer":"c1","type":"text","text":"x"}"#;
    let push = only_push(told(body));
    let address = push.reply_address.unwrap();
    let stamp = Stamp { seconds: NOW, nonce: "n" };
    let answer = channel.passive(&address, &says("三天“内”。"), stamp).unwrap();
    let expected = r#"{"reply":{"text":"三天“内”。","type":"text"}}"#;
    assert_eq!(answer.body, expected.as_bytes());
    let signed = vec![(TIMESTAMP, NOW.to_string()), (SIGNATURE, signature(NOW, &answer.body))];
    assert_eq!(answer.headers, signed);
    let nothing = channel.passive(&address, &says(" "), stamp).unwrap();
    assert_eq!(nothing.body, br#"{"reply":null}"#);

    let (url, body, headers) = sent(&channel, &push.target, &Outgoing::Menu(survey())).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/huida");
    assert_eq!(
        body,
        json!({ "id": "key-1", "customer": "c1", "message": "m1", "type": "menu",
                "text": "您满意吗？", "tail": "谢谢",
                "items": [{ "id": "101", "text": "满意" }, { "id": "102", "text": "不满意" }] })
    );
    let right = (SIGNATURE, signature(NOW, body.to_string().as_bytes()));
    assert!(headers.contains(&right), "{headers:?}");
    let (_, body, _) = sent(&channel, &push.target, &Outgoing::Typing { on: true }).unwrap();
    assert_eq!((&body["type"], &body["on"]), (&json!("typing"), &json!(true)));
    let (_, body, _) = sent(&channel, &push.target, &Outgoing::Transfer).unwrap();
    assert_eq!(body["type"], "transfer");
}

#[test]
fn statuses_say_whether_it_was_taken() {
    let class = |status| {
        let response = ApiResponse { status, body: b"whatever".to_vec() };
        channel().read_sent(&response).err().map(|failure| failure.class)
    };
    assert_eq!((class(200), class(204), class(409)), (None, None, None));
    assert_eq!(class(429), Some(FailureClass::Retry));
    assert_eq!(class(503), Some(FailureClass::Unclear));
    assert_eq!(class(403), Some(FailureClass::GiveUp));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_messages_never_panic(damages in proptest::collection::vec(damage(), 1..5)) {
        let mut body =
            br#"{"id":"m1","customer":"c1","type":"choice","choice":"1","text":"x"}"#.to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut body));
        let _ = told(&body);
    }
}
