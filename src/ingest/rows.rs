//! Files as rows of named fields: JSON Lines and CSV, in the encodings that Excel writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{IngestError, RowError, columns};
use crate::base::limits::IMPORT_LINE_BYTES;

/// Decoded text of a file: UTF-8 (with or without BOM), UTF-16 with BOM, else GB18030.
pub(super) fn read_text(path: &Path) -> Result<String, IngestError> {
    let bytes = fs::read(path).map_err(|e| IngestError::io(path, e))?;
    decode(&bytes).ok_or_else(|| {
        IngestError::file(
            path,
            "neither UTF-8 nor GB18030 text; save it as CSV UTF-8 or JSON Lines",
        )
    })
}

fn decode(bytes: &[u8]) -> Option<String> {
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
        bad.push(RowError { file: path.into(), line: number, field: "line", reason });
    }
    if bad.is_empty() { Ok(rows) } else { Err(IngestError::BadRows(bad)) }
}

/// A row whose fields are known by name; CSV cells are always text.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) fields: BTreeMap<&'static str, Value>,
}

pub(super) fn entry_rows(path: &Path) -> Result<Vec<Row>, IngestError> {
    let text = read_text(path)?;
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    match extension.as_deref() {
        Some("csv") => csv_rows(path, &text),
        Some("jsonl" | "ndjson" | "json") => Ok(json_lines(path, &text)?
            .into_iter()
            .map(|(line, object)| Row {
                line,
                fields: columns::ALL
                    .into_iter()
                    .filter_map(|name| object.get(name).map(|v| (name, v.clone())))
                    .collect(),
            })
            .collect()),
        Some(_) | None => Err(IngestError::file(
            path,
            "unknown kind of file; knowledge is read from .jsonl and .csv",
        )),
    }
}

fn csv_rows(path: &Path, text: &str) -> Result<Vec<Row>, IngestError> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| IngestError::file(path, e.to_string()))?.clone();
    let names: Vec<Option<&'static str>> = header.iter().map(columns::field).collect();
    for needed in [columns::ID, columns::QUESTION] {
        if !names.contains(&Some(needed)) {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            let reason = format!("the header has no column {needed} (编号, 问题); it has: {found}");
            return Err(IngestError::file(path, reason));
        }
    }
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                let cells = names.iter().zip(record.iter());
                let mut fields: BTreeMap<&'static str, Value> = cells
                    .filter_map(|(name, cell)| Some(((*name)?, Value::String(cell.into()))))
                    .collect();
                let wordings: serde_json::Map<String, Value> = header
                    .iter()
                    .zip(record.iter())
                    .filter(|(_, cell)| !cell.trim().is_empty())
                    .filter_map(|(name, cell)| {
                        Some((columns::wording_of(name)?.into(), cell.into()))
                    })
                    .collect();
                if !wordings.is_empty() {
                    fields.insert(columns::WORDINGS, wordings.into());
                }
                rows.push(Row { line, fields });
            }
            Err(e) => {
                let line = e.position().map_or(0, csv::Position::line);
                bad.push(RowError { file: path.into(), line, field: "row", reason: e.to_string() });
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
