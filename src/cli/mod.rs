//! The command line: scripts rely on its words, its JSON and its exit codes.

mod ask;
mod bench;
mod demo;
mod eval;
mod index;
mod kb;
mod models;
mod output;
mod preview;
mod serve;
mod simulate;
mod train;
mod upkeep;
mod vault;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, LogFormat};
use crate::ingest::apart;
use crate::ops::telemetry;

#[derive(Parser)]
#[command(name = "huida", version, about = "Huida 回答: answers customers on WeChat from your own knowledge, on your own machine.", long_about = None)]
#[command(after_help = "Examples:
  huida demo                         see it work: models, knowledge, chat page
  huida kb import faq.csv            bring your knowledge in
  huida index build                  make it searchable
  huida ask \"多久发货\"               one question through the whole way
  huida serve --config huida.toml    answer real customers")]
struct Cli {
    /// Configuration file; without it huida.toml of this folder if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pull models, load the demo knowledge, train, and open a chat page on this machine.
    Demo(demo::DemoArgs),
    /// Answer customers.
    Serve,
    /// Put one question through the whole way; nothing is sent.
    Ask(ask::AskArgs),
    /// Check this machine and this installation, and say what to mend.
    Doctor(Json),
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The models on this machine.
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// The knowledge base.
    #[command(subcommand)]
    Kb(kb::KbCommand),
    /// The search index.
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Learn from labelled messages and fit the gate's promise anew.
    Train(train::TrainArgs),
    /// Figures on labelled sets.
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// Speed on this machine.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Stand in for a platform: sign and send a message to a service on this machine.
    #[command(subcommand)]
    Simulate(simulate::SimulateCommand),
    /// Run a recorded turn again with today's knowledge.
    Replay(ask::ReplayArgs),
    /// The audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// What was masked in messages, and the key to it.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Write store and serving index into one file, also while the service runs.
    Backup(upkeep::BackupArgs),
    /// Put a backup in the place of store and index.
    Restore(upkeep::RestoreArgs),
    /// Bring a store to the schema of this build.
    Migrate(upkeep::MigrateArgs),
    /// Read one file for the process that called this, within limits; see `ingest::apart`.
    #[command(name = apart::SUBCOMMAND, hide = true)]
    ReadApart(ReadApartArgs),
}

#[derive(Args)]
struct ReadApartArgs {
    #[arg(long)]
    processor_seconds: u64,
    #[arg(long)]
    memory_bytes: u64,
    file: PathBuf,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print it as TOML, secrets replaced.
    Show,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check that no row of the log was changed or removed.
    Verify(Json),
}

/// `--json`, for commands that have nothing else.
#[derive(Args, Clone, Copy)]
struct Json {
    /// One JSON object on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

/// Parses the arguments, runs the command, reports a failure with its causes.
pub fn run() -> ExitCode {
    // Only fails when a provider is there already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let file = cli.config.as_deref();
    if let Command::Config(ConfigCommand::Show) = cli.command {
        output::text(&Config::effective(file)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::ReadApart(ReadApartArgs { processor_seconds, memory_bytes, file }) =
        &cli.command
    {
        let processor = Duration::from_secs(*processor_seconds);
        apart::serve(file, processor, *memory_bytes, &mut std::io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(file)?;
    telemetry::logs(&config.log.filter, config.log.format == LogFormat::Json);
    let mut app = App::new(config)?;
    match cli.command {
        Command::Demo(args) => demo::run(app, args)?,
        Command::Serve => serve::run(&app, cli.config.as_deref())?,
        Command::Ask(args) => ask::run(&app, &args)?,
        Command::Doctor(json) => return serve::doctor(&app, json.json),
        Command::Config(ConfigCommand::Show) | Command::ReadApart(_) => {}
        Command::Models(command) => return models::run(&app, &command),
        Command::Kb(command) => return kb::run(&app, &command),
        Command::Index(command) => return index::run(&app, &command),
        Command::Train(args) => train::run(&app, &args)?,
        Command::Eval(command) => eval::run(&mut app, file, &command)?,
        Command::Bench(command) => bench::run(&app, &command)?,
        Command::Simulate(command) => return simulate::run(&app, cli.config.as_deref(), &command),
        Command::Replay(args) => ask::replay(&app, &args)?,
        Command::Vault(command) => vault::run(&app, &command)?,
        Command::Backup(args) => upkeep::write_backup(&app, &args)?,
        Command::Restore(args) => return upkeep::restore(&app, &args),
        Command::Migrate(args) => upkeep::migrate(&app, &args)?,
        Command::Audit(AuditCommand::Verify(json)) => return serve::audit(&app, json.json),
    }
    Ok(ExitCode::SUCCESS)
}
