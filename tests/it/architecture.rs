//! Arrows point down: every `use crate::…` of every file is read, and an upward one fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors from the ground up; a module may use its own floor's list below and anything lower.
const FLOORS: [&[&str]; 7] = [
    &["base"],
    &["domain"],
    &["model", "search", "understand", "gate"],
    &["store", "channels", "ingest"],
    &["engine", "pipeline"],
    &["http", "ops", "eval", "simulate"],
    &["config", "app", "cli"],
];

/// Arrows inside one floor that are meant; everything else on a floor is apart.
const SIDEWAYS: [(&str, &str); 6] = [
    // The pipeline asks the threads that own the models.
    ("pipeline", "engine"),
    ("app", "config"),
    ("cli", "app"),
    ("cli", "config"),
    // Health pages and self-checks are told what the service runs.
    ("http", "ops"),
    // One way to rank samples.
    ("simulate", "eval"),
];

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&module))
        .unwrap_or_else(|| panic!("module {module} stands on no floor: add it to FLOORS"))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// `crate::name` wherever it stands, in a `use` or in an expression.
fn mentions(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = BTreeSet::new();
    for line in code {
        for part in line.split("crate::").skip(1) {
            let name: String =
                part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
        if line.contains("crate::{") {
            found.insert("a grouped `use crate::{…}`, which this test cannot read".into());
        }
    }
    found
}

/// The top-level module a file belongs to; `None` for `lib.rs` and `main.rs`.
fn module_of(path: &Path) -> Option<String> {
    let relative = path.strip_prefix(root()).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.trim_end_matches(".rs").to_owned();
    (name != "lib" && name != "main").then_some(name)
}

#[test]
fn arrows_point_down() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let Some(from) = module_of(&file) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for to in mentions(&text).into_iter().filter(|to| *to != from) {
            let known = FLOORS.iter().any(|floor| floor.contains(&to.as_str()));
            let sideways = SIDEWAYS.contains(&(from.as_str(), to.as_str()));
            if !known || (floor(&to) >= floor(&from) && !sideways) {
                wrong.push(format!("{}: {from} -> {to}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "upward or sideways arrows:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_it_must_see() {
    let seen =
        mentions("use crate::http::x;\n// crate::eval in a comment\nlet a = crate::store::b();");
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["http", "store"]);
    assert!(floor("http") > floor("store") && floor("store") > floor("gate"));
}

#[test]
fn engines_know_no_runtime_and_no_database() {
    let mut files = Vec::new();
    for module in FLOORS[2].iter().chain(FLOORS[1]).chain(FLOORS[0]) {
        sources(&root().join(module), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for name in ["tokio::", "axum::", "rusqlite::"] {
            let used = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(name));
            assert!(!used, "{} names {name}", file.display());
        }
    }
}

#[test]
fn only_the_ground_floor_makes_time_and_ids() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files.iter().filter(|f| !f.ends_with("base/clock.rs") && !f.ends_with("base/id.rs"))
    {
        let text = fs::read_to_string(file).unwrap();
        for name in ["Instant::now", "SystemTime::now", "Timestamp::now", "Uuid::"] {
            assert!(!text.contains(name), "{} calls {name}", file.display());
        }
    }
}
