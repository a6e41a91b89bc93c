//! What a built knowledge generation consists of, file by file, so that nothing else is ever loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::digest::FileStamp;
use crate::base::file::write_atomic;
use crate::search::SearchError;

/// Counts up whenever an older generation can no longer be read.
pub const FORMAT: u32 = 2;

/// The manifest's own name; whoever adds files to a generation vouches for it in turn.
pub const NAME: &str = "manifest.json";

/// Where vectors come from: those of another model are not comparable with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSpace {
    /// Name of the embedding model.
    pub model: String,
    /// SHA-256 of its weights, hex.
    pub sha256: String,
    /// Width of a vector.
    pub dim: usize,
}

/// `manifest.json`: the searchable part of a generation, written after all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// SHA-256 of `entries.jsonl`: two generations with the same digest answer from the same text.
    pub entries_digest: String,
    pub space: VectorSpace,
    pub entries: usize,
    pub phrasings: usize,
    pub answers: usize,
    /// Every file of the index but this one, by path inside the generation with `/` between names.
    pub files: BTreeMap<String, FileStamp>,
}

impl Manifest {
    pub(super) fn write(&self, dir: &Path) -> Result<(), SearchError> {
        let path = dir.join(NAME);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| SearchError::BadInput(format!("manifest: {e}")))?;
        write_atomic(&path, &text).map_err(SearchError::io(&path))
    }

    /// Reads the manifest of `dir` and checks every file that it names.
    ///
    /// # Errors
    /// [`SearchError::Incompatible`] for another format, [`SearchError::Corrupt`] for an unreadable
    /// manifest and for a file that differs, [`SearchError::Io`] for a missing one.
    pub fn verify(dir: &Path) -> Result<Self, SearchError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let path = dir.join(NAME);
        let text = fs::read(&path).map_err(SearchError::io(&path))?;
        let unreadable = |e: serde_json::Error| SearchError::corrupt(&path, e.to_string());
        // The format first: a newer manifest need not have today's fields.
        let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
        if head.format != FORMAT {
            let reason = format!("generation of format {}, this build reads {FORMAT}", head.format);
            return Err(SearchError::incompatible(&path, reason));
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(unreadable)?;
        for (name, stamp) in &manifest.files {
            let file = dir.join(name);
            if FileStamp::of(&file).map_err(SearchError::io(&file))? != *stamp {
                return Err(SearchError::corrupt(&file, "is not the file that was built"));
            }
        }
        Ok(manifest)
    }
}

/// Stamps of all files below `dir`, by relative path.
pub(super) fn stamp_files(dir: &Path) -> Result<BTreeMap<String, FileStamp>, SearchError> {
    let mut files = BTreeMap::new();
    let mut open: Vec<(PathBuf, String)> = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = open.pop() {
        for item in fs::read_dir(&folder).map_err(SearchError::io(&folder))? {
            let item = item.map_err(SearchError::io(&folder))?;
            let path = item.path();
            let name = format!("{prefix}{}", item.file_name().to_string_lossy());
            if item.file_type().map_err(SearchError::io(&path))?.is_dir() {
                open.push((path, format!("{name}/")));
            } else {
                files.insert(name, FileStamp::of(&path).map_err(SearchError::io(&path))?);
            }
        }
    }
    Ok(files)
}
