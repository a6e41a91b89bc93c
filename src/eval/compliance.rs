//! `eval compliance`: which outgoing texts the rule packs would stop, by label.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::eval::EvalError;
use crate::gate::compliance::{Action, Compliance, Hit};
use crate::ingest::{Fault, IngestError, read_lines};

/// Label of lines that have none.
const UNLABELLED: &str = "unlabelled";

/// A text that might leave, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub text: String,
    pub label: String,
}

/// `{"text", "label"?}` a line; sets of questions and replies have the reply as `answer`, and it is
/// the reply that leaves.
pub fn read(file: &Path) -> Result<Vec<Outgoing>, IngestError> {
    read_lines(file, parse)
}

fn parse(object: &Map<String, Value>) -> Result<Outgoing, Fault> {
    let field = |name: &str| object.get(name).filter(|value| !value.is_null());
    let text = field("text").or_else(|| field("answer")).ok_or(("text", "is missing"))?;
    let text = text.as_str().ok_or(("text", "must be text"))?.to_owned();
    let label = match field("label") {
        None => UNLABELLED.to_owned(),
        Some(Value::String(label)) => label.clone(),
        // Some sets number their labels.
        Some(Value::Number(label)) => label.to_string(),
        Some(_) => return Err(("label", "must be text")),
    };
    Ok(Outgoing { text, label })
}

/// Keys as scripts know them; all are counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ComplianceReport {
    pub n: usize,
    /// Texts that would not leave by themselves.
    pub blocked: usize,
    pub per_label: BTreeMap<String, LabelReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelReport {
    pub n: usize,
    pub blocked: usize,
}

/// One text and the rules that fired on it.
#[derive(Clone, Debug, Serialize)]
pub struct ComplianceRow {
    pub text: String,
    pub label: String,
    pub blocked: bool,
    pub hits: Vec<HitRow>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HitRow {
    pub rule: String,
    pub found: String,
}

/// The report and the rows behind it.
pub fn run(
    texts: &[Outgoing],
    compliance: &Compliance,
) -> Result<(ComplianceReport, Vec<ComplianceRow>), EvalError> {
    if texts.is_empty() {
        return Err(EvalError::Input("no texts: nothing to measure".into()));
    }
    let mut report = ComplianceReport::default();
    let mut rows = Vec::with_capacity(texts.len());
    for Outgoing { text, label } in texts {
        let hits = compliance.check(text);
        let blocked = hits.iter().any(|hit| hit.action == Action::Block);
        let of_label = report.per_label.entry(label.clone()).or_default();
        of_label.n += 1;
        of_label.blocked += usize::from(blocked);
        report.n += 1;
        report.blocked += usize::from(blocked);
        let hits = hits.into_iter().map(|Hit { rule, found, .. }| HitRow { rule, found }).collect();
        rows.push(ComplianceRow { text: text.clone(), label: label.clone(), blocked, hits });
    }
    Ok((report, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::compliance::AllowLists;

    #[test]
    fn replies_are_read_from_either_field() {
        let read = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            parse(value.as_object().unwrap()).map(|t| (t.text, t.label))
        };
        let pair = |text: &str, label: &str| Ok((text.to_owned(), label.to_owned()));
        assert_eq!(read(r#"{"text":"好","label":"benign"}"#), pair("好", "benign"));
        assert_eq!(read(r#"{"question":"?","answer":"好"}"#), pair("好", UNLABELLED));
        assert_eq!(read(r#"{"text":"好","label":1}"#), pair("好", "1"));
        assert!(read(r#"{"label":"x"}"#).is_err() && read(r#"{"text":1}"#).is_err());
    }

    #[test]
    fn the_projects_own_set_is_told_apart() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval/sets/outgoing.jsonl");
        let compliance = Compliance::standard(AllowLists::default()).unwrap();
        let (_, rows) = run(&read(&file).unwrap(), &compliance).unwrap();
        for row in rows {
            assert_eq!(row.blocked, row.label == "claim", "{}: {:?}", row.text, row.hits);
        }
    }

    #[test]
    fn what_is_blocked_is_counted_under_its_label() {
        let compliance = Compliance::standard(AllowLists::default()).unwrap();
        let outgoing =
            |text: &str, label: &str| Outgoing { text: text.into(), label: label.into() };
        let texts = [
            outgoing("本店商品全网最低价", "claim"),
            outgoing("在订单页点击申请退款", "benign"),
            outgoing("明天送到", "benign"),
        ];
        let (report, rows) = run(&texts, &compliance).unwrap();
        assert_eq!((report.n, report.blocked), (3, 1));
        assert_eq!(report.per_label["claim"], LabelReport { n: 1, blocked: 1 });
        assert_eq!(report.per_label["benign"], LabelReport { n: 2, blocked: 0 });
        assert!(rows[0].blocked && rows[0].hits[0].rule.starts_with("adlaw."));
    }
}
