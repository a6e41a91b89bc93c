//! Published ciphertexts and signatures as callbacks over a real socket, each on an account with the
//! vector's own token, key and id.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use huida::channels::wechat::crypto::AesKey;
use huida::channels::wechat::signature::sign;
use serde_json::{Value, json};

use crate::support::{Running, client, repository, start_with};

fn vectors() -> Value {
    let file = repository().join("tests/fixtures/wechat/vectors.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_else(|| panic!("{name} of {of}"))
}

/// Accounts of the official page (公众号, 小程序, 小店), of WeCom's samples, and one of Douyin.
fn accounts(vectors: &Value) -> String {
    let [page, sample] = [&vectors["open"][0], &vectors["open"][1]].map(|vector| {
        let [token, key] = ["token", "encoding_aes_key"].map(|name| word(vector, name));
        (word(vector, "receiveid"), format!("token = \"{token}\"\nencoding_aes_key = \"{key}\"\n"))
    });
    format!(
        "[accounts.page]\nplatform = \"wechat-mp\"\napp_id = \"{0}\"\n{1}\
         [accounts.app]\nplatform = \"wechat-mini\"\napp_id = \"{0}\"\n{1}\
         [accounts.sample]\nplatform = \"wecom\"\ncorp_id = \"{2}\"\nagent_id = 218\n{3}\
         [accounts.dy]\nplatform = \"douyin\"\nclient_key = \"abc\"\n\
         client_secret = \"test_secret\"\nopen_id = \"owner\"\n",
        page.0, page.1, sample.0, sample.1
    )
}

struct Got {
    status: u16,
    body: String,
}

/// A GET, or a POST where there is a body.
fn call(running: &Running, account: &str, query: &[(&str, &str)], body: Option<String>) -> Got {
    let url = running.url(&format!("/channels/{account}"));
    let url = reqwest::Url::parse_with_params(&url, query).unwrap();
    let request = match body {
        Some(body) => client().post(url).body(body),
        None => client().get(url),
    };
    let response = request.send().unwrap();
    Got { status: response.status().as_u16(), body: response.text().unwrap() }
}

fn stamped<'a>(vector: &'a Value, signature: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("timestamp", word(vector, "timestamp")),
        ("nonce", word(vector, "nonce")),
        ("encrypt_type", "aes"),
        ("msg_signature", signature),
    ]
}

fn both_envelopes(encrypt: &str) -> [String; 2] {
    [
        json!({ "ToUserName": "gh_97417a04a28d", "Encrypt": encrypt }).to_string(),
        format!("<xml><ToUserName>gh_97417a04a28d</ToUserName><Encrypt>{encrypt}</Encrypt></xml>"),
    ]
}

#[test]
fn published_vectors_are_taken_and_answered() {
    let vectors = vectors();
    let running = start_with(&accounts(&vectors));
    let check = &vectors["url_check"];
    for account in ["wechat-mp/page", "wechat-mini/app"] {
        let query = ["signature", "timestamp", "nonce", "echostr"].map(|n| (n, word(check, n)));
        let got = call(&running, account, &query, None);
        assert_eq!((got.status, got.body.as_str()), (200, word(check, "echostr")), "{account}");
        let forged = query.map(|(n, v)| (n, if n == "nonce" { "1" } else { v }));
        assert_eq!(call(&running, account, &forged, None).status, 403, "{account}");
    }
    let echo = &vectors["open"][1];
    let mut query = stamped(echo, word(echo, "msg_signature")).to_vec();
    query.push(("echostr", word(echo, "encrypt")));
    let got = call(&running, "wecom/sample", &query, None);
    assert_eq!((got.status, got.body.as_str()), (200, word(echo, "message")));

    // An event that needs no words, as JSON and in XML: taken, and acknowledged.
    let pushed = &vectors["open"][0];
    let query = stamped(pushed, word(pushed, "msg_signature"));
    for account in ["wechat-mp/page", "wechat-mini/app"] {
        let got = call(
            &running,
            account,
            &query,
            Some(both_envelopes(word(pushed, "encrypt"))[0].clone()),
        );
        assert_eq!((got.status, got.body.as_str()), (200, "success"), "{account}");
    }
    let said = &vectors["open"][2];
    let query = stamped(said, word(said, "msg_signature"));
    let body = format!(
        "<xml><ToUserName>{}</ToUserName><AgentID>218</AgentID><Encrypt>{}</Encrypt></xml>",
        word(said, "receiveid"),
        word(said, "encrypt")
    );
    assert_eq!(call(&running, "wecom/sample", &query, Some(body)).status, 200);
    assert_eq!(running.store.recent_traces(1).unwrap()[0].message, "hello");

    let webhook = r#"{"event":"verify_webhook","client_key":"abc","content":{"challenge":12345}}"#;
    let signed = |signature: &str| {
        let request = client().post(running.url("/channels/douyin/dy")).body(webhook);
        let response = request.header("X-Douyin-Signature", signature).send().unwrap();
        (response.status().as_u16(), response.text().unwrap())
    };
    let signature = "ff779a3b9e9daa2d1484d22450cd02e9fcfc4e62";
    assert_eq!(signed(signature), (200, r#"{"challenge":12345}"#.into()));
    assert_eq!(signed(&signature.replace('f', "e")).0, 403);
}

/// A message that is encrypted with an end of our own in the place of its padding.
fn ending(vector: &Value, message: &str, end: impl Fn(usize) -> Vec<u8>) -> String {
    let app_id = word(vector, "receiveid");
    let missing = 32 - (20 + message.len() + app_id.len()) % 32;
    let end = String::from_utf8(end(missing)).unwrap();
    let key = AesKey::parse(&word(vector, "encoding_aes_key").into()).unwrap();
    let sealed = key.encrypt(message.as_bytes(), &format!("{app_id}{end}"), [7; 16]);
    let mut bytes = STANDARD.decode(sealed).unwrap();
    // What was framed is whole blocks: the right padding is two more of its own.
    bytes.truncate(bytes.len() - 32);
    STANDARD.encode(bytes)
}

#[test]
fn rightly_signed_ciphertexts_that_are_not_whole_are_refused_over_the_socket_too() {
    let vectors = vectors();
    let running = start_with(&accounts(&vectors));
    let (refuse, stamp) = (&vectors["refuse"], &vectors["plain_push"]);
    let push = |encrypt: &str| {
        let parts = ["token", "timestamp", "nonce"].map(|name| word(stamp, name));
        let signature = sign(&[parts[0], parts[1], parts[2], encrypt]);
        both_envelopes(encrypt).map(|body| {
            let query = stamped(stamp, &signature);
            let got = call(&running, "wechat-mp/page", &query, Some(body));
            (got.status, got.body)
        })
    };
    for published in ["pad_zero", "pad_bytes_differ"] {
        assert!(push(word(refuse, published)).iter().all(|got| got.0 == 400), "{published}");
    }
    assert!(push(word(refuse, "other_app_id")).iter().all(|got| got.1 == "not_for_us"));
    // Whole, it is taken, though it says nothing.
    let control = push(word(refuse, "control_valid"));
    assert!(control.iter().all(|got| *got == (200, "success".into())), "{control:?}");

    // The same damages around a message that would be taken otherwise.
    let message = json!({
        "ToUserName": "gh_1", "FromUserName": "anna", "CreateTime": 1_700_000_000, "MsgId": 7,
        "MsgType": "text", "Content": "退款一般几天能到账",
    });
    let message = message.to_string();
    let right = |count: usize| vec![count as u8; count];
    let differing = |count: usize| [vec![1], vec![count as u8; count - 1]].concat();
    let zero = |count: usize| vec![0; count];
    let too_many = |count: usize| vec![33; count + 32];
    for (what, end) in [
        ("differing", &differing as &dyn Fn(usize) -> Vec<u8>),
        ("zero", &zero),
        ("too many", &too_many),
    ] {
        let got = push(&ending(refuse, &message, end));
        assert!(got.iter().all(|got| got.0 == 400), "{what}: {got:?}");
    }
    assert!(running.nothing_stored());
    let got = push(&ending(refuse, &message, right));
    assert!(got.iter().all(|got| got.0 == 200), "{got:?}");
    assert_eq!(running.store.recent_traces(9).unwrap().len(), 1, "its retry is no other message");
}
