//! What is in a file: entries, or a document whose passages become entries: found like questions,
//! quoted from, replaced when the document is read again.

use std::collections::HashMap;
use std::path::Path;

use super::apart::{Limits, of_sheets, read_document, read_sheets};
use super::document::Document;
use super::entries::{entries, read_entries_within};
use super::kind::{FileKind, kind};
use super::passages::{Passage, passages};
use super::{IngestError, tables};
use crate::base::digest::sha256_hex;
use crate::base::limits::QUESTION_CHARS;
use crate::base::text::prefix_chars;
use crate::domain::knowledge::{Entry, EntryId, Place};

/// What stands between headings.
const BETWEEN: &str = " › ";
/// Hexadecimal digits of a passage's own part of its id.
const DIGITS: usize = 12;

/// What a file brings in.
#[derive(Clone, Debug, PartialEq)]
pub enum Knowledge {
    /// Written as entries.
    Entries(Vec<Entry>),
    Document {
        passages: Vec<Entry>,
        /// What could not be read, for the operator.
        notes: Vec<String>,
    },
}

/// Reads a file as what it is: a table of questions as entries, anything else as a document.
pub fn read_knowledge(path: &Path, limits: &Limits) -> Result<Knowledge, IngestError> {
    match kind(path)? {
        FileKind::Csv | FileKind::JsonLines => {
            Ok(Knowledge::Entries(read_entries_within(path, limits)?))
        }
        FileKind::Workbook => {
            let sheets = read_sheets(path, limits)?;
            if tables::holds_questions(&sheets) {
                let rows = tables::sheet_rows(path, &sheets)?;
                return Ok(Knowledge::Entries(entries(path, &rows)?));
            }
            of_document(path, of_sheets(path, &sheets)?)
        }
        FileKind::Text | FileKind::Markdown | FileKind::Html | FileKind::Docx | FileKind::Pdf => {
            of_document(path, read_document(path, limits)?)
        }
    }
}

fn of_document(path: &Path, document: Document) -> Result<Knowledge, IngestError> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let passages = passage_entries(&name, &document);
    if passages.is_empty() {
        return Err(IngestError::file(
            path,
            "holds no text; a scanned document must be given as text",
        ));
    }
    Ok(Knowledge::Document { passages, notes: document.notes })
}

/// One published entry per passage. Its id comes from what it says and under which headings, so that
/// an edit elsewhere in the document leaves it as it is.
fn passage_entries(name: &str, document: &Document) -> Vec<Entry> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut section: (&[String], usize) = (&[], 0);
    let passages = passages(document);
    let mut entries = Vec::with_capacity(passages.len());
    for passage in &passages {
        if section.0 != passage.heading_path {
            section = (&passage.heading_path, passage.range.start);
        }
        let digest =
            sha256_hex(format!("{}\n{}", passage.heading_path.join("\n"), passage.text).as_bytes());
        let id = format!("{name}#{}", &digest[..DIGITS]);
        let times = seen.entry(id.clone()).and_modify(|n| *n += 1).or_insert(1);
        let id = if *times == 1 { id } else { format!("{id}-{times}") };
        let answer = match &passage.lead_in {
            Some(lead_in) => format!("{lead_in}\n{}", passage.text),
            None => passage.text.clone(),
        };
        let place = Place {
            document: name.to_owned(),
            headings: passage.heading_path.clone(),
            page: passage.page,
            range: [passage.range.start - section.1, passage.range.end - section.1],
        };
        entries.push(Entry {
            answer: Some(answer),
            place: Some(place),
            ..Entry::new(EntryId(id), question(passage, &document.title))
        });
    }
    entries
}

/// What the passage is about: its headings, or the document's title.
fn question(passage: &Passage, title: &str) -> String {
    let path = passage.heading_path.join(BETWEEN);
    let about = if path.is_empty() { title } else { &path };
    prefix_chars(about, QUESTION_CHARS).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::document::{Content, parse};

    fn read(content: &str) -> Vec<Entry> {
        let bytes = content.as_bytes().to_vec();
        match parse(Path::new("guide.md"), FileKind::Markdown, bytes).unwrap() {
            Content::Document(document) => passage_entries("guide.md", &document),
            Content::Sheets(_) => panic!("no document"),
        }
    }

    #[test]
    fn an_edit_changes_only_the_passage_it_is_in() {
        let guide = "# 手册\n\n## 清洗\n\n尘盒可以水洗。\n\n## 保修\n\n整机保修一年。\n";
        let before = read(guide);
        assert_eq!(before.len(), 2);
        assert_eq!(before[0].question, "手册 › 清洗");
        assert_eq!(before[0].answer.as_deref(), Some("尘盒可以水洗。"));
        let after = read(&guide.replace("可以水洗", "可以水洗，须晾干"));
        assert_ne!(before[0].id, after[0].id);
        assert_eq!(before[1], after[1]);
    }

    #[test]
    fn passages_that_say_the_same_are_two() {
        let twice = read("## 甲\n\n请联系客服。\n\n## 甲\n\n请联系客服。\n");
        assert_eq!(twice.len(), 2);
        assert_ne!(twice[0].id, twice[1].id);
    }
}
