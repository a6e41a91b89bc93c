//! `train --ask`: the messages to label first, as files to complete.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::app::App;
use crate::base::file::write_atomic;
use crate::cli::output;
use crate::domain::label::Purpose;
use crate::ingest::UNLABELLED;
use crate::pipeline::to_label::{self, ToLabel};
use crate::search::telling::MOST_MESSAGES;

/// Messages to learn from and, apart from them, those that were drawn by lot for the threshold.
const FILES: [(&str, bool); 2] = [("train.jsonl", false), ("calibrate.jsonl", true)];

pub(super) fn write(app: &App, count: usize, folder: &Path, as_json: bool) -> Result<()> {
    let store = app.open_store()?;
    let embedder = app.open_embedder()?;
    let serving = app.open_generations(&embedder)?.current();
    let traces = store.recent_traces(u32::try_from(MOST_MESSAGES).unwrap_or(u32::MAX))?;
    let mut labels = store.labels(Purpose::Train)?;
    labels.extend(store.labels(Purpose::Calibrate)?);
    let index = &serving.generation.index;
    let asked = to_label::first(&traces, &labels, index, &embedder, count)?;
    if asked.is_empty() {
        bail!("no message on record waits for a label");
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut written = serde_json::Map::new();
    for (name, drawn) in FILES {
        let lines: Vec<String> = asked.iter().filter(|a| a.drawn == drawn).map(line).collect();
        let path = folder.join(name);
        write_atomic(&path, (lines.join("\n") + "\n").as_bytes())?;
        written.insert(path.display().to_string(), lines.len().into());
    }
    if as_json {
        return output::json(&written);
    }
    let path = folder.display();
    output::line(&format!(
        "{} messages are in {path}. Put the id of the entry that answers in place of each \
         \"{UNLABELLED}\", or null where none does; the nearest is a guess. Then:\n\
         huida train --labels {path}/train.jsonl --calibrate {path}/calibrate.jsonl",
        asked.len()
    ))
}

fn line(asked: &ToLabel) -> String {
    let mut object = json!({ "text": asked.text, "kb_id": UNLABELLED, "nearest": asked.nearest });
    if !asked.context.is_empty() {
        object["context"] = json!(asked.context);
    }
    object.to_string()
}
