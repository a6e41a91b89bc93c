//! Releases and documents at the command line: who let what out, and what entitles to answer.

use std::path::Path;

use serde_json::Value;

use crate::command::{json, output, store};
use crate::support::repository;
use huida::store::{AuditState, Store};

const PROMO: &str = r#"{"id":"shop.promo","question":"周末有活动吗","answer":"周末满200减30。","nature":"marketing"}
{"id":"shop.claim","question":"价格怎么样","answer":"本店全网最低价。"}
{"id":"shop.plain","question":"几点开门","answer":"早上九点。"}
"#;

fn command(dir: &Path, args: &[&str]) -> Value {
    json(&output(dir, &[args, &["--json"]].concat()))
}

fn states(dir: &Path) -> Vec<(String, &'static str)> {
    let heads = store(dir).heads().unwrap();
    heads.into_iter().map(|head| (head.id.0, head.state.as_str())).collect()
}

fn state(dir: &Path, id: &str) -> &'static str {
    states(dir).into_iter().find(|(known, _)| known == id).unwrap().1
}

#[test]
fn marketing_text_is_published_by_two_people_and_each_step_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("kb.jsonl"), PROMO).unwrap();
    let imported = command(dir, &["kb", "import", "kb.jsonl"]);
    assert_eq!(imported["files"][0]["held"], serde_json::json!(["shop.promo", "shop.claim"]));
    assert_eq!((state(dir, "shop.promo"), state(dir, "shop.plain")), ("pending", "published"));
    let listed = command(dir, &["kb", "release", "list"]);
    assert_eq!(listed["waiting"][0]["rules"][0]["rule"], "adlaw.superlative");
    assert_eq!(listed["waiting"][1]["waits_for"], serde_json::json!(["legal", "brand"]));

    let approve = |version: &str, role: &str, by: &str| {
        let args = ["kb", "release", "approve", "shop.promo", "--role", role, "--by", by];
        output(dir, &[&args[..], &["--version", version, "--json"]].concat())
    };
    let first = json(&approve("1", "legal", "Li Na"));
    assert_eq!((&first["state"], &first["waits_for"]), (&"pending".into(), &"brand".into()));
    for (version, role, by, word) in [
        ("1", "brand", "li na", "another person"),
        ("1", "legal", "Wang", "already approved"),
        ("2", "brand", "Wang", "read that one first"),
    ] {
        let refused = approve(version, role, by);
        let complaint = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && complaint.contains(word), "{complaint}");
    }
    let second = json(&approve("1", "brand", "Wang"));
    assert_eq!((&second["state"], &second["version"]), (&"published".into(), &2.into()));
    assert_eq!(state(dir, "shop.promo"), "published");
    let again = command(dir, &["kb", "import", "kb.jsonl"]);
    assert_eq!(again["files"][0]["unchanged"], 3, "what is released or waits stays so");

    let reject = ["kb", "release", "reject", "shop.claim", "--role", "legal", "--by", "Li Na"];
    assert!(!output(dir, &reject).status.success(), "a reason is needed");
    command(dir, &[&reject[..], &["--reason", "无依据"]].concat());
    assert_eq!(state(dir, "shop.claim"), "draft");
    // A change waits again, and nothing of the former approval counts for it.
    std::fs::write(dir.join("kb.jsonl"), PROMO.replace("减30", "减50")).unwrap();
    command(dir, &["kb", "import", "kb.jsonl"]);
    assert_eq!(state(dir, "shop.promo"), "pending");
    // Import, two that wait; an approval, another and the release; an import that changes nothing;
    // a rejection; an import with two that wait.
    assert_eq!(store(dir).verify_audit().unwrap(), AuditState::Intact { rows: 3 + 3 + 1 + 1 + 3 });
}

#[test]
fn an_entry_that_nothing_entitles_to_answer_is_named_until_a_document_does() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let line = r#"{"id":"loan.rate","question":"利率多少","similar_questions":["利息","年利率"],"answer":"年化7.2%起。","domain":"finance","qualifications":["loan.licence"]}"#;
    std::fs::write(dir.join("kb.jsonl"), line).unwrap();
    let imported = output(dir, &["kb", "import", "kb.jsonl"]);
    let told = String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success() && told.contains("kb documents add"), "{told}");
    let codes = || -> Vec<String> {
        let checked = command(dir, &["kb", "check"]);
        let findings = checked["findings"].as_array().unwrap();
        findings.iter().map(|f| f["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes(), ["qualification.lacks"]);
    let add = ["kb", "documents", "add", "loan.licence", "--name", "金融许可证"];
    let filed = command(dir, &[&add[..], &["--from", "2020-01-01", "--to", "2021-01-31"]].concat());
    assert_eq!(filed["state"], "expired");
    assert_eq!(codes(), ["qualification.lacks"]);
    let filed = command(dir, &[&add[..], &["--from", "2020-01-01", "--to", "2199-12-31"]].concat());
    assert_eq!(filed["state"], "valid");
    assert_eq!(codes(), [] as [&str; 0]);
    let listed = command(dir, &["kb", "documents", "list"]);
    let row = &listed["documents"][0];
    assert_eq!((&row["to"], &row["entries"]), (&"2199-12-31".into(), &1.into()));
    for wrong in [["--from", "soon"], ["--to", "2026-01-01 08:00"]] {
        let refused = output(dir, &[&add[..], &wrong[..]].concat());
        let complaint = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && complaint.contains(wrong[0]), "{complaint}");
    }
}

#[test]
fn nothing_of_the_demo_waits_or_lacks_a_document_but_its_licence() {
    let dir = tempfile::tempdir().unwrap();
    let kb = repository().join("eval/sets/demo/kb.jsonl");
    let imported = command(dir.path(), &["kb", "import", kb.to_str().unwrap()]);
    assert_eq!(imported["files"][0]["held"], serde_json::json!([]));
    command(dir.path(), &["kb", "documents", "add", "loan.licence", "--name", "许可证"]);
    let checked = command(dir.path(), &["kb", "check"]);
    for finding in checked["findings"].as_array().unwrap() {
        let code = finding["code"].as_str().unwrap();
        assert!(!code.starts_with("qualification") && !code.starts_with("release"), "{finding}");
    }
}
