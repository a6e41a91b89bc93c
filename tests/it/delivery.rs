//! Replies on their way: a stand-in for the platforms' API on a real socket, and what reaches it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use huida::base::clock::{Clock, Deadline};
use huida::domain::decision::Reason;
use huida::domain::delivery::{DeliveryState, Occasion};
use huida::domain::label::Purpose;
use huida::domain::message::{AccountName, Content, Inbound, Platform};
use huida::domain::outgoing::Target;
use huida::domain::trace::Trace;
use huida::pipeline::desk::Answer;
use huida::store::{Arrival, Store};
use serde_json::{Value, json};

use crate::support::{self, AES_KEY, APP_ID, Running, TOKEN, client, push_of, start_with};

pub(crate) const QUESTION: &str = "退款一般几天能到账";

/// What the platform does with the next send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mishap {
    /// `-1`: nothing was done.
    Busy,
    /// The token is no good any more.
    Expired,
    /// Done, and the answer is broken.
    Garbled,
    /// 48 hours are over.
    Closed,
}

/// What one platform's API saw and is about to do.
#[derive(Default)]
pub(crate) struct Seen {
    /// Customer, text (or menu head), and the key that kf is given.
    pub(crate) sent: Vec<(String, String, Option<String>)>,
    pub(crate) menus: Vec<Value>,
    pub(crate) typing: usize,
    pub(crate) mishaps: VecDeque<Mishap>,
    pub(crate) tokens: usize,
    /// Pages of `sync_msg`, by the cursor that asks for them.
    pub(crate) pages: Vec<(String, Value)>,
    pub(crate) refused_tokens: usize,
}

type Shared = Arc<Mutex<Seen>>;

/// The API side of 公众号, 小程序 and 微信客服.
pub(crate) struct FakeApi {
    pub(crate) address: SocketAddr,
    seen: Shared,
}

impl FakeApi {
    pub(crate) fn start() -> Self {
        let seen = Shared::default();
        let routes = Router::new()
            .route("/cgi-bin/stable_token", post(token))
            .route("/cgi-bin/gettoken", get(token))
            .route("/cgi-bin/message/custom/send", post(send))
            .route("/cgi-bin/message/custom/typing", post(typing))
            .route("/cgi-bin/message/custom/business/typing", post(typing))
            .route("/cgi-bin/kf/send_msg", post(send))
            .route("/cgi-bin/kf/sync_msg", post(sync))
            .with_state(seen.clone());
        let (tell, told) = std::sync::mpsc::channel();
        // Ends with the test process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, routes).await.unwrap();
            });
        });
        Self { address: told.recv().unwrap(), seen }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    /// Accounts `mini` and `kf` with this API, and a 公众号 `sends`.
    pub(crate) fn accounts(&self) -> String {
        let common = format!(
            "token = \"{TOKEN}\"\nencoding_aes_key = \"{AES_KEY}\"\napi_base = \"http://{}\"\n",
            self.address
        );
        format!(
            "[accounts.mini]\nplatform = \"wechat-mini\"\napp_id = \"{APP_ID}\"\n\
             app_secret = \"s3cret\"\n{common}\
             [accounts.sends]\nplatform = \"wechat-mp\"\napp_id = \"{APP_ID}\"\n\
             app_secret = \"s3cret\"\n{common}\
             [accounts.kf]\nplatform = \"wechat-kf\"\ncorp_id = \"ww1\"\nsecret = \"s3cret\"\n{common}"
        )
    }

    /// Waits until so many were sent; panics after ten seconds.
    pub(crate) fn wait_for(&self, sent: usize) {
        until(|| self.seen(|seen| seen.sent.len() >= sent));
    }
}

pub(crate) fn until(done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it did not come to pass within ten seconds");
}

async fn token(State(seen): State<Shared>) -> Json<Value> {
    let mut seen = seen.lock().unwrap();
    seen.tokens += 1;
    let token = format!("T{}", seen.tokens);
    Json(json!({ "errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": 7200 }))
}

#[derive(serde::Deserialize)]
struct Opened {
    access_token: String,
}

async fn send(
    State(seen): State<Shared>,
    Query(opened): Query<Opened>,
    Json(body): Json<Value>,
) -> axum::response::Response {
    let mut seen = seen.lock().unwrap();
    if opened.access_token != format!("T{}", seen.tokens) {
        seen.refused_tokens += 1;
        return Json(json!({ "errcode": 40001, "errmsg": "invalid credential" })).into_response();
    }
    let mishap = seen.mishaps.pop_front();
    match mishap {
        Some(Mishap::Busy) => {
            return Json(json!({ "errcode": -1, "errmsg": "busy" })).into_response();
        }
        Some(Mishap::Expired) => {
            // As if another process had fetched one.
            seen.tokens += 1;
            return Json(json!({ "errcode": 42001, "errmsg": "expired" })).into_response();
        }
        Some(Mishap::Closed) => {
            return Json(json!({ "errcode": 45015, "errmsg": "out of time" })).into_response();
        }
        Some(Mishap::Garbled) | None => {}
    }
    let said = match body["msgtype"].as_str() {
        Some("msgmenu") => {
            seen.menus.push(body["msgmenu"].clone());
            body["msgmenu"]["head_content"].as_str()
        }
        _ => body["text"]["content"].as_str(),
    };
    let key = body["msgid"].as_str().map(str::to_owned);
    let known = key.is_some() && seen.sent.iter().any(|(_, _, sent)| *sent == key);
    if !known {
        let customer = body["touser"].as_str().unwrap().to_owned();
        seen.sent.push((customer, said.unwrap().to_owned(), key));
    }
    if mishap == Some(Mishap::Garbled) {
        return "<html>".into_response();
    }
    Json(json!({ "errcode": 0, "errmsg": "ok" })).into_response()
}

async fn typing(State(seen): State<Shared>) -> Json<Value> {
    seen.lock().unwrap().typing += 1;
    Json(json!({ "errcode": 0, "errmsg": "ok" }))
}

async fn sync(State(seen): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    let cursor = body["cursor"].as_str().unwrap_or_default();
    let seen = seen.lock().unwrap();
    let page = seen.pages.iter().find(|(at, _)| at == cursor).map(|(_, page)| page.clone());
    Json(page.unwrap_or_else(|| {
        json!({
            "errcode": 0, "errmsg": "ok", "next_cursor": cursor, "has_more": 0, "msg_list": [],
        })
    }))
}

/// A customer's message as a channel hands it on.
fn said(platform: Platform, account: &str, sender: &str, id: &str, text: &str) -> Arrival {
    let inbound = Inbound {
        platform,
        account: AccountName(account.into()),
        sender: sender.into(),
        dedupe_key: format!("msg:{id}"),
        sent_at: Clock::System.now(),
        content: Content::Text(text.into()),
    };
    let target = Some(Target::customer(sender));
    Arrival { inbound, target, occasion: Some(Occasion::Message), sealed: None }
}

pub(crate) fn mini(sender: &str, id: &str, text: &str) -> Arrival {
    said(Platform::WechatMini, "mini", sender, id, text)
}

fn started() -> (FakeApi, Running) {
    let api = FakeApi::start();
    let running = start_with(&api.accounts());
    (api, running)
}

pub(crate) fn sent_to(api: &FakeApi, customer: &str) -> Vec<String> {
    api.seen(|seen| {
        let theirs = seen.sent.iter().filter(|(to, _, _)| to == customer);
        theirs.map(|(_, text, _)| text.clone()).collect()
    })
}

#[test]
fn what_is_not_ready_in_time_is_sent_and_its_retry_is_only_acknowledged() {
    let (api, running) = started();
    let message = said(Platform::WechatMp, "sends", "anna", "1", QUESTION);
    let at_once = Deadline::after(Duration::ZERO);
    let answer = running.desk.receive(&message, Some(at_once)).unwrap();
    assert_eq!(answer, Answer::Received);
    api.wait_for(1);
    let trace = &running.store.recent_traces(1).unwrap()[0];
    assert_eq!(sent_to(&api, "anna"), std::slice::from_ref(&trace.reply));
    let later = Deadline::after(Duration::from_secs(5));
    assert_eq!(running.desk.receive(&message, Some(later)).unwrap(), Answer::Received);
    let second = said(Platform::WechatMp, "sends", "anna", "2", "多久发货");
    let answer = running.desk.receive(&second, Some(later)).unwrap();
    assert!(matches!(answer, Answer::Reply(_)), "ready in time, it is said in the answer");
    assert_eq!(sent_to(&api, "anna").len(), 1);
}

#[test]
fn the_sign_that_someone_is_writing_is_shown_where_something_can_be_sent() {
    let (api, running) = started();
    running.bell.show_typing(&AccountName("sends".into()), &Target::customer("anna"));
    until(|| api.seen(|seen| seen.typing == 1));
    // Without a secret there is no token for it, and nobody is the worse for that.
    running.bell.show_typing(&AccountName("main".into()), &Target::customer("anna"));
    running.bell.show_typing(&AccountName("sends".into()), &Target::customer("bert"));
    until(|| api.seen(|seen| seen.typing == 2));
}

#[test]
fn an_answer_of_a_silent_account_waits_behind_its_link() {
    let (_api, running) = started();
    // The 公众号 of all tests has no secret: it cannot send.
    let message = said(Platform::WechatMp, "main", "anna", "1", QUESTION);
    let at_once = || Some(Deadline::after(Duration::ZERO));
    let Answer::Show(link) = running.desk.receive(&message, at_once()).unwrap() else {
        panic!("no link")
    };
    let text = serde_json::to_string(&link).unwrap();
    let id = text.split("fetch:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let tap = |sender: &str, number: &str| {
        let tapped = said(Platform::WechatMp, "main", sender, number, "");
        let content = Content::Choice { id: format!("fetch:{id}"), text: "查看答复".into() };
        let tapped = Arrival { inbound: Inbound { content, ..tapped.inbound }, ..tapped };
        running.desk.receive(&tapped, Some(Deadline::after(Duration::from_secs(5)))).unwrap()
    };
    assert!(matches!(tap("ben", "9"), Answer::Show(_)), "not for others");
    let Answer::Reply(kept) = tap("anna", "2") else { panic!("no answer") };
    let trace = running.store.trace(kept.queued.trace.as_ref().unwrap()).unwrap().unwrap();
    assert_eq!(trace.evidence[0].id.as_str(), "shop.refund.time");
    assert!(
        matches!(tap("anna", "2"), Answer::Reply(again) if again.queued.key == kept.queued.key)
    );
}

#[test]
fn every_failure_of_a_send_ends_as_it_must() {
    let (api, running) = started();
    let cases = [
        ("busy", vec![Mishap::Busy, Mishap::Busy], 1, None),
        ("expired", vec![Mishap::Expired], 1, None),
        ("garbled", vec![Mishap::Garbled], 1, Some(Reason::DeliveryUnknown)),
        ("closed", vec![Mishap::Closed], 0, Some(Reason::WindowClosed)),
    ];
    for (customer, mishaps, sent, note) in cases {
        api.seen(|seen| seen.mishaps.extend(mishaps));
        running.desk.receive(&mini(customer, "1", QUESTION), None).unwrap();
        let settled = || {
            let counts = running.store.outbox_counts().unwrap();
            (counts.work, counts.waiting) == (0, 0)
                && !running.store.recent_traces(1).unwrap().is_empty()
        };
        std::thread::sleep(Duration::from_millis(100));
        until(settled);
        assert_eq!(sent_to(&api, customer).len(), sent, "{customer}");
        let now = Clock::System.now();
        let cases = running.store.open_cases(99, now).unwrap();
        let case = cases.iter().find(|c| c.target.as_ref().unwrap().customer == customer);
        assert_eq!(case.and_then(|c| c.note), note, "{customer}");
    }
    let (tokens, refused) = api.seen(|seen| (seen.tokens, seen.refused_tokens));
    // One to begin with, one that another process fetched, one after that: nobody asked twice, and
    // none was used that was known to be over.
    assert_eq!((tokens, refused), (3, 0), "one refresher for all");
}

#[test]
fn one_customers_answers_arrive_in_the_order_of_the_questions() {
    let (api, running) = started();
    api.seen(|seen| seen.mishaps.extend([Mishap::Busy; 3]));
    let questions = ["退货要几天", "多久发货", "怎么开发票", QUESTION];
    for (n, text) in questions.iter().enumerate() {
        running.desk.receive(&mini("anna", &n.to_string(), text), None).unwrap();
    }
    until(|| {
        let counts = running.store.outbox_counts().unwrap();
        counts.work + counts.waiting == 0 && running.store.recent_traces(9).unwrap().len() == 4
    });
    let mut decided = running.store.recent_traces(9).unwrap();
    decided.reverse();
    let all = sent_to(&api, "anna").join("\n\n");
    let said: Vec<&str> = decided.iter().map(|trace| trace.reply.as_str()).collect();
    assert_eq!(all, said.join("\n\n"));
}

/// Their traces: the one with the answer, and those of the fragments.
fn answered_together(running: &Running) -> (Trace, Vec<Trace>) {
    let (mut answers, fragments): (Vec<Trace>, Vec<Trace>) =
        running.store.recent_traces(9).unwrap().into_iter().partition(|t| t.answered_by.is_none());
    assert_eq!(answers.len(), 1, "{answers:?}");
    (answers.remove(0), fragments)
}

#[test]
fn what_is_typed_in_fragments_is_answered_once_and_retries_are_only_acknowledged() {
    let (api, running) = started();
    let texts = ["你好", "我想问下", "那个退款", "一般几天能到账"];
    let messages: Vec<Arrival> =
        (1..).zip(texts).map(|(n, text)| mini("anna", &n.to_string(), text)).collect();
    for message in &messages {
        running.desk.receive(message, None).unwrap();
    }
    api.wait_for(1);
    let (answer, fragments) = answered_together(&running);
    assert_eq!(answer.message, "退款，一般几天能到账");
    assert_eq!(answer.evidence[0].id.as_str(), "shop.refund.time");
    assert_eq!(answer.context, [], "what is answered together is not its own context");
    assert_eq!(fragments.len(), 3);
    assert!(fragments.iter().all(|t| t.answered_by.as_ref() == Some(&answer.id)));
    assert!(fragments.iter().all(|t| t.reply.is_empty() && texts.contains(&t.message.as_str())));
    let later = || Some(Deadline::after(Duration::from_secs(5)));
    for message in &messages {
        assert_eq!(running.desk.receive(message, later()).unwrap(), Answer::Received);
    }
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert_eq!(sent_to(&api, "anna"), [answer.reply]);
    // Nothing follows: it is answered as ever, and whole questions each by themselves.
    running.desk.receive(&mini("ben", "1", "你好"), None).unwrap();
    running.desk.receive(&mini("eva", "1", QUESTION), None).unwrap();
    running.desk.receive(&mini("eva", "2", "多久发货"), None).unwrap();
    until(|| sent_to(&api, "ben").len() == 1 && running.store.outbox_counts().unwrap().work == 0);
    let traces = running.store.recent_traces(9).unwrap();
    assert_eq!((traces.len(), traces.iter().filter(|t| t.answered_by.is_none()).count()), (7, 4));
}

#[test]
fn where_nothing_can_be_sent_the_last_fragments_callback_carries_the_reply() {
    let (_api, running) = started();
    let receive = |id: &str, text: &str| {
        let message = said(Platform::WechatMp, "main", "anna", id, text);
        running.desk.receive(&message, Some(Deadline::after(Duration::from_secs(5)))).unwrap()
    };
    let (first, last) = std::thread::scope(|scope| {
        let first = scope.spawn(|| receive("1", "那个退款"));
        until(|| running.store.unfinished().unwrap().len() == 1);
        let last = receive("2", "一般几天能到账");
        (first.join(), last)
    });
    assert_eq!(first.unwrap(), Answer::Received);
    let Answer::Reply(reply) = last else { panic!("no reply: {last:?}") };
    let (answer, fragments) = answered_together(&running);
    assert_eq!((reply.queued.trace.as_ref(), fragments.len()), (Some(&answer.id), 1));
    assert_eq!(receive("1", "那个退款"), Answer::Received);
    let again = receive("2", "一般几天能到账");
    assert!(matches!(again, Answer::Reply(again) if again.queued.key == reply.queued.key));
    assert!(matches!(receive("3", "你好"), Answer::Reply(_)), "after its wait, well in time");
}

#[test]
fn a_call_for_a_person_is_heard_whatever_was_begun_before_it() {
    let (api, running) = started();
    for (n, text) in (1..).zip(["如果", "我的账号被盗了"]) {
        running.desk.receive(&mini("anna", &n.to_string(), text), None).unwrap();
    }
    api.wait_for(1);
    let (answer, fragments) = answered_together(&running);
    assert_eq!(answer.decision.reasons[0], Reason::SecurityIncident);
    assert_eq!(fragments.len(), 1);
    assert_eq!(running.store.open_cases(9, Clock::System.now()).unwrap().len(), 1);
}

#[test]
fn fetched_messages_are_answered_once_page_by_page() {
    let (api, running) = started();
    let message = |id: &str, customer: &str, text: &str| {
        json!({
            "msgid": id, "open_kfid": "wk1", "external_userid": customer,
            "send_time": Clock::System.now() / 1000, "origin": 3, "msgtype": "text",
            "text": { "content": text },
        })
    };
    let page = |next: &str, more: u8, list: Value| {
        json!({
            "errcode": 0, "errmsg": "ok", "next_cursor": next, "has_more": more, "msg_list": list,
        })
    };
    let (one, two) = (message("m1", "anna", QUESTION), message("m2", "ben", "多久发货"));
    api.seen(|seen| {
        seen.pages.push((String::new(), page("c1", 1, json!([one]))));
        seen.pages.push(("c1".into(), page("c2", 1, json!([]))));
        seen.pages.push(("c2".into(), page("c3", 0, json!([one, two]))));
        seen.mishaps.extend([Mishap::Garbled]);
    });
    running.store.want_fetch(&AccountName("kf".into()), "wk1", "permit").unwrap();
    api.wait_for(2);
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert_eq!((sent_to(&api, "anna").len(), sent_to(&api, "ben").len()), (1, 1));
    assert!(running.store.to_fetch().unwrap().is_empty());
    let now = Clock::System.now();
    let troubles = || -> Vec<Reason> {
        running.store.open_cases(9, now).unwrap().iter().filter_map(|case| case.note).collect()
    };
    assert_eq!(troubles(), [], "a repeated key is safe");

    let key = api.seen(|seen| seen.sent.last().unwrap().2.clone().unwrap());
    let failed = json!({
        "msgid": "e1", "open_kfid": "wk1", "external_userid": "ben", "origin": 4,
        "send_time": Clock::System.now() / 1000, "msgtype": "event",
        "event": {
            "event_type": "msg_send_fail", "open_kfid": "wk1", "external_userid": "ben",
            "fail_msgid": key, "fail_type": 4,
        },
    });
    api.seen(|seen| seen.pages.push(("c3".into(), page("c4", 0, json!([failed])))));
    running.store.want_fetch(&AccountName("kf".into()), "wk1", "permit").unwrap();
    until(|| !troubles().is_empty());
    assert_eq!(troubles(), [Reason::WindowClosed]);
}

/// Opens a callback and leaves it open.
fn opened(running: &Running, path: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).unwrap();
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    stream
}

#[test]
fn of_two_tries_in_flight_one_hangs_up_and_the_other_brings_the_answer() {
    let (api, running) = started();
    let begun = |sender: &str, id| {
        // In work while it waits for what follows.
        let push = push_of(running.dir.path(), &api.accounts(), sender, id, "那个退款");
        let path = format!("/channels/wechat-mp/sends?{}", push.query.to_query_string());
        let first = opened(&running, &path, &push.body);
        until(|| running.store.unfinished().unwrap().len() == 1);
        (push, path, first)
    };
    let (push, path, first) = begun("anna", 7);
    let answer = std::thread::scope(|scope| {
        let again = || client().post(running.url(&path)).body(push.body.clone()).send().unwrap();
        let second = scope.spawn(again);
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
        second.join().unwrap().bytes().unwrap()
    });
    let brought = running.reply(&support::Answer { status: 200, body: answer.to_vec() });
    let trace = &running.store.recent_traces(1).unwrap()[0];
    assert_eq!(brought, trace.reply);
    let state = || running.store.spoken(&trace.conversation, 9).unwrap().last().unwrap().state;
    until(|| state() == Some(DeliveryState::Delivered));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(sent_to(&api, "anna").len(), 0, "said in the answer, and not twice");

    let (push, path, first) = begun("ben", 8);
    let second = opened(&running, &path, &push.body);
    std::thread::sleep(Duration::from_millis(200));
    drop((first, second));
    until(|| sent_to(&api, "ben").len() == 1);
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert_eq!(sent_to(&api, "ben").len(), 1, "both hung up: it is sent, once");
}

#[test]
fn where_nobody_asks_again_a_reply_that_nobody_took_is_soon_a_persons() {
    let secret = "secret-of-sixteen-or-more";
    let running =
        start_with(&format!("[accounts.own]\nplatform = \"webhook\"\nsecret = \"{secret}\"\n"));
    let message = said(Platform::Webhook, "own", "anna", "1", QUESTION);
    let ask = || {
        let later = Some(Deadline::after(Duration::from_secs(5)));
        running.desk.receive(&message, later).unwrap()
    };
    // Dropped unsaid, as when its connection closes.
    assert!(matches!(ask(), Answer::Reply(_)));
    assert!(matches!(ask(), Answer::Reply(_)), "whoever asks again gets it");
    let cases = || running.store.open_cases(9, Clock::System.now()).unwrap();
    until(|| cases().iter().any(|case| case.note.is_some()));
    assert_eq!(cases()[0].note, Some(Reason::SendFailed), "it is known not to be there");
}

#[test]
fn a_message_whose_work_fails_every_time_ends_with_a_person() {
    let (api, running) = started();
    running.desk.receive(&mini("anna", "1", QUESTION), None).unwrap();
    api.wait_for(1);
    let raw = rusqlite::Connection::open(running.database()).unwrap();
    // Whoever looks for what kind of customer writes finds nothing.
    let rename = |from: &str, to: &str| {
        let change = format!("ALTER TABLE customers RENAME COLUMN {from} TO {to}");
        raw.execute_batch(&change).unwrap();
    };
    rename("audience", "lost");
    running.desk.receive(&mini("anna", "2", "多久发货"), None).unwrap();
    until(|| running.desk.recover().unwrap() == 1);
    assert_eq!(running.store.unfinished().unwrap().len(), 1, "it is tried again first");
    until(|| {
        running.desk.recover().unwrap();
        running.store.unfinished().unwrap().is_empty()
    });
    rename("lost", "audience");
    let mut cases = running.store.open_cases(9, 1).unwrap();
    cases.retain(|case| case.trace.message == "多久发货");
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].trace.decision.reasons, [Reason::InternalError]);
    api.wait_for(2);
    assert_eq!(sent_to(&api, "anna")[1], cases[0].trace.reply, "and the customer is told");
}

/// JSON of a call by an operator, with its status.
fn call(running: &Running, path: &str, body: &Value) -> (u16, Value) {
    let request = client().post(running.url(path)).header("content-type", "application/json");
    let response = request.body(body.to_string()).send().unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().unwrap()).unwrap_or_default())
}

#[test]
fn a_person_takes_over_speaks_and_hands_back_and_the_customer_is_asked() {
    let (api, running) = started();
    running.desk.receive(&mini("anna", "1", "转人工"), None).unwrap();
    api.wait_for(1);
    assert!(sent_to(&api, "anna")[0].contains("分钟"), "the wait is told");
    let queue = client().get(running.url("/api/queue")).send().unwrap().text().unwrap();
    let queue: Value = serde_json::from_str(&queue).unwrap();
    let case = queue["cases"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(queue["cases"][0]["reasons"][0], "human_request");
    let act =
        |doing: &str, body: Value| call(&running, &format!("/api/cases/{case}/{doing}"), &body);
    assert_eq!(act("claim", json!({ "operator": "" })).0, 422);
    let (status, taken) = act("claim", json!({ "operator": "eva" }));
    assert_eq!((status, &taken["owner"]["operator"]), (200, &json!("eva")));
    let (status, held) = act("claim", json!({ "operator": "max" }));
    assert_eq!((status, &held["error"], &held["operator"]), (409, &json!("held"), &json!("eva")));

    running.desk.receive(&mini("anna", "2", QUESTION), None).unwrap();
    until(|| running.store.outbox_counts().unwrap().work == 0);
    let suggested = &running.store.recent_traces(1).unwrap()[0];
    assert!(suggested.decision.reasons.contains(&Reason::PersonOwns));
    assert_eq!(act("reply", json!({ "operator": "max", "text": "在" })).0, 409);
    assert_eq!(act("reply", json!({ "operator": "eva", "text": "字".repeat(2_000) })).0, 422);
    let say = |text: &str| act("reply", json!({ "operator": "eva", "text": text, "key": "k1" }));
    // A nervous click: the second is the first.
    assert_eq!((say("我来帮您看").0, say("我来帮您看").0), (200, 200));
    assert_eq!(say("别的话").1["error"], "key_used");
    let path = format!("/api/cases/{case}/reply");
    let by_header = client().post(running.url(&path)).header("content-type", "application/json");
    let body = json!({ "operator": "eva", "text": "我来帮您看" }).to_string();
    let again = by_header.header("idempotency-key", "k1").body(body).send().unwrap();
    assert_eq!(again.status().as_u16(), 200);
    api.wait_for(2);
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert_eq!(sent_to(&api, "anna").len(), 2, "{:?}", sent_to(&api, "anna"));
    let page = client().get(running.url(&format!("/queue/{case}"))).send().unwrap().text().unwrap();
    let from = format!("data-from=\"/queue/{case}\"");
    assert!(page.contains(&from) && page.contains("name=\"key\" value=\""), "{page}");
    assert_eq!(sent_to(&api, "anna")[1], "我来帮您看", "and nothing of the bot's in between");
    let page = client().get(running.url(&format!("/api/cases/{case}"))).send().unwrap();
    let page: Value = serde_json::from_str(&page.text().unwrap()).unwrap();
    let who: Vec<_> =
        page["history"].as_array().unwrap().iter().map(|l| l["who"].as_str().unwrap()).collect();
    assert_eq!(who, ["customer", "bot", "customer", "person"]);
    assert_eq!(page["case"]["left"], 4, "five since the customer's last message, less eva's reply");

    let unknown = act("resolve", json!({ "operator": "eva", "entry": "no.such" }));
    assert_eq!((unknown.0, &unknown.1["error"]), (422, &json!("entry_unknown")));
    assert_eq!(running.store.labels(Purpose::Train).unwrap(), []);
    assert_eq!(act("resolve", json!({ "operator": "eva", "entry": "-" })).0, 200);
    let labels = running.store.labels(Purpose::Train).unwrap();
    assert_eq!((labels[0].text.as_str(), &labels[0].answer), ("转人工", &None));
    api.wait_for(3);
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert_eq!(act("claim", json!({ "operator": "eva" })).0, 404, "closed");
    running.desk.receive(&mini("anna", "3", "3"), None).unwrap();
    api.wait_for(4);
    let rated = running.store.case(&huida::base::id::CaseId::from_text(&case), 1).unwrap().unwrap();
    assert_eq!(rated.rating, Some(3));
    let audit = running.store.verify_audit().unwrap();
    assert!(matches!(audit, huida::store::AuditState::Intact { rows } if rows >= 3));
}

#[test]
fn what_an_earlier_run_left_is_answered_at_the_next_start() {
    let api = FakeApi::start();
    let dir = crate::support::prepared();
    {
        let store = crate::command::store(dir.path());
        store.accept(&mini("anna", "1", QUESTION), Clock::System.now()).unwrap();
    }
    let running = crate::support::start_in(dir, Clock::System, &api.accounts());
    api.wait_for(1);
    assert_eq!(sent_to(&api, "anna").len(), 1);
    until(|| running.store.outbox_counts().unwrap().waiting == 0);
    assert!(running.store.unfinished().unwrap().is_empty());
}
