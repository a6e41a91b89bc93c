//! A suite: evaluation commands with the figures that they must reach.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::eval::EvalError;

/// Stands in commands for the folder of sets that are not the project's own.
pub const DATA: &str = "{data}";

/// A file under `eval/suites/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub name: String,
    #[serde(rename = "run")]
    pub runs: Vec<Run>,
}

/// One command and what is asked of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub name: String,
    /// As on the command line, without `huida` and `--json`; words are parted by spaces, and
    /// [`DATA`] stands for a folder named when the suite is run.
    pub command: String,
    /// Least values by key; a dot leads into an object (`splits.held`).
    #[serde(default)]
    pub at_least: BTreeMap<String, f64>,
    #[serde(default)]
    pub at_most: BTreeMap<String, f64>,
}

/// What came of a suite, as `--json` writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuiteReport {
    pub suite: String,
    /// Of the program that was measured.
    pub version: String,
    /// Local time.
    pub started: String,
    /// Bounds that were not reached, in all runs.
    pub missed: usize,
    pub runs: Vec<RunReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    pub name: String,
    pub command: String,
    pub seconds: f64,
    /// What the command printed; `null` when it failed.
    pub figures: Value,
    pub bounds: Vec<Bound>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    pub key: String,
    pub side: Side,
    pub asked: f64,
    /// `None` where the command gives no such number.
    pub measured: Option<f64>,
    pub reached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    AtLeast,
    AtMost,
}

impl Suite {
    /// `name` is the file's, for complaints.
    ///
    /// # Errors
    /// [`EvalError::Input`] when the text is no suite, or asks for anything but figures.
    pub fn parse(text: &str, name: &str) -> Result<Self, EvalError> {
        let bad = |reason: String| EvalError::Input(format!("{name}: {reason}"));
        let suite: Self = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
        if suite.runs.is_empty() {
            return Err(bad("no [[run]]: nothing to measure".into()));
        }
        for run in &suite.runs {
            let mut words = run.command.split_whitespace();
            let measures = match words.next() {
                // A suite in a suite might never end.
                Some("eval") => words.next() != Some("run"),
                Some("bench" | "simulate") => true,
                _ => false,
            };
            if !measures {
                return Err(bad(format!(
                    "{}: only eval, bench and simulate commands are run",
                    run.name
                )));
            }
        }
        Ok(suite)
    }
}

impl Run {
    /// The command's words, with `--json`.
    ///
    /// # Errors
    /// [`EvalError::Input`] when the command reads data and no folder is named.
    pub fn arguments(&self, data: Option<&str>) -> Result<Vec<String>, EvalError> {
        let word = |word: &str| match data {
            Some(data) => Ok(word.replace(DATA, data)),
            None if word.contains(DATA) => {
                Err(EvalError::Input(format!("{}: name the folder of its data", self.name)))
            }
            None => Ok(word.to_owned()),
        };
        self.command.split_whitespace().chain(["--json"]).map(word).collect()
    }

    /// Judges what the command printed; `figures` is `null` for a command that failed.
    pub fn judge(&self, figures: Value, seconds: f64) -> RunReport {
        let asked = |side, bounds: &BTreeMap<String, f64>| -> Vec<Bound> {
            let bound = |(key, asked): (&String, &f64)| {
                let measured = number(&figures, key);
                let reached = measured.is_some_and(|measured| match side {
                    Side::AtLeast => measured >= *asked,
                    Side::AtMost => measured <= *asked,
                });
                Bound { key: key.clone(), side, asked: *asked, measured, reached }
            };
            bounds.iter().map(bound).collect()
        };
        let mut bounds = asked(Side::AtLeast, &self.at_least);
        bounds.extend(asked(Side::AtMost, &self.at_most));
        let (name, command) = (self.name.clone(), self.command.clone());
        RunReport { name, command, seconds, figures, bounds }
    }
}

impl RunReport {
    pub fn failed(&self) -> bool {
        self.figures.is_null()
    }

    /// Bounds that were not reached; a failed command without bounds misses one.
    pub fn missed(&self) -> usize {
        let missed = self.bounds.iter().filter(|bound| !bound.reached).count();
        missed.max(usize::from(self.failed()))
    }
}

/// A yes counts as 1, a no as 0.
fn number(figures: &Value, key: &str) -> Option<f64> {
    let value = key.split('.').try_fold(figures, |value, part| value.get(part))?;
    value.as_f64().or_else(|| value.as_bool().map(|yes| f64::from(u8::from(yes))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SUITE: &str = "name = \"own\"\n[[run]]\nname = \"gate\"\n\
        command = \"eval gate --kb kb.jsonl --splits 10\"\n\
        at_least = { precision = 0.9, \"splits.held\" = 0.95, promised = 1 }\n\
        at_most = { oos_answered = 0.03 }\n";

    #[test]
    fn bounds_are_looked_up_by_path_and_judged() {
        let suite = Suite::parse(SUITE, "own.toml").unwrap();
        let run = &suite.runs[0];
        let words = run.arguments(None).unwrap();
        assert_eq!(words, ["eval", "gate", "--kb", "kb.jsonl", "--splits", "10", "--json"]);
        let figures = json!({
            "precision": 0.93, "splits": { "held": 0.9 }, "promised": true, "oos_answered": 0.03,
        });
        let report = run.judge(figures, 1.0);
        let missed: Vec<&str> =
            report.bounds.iter().filter(|b| !b.reached).map(|b| b.key.as_str()).collect();
        assert_eq!((missed, report.missed()), (vec!["splits.held"], 1));
        // What a command does not tell is not reached.
        let silent = run.judge(json!({ "precision": null }), 1.0);
        assert_eq!((silent.missed(), silent.failed()), (4, false));
        let unbound = Run { at_least: BTreeMap::new(), at_most: BTreeMap::new(), ..run.clone() };
        assert_eq!(unbound.judge(Value::Null, 1.0).missed(), 1);
    }

    #[test]
    fn the_shipped_suites_are_some() {
        let own = include_str!("../../eval/suites/own.toml");
        assert!(Suite::parse(own, "own.toml").unwrap().runs.len() >= 5);
        let whole = include_str!("../../eval/suites/whole.toml");
        assert!(Suite::parse(whole, "whole.toml").unwrap().runs.len() >= 20);
    }

    #[test]
    fn data_of_others_is_named_when_a_suite_is_run() {
        let suite =
            Suite::parse(&SUITE.replace("kb.jsonl", "{data}/kb.jsonl"), "own.toml").unwrap();
        let words = suite.runs[0].arguments(Some("sets")).unwrap();
        assert_eq!(words[3], "sets/kb.jsonl");
        assert!(suite.runs[0].arguments(None).unwrap_err().to_string().contains("gate"));
    }

    #[test]
    fn a_suite_only_measures() {
        for (from, to, word) in [
            ("eval gate", "kb import", "only eval, bench and simulate"),
            ("eval gate", "eval run", "only eval, bench and simulate"),
            ("at_most", "at_worst", "at_worst"),
            ("[[run]]", "[run]", "own.toml"),
        ] {
            let error = Suite::parse(&SUITE.replace(from, to), "own.toml").unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(Suite::parse("name = \"x\"\nrun = []\n", "own.toml").is_err());
    }
}
