//! `demo`: from nothing to answered customers in one command.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;

use super::index::rebuild;
use super::output::{self, Bar};
use super::{models, serve};
use crate::app::{App, Service};
use crate::base::clock::Deadline;
use crate::base::digest::sha256_hex;
use crate::base::file::write_atomic;
use crate::base::id::SessionId;
use crate::domain::knowledge::{Change, EntryState, Validity, VersionedEntry};
use crate::domain::label::Purpose;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::qualification::{Qualification, QualificationId};
use crate::gate::threshold::Promise;
use crate::ingest::{read_entries, read_labelled};
use crate::model::pull;
use crate::store::{Import, LabelFile, Store};

const KNOWLEDGE: &str = include_str!("../../eval/sets/demo/kb.jsonl");
const TRAIN: &str = include_str!("../../eval/sets/demo/train.jsonl");
const CALIBRATE: &str = include_str!("../../eval/sets/demo/calibrate.jsonl");
const CONVERSATIONS: &str = include_str!("../../eval/sets/demo/conversations.jsonl");
/// The demo's own state, beside what a real installation keeps.
const DIR: &str = "index/demo";
/// What the lender's entries cite, invented as the lender is.
const LICENCE: (&str, &str) = ("loan.licence", "禾信消费金融公司金融许可证（演示用，虚构）");
/// With four labels an entry a stricter promise keeps the gate shut; a company with more labels
/// asks for more.
const PROMISE: Promise = Promise { alpha: 0.10, confidence: 0.95 };

/// The two invented companies. Each has knowledge, labels and a gate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Desk {
    /// An online shop.
    Shop,
    /// A consumer lender.
    Loan,
}

impl Desk {
    /// What its entry ids and conversation ids begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Shop => "shop",
            Self::Loan => "loan",
        }
    }

    fn owns(self, id: &str) -> bool {
        id.split(['.', '-']).next() == Some(self.prefix())
    }
}

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Answer the demo conversations on stdout and exit.
    #[arg(long)]
    once: bool,
    /// Whose customers the chat page is for.
    #[arg(long, value_enum, default_value = "shop", conflicts_with = "once")]
    desk: Desk,
    /// One JSON object per turn instead of text (with --once).
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) fn run(mut app: App, args: DemoArgs) -> Result<()> {
    // Invented answers must not reach a company's real customers.
    app.config.accounts.clear();
    pull_models(&app)?;
    if args.once {
        for desk in [Desk::Shop, Desk::Loan] {
            app.keep_state_in(&folder(desk));
            prepare(&app, desk)?;
            answer_conversations(&app, desk, &app.desk()?, args.json)?;
        }
        return Ok(());
    }
    app.keep_state_in(&folder(args.desk));
    let sole = app.sole()?;
    prepare(&app, args.desk)?;
    let service = app.desk()?;
    app.config.server.listen = free_address(app.config.server.listen);
    serve::serve(&app, (service, sole), |address| {
        output::note(&format!("\n  Open http://{address}/chat  ·  Ctrl-C ends the demo\n"));
    })
}

fn folder(desk: Desk) -> PathBuf {
    Path::new(DIR).join(desk.prefix())
}

fn pull_models(app: &App) -> Result<()> {
    let names = [app.config.models.embedder.clone(), app.config.models.generator.clone()];
    let wanted: Vec<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
    let mut bar = Bar::new();
    pull::pull(&app.models.manifest, &wanted, &app.models.dir, &mut |p| {
        models::show(&mut bar, &p);
    })?;
    bar.done();
    Ok(())
}

/// Loads knowledge and labels and trains, unless an earlier run did so with the same material.
fn prepare(app: &App, desk: Desk) -> Result<()> {
    let material = [KNOWLEDGE, TRAIN, CALIBRATE].map(|m| sha256_hex(m.as_bytes())).concat();
    let stamp = folder(desk).join("material.sha256");
    let store = app.open_store()?;
    let same = std::fs::read_to_string(&stamp).is_ok_and(|known| known == material);
    if same && up_to_date(app, store.as_ref()) {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let file = |name: &str, content: &str| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    };
    let now = app.clock.now();
    let (id, name) = LICENCE;
    let id = QualificationId(id.to_owned());
    let licence = Qualification { id, name: name.to_owned(), validity: Validity::default() };
    store.file(&licence, "demo", now)?;
    let mut entries = read_entries(&file("kb.jsonl", KNOWLEDGE)?)?;
    entries.retain(|entry| desk.owns(entry.id.as_str()));
    store.import_entries(&Import::of(entries, Change::by("demo", "demo")), now)?;
    let labels = |purpose: Purpose, content: &str| -> Result<LabelFile> {
        let mut labels = read_labelled(&file("labels.jsonl", content)?)?;
        labels.retain(|l| l.answer.as_ref().is_none_or(|id| desk.owns(id.as_str())));
        Ok(LabelFile { source: "demo".into(), purpose, labels })
    };
    let files = [labels(Purpose::Train, TRAIN)?, labels(Purpose::Calibrate, CALIBRATE)?];
    store.add_labels(&files, "demo", now)?;
    let name = desk.prefix();
    output::note(&format!("Training the {name} desk on its labelled messages (once) …"));
    rebuild(app, store.as_ref(), PROMISE, None)?;
    write_atomic(&stamp, material.as_bytes())?;
    Ok(())
}

/// The published generation opens, is of the configured embedder, and holds what the store holds.
fn up_to_date(app: &App, store: &dyn Store) -> bool {
    let current = || -> Result<bool> {
        let embedder = app.models.manifest.get(&app.config.models.embedder)?.identity();
        let generation = app.generation_dir().open_current(&embedder)?;
        let stored: Vec<VersionedEntry> = store.entries()?;
        let published: Vec<_> =
            stored.into_iter().filter(|e| e.entry.state == EntryState::Published).collect();
        Ok(published == generation.index.entries())
    };
    current().unwrap_or(false)
}

#[derive(Deserialize)]
struct Conversation {
    id: String,
    title: String,
    turns: Vec<String>,
}

/// One line a turn: question, decision, reply or reason.
fn answer_conversations(app: &App, desk: Desk, service: &Service, as_json: bool) -> Result<()> {
    for line in CONVERSATIONS.lines() {
        let conversation: Conversation =
            serde_json::from_str(line).context("the demo conversations")?;
        if !desk.owns(&conversation.id) {
            continue;
        }
        if !as_json {
            output::line(&format!("# {}", conversation.title))?;
        }
        let visitor = SessionId::generate();
        for (turn, text) in conversation.turns.iter().enumerate() {
            let inbound = Inbound {
                platform: Platform::Web,
                account: AccountName(desk.prefix().into()),
                sender: visitor.to_string(),
                dedupe_key: format!("msg:{turn}"),
                sent_at: app.clock.now(),
                content: Content::Text(text.clone()),
            };
            let deadline = Deadline::after(Duration::from_millis(app.config.reply.deadline_ms));
            let outcome = service.desk.handle(&inbound, deadline, &mut |_| ())?;
            let trace =
                service.store.trace(&outcome.trace)?.context("the turn was not recorded")?;
            let decision = &trace.decision;
            let reasons: Vec<&str> = decision.reasons.iter().map(|r| r.as_str()).collect();
            if as_json {
                output::json(&json!({
                    "question": trace.message,
                    "decision": decision.verdict,
                    "confidence": decision.confidence,
                    "reasons": reasons,
                    "reply": trace.reply,
                }))?;
            } else {
                let (question, reply) = (trace.message.replace('\n', " "), &trace.reply);
                let why = reasons.join(",");
                output::line(&format!("{question} | {} [{why}] | {reply}", decision.verdict))?;
            }
        }
    }
    Ok(())
}

/// The configured port, or any free one when something already listens there.
fn free_address(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}
