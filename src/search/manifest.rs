//! What a built knowledge generation consists of, file by file, so that nothing else is ever loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::digest::FileStamp;
use crate::base::file::write_atomic;
use crate::search::SearchError;
use crate::search::synonyms::Synonyms;

/// Counts up whenever an older generation can no longer be read.
pub(super) const FORMAT: u32 = 3;

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
    /// By which its texts were unified, and questions must be.
    #[serde(default)]
    pub synonyms: Synonyms,
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

    /// Reads the manifest of `dir`, and nothing else.
    pub fn read(dir: &Path) -> Result<Self, SearchError> {
        read_sealed(&dir.join(NAME), FORMAT)
    }

    /// Reads the manifest of `dir` and checks every file that it names.
    pub fn verify(dir: &Path) -> Result<Self, SearchError> {
        let manifest = Self::read(dir)?;
        check_files(dir, manifest.files.iter().map(|(name, stamp)| (name.as_str(), stamp)))?;
        Ok(manifest)
    }
}

/// Reads a JSON file whose `format` must be the given one.
///
/// # Errors
/// [`SearchError::Incompatible`] for another format, [`SearchError::Corrupt`] for what cannot be
/// read as such a file, [`SearchError::Io`] for a missing one.
pub fn read_sealed<T: DeserializeOwned>(path: &Path, format: u32) -> Result<T, SearchError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let text = fs::read(path).map_err(SearchError::io(path))?;
    let unreadable = |e: serde_json::Error| SearchError::corrupt(path, e.to_string());
    // The format first: a newer file need not have today's fields.
    let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
    if head.format != format {
        let reason = format!("is of format {}, this build reads {format}", head.format);
        return Err(SearchError::incompatible(path, reason));
    }
    serde_json::from_slice(&text).map_err(unreadable)
}

/// Checks files of `dir` byte for byte.
///
/// # Errors
/// [`SearchError::Corrupt`] for one that differs, [`SearchError::Io`] for a missing one.
pub fn check_files<'a>(
    dir: &Path,
    files: impl IntoIterator<Item = (&'a str, &'a FileStamp)>,
) -> Result<(), SearchError> {
    for (name, stamp) in files {
        let file = dir.join(name);
        if FileStamp::of(&file).map_err(SearchError::io(&file))? != *stamp {
            return Err(SearchError::corrupt(&file, "is not the file that was built"));
        }
    }
    Ok(())
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
