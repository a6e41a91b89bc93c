//! Labelled messages from JSON Lines, in the form every evaluation and training command reads.

use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{json_lines, read_text};
use super::{IngestError, RowError};
use crate::domain::knowledge::EntryId;
use crate::domain::label::Labelled;
use crate::domain::message::{Role, Utterance};

/// What is wrong with a line: the field, and why.
pub type Fault = (&'static str, &'static str);

/// `{"text", "kb_id"?, "label"?, "context"?: [{"role", "text"}…]}` a line. A line with
/// `label: "oos"` or without a `kb_id` is one that no entry answers.
pub fn read_labelled(path: &Path) -> Result<Vec<Labelled>, IngestError> {
    read_lines(path, parse)
}

/// What `parse` makes of the object on each line; every bad line is named.
pub fn read_lines<T>(
    path: &Path,
    parse: impl Fn(&Map<String, Value>) -> Result<T, Fault>,
) -> Result<Vec<T>, IngestError> {
    let text = read_text(path)?;
    let mut read = Vec::new();
    let mut bad = Vec::new();
    for (line, object) in json_lines(path, &text)? {
        match parse(&object) {
            Ok(item) => read.push(item),
            Err((field, reason)) => bad.push(RowError::new(path, line, field, reason)),
        }
    }
    if bad.is_empty() { Ok(read) } else { Err(IngestError::BadRows(bad)) }
}

fn parse(object: &Map<String, Value>) -> Result<Labelled, Fault> {
    let text = match object.get("text") {
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err(("text", "must be text")),
        None => return Err(("text", "is missing")),
    };
    let answer = match object.get("kb_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(EntryId(id.clone())),
        Some(_) => return Err(("kb_id", "must be text or null")),
    };
    let unanswerable = object.get("label").and_then(Value::as_str) == Some("oos");
    let context = match object.get("context") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items
            .iter()
            .map(utterance)
            .collect::<Option<_>>()
            .ok_or(("context", "each item must be {\"role\": customer|agent, \"text\"}"))?,
        Some(_) => return Err(("context", "must be a list")),
    };
    Ok(Labelled { text, context, answer: answer.filter(|_| !unanswerable) })
}

fn utterance(item: &Value) -> Option<Utterance> {
    let role = Role::parse(item.get("role")?.as_str()?)?;
    Some(Utterance { role, text: item.get("text")?.as_str()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oos_lines_and_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.jsonl");
        let lines = r#"{"text":"退货","kb_id":"a"}
{"text":"天气","kb_id":null,"label":"oos"}
{"text":"借呗","kb_id":"x","label":"oos"}
{"text":"运费呢","kb_id":"b","context":[{"role":"customer","text":"退货"}]}"#;
        std::fs::write(&path, lines).unwrap();
        let labels = read_labelled(&path).unwrap();
        let answers: Vec<_> =
            labels.iter().map(|l| l.answer.as_ref().map(EntryId::as_str)).collect();
        assert_eq!(answers, [Some("a"), None, None, Some("b")]);
        assert_eq!(labels[3].context[0].role, Role::Customer);
        std::fs::write(&path, "{\"text\":\"a\"}\n{\"kb_id\":\"a\"}").unwrap();
        let error = read_labelled(&path).unwrap_err().to_string();
        assert!(error.contains("q.jsonl:2: text: is missing"), "{error}");
    }
}
