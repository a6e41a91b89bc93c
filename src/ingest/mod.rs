//! The files port: a company's knowledge and labels, read strictly, with every bad row named, and
//! its documents as passages.

pub mod apart;
mod chats;
pub mod check;
mod columns;
mod dates;
mod document;
mod entries;
mod kind;
mod knowledge;
mod labelled;
mod marked;
mod passages;
mod rewrites;
mod rows;
mod synonyms;
mod tables;

pub use apart::{Limits, read_document, read_sheets};
pub use chats::{Candidate, read_candidates};
pub use dates::{DAY_MS, day, day_text};
pub use document::{Block, BlockKind, Document, Sheet};
pub use entries::{
    read_entries, read_entries_within, read_numbered_entries, write_csv, write_jsonl,
};
pub use kind::{FILE_BYTES, FileKind, kind};
pub use knowledge::{Knowledge, read_knowledge};
pub use labelled::{Fault, UNLABELLED, read_classed, read_labelled, read_lines, read_pairs};
pub use marked::{Mark, Marked, read_marked};
pub use passages::{Passage, passages};
pub use rewrites::{Rewrite, read_rewrites};
pub use synonyms::read_synonyms;
pub use tables::{ColumnPreview, SheetPreview};

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with one row, in words an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    pub file: PathBuf,
    /// Only workbooks have sheets.
    pub sheet: Option<String>,
    /// Counted from 1; for CSV the line on which the record begins, for a
    /// sheet its row.
    pub line: u64,
    pub field: &'static str,
    pub reason: String,
}

impl RowError {
    fn new(file: &Path, line: u64, field: &'static str, reason: impl Into<String>) -> Self {
        Self { file: file.into(), sheet: None, line, field, reason: reason.into() }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, sheet, line, field, reason } = self;
        let sheet = sheet.as_ref().map(|name| format!("{name}:")).unwrap_or_default();
        write!(f, "{}:{sheet}{line}: {field}: {reason}", file.display())
    }
}

/// How the sheets of a workbook, or a CSV file, would be read as entries; nothing is taken.
pub fn preview(path: &Path, limits: &Limits) -> Result<Vec<SheetPreview>, IngestError> {
    let sheets = match kind(path)? {
        FileKind::Csv => vec![rows::csv_sheet(path)?],
        FileKind::Workbook => read_sheets(path, limits)?,
        FileKind::Text
        | FileKind::Markdown
        | FileKind::Html
        | FileKind::Docx
        | FileKind::Pdf
        | FileKind::JsonLines => {
            return Err(IngestError::file(path, "is no table; only .xlsx and .csv have columns"));
        }
    };
    Ok(tables::preview(&sheets))
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
