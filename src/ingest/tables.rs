//! Tables of questions and answers: which column is which field, shown before anything is taken.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::document::Sheet;
use super::rows::Row;
use super::{IngestError, columns};
use crate::base::digest::sha256_hex;
use crate::understand::normalize::normalize;

/// The header is looked for in this many first rows; titles and notes often stand above it.
const HEADER_ROWS: usize = 10;
/// Rows that a preview shows.
const SHOWN_ROWS: usize = 3;

/// How one sheet would be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SheetPreview {
    pub sheet: String,
    /// As the spreadsheet numbers it; `None` if no row names a column for questions.
    pub header_row: Option<u32>,
    pub columns: Vec<ColumnPreview>,
    /// Rows below the header.
    pub rows: usize,
    /// The first of them, by column.
    pub first_rows: Vec<Vec<String>>,
}

/// A column and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnPreview {
    pub header: String,
    /// `None`: the column is not read.
    pub field: Option<String>,
}

/// How each sheet would be read; nothing is taken.
pub(super) fn preview(sheets: &[Sheet]) -> Vec<SheetPreview> {
    sheets.iter().map(preview_sheet).collect()
}

fn preview_sheet(sheet: &Sheet) -> SheetPreview {
    let header = header(sheet);
    let at = header.as_ref().map_or(0, |h| h.at);
    let named = sheet.rows.get(at).map(|(_, cells)| cells.clone()).unwrap_or_default();
    let columns = named.iter().map(|name| ColumnPreview {
        header: name.clone(),
        field: header.as_ref().and_then(|_| column(name)).map(|column| column.to_string()),
    });
    let below = || sheet.rows.iter().skip(at + 1);
    SheetPreview {
        sheet: sheet.name.clone(),
        header_row: header.as_ref().and_then(|h| Some(sheet.rows.get(h.at)?.0)),
        columns: columns.collect(),
        rows: below().count(),
        first_rows: below().take(SHOWN_ROWS).map(|(_, cells)| cells.clone()).collect(),
    }
}

/// What a column that is read holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Field(&'static str),
    /// The answer in the words for an account.
    Wording(String),
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Wording(account) => write!(f, "answer@{account}"),
        }
    }
}

/// What the column of this name holds; `None`: it is not read.
fn column(name: &str) -> Option<Column> {
    let wording = || columns::wording_of(name).map(|account| Column::Wording(account.to_owned()));
    columns::field(name).map(Column::Field).or_else(wording)
}

struct Header {
    /// Which of the sheet's rows it is.
    at: usize,
    columns: Vec<Option<Column>>,
}

/// Whether any sheet is a table of questions.
pub(super) fn holds_questions(sheets: &[Sheet]) -> bool {
    sheets.iter().any(|sheet| header(sheet).is_some())
}

/// The first row that names a column for questions and one more.
fn header(sheet: &Sheet) -> Option<Header> {
    let rows = sheet.rows.iter().enumerate().take(HEADER_ROWS);
    rows.map(|(at, (_, cells))| Header { at, columns: read(cells.iter().map(String::as_str)) })
        .find(|h| has(&h.columns, columns::QUESTION) && h.columns.iter().flatten().count() > 1)
}

/// What the columns of these names hold.
pub(super) fn read<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Option<Column>> {
    names.map(column).collect()
}

pub(super) fn has(columns: &[Option<Column>], field: &'static str) -> bool {
    columns.contains(&Some(Column::Field(field)))
}

/// What two columns are named for; only similar questions may have several.
pub(super) fn doubled(columns: &[Option<Column>]) -> Option<&Column> {
    let mut seen = Vec::new();
    let single = |column: &&Column| **column != Column::Field(columns::SIMILAR);
    columns.iter().flatten().filter(single).find(|column| {
        let again = seen.contains(column);
        seen.push(*column);
        again
    })
}

/// A row's cells by field. Without a column for ids the question itself names the entry, so that
/// the same question read again is the same entry.
pub(super) fn by_field<'a>(
    columns: &[Option<Column>],
    cells: impl Iterator<Item = &'a str>,
) -> BTreeMap<&'static str, Value> {
    let mut row: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut wordings = serde_json::Map::new();
    for (column, cell) in columns.iter().zip(cells) {
        match column {
            None => {}
            Some(Column::Wording(_)) if cell.trim().is_empty() => {}
            Some(Column::Wording(account)) => {
                wordings.insert(account.clone(), cell.into());
            }
            Some(Column::Field(field)) => {
                let text = row.entry(field).or_default();
                if !text.is_empty() && !cell.is_empty() {
                    text.push('\n');
                }
                text.push_str(cell);
            }
        }
    }
    if !has(columns, columns::ID)
        && let Some(question) = row.get(columns::QUESTION).filter(|q| !q.trim().is_empty())
    {
        row.insert(columns::ID, id_of(question));
    }
    let texts = row.into_iter().map(|(field, text)| (field, Value::String(text)));
    let worded =
        Some(wordings).filter(|w| !w.is_empty()).map(|w| (columns::WORDINGS, Value::Object(w)));
    texts.chain(worded).collect()
}

/// Digits of the digest that stand for a question: two of a million entries share them once in
/// half a billion files.
const ID_DIGITS: usize = 16;

pub(super) fn id_of(question: &str) -> String {
    let digest = sha256_hex(normalize(question).as_bytes());
    format!("q.{}", &digest[..ID_DIGITS.min(digest.len())])
}

/// The rows of all sheets. A workbook with a table of questions is read as such, and then every
/// visible sheet must be one: nothing is left out unsaid.
pub(super) fn sheet_rows(path: &Path, sheets: &[Sheet]) -> Result<Vec<Row>, IngestError> {
    let mut rows = Vec::new();
    for sheet in sheets {
        let Some(header) = header(sheet) else {
            return Err(IngestError::file(path, headless(sheet)));
        };
        if let Some(field) = doubled(&header.columns) {
            let reason = format!("sheet {}: two columns are {field}; rename one", sheet.name);
            return Err(IngestError::file(path, reason));
        }
        for (number, cells) in sheet.rows.iter().skip(header.at + 1) {
            rows.push(Row {
                sheet: Some(sheet.name.clone()),
                line: u64::from(*number),
                fields: by_field(&header.columns, cells.iter().map(String::as_str)),
            });
        }
    }
    Ok(rows)
}

fn headless(sheet: &Sheet) -> String {
    let first = sheet.rows.first().map(|(_, cells)| cells.join(", ")).unwrap_or_default();
    let first = crate::base::text::prefix_chars(&first, 200);
    format!(
        "sheet {}: none of its first {HEADER_ROWS} rows names a column for questions (问题) and one \
         for answers (答案); its first row has: {first}. Name them, hide the sheet, or import the \
         file as a document",
        sheet.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(rows: &[&[&str]]) -> Sheet {
        let rows = (1..).zip(rows).map(|(n, row)| (n, row.iter().map(|c| (*c).into()).collect()));
        Sheet { name: "价目".into(), rows: rows.collect() }
    }

    #[test]
    fn the_header_may_stand_below_a_title() {
        let sheet = sheet(&[
            &["常见问题汇总"],
            &["序号", "问题", "答案", "相似问1", "相似问2"],
            &["1", "怎么退货", "七天内", "想退", "退货流程"],
        ]);
        let preview = preview(std::slice::from_ref(&sheet));
        assert_eq!(preview[0].header_row, Some(2));
        let fields: Vec<_> = preview[0].columns.iter().map(|c| c.field.as_deref()).collect();
        assert_eq!(
            fields,
            [
                None,
                Some(columns::QUESTION),
                Some(columns::ANSWER),
                Some(columns::SIMILAR),
                Some(columns::SIMILAR)
            ]
        );
        let rows = sheet_rows(Path::new("a.xlsx"), &[sheet]).unwrap();
        assert_eq!(rows[0].line, 3);
        assert_eq!(rows[0].fields[columns::SIMILAR], Value::String("想退\n退货流程".into()));
        assert_eq!(rows[0].fields[columns::ID], Value::String(id_of(" 怎么退货 ")));
    }

    #[test]
    fn what_is_no_table_of_questions_is_named() {
        let error =
            sheet_rows(Path::new("a.xlsx"), &[sheet(&[&["地区", "运费"], &["江浙沪", "8元"]])]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sheet 价目") && error.contains("地区, 运费"), "{error}");
        let doubled = sheet(&[&["问题", "标准问", "答案"], &["a", "b", "c"]]);
        let error = sheet_rows(Path::new("a.xlsx"), &[doubled]).unwrap_err().to_string();
        assert!(error.contains("two columns are question"), "{error}");
    }
}
