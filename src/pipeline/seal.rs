//! `generation.json`: what a generation consists of. Written last, checked before anything is loaded.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::digest::FileStamp;
use crate::base::file::write_atomic;
use crate::search::manifest;

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

    /// Reads the seal of `dir` and checks the files that it names; an error says which and why.
    pub(super) fn verify(dir: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let text = fs::read(dir.join(NAME)).map_err(|e| format!("{NAME}: {e}"))?;
        let unreadable = |e: serde_json::Error| format!("{NAME}: {e}");
        // The format first: a newer seal need not have today's fields.
        let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
        if head.format != FORMAT {
            return Err(format!("{NAME}: format {}, this build reads {FORMAT}", head.format));
        }
        let seal: Self = serde_json::from_slice(&text).map_err(unreadable)?;
        for (name, stamp) in seal.files() {
            let found = FileStamp::of(&dir.join(name)).map_err(|e| format!("{name}: {e}"))?;
            if found != *stamp {
                return Err(format!("{name}: is not the file that was built"));
            }
        }
        Ok(seal)
    }

    pub(super) fn has_head(&self) -> bool {
        self.head != HeadState::None
    }

    /// The files that this seal vouches for.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &FileStamp)> {
        let head = match &self.head {
            HeadState::None => None,
            HeadState::Fitted(stamp) => Some((HEAD_FILE, stamp)),
        };
        [(manifest::NAME, &self.index), (GATE_FILE, &self.gate)].into_iter().chain(head)
    }
}
