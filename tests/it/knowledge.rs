//! Knowledge as operators change it, and what answers then.

use std::path::Path;
use std::time::Duration;

use huida::base::clock::Stopwatch;
use huida::channels::wechat_mp::simulate::PushMode;

use crate::command::{json, output};
use crate::support::{prepared, start};

pub(crate) const ADDED: &str = r#"{"id":"shop.robot.clean","question":"扫地机器人的尘盒怎么清洗","similar_questions":["尘盒能水洗吗"],"answer":"取出尘盒，用清水冲洗后晾干再装回。"}"#;

pub(crate) fn import(dir: &Path, name: &str, content: &str) -> serde_json::Value {
    std::fs::write(dir.join(name), content).unwrap();
    json(&output(dir, &["kb", "import", name, "--reason", "test", "--json"]))
}

fn found(dir: &Path, question: &str) -> Vec<(String, String)> {
    let answer = json(&output(dir, &["ask", question, "--json"]));
    let field = |e: &serde_json::Value, name: &str| e[name].as_str().unwrap().to_owned();
    let evidence = answer["evidence"].as_array().unwrap().iter();
    evidence.map(|e| (field(e, "id"), field(e, "question"))).collect()
}

#[test]
fn a_change_answers_without_a_build_and_can_be_taken_back() {
    let dir = prepared();
    let id = "shop.robot.clean";
    let question = "扫地机器人的尘盒怎么清洗";
    import(dir.path(), "new.jsonl", ADDED);
    assert_eq!(found(dir.path(), question)[0].0, id);
    let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!((&verified["agrees"], &verified["changed_since"]), (&true.into(), &1.into()));

    let reworded = ADDED.replace("扫地机器人的尘盒怎么清洗", "扫地机器人的尘盒能不能洗");
    let changed = import(dir.path(), "new.jsonl", &reworded);
    assert_eq!(changed["files"][0]["changed"][0], id);
    assert_eq!(found(dir.path(), question)[0].1, "扫地机器人的尘盒能不能洗");
    let diff = json(&output(dir.path(), &["kb", "diff", id, "--json"]));
    assert_eq!(diff["changed"][0]["field"], "question");
    assert_eq!(diff["changed"][0]["before"], question);

    json(&output(dir.path(), &["kb", "rollback", id, "--to", "1", "--json"]));
    assert_eq!(found(dir.path(), question)[0].1, question);
    let history = json(&output(dir.path(), &["kb", "history", id, "--json"]));
    assert_eq!(history["versions"].as_array().unwrap().len(), 3);
    assert_eq!(history["versions"][0]["reason"], "test");

    let archived = ADDED.replace("}", r#","state":"archived"}"#);
    import(dir.path(), "new.jsonl", &archived);
    assert!(found(dir.path(), question).iter().all(|(found, _)| found != id));
    let built = output(dir.path(), &["index", "build", "--json"]);
    assert!(built.status.success());
    let verified = json(&output(dir.path(), &["index", "verify", "--json"]));
    assert_eq!((&verified["agrees"], &verified["changed_since"]), (&true.into(), &0.into()));
}

#[test]
fn a_running_service_follows_by_itself() {
    let running = start();
    let question = "扫地机器人的尘盒怎么清洗";
    let best = |at: u64| {
        running.push(PushMode::Safe, "anna", at, question);
        let trace = running.store.recent_traces(1).unwrap().remove(0);
        (trace.evidence.first().map(|e| e.id.0.clone()), trace.generation)
    };
    let (before, generation) = best(1);
    assert_ne!(before.as_deref(), Some("shop.robot.clean"));
    import(running.dir.path(), "new.jsonl", ADDED);
    let imported = Stopwatch::start();
    // Not how fast, but that it comes: the speed is `huida bench`'s to tell.
    for at in 2.. {
        assert!(imported.elapsed() < Duration::from_secs(60), "the change was not followed");
        let (now, name) = best(at);
        if now.as_deref() == Some("shop.robot.clean") {
            assert!(name.starts_with(&format!("{generation}+")), "{name} tells of the change");
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_entry_answers_only_where_it_may_and_in_the_words_for_there() {
    let dir = prepared();
    let bound = ADDED.replace("}", r#","accounts":["kf","mp"],"wordings":{"kf":"水洗，晾干。"}}"#);
    import(dir.path(), "new.jsonl", &bound);
    let evidence = |account: &str| {
        let args = ["ask", "尘盒能水洗吗", "--account", account, "--json"];
        let answer = json(&output(dir.path(), &args));
        let store = crate::command::store(dir.path());
        let id = huida::base::id::TraceId::from_text(answer["trace"].as_str().unwrap());
        huida::store::Store::trace(&store, &id).unwrap().unwrap().evidence.remove(0)
    };
    assert_ne!(evidence("elsewhere").id.as_str(), "shop.robot.clean");
    assert_eq!(evidence("kf").answer.as_deref(), Some("水洗，晾干。"));
    assert_eq!(evidence("mp").answer.as_deref(), Some("取出尘盒，用清水冲洗后晾干再装回。"));
}

#[test]
fn a_document_is_searched_by_passage_and_replaces_itself() {
    let dir = prepared();
    let guide = "# 扫地机器人手册\n\n## 清洗尘盒\n\n取出尘盒，用清水冲洗，晾干后装回。\n\n## 保修\n\n整机保修两年，电池保修一年。\n";
    let first = import(dir.path(), "robot.md", guide);
    assert_eq!(first["files"][0]["added"].as_array().unwrap().len(), 2);
    let again = import(dir.path(), "robot.md", guide);
    assert_eq!(again["files"][0]["unchanged"], 2);
    assert!(found(dir.path(), "尘盒怎么清洗")[0].0.starts_with("robot.md#"));
    let edited = import(dir.path(), "robot.md", &guide.replace("两年", "三年"));
    let count = |what: &str| edited["files"][0][what].as_array().unwrap().len();
    assert_eq!((count("added"), count("archived"), count("changed")), (1, 1, 0));
    let answer = json(&output(dir.path(), &["ask", "扫地机器人的电池保修多久", "--json"]));
    assert_ne!(answer["decision"], "auto_reply", "a passage does not go out as it stands");
}
