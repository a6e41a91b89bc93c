//! The running service as platforms, customers and operators meet it.

use std::time::Duration;

use huida::base::clock::Clock;
use huida::channels::wechat_mp::simulate::PushMode;
use huida::domain::decision::{Reason, Verdict};
use huida::domain::evidence::Evidence;

use crate::support::{client, start, start_at};

const QUESTION: &str = "退款一般几天能到账";

#[test]
fn a_callback_is_answered_and_its_retry_identically() {
    let running = start();
    for (mode, sender) in
        [(PushMode::Plain, "plain"), (PushMode::Compatible, "compatible"), (PushMode::Safe, "safe")]
    {
        let first = running.reply(&running.push(mode, sender, 77, QUESTION));
        let retry = running.reply(&running.push(mode, sender, 77, QUESTION));
        assert_eq!(first, retry);
        assert!(!first.is_empty());
    }
    let traces = running.store.recent_traces(10).unwrap();
    assert_eq!(traces.len(), 3, "one decision per message");
    for trace in &traces {
        assert_eq!(trace.evidence[0].id.as_str(), "shop.refund.time", "{:?}", trace.evidence[0]);
        assert!(trace.timings_ms.contains_key("embed"));
    }
}

#[test]
fn twenty_retries_at_once_are_one_message() {
    let running = start();
    let replies: Vec<String> = std::thread::scope(|scope| {
        let send = || running.reply(&running.push(PushMode::Safe, "anna", 5, QUESTION));
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(replies.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(running.store.recent_traces(10).unwrap().len(), 1);
}

#[test]
fn what_is_not_genuine_is_refused_before_any_work() {
    let running = start();
    let signed = |mode, text: &str| {
        use huida::channels::BodyFormat;
        use huida::channels::wechat_mp::simulate::{Said, SimulatedMessage, Stamp, Wire};
        let what = Said::Text { content: text.into(), msg_id: 1 };
        let message = SimulatedMessage { sender: "anna".into(), created: 1_700_000_000, what };
        let wire = Wire { mode, format: BodyFormat::Xml };
        let stamp = Stamp::fresh(1_700_000_000).unwrap();
        running.simulator.push(&message, wire, &stamp).unwrap()
    };
    let good = signed(PushMode::Safe, QUESTION);
    let query = good.query.to_query_string();

    let mut forged = good.query.clone();
    forged.msg_signature = Some("0".repeat(40));
    assert_eq!(running.post(&forged.to_query_string(), good.body.clone()).status, 403);
    assert_eq!(running.post("", good.body.clone()).status, 403);

    let plain = signed(PushMode::Plain, QUESTION);
    let plain_query = plain.query.to_query_string();
    for body in [&b"<xml><ToUserName>"[..], b"{\"ToUserName\": ", b"\xff\xfe\x00", b""] {
        let answer = running.post(&plain_query, body.to_vec());
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(body));
        assert!(answer.body.len() < 100, "a short reason");
    }
    // A ciphertext that is signed but cannot be decrypted.
    let (query_cut, body_cut) = signed_garbage(&running);
    assert_eq!(running.post(&query_cut, body_cut).status, 400);

    let huge = vec![b'x'; (1 << 20) + 1];
    assert_eq!(running.post(&query, huge).status, 413);
    let unknown = client().post(running.url("/channels/wechat-mp/nobody")).send().unwrap();
    assert_eq!(unknown.status().as_u16(), 404);
    assert!(running.nothing_stored());
}

/// Right signature over a ciphertext that is no multiple of the block.
fn signed_garbage(running: &crate::support::Running) -> (String, Vec<u8>) {
    use huida::channels::wechat::signature::sign;
    let _ = running;
    let (timestamp, nonce, encrypt) = ("1700000000", "n", "AAAAAAAAAAAAAAAAAAAAAAA=");
    let signature = sign(&[crate::support::TOKEN, timestamp, nonce, encrypt]);
    let query =
        format!("timestamp={timestamp}&nonce={nonce}&encrypt_type=aes&msg_signature={signature}");
    let body = format!("<xml><ToUserName>gh</ToUserName><Encrypt>{encrypt}</Encrypt></xml>");
    (query, body.into_bytes())
}

#[test]
fn the_address_check_of_the_console_is_answered() {
    let running = start();
    let stamp = huida::channels::wechat_mp::simulate::Stamp::fresh(1_700_000_000).unwrap();
    let query = running.simulator.url_check("4375120948345356249", &stamp).to_query_string();
    let check = |query: &str| {
        let url = running.url(&format!("/channels/wechat-mp/main?{query}"));
        let response = client().get(url).send().unwrap();
        (response.status().as_u16(), response.text().unwrap())
    };
    assert_eq!(check(&query), (200, "4375120948345356249".into()));
    assert_eq!(check(&query.replace("nonce=", "nonce=x")).0, 403);
}

#[test]
fn hard_rules_hand_over_each_for_its_own_reason() {
    let running = start();
    let cases = [
        ("转人工", Reason::HumanRequest),
        ("我被盗号了", Reason::SecurityIncident),
        ("再不解决我就去法院起诉你们", Reason::LegalThreat),
    ];
    for (number, (text, reason)) in cases.iter().enumerate() {
        let answer = running.push(PushMode::Safe, &format!("c{number}"), 1, text);
        assert!(!running.reply(&answer).is_empty());
        let trace = &running.store.recent_traces(1).unwrap()[0];
        assert_eq!(trace.decision.verdict, Verdict::Handoff, "{text}");
        assert_eq!(trace.decision.reasons[0], *reason, "{text}");
        assert!(!trace.decision.rules.is_empty(), "{text}: the rule is named");
    }
    let waiting = running.store.open_cases(10, 0).unwrap();
    assert_eq!(waiting.len(), cases.len());
    assert_eq!(waiting[0].trace.decision.reasons[0], Reason::SecurityIncident, "urgent first");
}

#[test]
fn odd_messages_get_a_sensible_answer_or_a_person() {
    let running = start();
    let long = "我想问一下退款的事情，".repeat(2_000);
    let binary = "\u{fffd}\u{fffd}\u{2}\u{3}PK\u{fffd}\u{fffd}";
    let odd = [
        "你号",
        "   ",
        "😀😀😀",
        "？？？",
        &long,
        "你们CEO是谁",
        "' OR 1=1; --",
        "*:* AND (\"",
        "<b>",
    ];
    for (number, text) in odd.iter().enumerate() {
        let answer = running.push(PushMode::Safe, &format!("odd{number}"), 1, text);
        assert!(!running.reply(&answer).is_empty(), "{text:.20}");
        let trace = &running.store.recent_traces(1).unwrap()[0];
        let from_knowledge = trace.decision.reasons.contains(&Reason::ConfidenceReached);
        assert!(!from_knowledge, "{text:.20} was answered from the knowledge");
    }
    // Control characters cannot stand in XML: such a push is refused, not crashed on.
    let status = running.push(PushMode::Safe, "binary", 1, binary).status;
    assert!(status == 200 || status == 400, "{status}");
}

#[test]
fn personal_data_is_nowhere_in_the_database() {
    let running = start();
    let phone = "13800138000";
    running.push(PushMode::Safe, "anna", 1, &format!("我的手机号{phone}，退款几天到账"));
    let trace = &running.store.recent_traces(1).unwrap()[0];
    assert_eq!(trace.understanding.personal_data, ["phone"]);
    assert!(!trace.message.contains(phone));
    for suffix in ["", "-wal"] {
        let mut path = running.database().into_os_string();
        path.push(suffix);
        let bytes = std::fs::read(&path).unwrap_or_default();
        let found = bytes.windows(phone.len()).any(|w| w == phone.as_bytes());
        assert!(!found, "the number stands in {}", path.display());
    }
}

#[test]
fn a_follow_up_is_understood_from_the_conversation() {
    let running = start();
    running.push(PushMode::Safe, "anna", 1, "退货要几天");
    running.push(PushMode::Safe, "anna", 2, "那换货呢");
    let trace = &running.store.recent_traces(1).unwrap()[0];
    assert_eq!(trace.context.len(), 2, "question and reply before it");
    assert!(trace.understanding.rewritten);
    assert_eq!(trace.understanding.question, "换货要几天");
    let about_returns = |e: &Evidence| e.id.as_str().starts_with("shop.return.");
    assert!(trace.evidence.iter().take(3).any(about_returns), "{:?}", trace.evidence);
}

#[test]
fn a_message_long_after_stands_alone() {
    let clock = Clock::frozen(1_800_000_000_000);
    let running = start_at(clock.clone());
    running.push(PushMode::Safe, "anna", 1, "退货要几天");
    clock.advance(Duration::from_secs(29 * 60));
    running.push(PushMode::Safe, "anna", 2, "那换货呢");
    assert!(running.store.recent_traces(1).unwrap()[0].understanding.rewritten);
    clock.advance(Duration::from_secs(60 * 60));
    running.push(PushMode::Safe, "anna", 3, "那发票呢");
    let trace = &running.store.recent_traces(1).unwrap()[0];
    assert_eq!(trace.context, []);
    assert!(!trace.understanding.rewritten, "{:?}", trace.understanding);
}

#[test]
fn the_chat_page_streams_steps_and_the_reply() {
    let running = start();
    let page = client().get(running.url("/chat?lang=en")).send().unwrap();
    assert_eq!(page.status().as_u16(), 200);
    let cookies: Vec<String> = page
        .headers()
        .get_all("set-cookie")
        .iter()
        .map(|c| c.to_str().unwrap().split(';').next().unwrap().to_owned())
        .collect();
    assert!(page.headers().contains_key("content-security-policy"));
    assert!(page.text().unwrap().contains("Try it"));
    let send = |body: &str, cookie: &str| {
        client()
            .post(running.url("/chat/messages"))
            .header("content-type", "application/json")
            .header("cookie", cookie)
            .body(body.to_owned())
            .send()
            .unwrap()
    };
    let body = format!("{{\"text\":\"{QUESTION}\",\"id\":\"0123456789abcdef\"}}");
    let stream = send(&body, &cookies.join("; ")).text().unwrap();
    assert!(stream.contains("event: step") && stream.contains("event: reply"), "{stream}");
    assert!(stream.contains("shop.refund.time"), "{stream}");
    assert_eq!(send(&body, "").status().as_u16(), 400, "no session");
    assert_eq!(send("{\"text\":1}", &cookies.join("; ")).status().as_u16(), 422);
    assert_eq!(send("{", &cookies.join("; ")).status().as_u16(), 400);
}

#[test]
fn a_page_that_is_closed_leaves_its_message_decided() {
    use std::io::{Read, Write};
    let running = start();
    let body = format!("{{\"text\":\"{QUESTION}\",\"id\":\"0123456789abcdef\"}}");
    let mut page = std::net::TcpStream::connect(running.address).unwrap();
    write!(
        page,
        "POST /chat/messages HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         cookie: huida_visitor=0123456789abcdef\r\ncontent-length: {}\r\n\r\n{body}",
        running.address,
        body.len()
    )
    .unwrap();
    // The answer has begun, so the message was taken.
    assert!(page.read(&mut [0; 64]).unwrap() > 0);
    drop(page);
    for _ in 0..300 {
        if !running.store.recent_traces(1).unwrap().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(running.store.recent_traces(1).unwrap().len(), 1);
    assert!(running.store.unfinished().unwrap().is_empty());
}

#[test]
fn pages_show_traces_and_queue_without_running_what_customers_wrote() {
    let running = start();
    running.push(PushMode::Safe, "anna", 1, "<script>alert(1)</script>转人工");
    for path in ["/traces", "/queue"] {
        let html = client().get(running.url(path)).send().unwrap().text().unwrap();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>alert"), "{path}");
    }
    let trace = &running.store.recent_traces(1).unwrap()[0];
    let page = client().get(running.url(&format!("/traces/{}", trace.id))).send().unwrap();
    assert_eq!(page.status().as_u16(), 200);
    // With `no-referrer` a browser sends `Origin: null` from the page's own form, which is refused.
    assert_eq!(page.headers()["referrer-policy"], "same-origin");
    let case = &running.store.open_cases(1, 0).unwrap()[0];
    let page = client().get(running.url(&format!("/queue/{}", case.id))).send().unwrap();
    assert!(!page.text().unwrap().contains("<script>alert"));
    let close = running.url(&format!("/queue/{}/resolve", case.id));
    let foreign = client().post(&close).header("origin", "http://evil.example").send().unwrap();
    assert_eq!(foreign.status().as_u16(), 403);
    let form = |name: &str| {
        let form = client().post(&close).body(format!("operator={name}&text="));
        form.header("content-type", "application/x-www-form-urlencoded").send().unwrap()
    };
    assert_eq!(form("").status().as_u16(), 422, "who was it?");
    assert_eq!(form("eva").status().as_u16(), 200);
    assert!(running.store.open_cases(1, 0).unwrap().is_empty());
}

#[test]
fn operator_pages_are_for_operators() {
    let running = start();
    for path in ["/traces", "/queue", "/metrics", "/chat"] {
        let proxied = client().get(running.url(path)).header("x-forwarded-for", "192.0.2.1");
        assert_eq!(proxied.send().unwrap().status().as_u16(), 403, "{path}");
        let rebound = client().get(running.url(path)).header("host", "evil.example");
        assert_eq!(rebound.send().unwrap().status().as_u16(), 403, "{path}");
    }
    let missing = client().get(running.url("/nothing")).send().unwrap();
    assert_eq!(missing.status().as_u16(), 404);
}

#[test]
fn health_is_a_real_forward() {
    let running = start();
    let get = |path: &str| client().get(running.url(path)).send().unwrap();
    assert_eq!(get("/healthz").text().unwrap(), "ok");
    let ready = get("/readyz");
    assert_eq!(ready.status().as_u16(), 200);
    assert!(ready.text().unwrap().starts_with("ready g"));
}
