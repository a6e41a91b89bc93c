//! The channel as a whole: every kind of push, sends, forgeries.

use proptest::prelude::*;

use super::*;
use crate::channels::testing::{damage, only_push, post, post_genuine, refusal, sent, text};
use crate::channels::wechat::fixture::{Genuine, KEY, TOKEN, sealed};
use crate::channels::{BodyFormat, FailureClass};

const APP: &str = "wx0123456789abcdef";

fn channel() -> WechatShop {
    let config = WechatShopConfig {
        token: TOKEN.into(),
        app_id: APP.to_owned(),
        encoding_aes_key: KEY.into(),
        previous_encoding_aes_key: None,
        app_secret: "s3cret".into(),
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    WechatShop::new(AccountName("shop".to_owned()), &config).unwrap()
}

fn message(kind: &str, body: &Value) -> Value {
    let mut message = json!({
        "ToUserName": "gh_shop", "FromUserName": "o1", "CreateTime": 1_790_000_000,
        "MsgType": "event", "Event": "commkf_send_msg_to_kf", "msg_id": 78_000_000_000_000_001_u64,
        "msg_type": kind, "msg_event": "EVENT_TYPE_SEND_MSG",
    });
    message[kind] = body.clone();
    message
}

fn pushed(message: &Value) -> Genuine {
    sealed(&message.to_string(), APP, KEY, BodyFormat::Json)
}

#[test]
fn every_kind_of_message() {
    let channel = channel();
    let attachment = |what: &str, reference: &str| Content::Attachment {
        what: what.to_owned(),
        reference: Some(reference.to_owned()),
    };
    for (kind, body, expected) in [
        ("text", json!({ "content": "多久发货" }), Content::Text("多久发货".into())),
        ("image", json!({ "url": "https://p/1" }), attachment("image", "https://p/1")),
        ("video", json!({ "cos_url": "https://p/2" }), attachment("video", "https://p/2")),
        ("file", json!({ "media_id": "f1" }), attachment("file", "f1")),
        ("voice", json!({ "url": "https://p/3" }), attachment("voice", "https://p/3")),
        ("product_share", json!({ "product_id": 7 }), attachment("product", "7")),
        ("order_share", json!({ "order_id": "o7" }), attachment("order", "o7")),
        ("hologram", json!({}), Content::Unknown { what: "hologram".into() }),
    ] {
        let push = only_push(post_genuine(&channel, &pushed(&message(kind, &body))));
        assert_eq!(push.inbound.content, expected, "{kind}");
        assert_eq!(push.inbound.dedupe_key, "msg:78000000000000001");
        assert_eq!(push.inbound.sent_at, 1_790_000_000_000);
        assert_eq!((push.target, push.reply_address), (Target::customer("o1"), None));
    }
    let mut other = message("text", &json!({}));
    other["msg_event"] = "EVENT_TYPE_READ".into();
    let push = only_push(post_genuine(&channel, &pushed(&other)));
    let read = Content::Event { name: "EVENT_TYPE_READ".into(), key: None };
    assert_eq!(push.inbound.content, read);
}

#[test]
fn what_the_older_route_tells_is_kept() {
    let told = json!({
        "ToUserName": "gh_shop", "FromUserName": "o1", "CreateTime": 1_790_000_000,
        "MsgType": "event", "Event": "channels_ec_aftersale_update",
        "finder_shop_aftersale_status": { "status": "x" },
    });
    let push = only_push(post_genuine(&channel(), &pushed(&told)));
    let expected = Content::Event { name: "channels_ec_aftersale_update".into(), key: None };
    assert_eq!(push.inbound.content, expected);
    assert_eq!(push.inbound.platform, Platform::WechatShop);
}

#[test]
fn what_is_not_genuine_or_not_whole_is_refused() {
    let channel = channel();
    let whole = message("text", &json!({ "content": "hi" }));
    for (member, error) in [
        ("FromUserName", "FromUserName"),
        ("msg_id", "msg_id"),
        ("msg_type", "msg_type"),
        ("text", "text.content"),
        ("CreateTime", "CreateTime"),
    ] {
        let mut part = whole.clone();
        part.as_object_mut().unwrap().remove(member);
        assert_eq!(post_genuine(&channel, &pushed(&part)), Err(PushError::Malformed(error)));
    }
    let genuine = pushed(&whole);
    let unsigned = post(&channel, "encrypt_type=aes", &[], genuine.body.as_bytes());
    assert_eq!(unsigned, Err(PushError::SignatureMismatch));
    let signature = super::super::wechat::signature::sign(&[TOKEN, "1", "n"]);
    let query = format!("signature={signature}&timestamp=1&nonce=n");
    let plain = post(&channel, &query, &[], whole.to_string().as_bytes());
    assert_eq!(plain, Err(PushError::EncryptionRequired));
    let check = format!("{query}&echostr=4375120948345356249");
    let callback = Callback { query: &check, headers: &[], body: b"", received_at: 0 };
    assert_eq!(channel.check_url(&callback).unwrap().body, b"4375120948345356249");
}

#[test]
fn messages_are_as_documented() {
    let channel = channel();
    let to = Target::customer("o1");
    let (url, body, _) = sent(&channel, &to, &text("三天内发货。")).unwrap();
    let expected = "https://api.weixin.qq.com/channels/ec/commkf/sendmsg?access_token=T";
    assert_eq!(url, expected);
    assert_eq!(
        body,
        json!({ "request_id": "key-1", "open_id": "o1", "msg_type": "text",
                "text": { "content": "三天内发货。" } })
    );
    assert!(sent(&channel, &to, &Outgoing::Typing { on: true }).is_err());
    assert_eq!(refusal(&channel, r#"{"errcode":0}"#), None);
    assert_eq!(refusal(&channel, r#"{"errcode":40001}"#), Some(FailureClass::RefreshToken));
    assert!(channel.token_request(Refresh::Usual).unwrap().url.ends_with("/cgi-bin/stable_token"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_messages_never_panic(damages in proptest::collection::vec(damage(), 1..5)) {
        let mut bytes = message("text", &json!({ "content": "hi" })).to_string().into_bytes();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        let damaged = sealed(&String::from_utf8_lossy(&bytes), APP, KEY, BodyFormat::Json);
        let _ = post_genuine(&channel(), &damaged);
    }
}
