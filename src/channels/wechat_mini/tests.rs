//! The channel where it differs from 公众号: what is said in answers, what is sent, quotas.

use serde_json::json;

use super::*;
use crate::channels::testing::{NOW, only_push, post_genuine, refusal, sent, survey, text};
use crate::channels::wechat::fixture::{KEY, TOKEN, sealed};
use crate::channels::{BodyFormat, FailureClass};

const APP: &str = "wx0123456789abcdef";

fn channel() -> WechatMini {
    let config = WechatMpConfig {
        token: TOKEN.into(),
        app_id: APP.to_owned(),
        encoding_aes_key: Some(KEY.into()),
        previous_encoding_aes_key: None,
        require_encryption: true,
        app_secret: Some("s3cret".into()),
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    WechatMini::new(AccountName("mini".to_owned()), &config).unwrap()
}

fn message(kind: &str, rest: &serde_json::Value) -> String {
    let mut message = json!({
        "ToUserName": "gh_1", "FromUserName": "o1", "CreateTime": 1_790_000_000, "MsgType": kind,
    });
    for (name, value) in rest.as_object().unwrap() {
        message[name] = value.clone();
    }
    message.to_string()
}

#[test]
fn messages_pages_and_entering_are_read() {
    let channel = channel();
    let page = Content::Attachment { what: "miniprogram".into(), reference: Some("p?id=1".into()) };
    let entered =
        Content::Event { name: "user_enter_tempsession".into(), key: Some("order".into()) };
    for (kind, rest, content, scene) in [
        (
            "text",
            json!({ "Content": "多久发货", "MsgId": 1 }),
            Content::Text("多久发货".into()),
            Scene::Message,
        ),
        (
            "miniprogrampage",
            json!({ "Title": "t", "AppId": APP, "PagePath": "p?id=1", "MsgId": 2 }),
            page,
            Scene::Message,
        ),
        (
            "event",
            json!({ "Event": "user_enter_tempsession", "SessionFrom": "order" }),
            entered,
            Scene::Enter,
        ),
    ] {
        let genuine = sealed(&message(kind, &rest), APP, KEY, BodyFormat::Json);
        let push = only_push(post_genuine(&channel, &genuine));
        assert_eq!(push.inbound.content, content);
        assert_eq!(push.inbound.platform, Platform::WechatMini);
        assert_eq!(channel.scene(&content), Some(scene));
    }
}

#[test]
fn only_the_transfer_is_said_in_an_answer() {
    let channel = channel();
    let said = message("text", &json!({ "Content": "x", "MsgId": 1 }));
    let push = only_push(post_genuine(&channel, &sealed(&said, APP, KEY, BodyFormat::Json)));
    let address = push.reply_address.unwrap();
    let stamp = Stamp { seconds: NOW, nonce: "n" };
    assert!(channel.passive(&address, &text("x"), stamp).is_err());
    let transfer = channel.passive(&address, &Outgoing::Transfer, stamp).unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&transfer.body).unwrap();
    assert!(envelope["Encrypt"].is_string() && envelope["MsgSignature"].is_string());
    assert_eq!(channel.acknowledgement().body, b"success");
}

#[test]
fn messages_are_as_documented() {
    let channel = channel();
    let to = Target::customer("o1");
    let (url, body, _) = sent(&channel, &to, &text("三天内发货。")).unwrap();
    assert_eq!(url, "https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token=T");
    let expected =
        json!({ "touser": "o1", "msgtype": "text", "text": { "content": "三天内发货。" } });
    assert_eq!(body, expected);
    let (url, _, _) = sent(&channel, &to, &Outgoing::Typing { on: true }).unwrap();
    assert!(url.contains("/cgi-bin/message/custom/business/typing?"));
    assert!(sent(&channel, &to, &Outgoing::Menu(survey())).is_err());
    assert_eq!(refusal(&channel, r#"{"errcode":45015}"#), Some(FailureClass::WindowClosed));
    assert_eq!(refusal(&channel, r#"{"errcode":45047}"#), Some(FailureClass::QuotaUsed));
    assert_eq!(refusal(&channel, r#"{"errcode":0,"errmsg":"ok"}"#), None);
}
