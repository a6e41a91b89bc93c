//! `ask` and `replay`: one turn from the command line, with its whole trace.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

use super::output;
use crate::app::App;
use crate::base::clock::Deadline;
use crate::base::id::{ConversationId, SessionId, TraceId};
use crate::domain::knowledge::{Asker, Audience};
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::trace::Trace;
use crate::model::Control;
use crate::pipeline::ask::Ask;
use crate::pipeline::responder::Turn;

/// A person at a terminal waits longer than WeChat does, and the generator may still be loading.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
#[command(after_help = "Examples:
  huida ask \"多久发货\"
  huida ask \"转人工\" --json")]
pub(super) struct AskArgs {
    /// The customer's message.
    text: String,
    /// The account it is asked on.
    #[arg(long, default_value = "cli")]
    account: String,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// The trace's id, as pages and `ask --json` show it.
    trace: String,
    #[arg(long)]
    json: bool,
}

/// Keys as scripts know them.
#[derive(Serialize)]
struct AskReport {
    reply: String,
    decision: &'static str,
    confidence: f32,
    reasons: Vec<&'static str>,
    evidence: Vec<Found>,
    rules: Vec<String>,
    timings_ms: BTreeMap<String, f64>,
    trace: String,
}

#[derive(Serialize)]
struct Found {
    id: String,
    question: String,
    score: f32,
}

impl From<&Trace> for AskReport {
    fn from(trace: &Trace) -> Self {
        let evidence = trace.evidence.iter().map(|e| Found {
            id: e.id.to_string(),
            question: e.question.clone(),
            score: e.scores.fused,
        });
        Self {
            reply: trace.reply.clone(),
            decision: trace.decision.verdict.as_str(),
            confidence: trace.decision.confidence,
            reasons: trace.decision.reasons.iter().map(|r| r.as_str()).collect(),
            evidence: evidence.collect(),
            rules: trace.decision.rules.clone(),
            timings_ms: trace.timings_ms.clone(),
            trace: trace.id.to_string(),
        }
    }
}

pub(super) fn run(app: &App, args: &AskArgs) -> Result<()> {
    let service = app.desk()?;
    let inbound = Inbound {
        platform: Platform::Cli,
        account: AccountName(args.account.clone()),
        // A new visitor each time: no conversation carries over.
        sender: SessionId::generate().to_string(),
        dedupe_key: "msg:1".into(),
        sent_at: app.clock.now(),
        content: Content::Text(args.text.clone()),
    };
    let outcome = service.desk.handle(&inbound, Deadline::after(PATIENCE), &mut |_| ())?;
    let trace = service.store.trace(&outcome.trace)?.context("the turn was not recorded")?;
    if args.json {
        return output::json(&AskReport::from(&trace));
    }
    explain(&trace)
}

fn explain(trace: &Trace) -> Result<()> {
    let decision = &trace.decision;
    output::line(&trace.reply)?;
    output::line("")?;
    let reasons: Vec<&str> = decision.reasons.iter().map(|r| r.as_str()).collect();
    let percent = decision.confidence * 100.0;
    output::line(&format!(
        "{} ({}), confidence {percent:.1} %",
        decision.verdict,
        reasons.join(", ")
    ))?;
    if !decision.rules.is_empty() {
        output::line(&format!("rules     {}", decision.rules.join(" ")))?;
    }
    for found in trace.evidence.iter().take(3) {
        output::line(&format!(
            "evidence  {:.3}  {}  {}",
            found.scores.fused, found.id, found.question
        ))?;
    }
    let steps: Vec<String> =
        trace.timings_ms.iter().map(|(step, ms)| format!("{step} {ms:.1}")).collect();
    output::line(&format!("ms        {}", steps.join(" · ")))?;
    output::line(&format!("trace     {}", trace.id))
}

#[derive(Serialize)]
struct ReplayReport {
    then: AskReport,
    now: AskReport,
    same: bool,
}

pub(super) fn replay(app: &App, args: &ReplayArgs) -> Result<()> {
    let store = app.open_store()?;
    let Some(then) = store.trace(&TraceId::from_text(&args.trace))? else {
        bail!("there is no trace {}", args.trace);
    };
    let embedder = app.open_embedder()?;
    let generations = app.open_generations(&embedder)?;
    let responder = app.responder(store, embedder, generations)?;
    let turn = Turn {
        asker: Asker { account: then.account.clone(), audience: Audience::Normal },
        conversation: ConversationId::generate(),
        ask: Ask::Said(then.message.clone()),
        context: then.context.clone(),
        received_at: app.clock.now(),
        deadline: Deadline::after(PATIENCE),
        composing: Control::default(),
    };
    let now = responder.respond(&turn, &mut |_| ());
    if args.json {
        let same = then.decision.verdict == now.decision.verdict && then.reply == now.reply;
        return output::json(&ReplayReport { then: (&then).into(), now: (&now).into(), same });
    }
    output::line(&format!("then, with {}:", then.generation))?;
    explain(&then)?;
    output::line(&format!("\nnow, with {}:", now.generation))?;
    explain(&now)
}
