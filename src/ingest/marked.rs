//! Texts in which personal data is marked, from JSON Lines, for measuring what finds it.

use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{json_lines, read_text};
use super::{IngestError, RowError};

/// A text and all that was marked in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    pub text: String,
    pub marks: Vec<Mark>,
}

/// Offsets count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub kind: String,
    pub start: usize,
    pub end: usize,
}

/// `{"text", "spans": [{"type", "start", "end"}…]}` a line.
pub fn read_marked(path: &Path) -> Result<Vec<Marked>, IngestError> {
    let text = read_text(path)?;
    let mut marked = Vec::new();
    let mut bad = Vec::new();
    for (line, object) in json_lines(path, &text)? {
        match parse(&object) {
            Ok(row) => marked.push(row),
            Err((field, reason)) => bad.push(RowError::new(path, line, field, reason)),
        }
    }
    if bad.is_empty() { Ok(marked) } else { Err(IngestError::BadRows(bad)) }
}

fn parse(object: &Map<String, Value>) -> Result<Marked, (&'static str, &'static str)> {
    let text = object.get("text").and_then(Value::as_str).ok_or(("text", "must be text"))?;
    let spans = object.get("spans").and_then(Value::as_array);
    let chars = text.chars().count();
    let marks: Option<Vec<Mark>> = spans
        .ok_or(("spans", "must be a list, empty where nothing is marked"))?
        .iter()
        .map(mark)
        .collect();
    let marks = marks.ok_or(("spans", "each must be {\"type\", \"start\", \"end\"}"))?;
    if marks.iter().any(|mark| mark.start >= mark.end || mark.end > chars) {
        return Err((
            "spans",
            "each must begin before it ends, inside the text, counted in characters",
        ));
    }
    Ok(Marked { text: text.to_owned(), marks })
}

fn mark(span: &Value) -> Option<Mark> {
    let at = |key: &str| usize::try_from(span.get(key)?.as_u64()?).ok();
    let kind = span.get("type")?.as_str()?.to_owned();
    Some(Mark { kind, start: at("start")?, end: at("end")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_bad_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let lines = r#"{"text":"打110","spans":[{"type":"phone","start":1,"end":4,"value":"110"}]}
{"text":"你好","spans":[]}"#;
        std::fs::write(&path, lines).unwrap();
        let rows = read_marked(&path).unwrap();
        assert_eq!(rows[0].marks, [Mark { kind: "phone".into(), start: 1, end: 4 }]);
        assert!(rows[1].marks.is_empty());
        for (line, said) in [
            (r#"{"text":"你好"}"#, "p.jsonl:1: spans: must be a list"),
            (r#"{"text":"你好","spans":[{"type":"name","start":0,"end":3}]}"#, "inside the text"),
            (r#"{"text":"你好","spans":[{"start":0,"end":1}]}"#, "each must be"),
        ] {
            std::fs::write(&path, line).unwrap();
            let error = read_marked(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
