//! What was masked in a message: kept for the key's holder, and for nobody else.

use std::path::{Path, PathBuf};
use std::process::Output;

use huida::base::clock::Clock;
use huida::base::vault::create_key;
use huida::channels::wechat_mp::simulate::PushMode;
use rusqlite::Connection;
use serde_json::Value;

use crate::command::{huida, json, output};
use crate::support::{Running, client, prepared, start, start_in};

const PHONE: &str = "13800138000";
const SAID: &str = "我的手机号13800138000，退款几天到账";
const TOKEN: &str = "operators-of-the-tests";

/// A service that operators reach by a token, with a vault.
fn with_vault() -> (Running, PathBuf) {
    let dir = prepared();
    let key = dir.path().join("vault.key");
    create_key(&key).unwrap();
    let vault = format!(
        "[server]\noperator_token = \"{TOKEN}\"\n[vault]\nkey_file = \"{}\"\n",
        key.display()
    );
    (start_in(dir, Clock::System, &vault), key)
}

/// A customer who said the number before asking for a person; the case.
fn handed_over(running: &Running) -> String {
    running.push(PushMode::Safe, "anna", 1, SAID);
    running.push(PushMode::Safe, "anna", 2, "转人工");
    let cases = running.store.open_cases(10, 0).unwrap();
    let asked = cases.iter().find(|case| case.trace.message == "转人工").unwrap();
    asked.id.to_string()
}

fn get(running: &Running, path: &str) -> (u16, Value) {
    let request = client().get(running.url(path)).bearer_auth(TOKEN);
    let response = request.send().unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().unwrap()).unwrap_or_default())
}

fn page(running: &Running, path: &str, form: Option<&'static str>) -> String {
    let url = running.url(path);
    let request = match form {
        None => client().get(url),
        Some(form) => client()
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form),
    };
    request.bearer_auth(TOKEN).send().unwrap().text().unwrap()
}

fn looks(running: &Running) -> Vec<(String, String)> {
    let raw = Connection::open(running.database()).unwrap();
    let mut query = raw
        .prepare("SELECT actor, subject FROM audit_log WHERE action = 'personal.show' ORDER BY seq")
        .unwrap();
    let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn holds(file: &Path, wanted: &[u8]) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn written_nowhere(running: &Running) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = running.database().into_os_string();
        path.push(suffix);
        assert!(!holds(Path::new(&path), PHONE.as_bytes()), "it stands in {}", path.display());
    }
}

#[test]
fn people_at_the_queue_see_the_number_and_the_audit_log_sees_them() {
    let (running, _) = with_vault();
    let case = handed_over(&running);
    written_nowhere(&running);
    let call = format!("/api/cases/{case}/personal");
    let refused = client().get(running.url(&format!("{call}?operator=eva"))).send().unwrap();
    assert_eq!(refused.status().as_u16(), 403, "without the token");
    assert_eq!(get(&running, &call).0, 422, "without a name");
    assert!(looks(&running).is_empty(), "nobody has seen it");
    let (status, seen) = get(&running, &format!("{call}?operator=eva"));
    assert_eq!((status, &seen["messages"][0]["text"]), (200, &SAID.into()), "{seen}");
    assert_eq!((&seen["messages"][1], &seen["unreadable"]), (&Value::Null, &0.into()));
    assert_eq!(looks(&running), [("eva".to_owned(), case.clone())]);
    assert_eq!(get(&running, "/api/cases/none/personal?operator=eva").0, 404);

    let path = format!("/queue/{case}");
    for (lang, button) in [("zh", "查看个人信息"), ("en", "Show personal data")] {
        let shown = page(&running, &format!("{path}?lang={lang}"), None);
        assert!(shown.contains(button) && !shown.contains(PHONE), "{lang}");
    }
    assert!(page(&running, &format!("{path}/personal"), Some("operator=max")).contains(PHONE));
    assert_eq!(looks(&running)[1], ("max".to_owned(), case));
    assert!(!page(&running, &path, None).contains(PHONE), "only for who asked");
    written_nowhere(&running);
}

#[test]
fn without_a_vault_nothing_is_kept() {
    let running = start();
    let case = handed_over(&running);
    let raw = Connection::open(running.database()).unwrap();
    let rows: i64 = raw.query_row("SELECT count(*) FROM vault", [], |r| r.get(0)).unwrap();
    assert_eq!(rows, 0);
    let (status, answer) = get(&running, &format!("/api/cases/{case}/personal?operator=eva"));
    assert_eq!((status, &answer["error"]), (404, &"nothing_kept".into()));
    assert!(!page(&running, &format!("/queue/{case}"), None).contains("查看个人信息"));
    assert!(looks(&running).is_empty());
}

#[test]
fn only_the_key_opens_it_on_the_command_line() {
    let (running, key) = with_vault();
    handed_over(&running);
    let dir = running.dir.path();
    let traces = running.store.recent_traces(10).unwrap();
    let of = |said: &str| traces.iter().find(|t| t.message.contains(said)).unwrap().id.to_string();
    let trace = of("手机号");
    let other = dir.join("other.key");
    let show = |trace: &str, keys: [&Path; 2]| -> Output {
        let [key, previous] = keys;
        huida(dir)
            .args(["vault", "show", trace, "--author", "eva", "--json"])
            .env("HUIDA__VAULT__KEY_FILE", key)
            .env("HUIDA__VAULT__PREVIOUS_KEY_FILE", previous)
            .output()
            .unwrap()
    };
    let none = Path::new("");
    let complains = |output: Output, why: &str| {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(why), "{complaint}");
        assert!(output.stdout.is_empty());
    };
    let make = || output(dir, &["vault", "key", "other.key"]);
    assert!(make().status.success());
    complains(make(), "exists");
    complains(show(&trace, [none, none]), "no vault");
    complains(show(&trace, [&other, none]), "another key");
    complains(show(&of("转人工"), [&key, none]), "nothing is kept");
    assert!(looks(&running).is_empty());
    assert_eq!(json(&show(&trace, [&key, none]))["text"], SAID);
    assert_eq!(json(&show(&trace, [&other, &key]))["text"], SAID, "after the key was changed");
    let eva = ("eva".to_owned(), trace.clone());
    assert_eq!(looks(&running), [eva.clone(), eva]);

    json(&output(dir, &["backup", "today.tar", "--json"]));
    let raw = Connection::open(running.database()).unwrap();
    let sealed: Vec<u8> = raw.query_row("SELECT sealed FROM vault", [], |r| r.get(0)).unwrap();
    let tar = dir.join("today.tar");
    assert!(holds(&tar, &sealed), "a backup has what was sealed");
    assert!(!holds(&tar, &std::fs::read(&key).unwrap()), "and not the key");
    assert!(!holds(&tar, PHONE.as_bytes()));
}
