//! The binary as scripts meet it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use huida::domain::label::Purpose;
use huida::store::Store;
use huida::store::queue::Queue;
use huida::store::sqlite::SqliteStore;

use crate::support::{client, configuration, prepared, repository, small_knowledge};

pub(crate) fn huida(dir: &Path) -> Command {
    let file = dir.join("huida.toml");
    std::fs::write(&file, configuration(dir)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_huida"));
    command.arg("--config").arg(file).current_dir(dir).stdin(Stdio::null());
    command
}

pub(crate) fn output(dir: &Path, args: &[&str]) -> Output {
    huida(dir).args(args).output().unwrap()
}

pub(crate) fn store(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("huida.db")).unwrap()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaint}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{complaint}"))
}

#[test]
fn ask_answers_in_json() {
    let dir = prepared();
    let answer = json(&output(dir.path(), &["ask", "转人工", "--json"]));
    assert_eq!(answer["decision"], "handoff");
    assert_eq!(answer["reasons"][0], "human_request");
    let answer = json(&output(dir.path(), &["ask", "退款一般几天能到账", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "shop.refund.time");
    for key in
        ["reply", "decision", "confidence", "reasons", "evidence", "rules", "timings_ms", "trace"]
    {
        assert!(answer.get(key).is_some(), "{key}");
    }
    let replayed =
        json(&output(dir.path(), &["replay", answer["trace"].as_str().unwrap(), "--json"]));
    assert_eq!(replayed["same"], true);
    let stats = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!(stats["agrees"], true);
    assert!(stats["checked"].as_u64().unwrap() > 10, "{stats}");
    let audit = json(&output(dir.path(), &["audit", "verify", "--json"]));
    assert_eq!(audit["intact"], true);
}

#[test]
fn ask_sends_nothing_and_leaves_nothing_waiting() {
    let dir = prepared();
    for text in ["转人工", "你们CEO是谁"] {
        let answer = json(&output(dir.path(), &["ask", text, "--json"]));
        assert_ne!(answer["decision"], "auto_reply", "{text}");
    }
    let store = store(dir.path());
    assert_eq!(store.recent_traces(9).unwrap().len(), 2, "both are on record");
    assert_eq!(store.open_cases(9, 0).unwrap(), [], "nobody waits behind the command line");
    assert_eq!(store.unfinished().unwrap(), []);
}

/// `huida serve` as a process of its own, so that its counters start at nothing.
pub(crate) struct Served {
    process: Child,
    url: String,
}

impl Served {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut command = huida(dir);
        command.arg("serve");
        Self::of(command)
    }

    pub(crate) fn of(mut command: Command) -> Self {
        command.env("HUIDA__SERVER__LISTEN", "127.0.0.1:0");
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let url = said.trim().strip_prefix("serving on ").unwrap_or_else(|| panic!("{said}"));
        Self { process, url: url.to_owned() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.process.wait().unwrap()
    }

    fn metrics(&self) -> String {
        client().get(format!("{}/metrics", self.url)).send().unwrap().text().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself after a failed test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The sum of the samples of that name whose labels hold all of `labels`.
fn count(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let of_name = metrics.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('{'));
    let samples = of_name.filter(|l| labels.iter().all(|label| l.contains(label)));
    samples.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn turns_and_refusals_are_counted_without_a_word_of_the_customer() {
    let dir = prepared();
    let served = Served::start(dir.path());
    let turns = |m: &str| count(m, "huida_turns_total", &["platform=\"wechat-mp\""]);
    assert!(turns(&served.metrics()).abs() < 1e-9, "none yet");
    let (sender, text) = ("openid-of-anna", "退款一般几天能到账，我的手机号13800138000");
    let said = ["simulate", "wechat-mp", "--account", "main", "--url", &served.url];
    json(&output(dir.path(), &[&said[..], &["--sender", sender, "--json", text]].concat()));
    json(&output(dir.path(), &[&said[..], &["--sender", sender, "--json", "转人工"]].concat()));
    let forged = client().post(format!("{}/channels/wechat-mp/main", served.url)).send().unwrap();
    assert_eq!(forged.status().as_u16(), 403);
    let metrics = served.metrics();
    for (name, labels, expected) in [
        ("huida_turns_total", &["platform=\"wechat-mp\""][..], 2.0),
        ("huida_turns_total", &["verdict=\"handoff\""], 1.0),
        ("huida_step_seconds_count", &["step=\"embed\""], 2.0),
        ("huida_step_seconds_count", &["step=\"gate\""], 2.0),
        ("huida_http_requests_total", &["/channels/{platform}/{account}", "status=\"200\""], 2.0),
        ("huida_http_request_seconds_count", &["/channels/{platform}/{account}"], 3.0),
        ("huida_pushes_refused_total", &["code=\"signature_mismatch\""], 1.0),
    ] {
        let found = count(&metrics, name, labels);
        assert!((found - expected).abs() < 1e-9, "{name} {labels:?}: {found}\n{metrics}");
    }
    for secret in [sender, "退款", "13800138000", "转人工"] {
        assert!(!metrics.contains(secret), "{secret} stands in the metrics");
    }
}

#[test]
fn a_lost_part_of_the_generation_is_named() {
    let dir = prepared();
    let current = std::fs::read_to_string(dir.path().join("generations/CURRENT")).unwrap();
    std::fs::remove_file(dir.path().join("generations").join(current).join("gate.json")).unwrap();
    let refused = output(dir.path(), &["index", "verify", "--json"]);
    assert!(!refused.status.success());
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("gate.json") && complaint.contains("index build"), "{complaint}");
}

#[test]
fn bad_rows_are_named_and_nothing_is_taken() {
    let dir = prepared();
    let file = dir.path().join("more.jsonl");
    std::fs::write(&file, "{\"id\":\"a\",\"question\":\"q\"}\n{\"id\":\"b\"}\n").unwrap();
    let refused = output(dir.path(), &["kb", "import", "more.jsonl"]);
    assert!(!refused.status.success());
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("more.jsonl:2: question: is missing"), "{complaint}");
    let stats = json(&output(dir.path(), &["kb", "stats", "--json"]));
    assert_eq!(stats["entries"], small_knowledge().len());
}

#[test]
fn a_bad_file_given_to_train_leaves_the_good_ones_unstored() {
    let dir = prepared();
    let good = r#"{"text":"退款要多久","kb_id":"shop.refund.time"}"#;
    std::fs::write(dir.path().join("good.jsonl"), good).unwrap();
    std::fs::write(dir.path().join("bad.jsonl"), "{\"kb_id\":1}").unwrap();
    let refused =
        output(dir.path(), &["train", "--labels", "good.jsonl", "--calibrate", "bad.jsonl"]);
    assert!(!refused.status.success());
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("bad.jsonl:1: text: is missing"), "{complaint}");
    assert_eq!(store(dir.path()).labels(Purpose::Train).unwrap(), []);
}

#[test]
fn the_promise_given_to_train_is_kept_by_the_next_build() {
    let dir = prepared();
    let stats = json(&output(dir.path(), &["index", "stats", "--json"]));
    assert_eq!(
        (&stats["asked_alpha"], &stats["asked_by"]),
        (&0.03.into(), &"configuration".into())
    );
    let refused = output(dir.path(), &["train", "--alpha", "1.5"]);
    assert!(!refused.status.success() && store(dir.path()).promise().unwrap().is_none());
    let trained = json(&output(dir.path(), &["train", "--alpha", "0.1", "--json"]));
    assert_eq!(trained["alpha"], 0.1);
    let built = json(&output(dir.path(), &["index", "build", "--json"]));
    assert_eq!((&built["alpha"], &built["confidence"]), (&0.1.into(), &0.95.into()));
    let stats = json(&output(dir.path(), &["index", "stats", "--json"]));
    assert_eq!((&stats["alpha"], &stats["asked_alpha"]), (&0.1.into(), &0.1.into()));
    assert_eq!(stats["asked_by"], "train");
    let doctor = output(dir.path(), &["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("asked by train: 10.0 % wrong at most, 95 % sure"), "{text}");
}

#[test]
fn import_export_import_changes_nothing() {
    let dir = prepared();
    let exported = output(dir.path(), &["kb", "export", "--csv"]);
    std::fs::write(dir.path().join("again.csv"), exported.stdout).unwrap();
    let report = json(&output(dir.path(), &["kb", "import", "again.csv", "--json"]));
    assert_eq!(report["files"][0]["unchanged"], small_knowledge().len());
    assert_eq!(report["files"][0]["added"], serde_json::json!([]));
}

#[test]
fn an_empty_installation_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let refused = output(dir.path(), &["ask", "在吗"]);
    assert!(!refused.status.success());
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("huida kb import"), "{complaint}");
    let missing = output(dir.path(), &["kb", "import", "nowhere.jsonl"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere.jsonl"));
}

#[test]
fn the_demo_set_is_in_order() {
    let kb = repository().join("eval/sets/demo/kb.jsonl");
    let dir = tempfile::tempdir().unwrap();
    let checked = json(&output(dir.path(), &["kb", "check", kb.to_str().unwrap(), "--json"]));
    assert_eq!(checked["errors"], 0, "{}", checked["findings"]);
    assert!(checked["entries"].as_u64().unwrap() >= 120);
}

#[test]
fn an_answer_that_no_reply_can_hold_is_named_by_entry_and_line() {
    let dir = prepared();
    let long = "很长的答案。".repeat(120);
    let lines = format!(
        "{{\"id\":\"a\",\"question\":\"q\",\"answer\":\"短。\"}}\n\n\
         {{\"id\":\"b\",\"question\":\"r\",\"answer\":\"{long}\"}}\n"
    );
    std::fs::write(dir.path().join("long.jsonl"), lines).unwrap();
    let said = output(dir.path(), &["kb", "check", "long.jsonl"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("answer.long        long.jsonl:3: b: 2160 bytes"), "{text}");
    let report = json(&output(dir.path(), &["kb", "check", "long.jsonl", "--json"]));
    let finding = |f: &&serde_json::Value| f["code"] == "answer.long";
    let found = report["findings"].as_array().unwrap().iter().find(finding).unwrap();
    assert_eq!((&found["entry"], &found["line"]), (&"b".into(), &3.into()));
}

#[test]
fn secrets_are_not_shown() {
    let dir = prepared();
    let shown = output(dir.path(), &["config", "show"]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("[redacted]") && !text.contains(crate::support::TOKEN), "{text}");
}

#[test]
fn a_token_of_digits_comes_from_the_environment_and_is_shown_nowhere() {
    let dir = prepared();
    let with = |name: &str, value: &str| {
        huida(dir.path()).args(["config", "show"]).env(name, value).output().unwrap()
    };
    for name in ["HUIDA__SERVER__OPERATOR_TOKEN", "HUIDA__ACCOUNTS__MAIN__TOKEN"] {
        let shown = with(name, "86420975");
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success() && text.contains("token = \"[redacted]\""), "{text}");
        assert!(!text.contains("86420975"));
    }
    let refused = with("HUIDA__SERVER__MAX_CONCURRENT_TURNS", "many");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complaint.contains("max_concurrent_turns"), "{complaint}");
}
