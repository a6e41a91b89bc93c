//! A suite's report as one self-contained page: bounds, figures, and charts drawn as SVG.

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;
use serde_json::Value as Json;

use crate::domain::texts::{Lang, Text};
use crate::eval::suite::{RunReport, SuiteReport};

const TEMPLATE: &str = include_str!("page.html");
/// Size of a chart's inner area in SVG units.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 180.0;
/// The dot of a bin that holds all messages; its area grows with their number.
const LARGEST_DOT: f64 = 16.0;

/// # Errors
/// Only when the template compiled in is broken, which a test would have found.
pub fn render(report: &SuiteReport, lang: Lang) -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    templates.add_template("page.html", TEMPLATE)?;
    let texts = Value::from_pairs(Text::ALL.iter().map(|t| (t.name(), t.get(lang))));
    let runs: Vec<RunView<'_>> = report.runs.iter().map(RunView::of).collect();
    let data = context! {
        t => texts,
        lang => lang.as_str(),
        report => Value::from(Serde(report)),
        runs => Value::from(Serde(runs)),
        width => WIDTH,
        height => HEIGHT,
    };
    templates.get_template("page.html")?.render(data)
}

#[derive(Serialize)]
struct RunView<'a> {
    run: &'a RunReport,
    failed: bool,
    /// Names and values of plain numbers, yes and no.
    figures: Vec<(&'a str, String)>,
    risk: Option<RiskChart>,
    reliability: Vec<Dot>,
}

impl<'a> RunView<'a> {
    fn of(run: &'a RunReport) -> Self {
        let scalars = run.figures.as_object().into_iter().flatten();
        let figures = scalars.filter_map(|(name, value)| Some((name.as_str(), shown(value)?)));
        Self {
            run,
            failed: run.failed(),
            figures: figures.collect(),
            risk: RiskChart::of(&run.figures["curve"]),
            reliability: dots(&run.figures["reliability"]),
        }
    }
}

fn shown(value: &Json) -> Option<String> {
    match value {
        Json::Number(n) if n.is_f64() => n.as_f64().map(|n| format!("{n:.4}")),
        Json::Number(_) | Json::Bool(_) | Json::String(_) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Precision over coverage.
#[derive(Serialize)]
struct RiskChart {
    /// Corners of the line: "x,y x,y …".
    line: String,
    /// Precision at the lower edge.
    lowest: f64,
}

impl RiskChart {
    fn of(curve: &Json) -> Option<Self> {
        let pairs: Vec<[f64; 2]> = serde_json::from_value(curve.clone()).ok()?;
        let least = pairs.iter().map(|[_, precision]| *precision).fold(1.0, f64::min);
        // A tenth below at least, so that a perfect line is not drawn on an axis of no length.
        let lowest = ((least * 10.0).floor() / 10.0).clamp(0.0, 0.9);
        let corner = |[coverage, precision]: &[f64; 2]| {
            let up = (precision - lowest) / (1.0 - lowest);
            format!("{:.1},{:.1}", coverage * WIDTH, (1.0 - up) * HEIGHT)
        };
        let line = pairs.iter().map(corner).collect::<Vec<_>>().join(" ");
        (!pairs.is_empty()).then_some(Self { line, lowest })
    }
}

/// One bin of the reliability diagram; an honest one lies on the diagonal.
#[derive(Serialize)]
struct Dot {
    x: f64,
    y: f64,
    radius: f64,
    n: u64,
}

fn dots(bins: &Json) -> Vec<Dot> {
    let bins = bins.as_array().map_or(&[][..], Vec::as_slice);
    let n_of = |bin: &Json| bin["n"].as_u64().unwrap_or(0);
    let all: u64 = bins.iter().map(n_of).sum();
    let dot = |bin: &Json| {
        let n = n_of(bin);
        Some(Dot {
            x: bin["confidence"].as_f64()? * WIDTH,
            y: (1.0 - bin["right"].as_f64()?) * HEIGHT,
            radius: (LARGEST_DOT * (n as f64 / all.max(1) as f64).sqrt()).max(1.5),
            n,
        })
    };
    bins.iter().filter_map(dot).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eval::suite::Suite;

    #[test]
    fn the_page_shows_bounds_and_charts_in_both_languages() {
        let suite = "name = \"own\"\n[[run]]\nname = \"gate\"\n\
                     command = \"eval gate --kb <kb>.jsonl\"\nat_least = { precision = 0.95 }\n";
        let suite = Suite::parse(suite, "own.toml").unwrap();
        let figures = json!({
            "n": 3, "precision": 0.9, "curve": [[0.5, 1.0], [1.0, 0.9]],
            "reliability": [{ "n": 3, "confidence": 0.8, "right": 0.9 }],
        });
        let runs = vec![suite.runs[0].judge(figures, 2.0), suite.runs[0].judge(Json::Null, 0.1)];
        let missed = runs.iter().map(RunReport::missed).sum();
        let report = SuiteReport {
            suite: suite.name,
            version: "1".into(),
            started: "now".into(),
            missed,
            runs,
        };
        let page = render(&report, Lang::En).unwrap();
        for part in [
            "Missed",
            "0.9500",
            "points=\"150.0,0.0 300.0,180.0\"",
            "cx=\"240.0\"",
            "The command failed",
            "&lt;kb&gt;.jsonl",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("http"), "the page loads nothing");
        assert!(render(&report, Lang::Zh).unwrap().contains("未达到"));
    }

    #[test]
    fn without_a_curve_there_is_no_chart() {
        assert!(RiskChart::of(&Json::Null).is_none() && RiskChart::of(&json!([])).is_none());
        assert!(dots(&Json::Null).is_empty());
        let perfect = RiskChart::of(&json!([[1.0, 1.0]])).unwrap();
        assert_eq!((perfect.line.as_str(), perfect.lowest), ("300.0,0.0", 0.9));
    }
}
