//! `kb release`: marketing text waits for two people, one for the law and one for the brand.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::app::App;
use crate::cli::output;
use crate::domain::knowledge::{EntryId, EntryState};
use crate::domain::release::{Role, Step, Voice, Vote};
use crate::domain::texts::{Lang, role_text};
use crate::gate::compliance::Compliance;
use crate::store::governance::Waiting;

#[derive(Subcommand)]
#[command(after_help = "Examples:
  huida kb release list                              what waits, and for whom
  huida kb release approve shop.promo --version 3 --role legal --by 'Li Na'
  huida kb release approve shop.promo --version 3 --role brand --by 'Wang Wei' --reason 价格已核对
  huida kb release reject shop.promo --role legal --by 'Li Na' --reason 活动已结束

An entry waits if its nature (文案性质) is marketing (营销), or if the advertising rules find claims in
its answer. It answers once two different people have approved the same version, one for each role. A
rejected one is a draft; a changed one waits again.")]
pub(in crate::cli) enum ReleaseCommand {
    /// What waits for whose approval.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Approve the version that waits; the second approval publishes it.
    Approve(VoteArgs),
    /// Reject the version that waits: it becomes a draft.
    Reject(VoteArgs),
}

#[derive(Args)]
pub(in crate::cli) struct VoteArgs {
    id: String,
    /// What you answer for.
    #[arg(long, value_enum)]
    role: RoleArg,
    /// Your name; the other role needs another person.
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why; needed to reject.
    #[arg(long, default_value = "")]
    reason: String,
    /// The version that you have read; if another waits meanwhile, nothing is done.
    #[arg(long)]
    version: Option<u32>,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    Legal,
    Brand,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Legal => Self::Legal,
            RoleArg::Brand => Self::Brand,
        }
    }
}

pub(super) fn run(app: &App, command: &ReleaseCommand) -> Result<()> {
    match command {
        ReleaseCommand::List { json } => list(app, *json),
        ReleaseCommand::Approve(args) => vote(app, Voice::Approve, args),
        ReleaseCommand::Reject(args) => vote(app, Voice::Reject, args),
    }
}

fn list(app: &App, as_json: bool) -> Result<()> {
    let waiting = app.open_store()?.unreleased()?;
    let compliance = app.compliance()?;
    if as_json {
        let rows: Vec<_> = waiting.iter().map(|w| row(w, &compliance)).collect();
        return output::json(&json!({ "waiting": rows }));
    }
    for Waiting { entry, change, consents } in &waiting {
        let (version, entry) = (entry.version, &entry.entry);
        let open = open(consents.iter().map(|c| c.role)).map(named).collect::<Vec<_>>().join(", ");
        output::line(&format!("{}  version {version}  waits for {open}", entry.id))?;
        output::line(&format!("  by {}, {}  {}", change.author, change.source, change.reason))?;
        for consent in consents {
            let (role, person) = (named(consent.role), &consent.person);
            output::line(&format!("  approved for {role} by {person}  {}", consent.reason))?;
        }
        output::line(&format!("  Q {}", entry.question))?;
        for text in entry.answer.iter().chain(entry.wordings.values()) {
            output::line(&format!("  A {text}"))?;
            for hit in compliance.check(text) {
                output::line(&format!("    {}: {:?}, {}", hit.rule, hit.found, hit.message_zh))?;
            }
        }
    }
    output::line(&format!("{} waiting", waiting.len()))
}

fn row(Waiting { entry, change, consents }: &Waiting, compliance: &Compliance) -> Value {
    let (version, entry) = (entry.version, &entry.entry);
    let texts = entry.answer.iter().chain(entry.wordings.values());
    let hits: Vec<_> = texts
        .flat_map(|text| compliance.check(text))
        .map(|hit| json!({"rule": hit.rule, "found": hit.found}))
        .collect();
    let approved: Vec<_> = consents
        .iter()
        .map(|c| json!({"role": c.role, "by": c.person, "reason": c.reason}))
        .collect();
    let open: Vec<Role> = open(consents.iter().map(|c| c.role)).collect();
    json!({
        "entry": entry.id,
        "version": version,
        "question": entry.question,
        "answer": entry.answer,
        "wordings": entry.wordings,
        "author": change.author,
        "reason": change.reason,
        "source": change.source,
        "rules": hits,
        "approved": approved,
        "waits_for": open,
    })
}

/// Roles that have not approved.
fn open(given: impl Iterator<Item = Role>) -> impl Iterator<Item = Role> {
    let given: Vec<Role> = given.collect();
    Role::ALL.iter().copied().filter(move |role| !given.contains(role))
}

/// The word to type, and what it is called.
fn named(role: Role) -> String {
    format!("{role} {}", role_text(role).get(Lang::Zh))
}

fn vote(app: &App, voice: Voice, args: &VoteArgs) -> Result<()> {
    let vote = Vote {
        role: args.role.into(),
        voice,
        person: args.by.trim().to_owned(),
        reason: args.reason.trim().to_owned(),
    };
    let id = EntryId(args.id.clone());
    let voted = app.open_store()?.vote(&id, args.version, &vote, app.clock.now())?;
    let (state, waits_for) = match voted.step {
        Step::Waits(role) => (EntryState::Pending, Some(role)),
        Step::Released => (EntryState::Published, None),
        Step::Rejected => (EntryState::Draft, None),
    };
    if args.json {
        return output::json(&json!({
            "entry": id,
            "voted_on": voted.on,
            "version": voted.version,
            "state": state,
            "waits_for": waits_for,
        }));
    }
    let (on, version) = (voted.on, voted.version);
    output::line(&match voted.step {
        Step::Waits(role) => {
            format!("{id}: version {on} is approved; it still waits for {}", named(role))
        }
        Step::Released => {
            format!("{id}: version {on} is released, as version {version}; {}", super::NEXT)
        }
        Step::Rejected => format!("{id}: version {on} is rejected; version {version} is a draft"),
    })
}
