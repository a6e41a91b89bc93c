//! The files port: a company's knowledge and labels, read strictly, with every bad row named.

pub mod check;
mod columns;
mod entries;
mod labelled;
mod rows;

pub use entries::{read_entries, read_numbered_entries, write_csv, write_jsonl};
pub use labelled::read_labelled;

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with one row, in words an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    pub file: PathBuf,
    /// Counted from 1; for CSV the line on which the record begins.
    pub line: u64,
    pub field: &'static str,
    pub reason: String,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, field, reason } = self;
        write!(f, "{}:{line}: {field}: {reason}", file.display())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// Mend the file as a whole (encoding, header, kind).
    #[error("{path}: {reason}")]
    BadFile { path: String, reason: String },
    /// Mend these rows; nothing of the file was taken.
    #[error("{} bad row(s), nothing was imported:\n{}", .0.len(), list(.0))]
    BadRows(Vec<RowError>),
}

impl IngestError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), source }
    }

    fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadFile { path: path.display().to_string(), reason: reason.into() }
    }
}

/// Most rows that one error names; a wrong delimiter would otherwise fill the screen.
const MOST_NAMED: usize = 20;

fn list(errors: &[RowError]) -> String {
    let mut lines: Vec<String> = errors.iter().take(MOST_NAMED).map(|e| format!("  {e}")).collect();
    if errors.len() > MOST_NAMED {
        lines.push(format!("  … and {} more", errors.len() - MOST_NAMED));
    }
    lines.join("\n")
}
