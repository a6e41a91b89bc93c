//! What is left when the binary is killed, at every named moment between two writes.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use huida::base::clock::{Clock, Stopwatch};
use huida::base::fault::{self, Fault};
use huida::base::random::SplitMix64;
use huida::channels::wechat_mp::simulate::SimulatedPush;
use huida::domain::decision::Reason;
use huida::domain::message::AccountName;
use huida::pipeline::follower::agrees;
use huida::pipeline::generation::Generation;
use huida::store::outbox::Outbox;
use huida::store::queue::Queue;
use huida::store::{AuditState, Store};
use serde_json::json;

use crate::command::{self, huida, output, store};
use crate::delivery::{FakeApi, until};
use crate::knowledge::{ADDED, import};
use crate::learning::trainable;
use crate::support::{app, client, configuration, prepared, push_of, pushes, small_knowledge};
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
    let again = command::json(&output(dir.path(), &["kb", "import", "bulk.jsonl", "--json"]));
    assert_eq!(again["files"][0]["unchanged"], 50);
    let answer = command::json(&output(dir.path(), &["ask", "退款一般几天能到账", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "shop.refund.time", "the old index serves");
}

#[test]
fn an_index_build_that_is_killed_leaves_a_whole_generation_serving() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    let first = command::json(&output(dir.path(), &["index", "build", "--json"]));
    let first = first["generation"].as_str().unwrap();
    let generations = dir.path().join("generations");
    for fault in Fault::BUILD {
        killed_at(fault, dir.path(), &["index", "build"]);
        let current = std::fs::read_to_string(generations.join("CURRENT")).unwrap();
        let serving = Generation::open(&generations.join(&current)).unwrap();
        assert!(serving.head.is_some() && serving.index.entries().len() == 3, "{fault:?}");
        assert_eq!(current != first, fault == Fault::PublishSwitched, "{fault:?}");
    }
    let built = command::json(&output(dir.path(), &["index", "build", "--json"]));
    let verified = command::json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!(verified["generation"], built["generation"]);
    let left = std::fs::read_dir(&generations).unwrap().map(|item| item.unwrap().file_name());
    let begun = left.filter(|name| name.to_string_lossy().starts_with(".building")).count();
    assert_eq!(begun, 0, "the next build clears what killed ones left");
}

#[test]
fn a_build_that_is_killed_while_it_embeds_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    killed_at(Fault::EmbeddedSome, dir.path(), &["index", "build"]);
    let journal = dir.path().join("generations/embedded.journal");
    assert!(std::fs::metadata(&journal).unwrap().len() > 0);
    // It would die there again if anything were left to embed.
    killed_at(Fault::BuiltGate, dir.path(), &["index", "build"]);
    let mut again = huida(dir.path());
    again.args(["index", "build"]).env(fault::VARIABLE, "EmbeddedSome");
    assert!(again.output().unwrap().status.success());
    assert!(!journal.exists(), "what it held is in the generation");
    let verified = command::json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!(verified["agrees"], true);
}

#[test]
fn a_rollback_that_is_killed_is_done_or_not_begun() {
    let dir = prepared();
    let id = "shop.robot.clean";
    import(dir.path(), "new.jsonl", ADDED);
    import(dir.path(), "new.jsonl", &ADDED.replace("晾干", "擦干"));
    let versions = || {
        let history = command::json(&output(dir.path(), &["kb", "history", id, "--json"]));
        history["versions"].as_array().unwrap().len()
    };
    for fault in Fault::ROLL_BACK {
        killed_at(fault, dir.path(), &["kb", "rollback", id, "--to", "1"]);
        assert_eq!(versions(), 2 + usize::from(fault == Fault::StoreCommitted), "{fault:?}");
        let verified = command::json(&output(dir.path(), &["index", "verify", "--json"]));
        assert_eq!(verified["agrees"], true);
        let audit = command::json(&output(dir.path(), &["audit", "verify", "--json"]));
        assert_eq!(audit["intact"], true);
    }
    let again = command::json(&output(dir.path(), &["kb", "rollback", id, "--to", "1", "--json"]));
    assert_eq!((&again["version"], versions()), (&3.into(), 3), "what is done is not done again");
}

/// A service as a process of its own that a test may let die.
struct Doomed {
    process: Child,
    url: String,
}

impl Doomed {
    fn start(dir: &Path, accounts: &str, fault: Option<Fault>) -> Self {
        let file = dir.join("doomed.toml");
        std::fs::write(&file, configuration(dir) + accounts).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_huida"));
        command.arg("--config").arg(file).arg("serve").current_dir(dir).stdin(Stdio::null());
        if let Some(fault) = fault {
            command.env(fault::VARIABLE, format!("{fault:?}"));
        }
        command.env("HUIDA__SERVER__LISTEN", "127.0.0.1:0").stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = String::new();
        let mut told = BufReader::new(process.stderr.take().unwrap());
        told.read_line(&mut said).unwrap();
        let url = said.trim().strip_prefix("serving on ").unwrap_or_default().to_owned();
        Self { process, url }
    }

    /// The platform's side of one message; whether it was answered with a reply, if at all.
    fn push(&self, path: &str, push: &SimulatedPush) -> Option<bool> {
        let url = format!("{}{path}?{}", self.url, push.query.to_query_string());
        let answer = client().post(url).body(push.body.clone()).send().ok()?;
        let body = answer.error_for_status().ok()?.bytes().ok()?;
        Some(body.as_ref() != b"success")
    }

    fn died(&mut self) -> bool {
        self.process.wait().unwrap().signal() == Some(SIGABRT)
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until nothing is in work or on its way; the notes of the cases that are open then.
fn settled(dir: &Path) -> Vec<Option<Reason>> {
    let store = store(dir);
    until(|| {
        let counts = store.outbox_counts().unwrap();
        counts.work + counts.waiting == 0
    });
    store.open_cases(9, 0).unwrap().iter().map(|case| case.note).collect()
}

#[test]
fn a_message_is_answered_or_for_a_person_whenever_the_service_is_killed() {
    for fault in Fault::DELIVER {
        let (api, dir) = (FakeApi::start(), prepared());
        let (accounts, path) = (api.accounts(), "/channels/wechat-mini/mini");
        let push = pushes(dir.path(), &accounts, 1).remove(0);
        let mut doomed = Doomed::start(dir.path(), &accounts, Some(fault));
        let _ = doomed.push(path, &push);
        assert!(doomed.died(), "{fault:?} was not passed");
        let served = Doomed::start(dir.path(), &accounts, None);
        // The platform that got no answer asks again, and so does one that did, to be sure.
        served.push(path, &push).unwrap();
        let cases = settled(dir.path());
        let sent = api.seen(|seen| seen.sent.len());
        let decided = store(dir.path()).recent_traces(9).unwrap();
        assert_eq!(decided.len(), 1, "{fault:?}");
        // Nothing tells whether it arrived: a person looks, and it is not said twice.
        if [Fault::BegunUnsent, Fault::SentUnrecorded].contains(&fault) {
            assert_eq!(sent, usize::from(fault == Fault::SentUnrecorded), "{fault:?}");
            assert_eq!(cases, [Some(Reason::DeliveryUnknown)], "{fault:?}");
        } else {
            assert_eq!(sent, 1, "{fault:?}: {cases:?}");
        }
    }
}

#[test]
fn fragments_are_answered_once_whenever_the_service_is_killed() {
    for fault in [Fault::AcceptedUndecided, Fault::DecidedHalf, Fault::DecidedUnsent] {
        let (api, dir) = (FakeApi::start(), prepared());
        let (accounts, path) = (api.accounts(), "/channels/wechat-mini/mini");
        let first = push_of(dir.path(), &accounts, "anna", 7, "那个退款");
        let last = push_of(dir.path(), &accounts, "anna", 8, "一般几天能到账");
        let mut doomed = Doomed::start(dir.path(), &accounts, Some(fault));
        std::thread::scope(|scope| {
            // Its callback is open while it waits for what follows.
            scope.spawn(|| doomed.push(path, &first));
            until(|| store(dir.path()).unfinished().unwrap().len() == 1);
            let _ = doomed.push(path, &last);
        });
        assert!(doomed.died(), "{fault:?} was not passed");
        let served = Doomed::start(dir.path(), &accounts, None);
        served.push(path, &first).unwrap();
        served.push(path, &last).unwrap();
        let cases = settled(dir.path());
        let decided = store(dir.path()).recent_traces(9).unwrap();
        let joined = decided.iter().filter(|trace| trace.answered_by.is_some()).count();
        // Killed before the last one was on the disk, it comes anew: then each has its own reply.
        let apart = fault == Fault::AcceptedUndecided && joined == 0;
        assert_eq!((decided.len(), joined), (2, usize::from(!apart)), "{fault:?}");
        let sent = api.seen(|seen| seen.sent.len());
        assert_eq!(sent, decided.len() - joined, "{fault:?}: {cases:?}");
    }
}

#[test]
fn a_reply_in_an_answer_is_given_again_until_it_arrives() {
    for fault in Fault::ANSWER {
        let dir = prepared();
        let push = pushes(dir.path(), "", 1).remove(0);
        let mut doomed = Doomed::start(dir.path(), "", Some(fault));
        let first = doomed.push("/channels/wechat-mp/main", &push);
        assert!(doomed.died(), "{fault:?} was not passed");
        let served = Doomed::start(dir.path(), "", None);
        // A platform that got its answer does not ask again.
        if first.is_none() {
            let again = served.push("/channels/wechat-mp/main", &push);
            assert_eq!(again, Some(true), "{fault:?}");
        }
        let counts = store(dir.path()).outbox_counts().unwrap();
        assert_eq!((counts.work, counts.handed), (0, 0), "{fault:?}");
        assert_eq!(store(dir.path()).recent_traces(9).unwrap().len(), 1, "{fault:?}");
    }
}

#[test]
fn fetched_messages_are_answered_once_whenever_the_service_is_killed() {
    for fault in Fault::FETCH {
        let (api, dir) = (FakeApi::start(), prepared());
        let message = json!({
            "msgid": "m1", "open_kfid": "wk1", "external_userid": "anna", "origin": 3,
            "send_time": Clock::System.now() / 1000, "msgtype": "text",
            "text": { "content": "退款一般几天能到账" },
        });
        let page = json!({
            "errcode": 0, "errmsg": "ok", "next_cursor": "c1", "has_more": 0,
            "msg_list": [message],
        });
        api.seen(|seen| seen.pages.push((String::new(), page)));
        store(dir.path()).want_fetch(&AccountName("kf".into()), "wk1", "permit").unwrap();
        assert!(Doomed::start(dir.path(), &api.accounts(), Some(fault)).died(), "{fault:?}");
        let _served = Doomed::start(dir.path(), &api.accounts(), None);
        api.wait_for(1);
        let troubles: Vec<Reason> = settled(dir.path()).into_iter().flatten().collect();
        assert_eq!(troubles, [], "{fault:?}: the platform knows it by its key");
        assert_eq!(api.seen(|seen| seen.sent.len()), 1, "{fault:?}");
    }
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
        let verified = command::json(&output(to.path(), &["index", "verify", "--json"]));
        assert_eq!(verified["agrees"], true, "{fault:?}");
        let decided = fault != Fault::RestoreStaged;
        assert_eq!(count(to.path()), if decided { after } else { before }, "{fault:?}");
        assert_eq!(current() != former, decided, "{fault:?}");
        assert_eq!(verified["generation"].as_str().unwrap(), current());
        assert!(matches!(store(to.path()).verify_audit().unwrap(), AuditState::Intact { .. }));
        command::json(&output(to.path(), &["index", "build", "--json"]));
        command::json(&output(to.path(), &[&args[..], &["--json"]].concat()));
        assert_eq!(count(to.path()), after, "{fault:?}: again");
    }
}

/// Not at named moments but at any: the clock decides when the process is killed.
#[test]
fn twenty_kills_at_random_leave_a_whole_state_and_work_that_can_be_done_again() {
    let dir = tempfile::tempdir().unwrap();
    trainable(dir.path());
    command::json(&output(dir.path(), &["index", "build", "--json"]));
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
    let verified = command::json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!((&verified["agrees"], &verified["changed_since"]), (&true.into(), &0.into()));
    let entries = store(dir.path()).entries().unwrap();
    let robot = entries.iter().find(|e| e.entry.id.as_str() == "shop.robot.clean").unwrap();
    assert!(robot.entry.answer.as_ref().is_some_and(|a| a.contains("晾干")), "as without any kill");
}
