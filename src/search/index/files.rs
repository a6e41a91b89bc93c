//! The files of an index, written and read, and what must hold of their contents before.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::{Embedded, EntryTexts};
use crate::base::file::{sync_dir, write_atomic};
use crate::domain::knowledge::{EntryState, VersionedEntry};
use crate::search::SearchError;
use crate::search::bm25::Bm25Index;
use crate::search::vectors::Matrix;

pub(super) fn check_fit(
    entries: &[VersionedEntry],
    texts: &[EntryTexts],
) -> Result<(), SearchError> {
    if entries.len() != texts.len() {
        let (entries, texts) = (entries.len(), texts.len());
        return Err(SearchError::BadInput(format!("{texts} texts for {entries} entries")));
    }
    let mut seen = HashMap::new();
    for (at, (VersionedEntry { entry, .. }, texts)) in entries.iter().zip(texts).enumerate() {
        let fault = if entry.state != EntryState::Published {
            "is not published"
        } else if seen.insert(&entry.id, at).is_some() {
            "is there twice"
        } else if entry.phrasings().count() != texts.phrasings.len() {
            "has another number of phrasings than texts"
        } else if entry.answer.is_some() != texts.answer.is_some() {
            "has an answer without text, or a text without answer"
        } else {
            continue;
        };
        return Err(SearchError::BadInput(format!("entry {}: {fault}", entry.id)));
    }
    Ok(())
}

pub(super) fn create_empty(dir: &Path) -> Result<(), SearchError> {
    fs::create_dir_all(dir).map_err(SearchError::io(dir))?;
    match fs::read_dir(dir).map_err(SearchError::io(dir))?.next() {
        None => Ok(()),
        Some(_) => Err(SearchError::BadInput(format!("{} is not empty", dir.display()))),
    }
}

pub(super) fn write_vectors(
    path: &Path,
    list: &[&Embedded],
    dim: usize,
) -> Result<(), SearchError> {
    Matrix::from_rows(dim, list.iter().map(|e| e.vector.as_slice()))?.write(path)
}

pub(super) fn write_text(folder: &Path, list: &[&Embedded]) -> Result<(), SearchError> {
    fs::create_dir(folder).map_err(SearchError::io(folder))?;
    Bm25Index::write(folder, list.iter().map(|e| e.text.as_str()))?;
    sync_dir(folder).map_err(SearchError::io(folder))
}

pub(super) fn write_entries(path: &Path, entries: &[VersionedEntry]) -> Result<(), SearchError> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)
            .map_err(|e| SearchError::BadInput(format!("entry {}: {e}", entry.entry.id)))?;
        lines.push(b'\n');
    }
    write_atomic(path, &lines).map_err(SearchError::io(path))
}

pub(super) fn read_entries(path: &Path) -> Result<Vec<VersionedEntry>, SearchError> {
    let text = fs::read_to_string(path).map_err(SearchError::io(path))?;
    let entries = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    entries.map_err(|e| SearchError::corrupt(path, e.to_string()))
}
