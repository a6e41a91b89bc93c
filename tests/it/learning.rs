//! What an installation learns: from labels, from an operator's words, and of its own entries.

use std::path::Path;

use huida::base::clock::Clock;
use huida::domain::knowledge::Change;
use huida::domain::label::{Labelled, Purpose};
use huida::gate::model::MIN_LABELS_FOR_ALL;
use huida::store::{Import, LabelFile, Store};

use crate::command::{huida, json, output, store};
use crate::knowledge::import;
use crate::support::{prepared, small_knowledge};

/// Three entries, and just enough labels for a head.
pub(crate) fn trainable(dir: &Path) {
    let store = store(dir);
    let entries: Vec<_> = small_knowledge().into_iter().take(3).map(|v| v.entry).collect();
    let label = |n: usize| Labelled {
        text: format!("退{n}"),
        context: vec![],
        answer: Some(entries[n % 3].id.clone()),
    };
    let file = |purpose, labels| LabelFile { source: "test".into(), purpose, labels };
    let train = file(Purpose::Train, (0..MIN_LABELS_FOR_ALL).map(label).collect());
    // Without one of these, a part of the others would be kept back and too few left.
    let calibrate = file(Purpose::Calibrate, vec![label(MIN_LABELS_FOR_ALL)]);
    store.import_entries(&Import::of(entries, Change::by("test", "test")), 1).unwrap();
    store.add_labels(&[train, calibrate], "test", 1).unwrap();
}

#[test]
fn a_challenger_is_trained_when_labels_came_and_not_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    let first = json(&output(dir.path(), &["index", "build", "--json"]));
    let challenge = || json(&output(dir.path(), &["train", "--challenge", "--json"]));
    let idle = challenge();
    assert_eq!(idle["outcome"], "no_new_labels");
    assert_eq!(idle["generation"], first["generation"]);
    let answer = Some(small_knowledge()[0].entry.id.clone());
    let labels = vec![Labelled { text: "我想退一下".into(), context: vec![], answer }];
    let file = LabelFile { source: "desk".into(), purpose: Purpose::Train, labels };
    store(dir.path()).add_labels(&[file], "anna", Clock::System.now()).unwrap();
    let trained = challenge();
    assert_eq!((&trained["outcome"], &trained["new_labels"]), (&"published".into(), &1.into()));
    assert_ne!(trained["generation"], first["generation"]);
    let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!(verified["generation"], trained["generation"]);
    assert_eq!(challenge()["outcome"], "no_new_labels");
    let audit = json(&output(dir.path(), &["audit", "verify", "--json"]));
    assert_eq!(audit["intact"], true);
}

#[test]
fn synonyms_are_one_word_to_knowledge_and_questions() {
    let dir = prepared();
    let file = dir.path().join("synonyms.csv");
    let run = |args: &[&str]| {
        huida(dir.path()).args(args).env("HUIDA__INDEX__SYNONYMS", &file).output().unwrap()
    };
    std::fs::write(&file, "退款,米饭\n退货,退款\n").unwrap();
    let refused = run(&["index", "build"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && complaint.contains("synonyms.csv:2"), "{complaint}");
    std::fs::write(&file, "退款,米饭\n").unwrap();
    json(&run(&["index", "build", "--json"]));
    assert_eq!(json(&run(&["index", "stats", "--json"]))["synonyms"], 1);
    // The generation keeps its list, wherever the file is now.
    let answer = json(&output(dir.path(), &["ask", "米饭一般几天能到账", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "shop.refund.time");
    import(dir.path(), "new.jsonl", r#"{"id":"new.rice","question":"米饭能不能走支付宝"}"#);
    let answer = json(&output(dir.path(), &["ask", "退款能不能走支付宝", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "new.rice");
}

#[test]
fn proposals_change_nothing_until_they_are_accepted() {
    let dir = prepared();
    let entry = r#"{"id":"new.crash","question":"软件一点开就闪退怎么办","similar_questions":["app老是闪退打不开","页面卡死点不动"]}"#;
    import(dir.path(), "new.jsonl", entry);
    let propose = |more: &[&str]| {
        let args = ["kb", "propose", "--json", "--sure", "0", "--entry", "new.crash"];
        json(&output(dir.path(), &[&args, more].concat()))
    };
    let shown = propose(&[]);
    let of = |field: &str| {
        let proposals = shown["proposals"].as_array().unwrap();
        proposals.iter().find(|p| p["field"] == field).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    let scene = of("scene");
    assert_eq!((&scene["entry"], &scene["value"]), (&"new.crash".into(), &"fault".into()));
    let confidence = scene["confidence"].as_f64().unwrap();
    assert!(confidence > 0.0 && confidence < 1.0);
    let versions = || {
        let history = json(&output(dir.path(), &["kb", "history", "new.crash", "--json"]));
        history["versions"].as_array().unwrap().clone()
    };
    assert_eq!(versions().len(), 1);
    let accepted = propose(&["--apply", "--author", "anna", "--reason", "read"]);
    assert_eq!(accepted["applied"][0], "new.crash");
    let versions = versions();
    assert_eq!((versions.len(), &versions[1]["author"]), (2, &"anna".into()));
}
