//! Labelled messages from JSON Lines, in the form every evaluation and training command reads.

use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{json_lines, read_text};
use super::{IngestError, RowError};
use crate::domain::knowledge::EntryId;
use crate::domain::label::{Classed, Labelled, QuestionPair, SaidIn};
use crate::domain::message::{Role, Utterance};

/// What is wrong with a line: the field, and why.
pub type Fault = (&'static str, &'static str);

/// `{"text", "kb_id"?, "label"?, "context"?: [{"role", "text"}…]}` a line. A line with
/// `label: "oos"` or without a `kb_id` is one that no entry answers.
pub fn read_labelled(path: &Path) -> Result<Vec<Labelled>, IngestError> {
    read_lines(path, parse)
}

/// `{"text", "dialog"?, "speaker"?}` a line, and its class in `field`.
pub fn read_classed(path: &Path, field: &'static str) -> Result<Vec<Classed>, IngestError> {
    read_lines(path, |object| classed(object, field))
}

/// `{"q1", "q2", "label"}` a line; the label is 1 where both ask the same, and 0 where not.
pub fn read_pairs(path: &Path) -> Result<Vec<QuestionPair>, IngestError> {
    read_lines(path, |object| {
        let same = match object.get("label").and_then(Value::as_u64) {
            Some(label @ (0 | 1)) => label == 1,
            _ => return Err(("label", "must be 1 (they ask the same) or 0")),
        };
        Ok(QuestionPair { one: required(object, "q1")?, other: required(object, "q2")?, same })
    })
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

fn required(object: &Map<String, Value>, field: &'static str) -> Result<String, Fault> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err((field, "must be text")),
        None => Err((field, "is missing")),
    }
}

fn classed(object: &Map<String, Value>, field: &'static str) -> Result<Classed, Fault> {
    let said_in = match object.get("dialog") {
        None | Some(Value::Null) => None,
        Some(_) => Some(SaidIn {
            dialog: required(object, "dialog")?,
            speaker: required(object, "speaker")?,
        }),
    };
    Ok(Classed { text: required(object, "text")?, class: required(object, field)?, said_in })
}

/// Stands where a person has to put a label; a line that still has it is no label.
pub const UNLABELLED: &str = "?";

fn parse(object: &Map<String, Value>) -> Result<Labelled, Fault> {
    let text = required(object, "text")?;
    let answer = match object.get("kb_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if id == UNLABELLED => {
            return Err(("kb_id", "put the entry's id here, or null where none answers"));
        }
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
        std::fs::write(&path, r#"{"text":"a","kb_id":"?"}"#).unwrap();
        let error = read_labelled(&path).unwrap_err().to_string();
        assert!(error.contains("q.jsonl:1: kb_id: put the entry's id"), "{error}");
        std::fs::write(&path, "{\"text\":\"a\"}\n{\"kb_id\":\"a\"}").unwrap();
        let error = read_labelled(&path).unwrap_err().to_string();
        assert!(error.contains("q.jsonl:2: text: is missing"), "{error}");
    }

    #[test]
    fn pairs_say_whether_they_ask_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let lines = r#"{"q1":"退钱","q2":"退款","label":1,"source":"desk"}
{"q1":"退钱","q2":"还钱","label":0}"#;
        std::fs::write(&path, lines).unwrap();
        let pairs = read_pairs(&path).unwrap();
        assert_eq!(pairs.iter().map(|p| p.same).collect::<Vec<_>>(), [true, false]);
        assert_eq!((pairs[1].one.as_str(), pairs[1].other.as_str()), ("退钱", "还钱"));
        std::fs::write(
            &path,
            "{\"q1\":\"a\",\"q2\":\"b\",\"label\":\"1\"}\n{\"q1\":\"a\",\"label\":1}",
        )
        .unwrap();
        let error = read_pairs(&path).unwrap_err().to_string();
        assert!(error.contains("p.jsonl:1: label: must be 1"), "{error}");
        assert!(error.contains("p.jsonl:2: q2: is missing"), "{error}");
    }

    #[test]
    fn classes_stand_in_the_field_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.jsonl");
        let lines = r#"{"text":"走吧","sentiment":"neutral","dialog":"7","speaker":"a"}
{"text":"好","sentiment":"positive"}"#;
        std::fs::write(&path, lines).unwrap();
        let rows = read_classed(&path, "sentiment").unwrap();
        assert_eq!((rows[0].class.as_str(), rows[0].said_by()), ("neutral", Some("a")));
        assert_eq!((rows[1].class.as_str(), rows[1].said_by()), ("positive", None));
        let error = read_classed(&path, "label").unwrap_err().to_string();
        assert!(error.contains("q.jsonl:1: label: is missing"), "{error}");
    }
}
