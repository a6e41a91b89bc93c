//! Files as rows of named fields: JSON Lines and CSV, in the encodings that Excel writes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::apart::{self, Limits};
use super::document::Sheet;
use super::kind::{self, FileKind};
use super::{IngestError, RowError, columns, tables};
use crate::base::limits::IMPORT_LINE_BYTES;

/// Decoded text of a file: UTF-8 (with or without BOM), UTF-16 with BOM, else GB18030.
pub(super) fn read_text(path: &Path) -> Result<String, IngestError> {
    let bytes = kind::read(path)?;
    decode(&bytes).ok_or_else(|| {
        IngestError::file(
            path,
            "neither UTF-8 nor GB18030 text; save it as CSV UTF-8 or JSON Lines",
        )
    })
}

pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    if let Some((encoding, mark)) = encoding_rs::Encoding::for_bom(bytes) {
        return encoding
            .decode_without_bom_handling_and_without_replacement(&bytes[mark..])
            .map(Into::into);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(_) => encoding_rs::GB18030
            .decode_without_bom_handling_and_without_replacement(bytes)
            .map(Into::into),
    }
}

/// A JSON object with the line it stands on.
pub(super) type NumberedObject = (u64, serde_json::Map<String, Value>);

/// One JSON object per non-empty line.
pub(super) fn json_lines(path: &Path, text: &str) -> Result<Vec<NumberedObject>, IngestError> {
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for (line, number) in text.lines().zip(1_u64..) {
        if line.trim().is_empty() {
            continue;
        }
        let reason = if line.len() > IMPORT_LINE_BYTES {
            format!("longer than {IMPORT_LINE_BYTES} bytes")
        } else {
            match serde_json::from_str::<Value>(line) {
                Ok(Value::Object(object)) => {
                    rows.push((number, object));
                    continue;
                }
                Ok(_) => "not a JSON object".to_owned(),
                Err(e) => format!("not JSON: {e}"),
            }
        };
        bad.push(RowError::new(path, number, "line", reason));
    }
    if bad.is_empty() { Ok(rows) } else { Err(IngestError::BadRows(bad)) }
}

/// A row whose fields are known by name; CSV cells are always text.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Only workbooks have sheets.
    pub(super) sheet: Option<String>,
    pub(super) line: u64,
    pub(super) fields: BTreeMap<&'static str, Value>,
}

impl Row {
    pub(super) fn fault(&self, path: &Path, field: &'static str, reason: String) -> RowError {
        RowError { sheet: self.sheet.clone(), ..RowError::new(path, self.line, field, reason) }
    }

    /// Where it stands in its file, in words.
    pub(super) fn place(&self) -> String {
        match &self.sheet {
            Some(sheet) => format!("row {} of sheet {sheet}", self.line),
            None => format!("line {}", self.line),
        }
    }
}

pub(super) fn entry_rows(path: &Path, limits: &Limits) -> Result<Vec<Row>, IngestError> {
    match kind::kind(path)? {
        FileKind::Workbook => tables::sheet_rows(path, &apart::read_sheets(path, limits)?),
        FileKind::Csv => csv_rows(path, &read_text(path)?),
        FileKind::JsonLines => Ok(json_lines(path, &read_text(path)?)?
            .into_iter()
            .map(|(line, object)| Row {
                sheet: None,
                line,
                fields: columns::ALL
                    .into_iter()
                    .filter_map(|name| object.get(name).map(|v| (name, v.clone())))
                    .collect(),
            })
            .collect()),
        FileKind::Text | FileKind::Markdown | FileKind::Html | FileKind::Docx | FileKind::Pdf => {
            Err(IngestError::file(
                path,
                "is a document; entries are read from .xlsx, .csv and .jsonl",
            ))
        }
    }
}

/// A CSV file as a sheet, for a look at it.
pub(super) fn csv_sheet(path: &Path) -> Result<Sheet, IngestError> {
    let text = read_text(path)?;
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut sheet = Sheet { name: String::new(), rows: Vec::new() };
    for (number, record) in (1_u32..).zip(reader.records()) {
        let record = record.map_err(|e| IngestError::file(path, e.to_string()))?;
        sheet.rows.push((number, record.iter().map(str::to_owned).collect()));
    }
    Ok(sheet)
}

fn csv_rows(path: &Path, text: &str) -> Result<Vec<Row>, IngestError> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| IngestError::file(path, e.to_string()))?.clone();
    let columns = tables::read(header.iter());
    let found = || header.iter().collect::<Vec<_>>().join(", ");
    if !tables::has(&columns, columns::QUESTION) {
        let needed = columns::QUESTION;
        let reason = format!("the header has no column {needed} (问题); it has: {}", found());
        return Err(IngestError::file(path, reason));
    }
    if let Some(field) = tables::doubled(&columns) {
        let reason = format!("two columns are {field}; rename one. There are: {}", found());
        return Err(IngestError::file(path, reason));
    }
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                let fields = tables::by_field(&columns, record.iter());
                rows.push(Row { sheet: None, line, fields });
            }
            Err(e) => {
                let line = e.position().map_or(0, csv::Position::line);
                bad.push(RowError::new(path, line, "row", e.to_string()));
            }
        }
    }
    if bad.is_empty() { Ok(rows) } else { Err(IngestError::BadRows(bad)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_excel_writes() {
        let text = "编号,问题\nA,怎么退货\n";
        let (gb, _, _) = encoding_rs::GB18030.encode(text);
        assert_eq!(decode(&gb).unwrap(), text);
        assert_eq!(decode(format!("\u{feff}{text}").as_bytes()).unwrap(), text);
        let utf16: Vec<u8> = [0xFF, 0xFE]
            .into_iter()
            .chain(text.encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        assert_eq!(decode(&utf16).unwrap(), text);
        assert_eq!(decode(&[0x81, 0x20, 0xFF]), None);
    }
}
