//! Follow-up questions with the form in which they stand alone, from JSON Lines.

use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{json_lines, read_text};
use super::{IngestError, RowError};
use crate::domain::message::{Role, Utterance};

/// A message as it was said, and as it reads without what was said before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Oldest first.
    pub context: Vec<Utterance>,
    pub current: String,
    pub rewritten: String,
}

/// `{"context": ["…"], "current", "rewritten"}` a line. The context is a list of texts, said in
/// turns of which the last is not the customer's, or of `{"role", "text"}`.
pub fn read_rewrites(path: &Path) -> Result<Vec<Rewrite>, IngestError> {
    let text = read_text(path)?;
    let mut rewrites = Vec::new();
    let mut bad = Vec::new();
    for (line, object) in json_lines(path, &text)? {
        match parse(&object) {
            Ok(row) => rewrites.push(row),
            Err((field, reason)) => bad.push(RowError::new(path, line, field, reason)),
        }
    }
    if bad.is_empty() { Ok(rewrites) } else { Err(IngestError::BadRows(bad)) }
}

fn parse(object: &Map<String, Value>) -> Result<Rewrite, (&'static str, &'static str)> {
    let text = |key: &'static str| {
        object.get(key).and_then(Value::as_str).map(str::to_owned).ok_or((key, "must be text"))
    };
    let items = object.get("context").and_then(Value::as_array);
    let items = items.ok_or(("context", "must be a list"))?;
    let context: Option<Vec<Utterance>> =
        items.iter().enumerate().map(|(at, item)| utterance(item, items.len() - at)).collect();
    let context = context.ok_or(("context", "each item must be text or {\"role\", \"text\"}"))?;
    Ok(Rewrite { context, current: text("current")?, rewritten: text("rewritten")? })
}

/// `ago`: how many turns before the message, from 1.
fn utterance(item: &Value, ago: usize) -> Option<Utterance> {
    if let Some(text) = item.as_str() {
        let role = if ago.is_multiple_of(2) { Role::Customer } else { Role::Agent };
        return Some(Utterance { role, text: text.to_owned() });
    }
    let role = Role::parse(item.get("role")?.as_str()?)?;
    Some(Utterance { role, text: item.get("text")?.as_str()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_alternate_and_roles_are_taken_as_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let lines = r#"{"context":["退货要几天","7天"],"current":"换货呢","rewritten":"换货要几天"}
{"context":[{"role":"customer","text":"退货"}],"current":"运费呢","rewritten":"退货的运费呢"}"#;
        std::fs::write(&path, lines).unwrap();
        let rows = read_rewrites(&path).unwrap();
        let roles: Vec<Role> = rows[0].context.iter().map(|said| said.role).collect();
        assert_eq!(roles, [Role::Customer, Role::Agent]);
        assert_eq!(rows[1].context[0].role, Role::Customer);
        std::fs::write(&path, r#"{"context":[1],"current":"a","rewritten":"b"}"#).unwrap();
        let error = read_rewrites(&path).unwrap_err().to_string();
        assert!(error.contains("r.jsonl:1: context: each item"), "{error}");
    }
}
