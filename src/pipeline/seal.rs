//! `generation.json`: what a generation consists of. Written last, checked before anything is loaded.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::digest::FileStamp;
use crate::base::file::write_atomic;
use crate::pipeline::adapt::Trial;
use crate::pipeline::generation::Parts;
use crate::search::{SearchError, manifest};

pub(super) const GATE_FILE: &str = "gate.json";
pub(super) const HEAD_FILE: &str = "head.bin";
pub(super) const ADAPTER_FILE: &str = "adapter.bin";
/// What the adapter was fitted from, for the next build.
pub(super) const PAIRS_FILE: &str = "pairs.jsonl";
const NAME: &str = "generation.json";
/// Counts up whenever an older generation can no longer be read.
const FORMAT: u32 = 2;

/// The index's manifest vouches for the files of the index, this for the manifest and the rest:
/// no file of a generation can be lost or altered unnoticed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seal {
    format: u32,
    index: FileStamp,
    gate: FileStamp,
    head: HeadState,
    adapter: AdapterState,
}

/// Too few labels train no head; that is a state of its own, not a file that happens to be missing.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum HeadState {
    None,
    Fitted(FileStamp),
}

/// Whether a map of the embedding space was tried, and what came of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum AdapterState {
    None,
    Refused { trial: Trial, pairs: FileStamp },
    Promoted { trial: Trial, pairs: FileStamp, file: FileStamp },
}

impl Seal {
    /// Seals what lies in `dir`.
    pub(super) fn write(dir: &Path, parts: &Parts<'_>) -> std::io::Result<()> {
        let stamp = |name: &str| FileStamp::of(&dir.join(name));
        let adapter = match (parts.trial.cloned(), parts.adapter) {
            (None, _) => AdapterState::None,
            (Some(trial), None) => AdapterState::Refused { trial, pairs: stamp(PAIRS_FILE)? },
            (Some(trial), Some(_)) => {
                let (pairs, file) = (stamp(PAIRS_FILE)?, stamp(ADAPTER_FILE)?);
                AdapterState::Promoted { trial, pairs, file }
            }
        };
        let head = if parts.head.is_some() {
            HeadState::Fitted(stamp(HEAD_FILE)?)
        } else {
            HeadState::None
        };
        let (index, gate) = (stamp(manifest::NAME)?, stamp(GATE_FILE)?);
        let text = serde_json::to_vec_pretty(&Self { format: FORMAT, index, gate, head, adapter })?;
        write_atomic(&dir.join(NAME), &text)
    }

    /// Reads the seal of `dir` and checks the files that it names.
    pub(super) fn verify(dir: &Path) -> Result<Self, SearchError> {
        let seal: Self = manifest::read_sealed(&dir.join(NAME), FORMAT)?;
        manifest::check_files(dir, seal.files())?;
        Ok(seal)
    }

    pub(super) fn has_head(&self) -> bool {
        self.head != HeadState::None
    }

    pub(super) fn has_adapter(&self) -> bool {
        matches!(self.adapter, AdapterState::Promoted { .. })
    }

    /// How a map of the embedding space did, if one was tried.
    pub(super) fn trial(&self) -> Option<&Trial> {
        match &self.adapter {
            AdapterState::None => None,
            AdapterState::Refused { trial, .. } | AdapterState::Promoted { trial, .. } => {
                Some(trial)
            }
        }
    }

    /// The files that this seal vouches for.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &FileStamp)> {
        let head = match &self.head {
            HeadState::None => None,
            HeadState::Fitted(stamp) => Some((HEAD_FILE, stamp)),
        };
        let (pairs, adapter) = match &self.adapter {
            AdapterState::None => (None, None),
            AdapterState::Refused { pairs, .. } => (Some((PAIRS_FILE, pairs)), None),
            AdapterState::Promoted { pairs, file, .. } => {
                (Some((PAIRS_FILE, pairs)), Some((ADAPTER_FILE, file)))
            }
        };
        let always = [(manifest::NAME, &self.index), (GATE_FILE, &self.gate)];
        always.into_iter().chain(head).chain(pairs).chain(adapter)
    }
}
