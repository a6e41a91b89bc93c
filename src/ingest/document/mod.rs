//! A file as text with its structure: one shape for every format.

mod docx;
mod html;
mod list;
mod markdown;
mod outline;
mod package;
mod pdf;
mod sheets;
mod table;
mod text;
mod tidy;

use std::path::Path;

pub use sheets::Sheet;

use super::kind::FileKind;

/// What a document says, in the order in which it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub title: String,
    pub blocks: Vec<Block>,
    /// What could not be read and why, for the person who brought the file.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// 1 is the highest, 6 the lowest.
    Heading(u8),
    Paragraph,
    ListItem,
    /// One row of a table with its column names: `地区: 江浙沪; 运费: 8元`.
    TableRow,
}

/// A heading, paragraph, list item or row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub kind: BlockKind,
    pub text: String,
    /// Counted from 1; only formats with fixed pages have them.
    pub page: Option<u32>,
    /// Where it begins in [`Document::text`], in characters.
    pub offset: usize,
}

impl Document {
    /// All blocks, each on lines of its own; offsets and ranges count its characters.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.blocks.iter().map(|block| block.text.as_str()).collect();
        texts.join("\n")
    }
}

/// Longest document, characters; the longest manuals have some three million.
const DOCUMENT_CHARS: usize = 10_000_000;
/// Most blocks of a document.
const BLOCKS: usize = 500_000;

/// A document while it is read: every text is tidied and counted on its way in.
#[derive(Default)]
pub(super) struct Draft {
    title: Option<String>,
    blocks: Vec<Block>,
    chars: usize,
    notes: Vec<String>,
    overfull: bool,
}

impl Draft {
    /// The first title given stays.
    fn entitle(&mut self, title: &str) {
        let title = tidy::line(title);
        if self.title.is_none() && !title.is_empty() {
            self.title = Some(title);
        }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn push(&mut self, kind: BlockKind, text: &str) {
        self.push_on_page(kind, text, None);
    }

    /// Takes the text without what cannot be seen; nothing if nothing is left.
    pub(super) fn push_on_page(&mut self, kind: BlockKind, text: &str, page: Option<u32>) {
        let text = tidy::line(text);
        if text.is_empty() || self.overfull {
            return;
        }
        let length = text.chars().count();
        if self.chars + length > DOCUMENT_CHARS || self.blocks.len() == BLOCKS {
            self.overfull = true;
            return;
        }
        self.blocks.push(Block { kind, text, page, offset: self.chars });
        // The line end that divides it from the next.
        self.chars += length + 1;
    }

    /// The document, entitled by itself, its first heading or its file.
    pub(super) fn finish(self, path: &Path) -> Result<Document, String> {
        if self.overfull {
            return Err(format!(
                "holds more than {DOCUMENT_CHARS} characters or {BLOCKS} paragraphs; split it into parts"
            ));
        }
        if self.blocks.is_empty() {
            return Err("holds no text; if it consists of pictures, give the text itself".into());
        }
        let stem = || path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let headed = || {
            let heading = self.blocks.iter().find(|b| matches!(b.kind, BlockKind::Heading(1)))?;
            Some(heading.text.clone())
        };
        let title = self.title.clone().or_else(headed).or_else(stem).unwrap_or_default();
        Ok(Document { title, blocks: self.blocks, notes: self.notes })
    }

    /// With a title and notes that are known beforehand.
    pub(super) fn about(self, title: Option<String>, notes: Vec<String>) -> Self {
        Self { title, notes, ..self }
    }
}

/// What one file gives.
pub(super) enum Content {
    Document(Document),
    Sheets(Vec<Sheet>),
}

/// Reads a file's bytes in this process; only for trusted files and for the process that is kept
/// apart for this. Errors say what is wrong with the file and what to do.
pub(super) fn parse(path: &Path, kind: FileKind, bytes: Vec<u8>) -> Result<Content, String> {
    let draft = match kind {
        FileKind::Text => text::read(&decoded(&bytes)?),
        FileKind::Markdown => markdown::read(&decoded(&bytes)?),
        FileKind::Html => html::read(&bytes)?,
        FileKind::Docx => docx::read(&bytes)?,
        FileKind::Pdf => pdf::read(bytes)?,
        FileKind::Workbook => return sheets::read(&bytes).map(Content::Sheets),
        FileKind::Csv | FileKind::JsonLines => {
            return Err("holds rows, not a document; import it as knowledge".into());
        }
    };
    draft.finish(path).map(Content::Document)
}

/// A workbook that is no FAQ, as rows under the names of its sheets.
pub(super) fn of_sheets(path: &Path, sheets: &[Sheet]) -> Result<Document, String> {
    let mut draft = Draft::default();
    for sheet in sheets {
        draft.push(BlockKind::Heading(1), &sheet.name);
        let rows = sheet.rows.iter().map(|(_, cells)| cells.clone());
        table::push(&mut draft, rows.collect(), None);
    }
    // The first sheet's name is no title.
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    draft.entitle(&stem.unwrap_or_default());
    draft.finish(path)
}

fn decoded(bytes: &[u8]) -> Result<String, String> {
    super::rows::decode(bytes)
        .ok_or_else(|| "is neither UTF-8 nor GB18030 text; save it as UTF-8".to_owned())
}
