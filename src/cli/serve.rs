//! `serve`, and what looks after an installation: `doctor`, `audit`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::net::TcpListener;

use super::index::asked;
use super::output;
use crate::app::{App, Service, interrupted};
use crate::gate::threshold::Promise;
use crate::model::Control;
use crate::ops::daily::Daily;
use crate::ops::doctor::{self, Check, Outcome};
use crate::store::AuditState;
use crate::store::sqlite::hold::Hold;

/// `file`: the configuration's, if one was named.
pub(super) fn run(app: &App, file: Option<&Path>) -> Result<()> {
    let sole = app.sole()?;
    let service = app.desk()?;
    let _daily = daily_training(app, file)?;
    serve(app, (service, sole), |address| output::note(&format!("serving on http://{address}")))
}

/// `None` where nobody wants it.
fn daily_training(app: &App, file: Option<&Path>) -> Result<Option<Daily>> {
    let Some(at) = app.config.train.daily_at()? else { return Ok(None) };
    let file = file.map(Path::to_owned);
    let command = move || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["train", "--challenge", "--json"]);
        if let Some(file) = &file {
            command.arg("--config").arg(file);
        }
        Ok(command)
    };
    Ok(Some(Daily::start(at, app.clock.clone(), command)?))
}

/// Binds, tells the address, serves until SIGINT or SIGTERM.
pub(super) fn serve(
    app: &App,
    (service, sole): (Service, Hold),
    tell: impl FnOnce(&str),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let address = app.config.server.listen;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("{address} cannot be bound: choose another with HUIDA__SERVER__LISTEN")
        })?;
        let interrupted = interrupted()?;
        tell(&listener.local_addr()?.to_string());
        app.serve(service, sole, listener, interrupted).await
    })
}

/// Checks from the ground up; one that needs a failed one fails with it.
pub(super) fn doctor(app: &App, as_json: bool) -> Result<ExitCode> {
    let mut checks = vec![doctor::processor(), doctor::python()];
    let here = Path::new(".");
    let store_dir = app.config.store.path.parent().unwrap_or(here);
    checks.push(doctor::writable("store folder", store_dir));
    checks.push(doctor::writable("index folder", &app.config.index.dir));
    let vault = app.vault().map(|vault| if vault.is_some() { "on" } else { "off" }.to_owned());
    checks.push(Check::from_result("vault", vault.map_err(|e| e.to_string())));
    let accounts = app.accounts().map(|_| format!("{} configured", app.config.accounts.len()));
    checks.push(Check::from_result("accounts", accounts.map_err(|e| format!("{e:#}"))));
    let embedder = app.open_embedder().map_err(|e| format!("{e:#}"));
    checks.push(Check::from_result(
        "embedder",
        match &embedder {
            Ok(embedder) => embedder
                .embed_one("自检", &Control::default())
                .map(|v| format!("{}, {} wide", embedder.identity().name, v.len()))
                .map_err(|e| e.to_string()),
            Err(reason) => Err(reason.clone()),
        },
    ));
    checks.push(generator(app));
    let store = app.open_store().map_err(|e| format!("{e:#}"));
    match &store {
        Ok(store) => {
            checks.push(doctor::audit(&store.verify_audit()?));
            let (asked, by) = asked(app, store.as_ref())?;
            let Promise { alpha, confidence } = asked;
            let text = format!(
                "asked by {by}: {:.1} % wrong at most, {:.0} % sure",
                alpha * 100.0,
                confidence * 100.0
            );
            checks.push(Check::from_result("promise", Ok(text)));
        }
        Err(reason) => checks.push(Check::from_result("store", Err(reason.clone()))),
    }
    let index = embedder.and_then(|e| app.open_generations(&e).map_err(|e| format!("{e:#}")));
    checks.push(Check::from_result(
        "index",
        index.map(|generations| {
            let current = &generations.current().generation;
            let promise = current.promise();
            let state = if promise.promised { "promised" } else { "not yet promised" };
            let (entries, alpha) = (current.index.entries().len(), promise.alpha * 100.0);
            format!("{}, {entries} entries, fitted to {alpha:.1} %, {state}", current.id())
        }),
    ));
    report(&checks, as_json)
}

fn generator(app: &App) -> Check {
    let outcome = match app.check_generator() {
        Ok(Some(name)) => Outcome::Good(name),
        Ok(None) => Outcome::Weak("none configured: nothing is composed".into()),
        Err(error) => Outcome::Weak(format!("{error:#}; until then nothing is composed")),
    };
    Check { name: "generator".into(), outcome }
}

fn report(checks: &[Check], as_json: bool) -> Result<ExitCode> {
    let healthy = !checks.iter().any(|c| matches!(c.outcome, Outcome::Bad(_)));
    let rows = checks.iter().map(|check| match &check.outcome {
        Outcome::Good(text) => ("good", &check.name, text),
        Outcome::Weak(text) => ("weak", &check.name, text),
        Outcome::Bad(text) => ("bad", &check.name, text),
    });
    if as_json {
        let rows: Vec<_> = rows
            .map(|(state, name, text)| json!({"state": state, "check": name, "detail": text}))
            .collect();
        output::json(&json!({ "healthy": healthy, "checks": rows }))?;
    } else {
        for (state, name, text) in rows {
            output::line(&format!("{state:<5} {name:<16} {text}"))?;
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn audit(app: &App, as_json: bool) -> Result<ExitCode> {
    let state = app.open_store()?.verify_audit()?;
    let (intact, text) = match state {
        AuditState::Intact { rows } => (true, format!("{rows} rows, chain intact")),
        AuditState::BrokenAt { seq } => (false, format!("the chain is broken at row {seq}")),
    };
    if as_json {
        output::json(&json!({ "intact": intact, "detail": text }))?;
    } else {
        output::line(&text)?;
    }
    Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
