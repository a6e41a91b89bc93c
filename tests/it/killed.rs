//! What is left when the binary is killed, at every named moment between two writes.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use huida::base::clock::Stopwatch;
use huida::base::fault::{self, Fault};
use huida::base::random::SplitMix64;
use huida::domain::knowledge::Change;
use huida::domain::label::{Labelled, Purpose};
use huida::gate::model::MIN_LABELS_FOR_ALL;
use huida::pipeline::follower::agrees;
use huida::pipeline::generation::Generation;
use huida::store::{AuditState, Import, LabelFile, Store};

use crate::command::{huida, json, output, store};
use crate::knowledge::{ADDED, import};
use crate::support::{app, prepared, small_knowledge};
use crate::upkeep::{backup, count};

/// How a process dies that aborts.
const SIGABRT: i32 = 6;
/// How one dies that is killed.
const SIGKILL: i32 = 9;

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

#[test]
fn a_restore_that_is_killed_is_done_or_not_begun() {
    let from = prepared();
    backup(from.path());
    let tar = from.path().join("today.tar");
    let args = ["restore", tar.to_str().unwrap(), "--force"];
    let (before, after) = (small_knowledge().len(), small_knowledge().len() + 1);
    for fault in Fault::RESTORE {
        let to = prepared();
        let current = || std::fs::read_to_string(to.path().join("generations/CURRENT")).unwrap();
        let former = current();
        killed_at(fault, to.path(), &args);
        // Any command that looks at the state ends what was decided.
        let verified = json(&output(to.path(), &["index", "verify", "--json"]));
        assert_eq!(verified["agrees"], true, "{fault:?}");
        let decided = fault != Fault::RestoreStaged;
        assert_eq!(count(to.path()), if decided { after } else { before }, "{fault:?}");
        assert_eq!(current() != former, decided, "{fault:?}");
        assert_eq!(verified["generation"].as_str().unwrap(), current());
        assert!(matches!(store(to.path()).verify_audit().unwrap(), AuditState::Intact { .. }));
        json(&output(to.path(), &["index", "build", "--json"]));
        json(&output(to.path(), &[&args[..], &["--json"]].concat()));
        assert_eq!(count(to.path()), after, "{fault:?}: again");
    }
}

/// Not at named moments but at any: the clock decides when the process is killed.
#[test]
fn twenty_kills_at_random_leave_a_whole_state_and_work_that_can_be_done_again() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    json(&output(dir.path(), &["index", "build", "--json"]));
    std::fs::write(dir.path().join("a.jsonl"), ADDED).unwrap();
    std::fs::write(dir.path().join("b.jsonl"), ADDED.replace("晾干", "擦干")).unwrap();
    let label = r#"{"text":"尘盒能洗吗","kb_id":"shop.robot.clean"}"#;
    std::fs::write(dir.path().join("labels.jsonl"), label).unwrap();
    let rounds: [&[&str]; 5] = [
        &["kb", "import", "a.jsonl"],
        &["kb", "import", "b.jsonl"],
        &["kb", "rollback", "shop.robot.clean", "--to", "1"],
        &["train", "--labels", "labels.jsonl"],
        &["index", "build"],
    ];
    let took = rounds.map(|args| {
        let begun = Stopwatch::start();
        assert!(output(dir.path(), args).status.success(), "{args:?}");
        begun.elapsed()
    });
    let app = app(dir.path());
    let embedder = app.open_embedder().unwrap();
    let mut random = SplitMix64::new(20);
    let mut died = 0;
    for (args, took) in rounds.into_iter().zip(took).cycle().take(20) {
        let mut child = huida(dir.path())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(took.mul_f32(random.unit()));
        child.kill().unwrap();
        died += usize::from(child.wait().unwrap().signal() == Some(SIGKILL));
        let store: Arc<dyn Store> = Arc::new(store(dir.path()));
        assert!(matches!(store.verify_audit().unwrap(), AuditState::Intact { .. }), "{args:?}");
        let generations = app.open_generations(&embedder).unwrap();
        app.follower(&store, &embedder, &generations).look().unwrap();
        assert!(agrees(&generations.current().knowledge, store.as_ref()).unwrap(), "{args:?}");
    }
    assert!(died >= 10, "only {died} of 20 were killed at work");
    for args in rounds {
        assert!(output(dir.path(), args).status.success(), "{args:?}");
    }
    let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!((&verified["agrees"], &verified["changed_since"]), (&true.into(), &0.into()));
    let entries = store(dir.path()).entries().unwrap();
    let robot = entries.iter().find(|e| e.entry.id.as_str() == "shop.robot.clean").unwrap();
    assert!(robot.entry.answer.as_ref().is_some_and(|a| a.contains("晾干")), "as without any kill");
}
