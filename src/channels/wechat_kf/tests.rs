//! The channel as a whole: the callback that tells of a page, the page, sends, sessions.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::channels::testing::{answer, damage, post_genuine, refusal, sent, survey, text};
use crate::channels::wechat::fixture::{KEY, OTHER_KEY, TOKEN, sealed};
use crate::channels::{BodyFormat, FailureClass, Push, Undelivered};
use crate::domain::outgoing::Menu;

const CORP: &str = "ww0123456789abcdef";
const DESK: &str = "wkAJ2GCAAASSm4_FhToWMFea0xAFfd3Q";
const CUSTOMER: &str = "wmAJ2GCAAAme1XQRC-NI-q0_ZM9ukoAw";
const PAGE_BODY: &str = include_str!("../../../tests/fixtures/kf/page.json");

fn channel() -> WechatKf {
    let config = WechatKfConfig {
        token: TOKEN.into(),
        corp_id: CORP.to_owned(),
        encoding_aes_key: KEY.into(),
        previous_encoding_aes_key: Some(OTHER_KEY.into()),
        secret: "s3cret".into(),
        api_base: Some("http://127.0.0.1:9/".to_owned()),
        replay_window_s: None,
        text_bytes: None,
    };
    WechatKf::new(AccountName("kf".to_owned()), &config).unwrap()
}

fn target() -> Target {
    Target { thread: Some(DESK.to_owned()), ..Target::customer(CUSTOMER) }
}

fn token() -> Token {
    Token::new("T", 7_200)
}

fn body(request: &ApiRequest) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn event(name: &str, rest: &str) -> String {
    format!(
        "<xml><ToUserName>{CORP}</ToUserName><CreateTime>1790000000</CreateTime>\
         <MsgType>event</MsgType><Event>{name}</Event>{rest}</xml>"
    )
}

#[test]
fn a_callback_tells_that_messages_lie_ready() {
    let channel = channel();
    let receive =
        |message: &str| post_genuine(&channel, &sealed(message, CORP, KEY, BodyFormat::Xml));
    let told = event("kf_msg_or_event", "<Token>ENC1</Token><OpenKfId>wk1</OpenKfId>");
    let ready = Ready { thread: "wk1".to_owned(), permit: Some("ENC1".to_owned()) };
    assert_eq!(receive(&told), Ok(Received::Ready(ready)));
    let other = receive(&event("kf_account_auth_change", ""));
    let notice = Item::Notice("kf_account_auth_change".to_owned());
    assert_eq!(other, Ok(Received::Items(vec![notice])));
    let without = receive(&event("kf_msg_or_event", "<Token>ENC1</Token>"));
    assert_eq!(without, Err(PushError::Malformed("OpenKfId")));
    let theirs = sealed(&told, "ww2", KEY, BodyFormat::Xml);
    assert_eq!(post_genuine(&channel, &theirs), Err(PushError::NotForUs));
    assert_eq!(channel.acknowledgement().body, b"");
}

#[test]
fn pages_are_asked_for_from_where_the_last_one_ended() {
    let channel = channel();
    let pull = channel.pull().unwrap();
    let ready = Ready { thread: "wk1".to_owned(), permit: Some("ENC1".to_owned()) };
    let request = pull.fetch(&ready, "c1", &token());
    assert_eq!(request.url, "http://127.0.0.1:9/cgi-bin/kf/sync_msg?access_token=T");
    assert_eq!(
        body(&request),
        json!({ "cursor": "c1", "token": "ENC1", "limit": 100, "voice_format": 0,
                "open_kfid": "wk1" })
    );
    let untold = Ready { permit: None, ..ready };
    let first = body(&pull.fetch(&untold, "", &token()));
    assert_eq!(first, json!({ "limit": 100, "voice_format": 0, "open_kfid": "wk1" }));
}

fn page() -> Page {
    channel().read_page(&answer(PAGE_BODY)).unwrap()
}

#[test]
fn every_item_of_a_page_is_read() {
    let Page { items, next_cursor, has_more } = page();
    assert_eq!((next_cursor.as_str(), has_more, items.len()), ("4gw7MepFLfgF2VC5npN", true, 27));
    let attachment = |what: &str, reference: Option<&str>| Content::Attachment {
        what: what.to_owned(),
        reference: reference.map(str::to_owned),
    };
    let told = |name: &str, key: Option<&str>| Content::Event {
        name: name.to_owned(),
        key: key.map(str::to_owned),
    };
    let contents: Vec<(&str, &Content)> = items
        .iter()
        .filter_map(|item| {
            let Item::Push(Push { inbound, target: to, reply_address: None }) = item else {
                return None;
            };
            assert_eq!((inbound.sender.as_str(), inbound.sent_at), (CUSTOMER, 1_790_000_000_000));
            assert_eq!((to.customer.as_str(), to.thread.as_deref()), (CUSTOMER, Some(DESK)));
            Some((inbound.dedupe_key.as_str(), &inbound.content))
        })
        .collect();
    let place = "23.1060218811035,113.320503234863 某店 某市某路1号";
    let expected = [
        ("msg:m1", Content::Text("多久发货".into())),
        ("msg:m2", Content::Choice { id: "101".into(), text: "满意".into() }),
        ("msg:m3", attachment("image", Some("i1"))),
        ("msg:m4", attachment("voice", Some("v1"))),
        ("msg:m5", attachment("video", Some("d1"))),
        ("msg:m6", attachment("file", Some("f1"))),
        ("msg:m7", attachment("location", Some(place))),
        ("msg:m8", attachment("link", Some("https://example.com/a?b=1"))),
        ("msg:m9", attachment("business_card", Some("u1"))),
        ("msg:m10", attachment("miniprogram", Some("pages/order?id=1"))),
        ("msg:m11", Content::Text("您满意吗？".into())),
        ("msg:m12", attachment("product", Some("p1"))),
        ("msg:m13", attachment("order", Some("o1"))),
        ("msg:m14", attachment("merged_msg", Some("聊天记录"))),
        ("msg:m15", attachment("channels", Some("视频"))),
        ("msg:m16", attachment("meeting", None)),
        ("msg:m17", attachment("schedule", None)),
        ("msg:m18", attachment("note", None)),
        ("msg:m19", Content::Unknown { what: "hologram".into() }),
        ("msg:m21", told("enter_session", Some("abc"))),
        ("msg:m26", told("user_recall_msg", Some("m1"))),
        ("msg:m27", told("hologram_shown", None)),
    ];
    assert_eq!(contents.len(), expected.len());
    for (seen, expected) in contents.iter().zip(&expected) {
        assert_eq!((seen.0, seen.1), (expected.0, &expected.1));
    }
}

#[test]
fn what_the_platform_tells_of_itself_is_told_apart() {
    let Page { items, .. } = page();
    let Item::Push(entered) = &items[20] else { panic!("{:?}", items[20]) };
    assert_eq!(entered.target.code.as_deref(), Some("WC1"));
    let Item::Colleague(colleague) = &items[19] else { panic!("{:?}", items[19]) };
    assert_eq!(colleague.servicer.as_deref(), Some("zhangsan"));
    assert_eq!(colleague.content, Content::Text("我来帮您".into()));
    let failure = ApiFailure { class: FailureClass::WindowClosed, code: 4 };
    let key = "key-1".to_owned();
    let undelivered = Undelivered { key, target: target(), failure };
    assert_eq!(items[21], Item::Undelivered(undelivered));
    let Item::Session(taken) = &items[22] else { panic!("{:?}", items[22]) };
    assert_eq!((taken.now, taken.servicer.as_deref()), (SessionState::Person, Some("zhangsan")));
    assert_eq!(taken.target.code.as_deref(), Some("MC1"));
    let Item::Session(ended) = &items[23] else { panic!("{:?}", items[23]) };
    assert_eq!((ended.now, ended.servicer.as_deref()), (SessionState::Ended, None));
    assert_eq!(items[24], Item::Notice("servicer_status_change zhangsan 2".to_owned()));
}

#[test]
fn failed_deliveries_say_what_to_do() {
    use FailureClass::{GiveUp, QuotaUsed, WindowClosed, WrongState};
    let expected = [
        (0, GiveUp),
        (1, GiveUp),
        (2, GiveUp),
        (4, WindowClosed),
        (5, WrongState),
        (6, QuotaUsed),
        (7, GiveUp),
        (8, GiveUp),
        (9, GiveUp),
        (10, GiveUp),
        (11, GiveUp),
        (12, GiveUp),
        (13, GiveUp),
        (99, GiveUp),
    ];
    for (code, class) in expected {
        let body = PAGE_BODY.replace("\"fail_type\": 4", &format!("\"fail_type\": {code}"));
        let page = channel().read_page(&answer(&body)).unwrap();
        let Item::Undelivered(undelivered) = &page.items[21] else { panic!("{code}") };
        assert_eq!(undelivered.failure, ApiFailure { class, code });
    }
}

#[test]
fn broken_pages_are_refused_whole_and_empty_ones_are_not() {
    let read = |body: &str| channel().read_page(&answer(body));
    let empty = read(r#"{"errcode":0,"next_cursor":"c2","has_more":1,"msg_list":[]}"#).unwrap();
    assert_eq!(empty, Page { items: Vec::new(), next_cursor: "c2".into(), has_more: true });
    assert!(!read(r#"{"errcode":0,"next_cursor":"c2"}"#).unwrap().has_more);
    for broken in [
        "",
        "[]",
        r#"{"errcode":0,"has_more":1,"msg_list":[]}"#,
        r#"{"errcode":0,"next_cursor":"c","has_more":"yes"}"#,
        r#"{"errcode":0,"next_cursor":"c","msg_list":{}}"#,
        &format!(r#"{{"errcode":0,"next_cursor":"{}"}}"#, "c".repeat(65)),
        &PAGE_BODY[..PAGE_BODY.len() / 2],
    ] {
        assert_eq!(read(broken).unwrap_err().class, FailureClass::Unclear, "{broken}");
    }
    let failure = read(r#"{"errcode":95000}"#).unwrap_err();
    assert_eq!(failure, ApiFailure { class: FailureClass::GiveUp, code: 95_000 });
    // One item that is none does not hold up the others.
    let body = r#"{"errcode":0,"next_cursor":"c","msg_list":[7,{"msgid":"m1"}]}"#;
    let items = read(body).unwrap().items;
    assert!(items.iter().all(|item| matches!(item, Item::Notice(_))) && items.len() == 2);
}

#[test]
fn messages_are_as_documented() {
    let channel = channel();
    let (url, body, _) = sent(&channel, &target(), &text("三天内发货。")).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/cgi-bin/kf/send_msg?access_token=T");
    assert_eq!(
        body,
        json!({ "touser": CUSTOMER, "open_kfid": DESK, "msgid": "key-1", "msgtype": "text",
                "text": { "content": "三天内发货。" } })
    );
    let menu = json!({
        "head_content": "您满意吗？",
        "list": [
            { "type": "click", "click": { "id": "101", "content": "满意" } },
            { "type": "click", "click": { "id": "102", "content": "不满意" } },
        ],
        "tail_content": "谢谢",
    });
    let (_, body, _) = sent(&channel, &target(), &Outgoing::Menu(survey())).unwrap();
    assert_eq!(
        body,
        json!({ "touser": CUSTOMER, "open_kfid": DESK, "msgid": "key-1", "msgtype": "msgmenu",
                "msgmenu": menu })
    );
    let on_event = |menu| Outgoing::OnEvent { code: "WC1".into(), menu };
    let (url, body, _) = sent(&channel, &target(), &on_event(Menu::text("欢迎光临"))).unwrap();
    assert_eq!(url, "http://127.0.0.1:9/cgi-bin/kf/send_msg_on_event?access_token=T");
    assert_eq!(
        body,
        json!({ "code": "WC1", "msgid": "key-1", "msgtype": "text",
                "text": { "content": "欢迎光临" } })
    );
    let (_, body, _) = sent(&channel, &target(), &on_event(survey())).unwrap();
    assert_eq!(
        body,
        json!({ "code": "WC1", "msgid": "key-1", "msgtype": "msgmenu", "msgmenu": menu })
    );
    assert!(sent(&channel, &target(), &Outgoing::Typing { on: true }).is_err());
    assert!(sent(&channel, &Target::customer("c"), &text("x")).is_err());
    let address = channel.media("m1", Some(&token())).unwrap().url;
    assert_eq!(address, "http://127.0.0.1:9/cgi-bin/media/get?access_token=T&media_id=m1");
}

#[test]
fn long_menus_are_cut_and_too_many_choices_refused() {
    let channel = channel();
    let mut long = survey();
    long.head = "这是一句话。".repeat(100);
    long.items[0].text = "很满意".repeat(50);
    let (_, body, _) = sent(&channel, &target(), &Outgoing::Menu(long.clone())).unwrap();
    let head = body["msgmenu"]["head_content"].as_str().unwrap();
    let item = body["msgmenu"]["list"][0]["click"]["content"].as_str().unwrap();
    assert!(head.len() <= 1_024 && head.ends_with("。…") && item.len() <= 128);
    long.items[0].id = "x".repeat(65);
    assert!(sent(&channel, &target(), &Outgoing::Menu(long.clone())).is_err());
    long.items = vec![survey().items[0].clone(); 11];
    assert!(sent(&channel, &target(), &Outgoing::Menu(long)).is_err());
    let (_, body, _) = sent(&channel, &target(), &text(&"这是一句话。".repeat(300))).unwrap();
    assert!(body["text"]["content"].as_str().unwrap().len() <= 2_048);
}

#[test]
fn sessions_are_asked_for_and_moved() {
    let channel = channel();
    let sessions = channel.sessions().unwrap();
    let request = sessions.state_request(&target(), &token()).unwrap();
    assert_eq!(request.url, "http://127.0.0.1:9/cgi-bin/kf/service_state/get?access_token=T");
    assert_eq!(body(&request), json!({ "open_kfid": DESK, "external_userid": CUSTOMER }));
    let state = |body: &str| sessions.read_state(&answer(body));
    let person = state(r#"{"errcode":0,"service_state":3,"servicer_userid":"zhangsan"}"#).unwrap();
    let servicer = Some("zhangsan".to_owned());
    assert_eq!(person, Session { state: SessionState::Person, servicer });
    assert_eq!(state(r#"{"errcode":0,"service_state":7}"#).unwrap_err(), ApiFailure::BROKEN);

    let to = |state, servicer| sessions.transition(&target(), state, servicer, &token());
    let request = to(SessionState::Person, Some("zhangsan")).unwrap();
    assert_eq!(request.url, "http://127.0.0.1:9/cgi-bin/kf/service_state/trans?access_token=T");
    assert_eq!(
        body(&request),
        json!({ "open_kfid": DESK, "external_userid": CUSTOMER, "service_state": 3,
                "servicer_userid": "zhangsan" })
    );
    assert!(to(SessionState::Person, None).is_err());
    let (_, body, _) = sent(&channel, &target(), &Outgoing::Transfer).unwrap();
    assert_eq!(body["service_state"], 2);
    let code = sessions.read_transition(&answer(r#"{"errcode":0,"msg_code":"MC1"}"#)).unwrap();
    assert_eq!(code.as_deref(), Some("MC1"));
    let refused = sessions.read_transition(&answer(r#"{"errcode":95018}"#)).unwrap_err();
    assert_eq!(refused.class, FailureClass::WrongState);
}

#[test]
fn refusals_say_what_to_do() {
    use FailureClass::{GiveUp, QuotaUsed, RefreshToken, Retry, WindowClosed, WrongState};
    for (code, class) in [
        (95_000, GiveUp),
        (95_001, QuotaUsed),
        (95_002, WindowClosed),
        (95_004, GiveUp),
        (95_011, GiveUp),
        (95_012, GiveUp),
        (95_013, WrongState),
        (95_014, GiveUp),
        (95_017, GiveUp),
        (95_018, WrongState),
        (40_201, GiveUp),
        (42_001, RefreshToken),
        (40_014, RefreshToken),
        (45_009, Retry),
        (-1, Retry),
        (48_002, GiveUp),
        (60_020, GiveUp),
    ] {
        let refused = refusal(&channel(), &format!("{{\"errcode\":{code}}}"));
        assert_eq!(refused, Some(class), "{code}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn damaged_pages_never_panic(damages in proptest::collection::vec(damage(), 1..6)) {
        let mut bytes = PAGE_BODY.as_bytes().to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        if let Ok(page) = channel().read_page(&ApiResponse { status: 200, body: bytes }) {
            prop_assert!(!page.has_more || !page.next_cursor.is_empty());
        }
    }
}
