//! Backup, restore and migrate, with the binary and beside a running service.

use std::path::Path;

use huida::store::Store;

use crate::command::{Served, huida, json, output, store};
use crate::knowledge::{ADDED, import};
use crate::support::{prepared, small_knowledge};

/// A backup of the small knowledge and one entry more, taken while a service runs on it.
pub(crate) fn backup(dir: &Path) -> serde_json::Value {
    import(dir, "new.jsonl", ADDED);
    let _served = Served::start(dir);
    let written = json(&output(dir, &["backup", "today.tar", "--json"]));
    let refused = output(dir, &["restore", "today.tar", "--force"]);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && complaint.contains("stop the service"), "{complaint}");
    written
}

pub(crate) fn count(dir: &Path) -> usize {
    store(dir).entries().unwrap().len()
}

#[test]
fn what_was_backed_up_beside_a_service_answers_elsewhere() {
    let from = prepared();
    let written = backup(from.path());
    assert_eq!(written["audit_intact"], true);
    assert!(written["generation"].as_str().unwrap().starts_with('g'));
    let to = tempfile::tempdir().unwrap();
    let tar = from.path().join("today.tar");
    let tar = tar.to_str().unwrap();
    let restored = json(&output(to.path(), &["restore", tar, "--json"]));
    assert_eq!(restored["agrees"], true, "{restored}");
    assert_eq!((&restored["changed_since"], &restored["moved_aside"]), (&1.into(), &().into()));
    assert_eq!(count(to.path()), small_knowledge().len() + 1);
    let answer = json(&output(to.path(), &["ask", "尘盒能水洗吗", "--json"]));
    assert_eq!(answer["evidence"][0]["id"], "shop.robot.clean");
    let again = output(to.path(), &["restore", tar]);
    let complaint = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && complaint.contains("--force"), "{complaint}");
}

#[test]
fn a_store_of_an_earlier_build_is_brought_to_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = output(dir.path(), &["migrate"]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("no store"));
    let raw = rusqlite::Connection::open(dir.path().join("huida.db")).unwrap();
    raw.execute_batch(include_str!("../../migrations/sqlite/V0001__foundation.sql")).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    drop(raw);
    // A backup is made of it as it is.
    let written = json(&output(dir.path(), &["backup", "old.tar", "--json"]));
    assert_eq!((&written["schema"], &written["generation"]), (&1.into(), &().into()));
    let migrated = json(&output(dir.path(), &["migrate", "--json"]));
    assert_eq!(migrated["from"], 1);
    let again = json(&output(dir.path(), &["migrate", "--json"]));
    assert_eq!(again["from"], migrated["to"]);
    let restored = json(&output(dir.path(), &["restore", "old.tar", "--force", "--json"]));
    assert_eq!((&restored["schema"], &restored["agrees"]), (&1.into(), &().into()));
    assert_eq!(json(&output(dir.path(), &["migrate", "--json"]))["from"], migrated["to"]);
}

#[test]
fn the_commands_say_how_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["backup", "restore", "migrate"] {
        let help = huida(dir.path()).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8_lossy(&help.stdout);
        assert!(help.contains("Examples:") && help.contains(&format!("huida {command}")), "{help}");
    }
}
