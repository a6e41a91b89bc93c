//! `eval run`: a suite's commands one after another, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::app::App;
use crate::base::clock::{Stopwatch, format_local};
use crate::base::file::write_atomic;
use crate::cli::output;
use crate::domain::texts::Lang;
use crate::eval::page;
use crate::eval::suite::{Bound, Run, RunReport, Side, Suite, SuiteReport};

#[derive(Args)]
#[command(after_help = "Example:
  huida eval run --suite eval/suites/own.toml --json report.json --html report.html
  huida eval run --suite eval/suites/whole.toml --data DIR --json report.json

Paths in a suite are meant from where the command is called. It ends with an error when a bound is
missed, so that scripts can rely on it.")]
pub(in crate::cli) struct RunArgs {
    #[arg(long, value_name = "FILE")]
    suite: PathBuf,
    /// What {data} stands for in the suite's commands.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Write all figures there, as one JSON object.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Write a page with charts there; it needs nothing beside it.
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
    /// The page's language: zh or en.
    #[arg(long, default_value = "zh", value_parser = ["zh", "en"])]
    lang: String,
}

pub(super) fn run(app: &App, config: Option<&Path>, args: &RunArgs) -> Result<()> {
    let name = args.suite.display().to_string();
    let text = std::fs::read_to_string(&args.suite).with_context(|| name.clone())?;
    let suite = Suite::parse(&text, &name)?;
    let started = format_local(app.clock.now());
    let mut runs = Vec::new();
    for run in &suite.runs {
        output::note(&format!("{}: huida {}", run.name, run.command));
        let report = measured(run, config, args.data.as_deref())?;
        tell(&report)?;
        runs.push(report);
    }
    let missed = runs.iter().map(RunReport::missed).sum();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let report = SuiteReport { suite: suite.name, version, started, missed, runs };
    if let Some(file) = &args.json {
        write_atomic(file, &serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(file) = &args.html {
        let html = page::render(&report, Lang::from_tag(&args.lang))?;
        write_atomic(file, html.as_bytes())?;
    }
    if missed > 0 {
        bail!("{missed} of the suite's bounds are missed");
    }
    Ok(())
}

/// A process of its own leaves no warm cache and no memory to the next command.
fn measured(run: &Run, config: Option<&Path>, data: Option<&str>) -> Result<RunReport> {
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let watch = Stopwatch::start();
    let ended = command.args(run.arguments(data)?).stderr(Stdio::inherit()).output()?;
    let figures = if ended.status.success() {
        serde_json::from_slice(&ended.stdout).with_context(|| format!("{}: its JSON", run.name))?
    } else {
        Value::Null
    };
    Ok(run.judge(figures, watch.ms() / 1e3))
}

fn tell(report: &RunReport) -> Result<()> {
    if report.failed() {
        output::line(&format!("FAILED {}", report.name))?;
    }
    for Bound { key, side, asked, measured, reached } in &report.bounds {
        let word = if *reached { "ok    " } else { "MISSED" };
        let side = match side {
            Side::AtLeast => "at least",
            Side::AtMost => "at most",
        };
        let measured = measured.map_or_else(|| "none".to_owned(), |m| format!("{m:.4}"));
        output::line(&format!("{word} {:<20} {key:<24} {measured} ({side} {asked})", report.name))?;
    }
    Ok(())
}
