//! `generation.json`: what a generation consists of. Written last, checked before anything is loaded.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::digest::FileStamp;
use crate::base::file::write_atomic;
use crate::search::{SearchError, manifest};

pub(super) const GATE_FILE: &str = "gate.json";
pub(super) const HEAD_FILE: &str = "head.bin";
const NAME: &str = "generation.json";
/// Counts up whenever an older generation can no longer be read.
const FORMAT: u32 = 1;

/// The index's manifest vouches for the files of the index, this for the manifest and the rest:
/// no file of a generation can be lost or altered unnoticed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seal {
    format: u32,
    index: FileStamp,
    gate: FileStamp,
    head: HeadState,
}

/// Too few labels train no head; that is a state of its own, not a file that happens to be missing.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum HeadState {
    None,
    Fitted(FileStamp),
}

impl Seal {
    /// Seals what lies in `dir`.
    pub(super) fn write(dir: &Path, with_head: bool) -> std::io::Result<()> {
        let stamp = |name: &str| FileStamp::of(&dir.join(name));
        let head = if with_head { HeadState::Fitted(stamp(HEAD_FILE)?) } else { HeadState::None };
        let (index, gate) = (stamp(manifest::NAME)?, stamp(GATE_FILE)?);
        let text = serde_json::to_vec_pretty(&Self { format: FORMAT, index, gate, head })?;
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

    /// The files that this seal vouches for.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &FileStamp)> {
        let head = match &self.head {
            HeadState::None => None,
            HeadState::Fitted(stamp) => Some((HEAD_FILE, stamp)),
        };
        [(manifest::NAME, &self.index), (GATE_FILE, &self.gate)].into_iter().chain(head)
    }
}
