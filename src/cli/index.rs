//! `index` and the build behind it: knowledge and labels of the store become what serves.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::output::{self, Bar};
use crate::app::App;
use crate::domain::label::{Purpose, QuestionPair};
use crate::engine::embed::EmbedWorker;
use crate::gate::threshold::Promise;
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{Material, build};
use crate::pipeline::follower::agrees;
use crate::pipeline::generation::pairs_of;
use crate::pipeline::generations::Building;
use crate::store::Store;

#[derive(Subcommand)]
pub(super) enum IndexCommand {
    /// Build a new generation beside the one that serves, then switch to it.
    Build {
        #[arg(long)]
        json: bool,
    },
    /// Check every file of the serving generation, and that it agrees with the store.
    Verify {
        #[arg(long)]
        json: bool,
    },
    /// What the serving generation holds.
    Stats {
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(app: &App, command: &IndexCommand) -> Result<ExitCode> {
    match command {
        IndexCommand::Build { json } => {
            let store = app.open_store()?;
            let (promise, _) = asked(app, store.as_ref())?;
            let id = rebuild(app, store.as_ref(), promise, None)?;
            report_built(app, &id, *json)?;
        }
        IndexCommand::Verify { json } => return verify(app, *json),
        IndexCommand::Stats { json } => {
            let embedder = app.open_embedder()?;
            let current = app.open_generations(&embedder)?.current();
            let current = &current.generation;
            let manifest = current.index.manifest();
            let promise = current.promise();
            let (asked, by) = asked(app, app.open_store()?.as_ref())?;
            let report = json!({
                "generation": current.id(),
                "entries": manifest.entries,
                "phrasings": manifest.phrasings,
                "synonyms": manifest.synonyms.len(),
                "embedder": manifest.space.model,
                "dim": manifest.space.dim,
                "head": current.head.is_some(),
                "adapter": current.trial.as_ref().is_some_and(|trial| trial.promoted),
                "alpha": promise.alpha,
                "confidence": promise.confidence,
                "promised": promise.promised,
                "coverage": promise.coverage,
                "asked_alpha": asked.alpha,
                "asked_confidence": asked.confidence,
                "asked_by": by,
            });
            output::report(&report, *json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The promise that the next build fits the gate to, and who asked for it: what `train` was last
/// told stays with the knowledge base; until then the configuration's.
pub(super) fn asked(app: &App, store: &dyn Store) -> Result<(Promise, &'static str)> {
    let gate = app.config.gate;
    Ok(match store.promise()? {
        Some(promise) => (promise, "train"),
        None => (Promise { alpha: gate.alpha, confidence: gate.confidence }, "configuration"),
    })
}

/// Builds from the store and publishes; returns the generation's id.
pub(super) fn rebuild(
    app: &App,
    store: &dyn Store,
    promise: Promise,
    pairs: Option<Vec<QuestionPair>>,
) -> Result<String> {
    Ok(build_aside(app, store, promise, pairs, app.open_embedder()?.as_ref())?.publish()?)
}

/// Builds from the store; what serves goes on serving. Without `pairs`, those of the last build are
/// used again.
pub(super) fn build_aside(
    app: &App,
    store: &dyn Store,
    promise: Promise,
    pairs: Option<Vec<QuestionPair>>,
    embedder: &EmbedWorker,
) -> Result<Building> {
    // Waits for another builder first: what is read before could be stale once it is our turn.
    let building = app.generation_dir().begin(&app.clock)?;
    let entries = store.entries()?;
    let (train, calibrate) = (store.labels(Purpose::Train)?, store.labels(Purpose::Calibrate)?);
    let synonyms = app.synonyms()?;
    let earlier = building.earlier()?;
    let pairs = pairs.unwrap_or_else(|| pairs_of(&earlier));
    let mut embedding = Embedding::new(embedder, earlier).resuming(&building.journal())?;
    let mut bar = Bar::new();
    let material = Material {
        entries: &entries,
        synonyms: &synonyms,
        train: &train,
        calibrate: &calibrate,
        pairs: &pairs,
        promise,
        now: app.clock.now(),
    };
    let built =
        build(building.path(), material, &mut embedding, &mut |progress| bar.fit(progress))?;
    bar.done();
    if let Some(trial) = built.trial {
        output::note(&trial.to_string());
        store.note_training(building.id(), &trial.to_string(), "train", app.clock.now())?;
    }
    Ok(building)
}

/// What a build achieved, in the words of the promise.
pub(super) fn report_built(app: &App, id: &str, as_json: bool) -> Result<()> {
    let embedder = app.open_embedder()?;
    let current = app.open_generations(&embedder)?.current();
    let current = &current.generation;
    let promise = current.promise();
    let thresholds = &current.gate.thresholds;
    let own = thresholds.by_domain.iter().map(|(domain, t)| (*domain, t.map(|t| t.value)));
    if as_json {
        return output::json(&json!({
            "generation": id,
            "entries": current.index.manifest().entries,
            "alpha": promise.alpha,
            "confidence": promise.confidence,
            "promised": promise.promised,
            "threshold": current.gate.strictest(),
            "threshold_by_domain": own.collect::<BTreeMap<_, _>>(),
            "coverage": promise.coverage,
            "made_up": promise.made_up,
            "adapter": current.trial,
        }));
    }
    output::line(&format!("generation {id}: {} entries", current.index.manifest().entries))?;
    let share = promise.coverage * 100.0;
    let text = match (current.gate.strictest(), promise.promised) {
        (None, _) => "no threshold keeps the promise yet: every message goes to a person. Label \
                      messages and run `huida train --labels FILE`."
            .to_owned(),
        (Some(_), false) => {
            let had = current.gate.counts.calibration;
            let of = if promise.labelled {
                "the labelled messages"
            } else {
                "the entries' own phrasings"
            };
            let needed = current.gate.promise.check()?;
            format!(
                "not yet promised: about {share:.0} % of {of} would be answered. A promise of \
                 {:.1} % needs {needed} labelled messages kept back for it at least, several times as \
                 many where some are answered wrongly; there are {had}, a third of the labels unless \
                 `--calibrate` names them. `huida train --ask 300` tells which to label next.",
                promise.alpha * 100.0
            )
        }
        (Some(_), true) => format!(
            "promised with {:.0} % confidence: at most {:.1} % of automatic replies are wrong; \
             {share:.0} % of calibration messages are answered{}",
            promise.confidence * 100.0,
            promise.alpha * 100.0,
            made_up(promise.made_up)
        ),
    };
    output::line(&text)
}

/// Whether what can be found is what the store publishes.
pub(super) struct Agreement {
    generation: String,
    files: usize,
    pub(super) agrees: bool,
    /// Entries that changed since the build.
    pub(super) changed: usize,
    /// Why the changes could not be taken in.
    fault: Option<String>,
}

/// Every file against its digest, every indexed entry against the store, and what has changed in the
/// store since, taken in as a service would.
pub(super) fn agreement(app: &App) -> Result<Agreement> {
    let store = app.open_store()?;
    let embedder = app.open_embedder()?;
    // Opening reads every file against its size and digest.
    let generations = app.open_generations(&embedder)?;
    let fault = app.follower(&store, &embedder, &generations).look().err();
    let current = generations.current();
    Ok(Agreement {
        generation: current.generation.id().to_owned(),
        files: current.generation.files,
        agrees: fault.is_none() && agrees(&current.knowledge, store.as_ref())?,
        changed: current.knowledge.changed(),
        fault: fault.map(|e| e.to_string()),
    })
}

impl Agreement {
    pub(super) fn tell(&self) -> Result<()> {
        output::line(&format!("generation {}: {} files intact", self.generation, self.files))?;
        output::line(&match (&self.fault, self.agrees, self.changed) {
            (Some(error), _, _) => format!("what changed in the store cannot be followed: {error}"),
            (None, false, _) => "index and store do not agree: run `huida index build`".to_owned(),
            (None, true, 0) => "index and store agree".to_owned(),
            (None, true, n) => format!(
                "index and store agree; {n} entries changed since the build and are searched beside \
                 it, `huida index build` takes them in"
            ),
        })
    }
}

fn verify(app: &App, as_json: bool) -> Result<ExitCode> {
    let agreement = agreement(app)?;
    if as_json {
        output::json(&json!({
            "generation": agreement.generation,
            "files": "intact",
            "checked": agreement.files,
            "agrees": agreement.agrees,
            "changed_since": agreement.changed,
        }))?;
    } else {
        agreement.tell()?;
    }
    Ok(if agreement.agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a promise rests on that nobody has labelled.
fn made_up(count: usize) -> String {
    if count == 0 {
        return String::new();
    }
    format!(
        ". No label says of a message that nothing answers it, so {count} were made up by taking \
         entries out: the promise holds while no larger share of messages is unanswerable"
    )
}
