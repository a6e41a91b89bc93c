//! What is left when the binary is killed, at every named moment between two writes.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use huida::base::fault::{self, Fault};
use huida::domain::knowledge::Change;
use huida::domain::label::{Labelled, Purpose};
use huida::gate::model::MIN_LABELS_FOR_ALL;
use huida::pipeline::generation::Generation;
use huida::store::{AuditState, Import, LabelFile, Store};

use crate::command::{huida, json, output, store};
use crate::knowledge::{ADDED, import};
use crate::support::{prepared, small_knowledge};

/// How a process dies that aborts.
const SIGABRT: i32 = 6;

/// Runs the command until it dies at the moment.
fn killed_at(fault: Fault, dir: &Path, args: &[&str]) {
    let died = huida(dir)
        .args(args)
        .env(fault::VARIABLE, format!("{fault:?}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(died.signal(), Some(SIGABRT), "{fault:?} was not passed: {died}");
}

#[test]
fn an_import_that_is_killed_leaves_all_or_nothing() {
    let dir = prepared();
    let line = |n| format!("{{\"id\":\"bulk.{n}\",\"question\":\"批量问题{n}\"}}\n");
    std::fs::write(dir.path().join("bulk.jsonl"), (0..50).map(line).collect::<String>()).unwrap();
    let state = || {
        let store = store(dir.path());
        (store.entries().unwrap().len(), store.verify_audit().unwrap())
    };
    let (entries, AuditState::Intact { rows }) = state() else { panic!("broken before") };
    let (before, after) = (state(), (entries + 50, AuditState::Intact { rows: rows + 1 }));
    for fault in Fault::IMPORT {
        killed_at(fault, dir.path(), &["kb", "import", "bulk.jsonl"]);
        let expected = if fault == Fault::StoreCommitted { &after } else { &before };
        assert_eq!(state(), *expected, "{fault:?}");
    }
    let again = json(&output(dir.path(), &["kb", "import", "bulk.jsonl", "--json"]));
    assert_eq!(again["files"][0]["unchanged"], 50);
    let answer = json(&output(dir.path(), &["ask", "退款一般几天能到账", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "shop.refund.time", "the old index serves");
}

/// Three entries, and just enough labels for a head.
fn trainable(dir: &Path) {
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
fn an_index_build_that_is_killed_leaves_a_whole_generation_serving() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    let first = json(&output(dir.path(), &["index", "build", "--json"]));
    let first = first["generation"].as_str().unwrap();
    let generations = dir.path().join("generations");
    for fault in Fault::BUILD {
        killed_at(fault, dir.path(), &["index", "build"]);
        let current = std::fs::read_to_string(generations.join("CURRENT")).unwrap();
        let serving = Generation::open(&generations.join(&current)).unwrap();
        assert!(serving.head.is_some() && serving.index.entries().len() == 3, "{fault:?}");
        assert_eq!(current != first, fault == Fault::PublishSwitched, "{fault:?}");
    }
    let built = json(&output(dir.path(), &["index", "build", "--json"]));
    let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!(verified["generation"], built["generation"]);
    let left = std::fs::read_dir(&generations).unwrap().map(|item| item.unwrap().file_name());
    let begun = left.filter(|name| name.to_string_lossy().starts_with(".building")).count();
    assert_eq!(begun, 0, "the next build clears what killed ones left");
}

#[test]
fn a_rollback_that_is_killed_is_done_or_not_begun() {
    let dir = prepared();
    let id = "shop.robot.clean";
    import(dir.path(), "new.jsonl", ADDED);
    import(dir.path(), "new.jsonl", &ADDED.replace("晾干", "擦干"));
    let versions = || {
        let history = json(&output(dir.path(), &["kb", "history", id, "--json"]));
        history["versions"].as_array().unwrap().len()
    };
    for fault in Fault::ROLL_BACK {
        killed_at(fault, dir.path(), &["kb", "rollback", id, "--to", "1"]);
        assert_eq!(versions(), 2 + usize::from(fault == Fault::StoreCommitted), "{fault:?}");
        let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
        assert_eq!(verified["agrees"], true);
        let audit = json(&output(dir.path(), &["audit", "verify", "--json"]));
        assert_eq!(audit["intact"], true);
    }
    let again = json(&output(dir.path(), &["kb", "rollback", id, "--to", "1", "--json"]));
    assert_eq!((&again["version"], versions()), (&3.into(), 3), "what is done is not done again");
}
