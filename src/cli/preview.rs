//! `kb import --dry-run`: how files would be read, before anything is taken.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::output;
use crate::base::text::prefix_chars;
use crate::ingest::{
    ColumnPreview, FileKind, Limits, SheetPreview, kind, passages, preview, read_document,
    read_entries,
};

/// Passages of a document that are shown.
const SHOWN_PASSAGES: usize = 3;
/// Longest cell or passage that is shown, characters.
const SHOWN_CHARS: usize = 60;

pub(super) fn run(files: &[PathBuf], as_json: bool) -> Result<()> {
    let mut reports = Vec::new();
    for file in files {
        let kind = kind(file)?;
        let report = match kind {
            FileKind::Workbook | FileKind::Csv => table(file, as_json)?,
            FileKind::JsonLines => entries(file, as_json)?,
            FileKind::Text
            | FileKind::Markdown
            | FileKind::Html
            | FileKind::Docx
            | FileKind::Pdf => document(file, as_json)?,
        };
        reports.push(json!({"file": file, "kind": kind, "content": report}));
    }
    if as_json { output::json(&json!({ "files": reports })) } else { Ok(()) }
}

/// A table of questions, or one that would be read as a document's rows.
fn table(file: &Path, as_json: bool) -> Result<Value> {
    let sheets = preview(file, &Limits::default())?;
    if sheets.iter().all(|sheet| sheet.header_row.is_none()) && kind(file)? == FileKind::Workbook {
        return document(file, as_json);
    }
    if !as_json {
        for sheet in &sheets {
            show_sheet(file, sheet)?;
        }
    }
    let read = entries(file, as_json)?;
    Ok(json!({"sheets": sheets, "entries": read["entries"]}))
}

fn show_sheet(file: &Path, sheet: &SheetPreview) -> Result<()> {
    let SheetPreview { sheet: name, header_row, columns, rows, first_rows } = sheet;
    let header = header_row.map_or("no header".into(), |row| format!("header in row {row}"));
    output::line(&format!("{} {name}: {header}, {rows} rows below", file.display()))?;
    for (at, ColumnPreview { header, field }) in columns.iter().enumerate() {
        let field = field.as_deref().unwrap_or("(not read)");
        let cells = first_rows.iter().filter_map(|row| row.get(at)).map(|cell| short(cell));
        let cells: Vec<String> = cells.filter(|cell| !cell.is_empty()).collect();
        output::line(&format!("  {header} -> {field}: {}", cells.join(" | ")))?;
    }
    Ok(())
}

fn entries(file: &Path, as_json: bool) -> Result<Value> {
    let entries = read_entries(file)?;
    if !as_json {
        output::line(&format!("{}: {} entries, without a fault", file.display(), entries.len()))?;
    }
    Ok(json!({ "entries": entries.len() }))
}

fn document(file: &Path, as_json: bool) -> Result<Value> {
    let document = read_document(file, &Limits::default())?;
    let passages = passages(&document);
    if !as_json {
        let (name, title) = (file.display(), &document.title);
        output::line(&format!("{name}: {title}, {} passages", passages.len()))?;
        for note in &document.notes {
            output::line(&format!("  note: {note}"))?;
        }
        for passage in passages.iter().take(SHOWN_PASSAGES) {
            let path = passage.heading_path.join(" / ");
            output::line(&format!("  [{path}] {}", short(&passage.text)))?;
        }
    }
    let title = &document.title;
    Ok(json!({"title": title, "passages": passages.len(), "notes": document.notes}))
}

fn short(text: &str) -> String {
    let line = text.replace('\n', " ");
    let cut = prefix_chars(&line, SHOWN_CHARS);
    if cut.len() < line.len() { format!("{cut}…") } else { line }
}
