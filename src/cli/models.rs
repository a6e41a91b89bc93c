//! `models`: weights in, checked, and carried to machines without a network.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output::{self, Bar};
use crate::app::{App, Models};
use crate::model::bundle;
use crate::model::dir::Condition;
use crate::model::import;
use crate::model::pull::{self, Progress, Stage};

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida models pull                      the default models
  huida models pull qwen2.5-coder-1.5b   a larger generator
  huida models bundle models.tar         to carry into a site without a network
  huida models import models.tar         over there
  huida models import ./bge-small-zh     an encoder as the hub publishes it")]
pub(super) enum ModelsCommand {
    /// Download models that are not there yet, checked by SHA-256.
    Pull {
        /// Names from `models list`; none: the default ones.
        names: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// What there is, and what is installed.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Read every installed file and compare its SHA-256.
    Verify {
        #[arg(long)]
        json: bool,
    },
    /// Write installed models into one tar file.
    Bundle {
        out: PathBuf,
        /// Names from `models list`; none: the default ones.
        names: Vec<String>,
    },
    /// Install the models of a bundle, or a BERT or XLM-R encoder from its folder.
    Import(ImportArgs),
}

#[derive(Args)]
pub(super) struct ImportArgs {
    /// A bundle (.tar), or a folder with config.json, model.safetensors and tokenizer.json (or
    /// sentencepiece.bpe.model).
    from: PathBuf,
    /// Folder: what to call the model; without it the folder's name.
    #[arg(long, default_value = "")]
    name: String,
    /// Folder: how to store the matrices; without it as they are (f32, f16 or bf16).
    #[arg(long, value_enum)]
    quantize: Option<Quantize>,
    /// Folder: what the model wants in front of every text, such as "query: ".
    #[arg(long, default_value = "")]
    prefix: String,
    /// Folder: how tokens' vectors become one; without it as 1_Pooling/config.json says.
    #[arg(long, value_enum)]
    pooling: Option<PoolingArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Quantize {
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingArg {
    Mean,
    Cls,
}

impl ImportArgs {
    fn options(&self) -> import::Options {
        import::Options {
            name: self.name.clone(),
            storage: match self.quantize {
                Some(Quantize::Q8_0) => import::Storage::Q8_0,
                None => import::Storage::AsIs,
            },
            prefix: self.prefix.clone(),
            pooling: self.pooling.map(|pooling| match pooling {
                PoolingArg::Mean => import::Pooling::Mean,
                PoolingArg::Cls => import::Pooling::Cls,
            }),
        }
    }
}

pub(super) fn run(app: &App, command: &ModelsCommand) -> Result<ExitCode> {
    let (manifest, dir) = (&app.models.manifest, &app.models.dir);
    let mut bar = Bar::new();
    match command {
        ModelsCommand::Pull { names, json } => {
            let pulled = pull::pull(manifest, names, dir, &mut |p| show(&mut bar, &p))?;
            bar.done();
            app.models.prepare(pulled.iter().map(|p| p.name.clone()))?;
            let paths: Vec<_> =
                pulled.iter().map(|p| json!({"name": p.name, "path": p.path})).collect();
            if *json {
                output::json(&json!({ "models": paths }))?;
            } else {
                for model in &pulled {
                    output::line(&format!("{:<24} {}", model.name, model.path.display()))?;
                }
            }
        }
        ModelsCommand::List { json } => {
            let listed = dir.list(manifest);
            if *json {
                let models: Vec<_> = listed
                    .iter()
                    .map(|m| json!({"name": m.name, "kind": m.kind, "licence": m.licence, "file": m.file, "size": m.size, "default": m.default, "installed": m.installed}))
                    .collect();
                output::json(&json!({ "dir": dir.path(), "models": models }))?;
            } else {
                output::line(&format!("in {}", dir.path().display()))?;
                for m in &listed {
                    let mark = if m.installed { "installed" } else { "-" };
                    let megabytes = m.size / 1_000_000;
                    output::line(&format!(
                        "{:<24} {mark:<10} {megabytes:>5} MB  {}",
                        m.name, m.licence
                    ))?;
                }
            }
        }
        ModelsCommand::Verify { json } => return verify(app, *json),
        ModelsCommand::Bundle { out, names } => {
            let written = bundle::bundle(manifest, names, dir, out, &mut |p| show(&mut bar, &p))?;
            bar.done();
            output::line(&format!("{}: {}", out.display(), written.join(", ")))?;
        }
        ModelsCommand::Import(args) if args.from.is_dir() => {
            let entry = import::import_checkpoint(dir, &args.from, &args.options())?;
            output::line(&format!("{:<24} {}", entry.name, dir.file(&entry).display()))?;
        }
        ModelsCommand::Import(args) => {
            let installed = bundle::import(manifest, dir, &args.from, &mut |p| show(&mut bar, &p))?;
            bar.done();
            // Read anew: the bundle may have brought models that were imported elsewhere.
            Models::at(dir.path())?.prepare(installed.iter().map(|m| m.name.clone()))?;
            for model in installed {
                output::line(&format!("{:<24} {}", model.name, model.path.display()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws a pull's progress; the demo pulls as well.
pub(super) fn show(bar: &mut Bar, progress: &Progress<'_>) {
    let stage = match progress.stage {
        Stage::Download => "pulling",
        Stage::Verify => "checking",
        Stage::Convert => "converting",
    };
    bar.show(&format!("{stage} {}", progress.model), progress.done, progress.total, true);
}

fn verify(app: &App, as_json: bool) -> Result<ExitCode> {
    let (manifest, dir) = (&app.models.manifest, &app.models.dir);
    let mut rows = Vec::new();
    let mut intact = true;
    for model in manifest.models() {
        let (state, detail) = match dir.verify(model)? {
            Condition::Intact => ("intact", String::new()),
            Condition::Missing => ("missing", String::new()),
            Condition::Damaged { expected, got } => {
                intact = false;
                ("damaged", format!("sha256 is {got}, expected {expected}: pull it again"))
            }
        };
        rows.push((model.name.clone(), state, detail));
    }
    if as_json {
        let models: Vec<_> =
            rows.iter().map(|(n, s, d)| json!({"name": n, "state": s, "detail": d})).collect();
        output::json(&json!({ "intact": intact, "models": models }))?;
    } else {
        for (name, state, detail) in rows {
            output::line(&format!("{name:<24} {state} {detail}"))?;
        }
    }
    Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
