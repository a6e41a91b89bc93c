//! What goes to stdout (results) and to stderr (progress, complaints).

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::base::clock::Stopwatch;
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

/// How often a stage is told where no bar can move; shorter ones are not told at all.
const TELL: Duration = Duration::from_secs(5);

/// A bar on stderr that follows stages with names and lengths of their own; where stderr is no
/// terminal, a line now and then. What took long is told once more when it is done.
pub(super) struct Bar {
    bar: ProgressBar,
    stage: Option<Shown>,
}

/// A stage in work.
struct Shown {
    name: String,
    begun: Stopwatch,
    told: Stopwatch,
    /// Lengths are sizes.
    bytes: bool,
    total: u64,
}

impl Shown {
    fn begin(name: &str, total: u64, bytes: bool) -> Self {
        let now = Stopwatch::start();
        Self { name: name.to_owned(), begun: now, told: now, bytes, total }
    }

    fn length(&self, of: u64) -> String {
        if self.bytes { HumanBytes(of).to_string() } else { of.to_string() }
    }

    fn bar(&self) -> ProgressBar {
        let length = match (self.bytes, self.total) {
            // A single step has no length; that it goes on is all there is to show.
            (_, 0 | 1) => "",
            (true, _) => "{bar:28} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (false, _) => "{bar:28} {pos}/{len} {eta}",
        };
        let style = ProgressStyle::with_template(&format!("{{spinner}} {{msg:<36}} {length}"))
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(self.total).with_style(style).with_message(self.name.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    fn tell(&mut self, done: u64) {
        if self.told.elapsed() >= TELL {
            self.told = Stopwatch::start();
            note(&format!("{}: {} of {}", self.name, self.length(done), self.length(self.total)));
        }
    }

    fn end(&self) {
        if self.begun.elapsed() >= TELL {
            let (name, seconds) = (&self.name, self.begun.elapsed().as_secs_f32());
            let much = if self.total > 1 { self.length(self.total) } else { "done".to_owned() };
            note(&format!("{name}: {much} in {seconds:.1} s"));
        }
    }
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::hidden(), stage: None }
    }

    /// A stage of which nobody can tell how far it has come.
    pub(super) fn begin(&mut self, stage: &str) {
        self.show(stage, 0, 0, false);
    }

    /// `bytes`: lengths are shown as sizes.
    pub(super) fn show(&mut self, stage: &str, done: u64, total: u64, bytes: bool) {
        if self.stage.as_ref().is_none_or(|shown| shown.name != stage) {
            self.done();
            let shown = self.stage.insert(Shown::begin(stage, total, bytes));
            self.bar = shown.bar();
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if let Some(shown) = &mut self.stage {
            shown.total = total;
            if self.bar.is_hidden() {
                shown.tell(done);
            }
        }
    }

    pub(super) fn fit(&mut self, progress: FitProgress) {
        let stage = match progress.stage {
            Stage::EmbedKnowledge => "embedding the knowledge",
            Stage::WriteIndex => "writing the index",
            Stage::EmbedPairs => "embedding pairs of questions",
            Stage::FitAdapter => "fitting the adapter",
            Stage::TryAdapter => "trying the adapter",
            Stage::EmbedLabels => "embedding labelled messages",
            Stage::FitHead => "training the head",
            Stage::AskKnowledge => "asking the knowledge about itself",
            Stage::FitGate => "fitting the gate",
        };
        self.show(stage, progress.done as u64, progress.total as u64, false);
    }

    /// The stage in work has ended.
    pub(super) fn done(&mut self) {
        self.bar.finish_and_clear();
        if let Some(shown) = self.stage.take() {
            shown.end();
        }
    }
}
