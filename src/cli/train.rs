//! `train`: labels in, a new head and a new promise out.

mod ask;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::index::{asked, build_aside, rebuild, report_built};
use super::output;
use crate::app::App;
use crate::base::clock::UnixMs;
use crate::domain::knowledge::EntryId;
use crate::domain::label::{Purpose, QuestionPair};
use crate::gate::threshold::Promise;
use crate::ingest::{read_labelled, read_pairs};
use crate::ops::daily;
use crate::pipeline::challenge::{Asking, challenge};
use crate::pipeline::generation::Generation;
use crate::pipeline::generations::begun_at;
use crate::store::{LabelFile, Store};

#[derive(Args)]
#[command(after_help = "Examples:
  huida train --labels desk.jsonl
  huida train --labels train.jsonl --calibrate held_back.jsonl --alpha 0.02
  huida train --pairs same_questions.jsonl
  huida train --ask 300 --out ask      # which messages to label first

Lines: {\"text\": \"…\", \"kb_id\": \"shop.refund.time\"}; without kb_id, or with \"label\": \"oos\",
no entry answers. Labels are kept: the next build uses them too.
Pairs: {\"q1\": \"…\", \"q2\": \"…\", \"label\": 1}; 1 where both ask the same. A map of the embedding space is
fitted from them and takes part only if it wins on held-back messages; they are kept until others are given.")]
pub(super) struct TrainArgs {
    /// Labelled messages to learn from.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    labels: Vec<PathBuf>,
    /// Labelled messages for the threshold alone; without them a third of the labels is kept back.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    calibrate: Vec<PathBuf>,
    /// Pairs of questions that ask the same, in place of earlier ones.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pairs: Vec<PathBuf>,
    /// Highest share of wrong automatic replies. Remembered: later builds keep it; until it is
    /// first given, the configuration's.
    #[arg(long)]
    alpha: Option<f64>,
    /// How sure that must be; remembered as well.
    #[arg(long)]
    confidence: Option<f64>,
    /// Do not train: write the messages on record whose labels would tell most, at most so many.
    #[arg(long, value_name = "N", conflicts_with_all = ["labels", "calibrate", "pairs"])]
    ask: Option<usize>,
    /// The folder for what `--ask` writes.
    #[arg(long, value_name = "DIR", default_value = "ask", requires = "ask")]
    out: PathBuf,
    /// Only if labels came since the last build; and what is learned takes over only if it does not
    /// put held-back messages to worse places. At the lowest priority: so the service trains daily.
    #[arg(long)]
    challenge: bool,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, args: &TrainArgs) -> Result<()> {
    if let Some(count) = args.ask {
        return ask::write(app, count, &args.out, args.json);
    }
    if args.challenge {
        // Before any thread that would work as fast as replies are made.
        daily::step_back();
    }
    let store = app.open_store()?;
    // All files are read and the promise is checked before anything is kept.
    let mut files = read(Purpose::Train, &args.labels)?;
    files.extend(read(Purpose::Calibrate, &args.calibrate)?);
    let pairs = pairs(&args.pairs)?;
    let (known, _) = asked(app, store.as_ref())?;
    let promise = Promise {
        alpha: args.alpha.unwrap_or(known.alpha),
        confidence: args.confidence.unwrap_or(known.confidence),
    };
    promise.check()?;
    let now = app.clock.now();
    tell_unknown(store.as_ref(), &files)?;
    let added = store.add_labels(&files, "cli", now)?;
    for (LabelFile { source, purpose, labels }, added) in files.iter().zip(added) {
        output::note(&format!("{source}: {added} new of {} for {purpose}", labels.len()));
    }
    if args.alpha.is_some() || args.confidence.is_some() {
        store.set_promise(promise, "cli", now)?;
    }
    if args.challenge {
        return compete(app, store.as_ref(), promise, pairs, args.json);
    }
    let id = rebuild(app, store.as_ref(), promise, pairs)?;
    report_built(app, &id, args.json)
}

/// Names labels of entries that are not there: mistyped, or of knowledge that is still to come.
fn tell_unknown(store: &dyn Store, files: &[LabelFile]) -> Result<()> {
    let known: HashSet<EntryId> = store.entries()?.into_iter().map(|v| v.entry.id).collect();
    for LabelFile { source, labels, .. } in files {
        let named = labels.iter().filter_map(|label| label.answer.as_ref());
        let unknown: BTreeSet<&str> =
            named.filter(|id| !known.contains(*id)).map(EntryId::as_str).collect();
        if let Some(first) = unknown.first() {
            let (count, other) =
                (unknown.len(), "until they are imported, such messages have no answer");
            output::note(&format!(
                "{source}: {count} ids that no entry has, such as {first}: {other}"
            ));
        }
    }
    Ok(())
}

/// Trains, and publishes what does not lose against what serves.
fn compete(
    app: &App,
    store: &dyn Store,
    promise: Promise,
    pairs: Option<Vec<QuestionPair>>,
    as_json: bool,
) -> Result<()> {
    let embedder = app.open_embedder()?;
    let champion = app.generation_dir().open_current(embedder.identity())?;
    let fresh = store.labels_since(begun_at(champion.id()).unwrap_or(UnixMs::MIN))?.len();
    if fresh == 0 && pairs.is_none() {
        let report = json!({"outcome": "no_new_labels", "generation": champion.id()});
        return output::report(&report, as_json);
    }
    let building = build_aside(app, store, promise, pairs, &embedder)?;
    let challenger = Generation::open(building.path())?;
    let labels = [Purpose::Train, Purpose::Calibrate].map(|purpose| store.labels(purpose));
    let [train, calibrate] = labels;
    let asking = Asking { embedder: &embedder, now: app.clock.now() };
    let held = challenge(&champion, &challenger, (&train?, &calibrate?), asking)?;
    let outcome = if held.holds { "published" } else { "kept" };
    let id = if held.holds { building.publish()? } else { champion.id().to_owned() };
    let detail = format!(
        "{outcome}: {fresh} new labels; of {} held-back messages MRR {:.4}, before {:.4}",
        held.messages, held.challenger, held.champion
    );
    store.note_training(&id, &detail, "train", app.clock.now())?;
    let report = json!({
        "outcome": outcome,
        "generation": id,
        "new_labels": fresh,
        "held_back": held.messages,
        "mrr_before": held.champion,
        "mrr": held.challenger,
    });
    output::report(&report, as_json)
}

/// The pairs of several files; `None` where no file is given.
pub(super) fn pairs(files: &[PathBuf]) -> Result<Option<Vec<QuestionPair>>> {
    if files.is_empty() {
        return Ok(None);
    }
    let read = files.iter().map(|file| read_pairs(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(read.into_iter().flatten().collect()))
}

/// Labels of several files, each with its name.
pub(super) fn read(purpose: Purpose, files: &[PathBuf]) -> Result<Vec<LabelFile>> {
    let read = |file: &PathBuf| {
        let source = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(LabelFile { source, purpose, labels: read_labelled(file)? })
    };
    files.iter().map(read).collect()
}
