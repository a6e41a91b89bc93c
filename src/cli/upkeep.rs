//! `backup`, `restore`, `migrate`: an installation's memory, carried and kept readable.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::index::{Agreement, agreement};
use super::output;
use crate::app::App;
use crate::model::ModelError;
use crate::ops::backup;
use crate::ops::backup::restore::{Restored, restore as put_back};
use crate::store::AuditState;
use crate::store::sqlite::{Migrated, file};

#[derive(Args)]
#[command(after_help = "Examples:
  huida backup /mnt/backup/huida-monday.tar        while the service runs
  huida backup today.tar --json                    for a script: what it holds
  huida restore today.tar                          brings it back

The file holds customers' messages (masked, and what was masked as the vault sealed it) and all
knowledge: keep it as you keep the store. Models, configuration and the vault's key are not in it; `huida models bundle` carries the models.")]
pub(super) struct BackupArgs {
    /// The tar to write; one that is there is replaced once the new one is whole.
    file: PathBuf,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  huida restore today.tar                          on a fresh machine
  huida restore today.tar --force                  the present store is moved aside, not deleted
  huida --config huida.toml restore today.tar      into the paths of that configuration

Everything in the file is checked before anything changes. Stop the service first.")]
pub(super) struct RestoreArgs {
    /// What `huida backup` wrote.
    file: PathBuf,
    /// Also where there is a store: it is moved aside.
    #[arg(long)]
    force: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  huida migrate                                    the store of the configuration
  huida migrate index/huida.db.before-1763856000000

Every command that opens the configured store does this by itself; make a backup before an upgrade:
an older huida cannot read a migrated store.")]
pub(super) struct MigrateArgs {
    /// Another store file.
    file: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(super) fn write_backup(app: &App, args: &BackupArgs) -> Result<()> {
    app.settle()?;
    let dir = app.generation_dir();
    let written = backup::write(app.site(&dir), &args.file, &app.clock)?;
    let (manifest, intact) = (&written.manifest, is_intact(&written.audit));
    if args.json {
        return output::json(&json!({
            "file": args.file,
            "bytes": written.bytes,
            "schema": manifest.schema,
            "generation": manifest.generation,
            "audit_intact": intact,
        }));
    }
    let generation = manifest.generation.as_deref().unwrap_or("none built yet");
    let (file, megabytes) = (args.file.display(), written.bytes as f64 / 1e6);
    output::line(&format!(
        "{file}: {megabytes:.1} MB, schema {}, generation {generation}",
        manifest.schema
    ))?;
    tell_audit(intact);
    Ok(())
}

pub(super) fn restore(app: &App, args: &RestoreArgs) -> Result<ExitCode> {
    let dir = app.generation_dir();
    let Restored { manifest, audit, generation, aside } =
        put_back(app.site(&dir), &args.file, args.force, &app.clock)?;
    // Opening brings an older schema to this build's.
    drop(app.open_store()?);
    let agreement = generation.is_some().then(|| checked(app)).transpose()?.flatten();
    let agrees = agreement.as_ref().map(|a| a.agrees);
    if args.json {
        output::json(&json!({
            "file": args.file,
            "store": app.config.store.path,
            "schema": manifest.schema,
            "generation": generation,
            "moved_aside": aside,
            "audit_intact": is_intact(&audit),
            "agrees": agrees,
            "changed_since": agreement.as_ref().map(|a| a.changed),
        }))?;
    } else {
        let (store, by) = (app.config.store.path.display(), &manifest.written_by);
        output::line(&format!("{store}: restored, schema {} by huida {by}", manifest.schema))?;
        if let Some(aside) = aside {
            output::line(&format!("the former store is {}", aside.display()))?;
        }
        tell_audit(is_intact(&audit));
        match (agreement, generation) {
            (Some(agreement), _) => agreement.tell()?,
            (None, None) => output::line("it holds no index: run `huida index build`")?,
            (None, Some(_)) => {}
        }
    }
    Ok(if agrees == Some(false) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether index and store agree; `None` where no embedder is installed that could tell.
fn checked(app: &App) -> Result<Option<Agreement>> {
    match agreement(app) {
        Ok(agreement) => Ok(Some(agreement)),
        Err(error) if matches!(error.downcast_ref(), Some(ModelError::Missing { .. })) => {
            output::note(&format!("not verified: {error:#}; then `huida index verify`"));
            Ok(None)
        }
        Err(error) => Err(error.context("it is restored, but cannot be verified")),
    }
}

pub(super) fn migrate(app: &App, args: &MigrateArgs) -> Result<()> {
    app.settle()?;
    let store: &Path = args.file.as_deref().unwrap_or(&app.config.store.path);
    if !store.is_file() {
        bail!("there is no store at {}: nothing to migrate", store.display());
    }
    let Migrated { from, to } = file::migrate(store)?;
    if args.json {
        return output::json(&json!({ "store": store, "from": from, "to": to }));
    }
    let store = store.display();
    output::line(&if from == to {
        format!("{store}: at schema {to} already")
    } else {
        format!("{store}: schema {from} brought to {to}")
    })
}

fn is_intact(audit: &AuditState) -> bool {
    matches!(audit, AuditState::Intact { .. })
}

fn tell_audit(intact: bool) {
    if !intact {
        output::note("its audit log is broken: `huida audit verify` says where");
    }
}
