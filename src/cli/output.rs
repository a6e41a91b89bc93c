//! What goes to stdout (results) and to stderr (progress, complaints).

use std::io::{self, Write};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::pipeline::fit::{FitProgress, Stage};

/// One line; a closed pipe is not an error of ours.
pub(super) fn line(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn text(text: &str) -> Result<()> {
    line(text.trim_end())
}

/// One JSON object and nothing else.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// The object for scripts, or lines of `key value` for people.
pub(super) fn report(value: &impl Serialize, as_json: bool) -> Result<()> {
    if as_json {
        return json(value);
    }
    let value = serde_json::to_value(value)?;
    let Some(object) = value.as_object() else { return line(&value.to_string()) };
    for (key, value) in object {
        let shown = match value {
            serde_json::Value::Number(n) if n.is_f64() => {
                format!("{:.4}", n.as_f64().unwrap_or(0.0))
            }
            serde_json::Value::Array(items) => format!("[{} items]", items.len()),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_)
            | serde_json::Value::Object(_) => value.to_string(),
        };
        line(&format!("{key:<20} {shown}"))?;
    }
    Ok(())
}

/// An error with its causes, on stderr.
pub(super) fn complain(error: &anyhow::Error) {
    // Nowhere is left to say that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "huida: {error:#}");
}

/// A note that is neither result nor log.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A bar on stderr that follows stages with names and lengths of their own; hidden by indicatif
/// when stderr is no terminal.
pub(super) struct Bar {
    bar: ProgressBar,
    stage: String,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::no_length(), stage: String::new() }
    }

    /// `bytes`: lengths are shown as sizes.
    pub(super) fn show(&mut self, stage: &str, done: u64, total: u64, bytes: bool) {
        if self.stage != stage {
            self.bar.finish_and_clear();
            stage.clone_into(&mut self.stage);
            let length =
                if bytes { "{bytes}/{total_bytes} {bytes_per_sec}" } else { "{pos}/{len}" };
            let template = format!("{{msg:<36}} {{bar:28}} {length} {{eta}}");
            let style = ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar = ProgressBar::new(total).with_style(style).with_message(stage.to_owned());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    pub(super) fn fit(&mut self, progress: FitProgress) {
        let stage = match progress.stage {
            Stage::EmbedKnowledge => "embedding the knowledge",
            Stage::EmbedLabels => "embedding labelled messages",
            Stage::FitHead => "training the head",
            Stage::FitGate => "fitting the gate",
        };
        self.show(stage, progress.done as u64, progress.total as u64, false);
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
