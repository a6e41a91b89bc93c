//! Word documents: headings by style or outline level, numbered lists, tables; what revisions
//! deleted is left out.

mod numbering;
mod styles;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::package::Package;
use super::{BlockKind, Draft, table};
use numbering::Numbering;
use styles::{Role, Styles};

pub(super) fn read(bytes: &[u8]) -> Result<Draft, String> {
    let mut package = Package::open(bytes)?;
    let mut part = |name: &str| package.part(name)?.map(|xml| super::decoded(&xml)).transpose();
    let text = part("word/document.xml")?
        .ok_or("has no text inside (word/document.xml is missing); save it again as .docx")?;
    let styles = Styles::read(&part("word/styles.xml")?.unwrap_or_default());
    let numbering = Numbering::read(&part("word/numbering.xml")?.unwrap_or_default());
    let mut body = Body::new(styles, numbering);
    body.read(&text)?;
    if let Some(notes) = part("word/footnotes.xml")? {
        body.read(&notes)?;
    }
    Ok(body.draft)
}

/// Deepest nesting that is followed; real documents stay below a hundred.
const DEPTH: usize = 2_000;

#[derive(Default)]
struct Paragraph {
    text: String,
    style: String,
    outline: Option<u8>,
    list: Option<(String, usize)>,
}

#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    row: Vec<String>,
    cell: String,
    span: usize,
    /// The cell continues the one above.
    continues: bool,
}

struct Body {
    draft: Draft,
    styles: Styles,
    numbering: Numbering,
    paragraphs: Vec<Paragraph>,
    tables: Vec<Table>,
    /// Text counts only inside `w:t`.
    in_text: bool,
    hidden_run: bool,
}

impl Body {
    fn new(styles: Styles, numbering: Numbering) -> Self {
        Self {
            draft: Draft::default(),
            styles,
            numbering,
            paragraphs: Vec::new(),
            tables: Vec::new(),
            in_text: false,
            hidden_run: false,
        }
    }

    fn read(&mut self, xml: &str) -> Result<(), String> {
        let mut reader = Reader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        let mut depth = 0_usize;
        // The depth of the element whose inside is left out.
        let mut left_out: Option<usize> = None;
        loop {
            let event = reader
                .read_event()
                .map_err(|e| format!("is damaged ({e}); open it in Word and save it again"))?;
            match event {
                Event::Start(element) => {
                    depth += 1;
                    if depth > DEPTH {
                        return Err("nests deeper than any document; save it again".into());
                    }
                    if left_out.is_none() {
                        if is_left_out(element.local_name().into_inner()) {
                            left_out = Some(depth);
                        } else {
                            self.open(&element);
                        }
                    }
                }
                Event::End(element) => {
                    if left_out.is_none() {
                        self.close(element.local_name().into_inner());
                    } else if left_out == Some(depth) {
                        left_out = None;
                    }
                    depth = depth.saturating_sub(1);
                }
                Event::Text(text) if left_out.is_none() => {
                    self.text(&text.into_inner());
                }
                Event::GeneralRef(name) if left_out.is_none() => {
                    self.text(&resolved(&name)?);
                }
                Event::DocType(_) => {
                    return Err("defines its own XML, which no Word document does".into());
                }
                Event::Eof => return Ok(()),
                Event::Text(_)
                | Event::GeneralRef(_)
                | Event::CData(_)
                | Event::Empty(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_) => {}
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_text
            && !self.hidden_run
            && let Some(paragraph) = self.paragraphs.last_mut()
        {
            paragraph.text.push_str(text);
        }
    }

    fn open(&mut self, element: &BytesStart<'_>) {
        let value = || attribute(element, "val");
        match element.local_name().into_inner() {
            "p" => self.paragraphs.push(Paragraph::default()),
            "r" => self.hidden_run = false,
            "t" => self.in_text = true,
            "vanish" if self.is_run() => self.hidden_run = value().as_deref() != Some("0"),
            "tbl" => self.tables.push(Table::default()),
            "tc" => {
                if let Some(table) = self.tables.last_mut() {
                    (table.span, table.continues) = (1, false);
                }
            }
            "gridSpan" => {
                if let Some(table) = self.tables.last_mut() {
                    table.span = value().and_then(|v| v.parse().ok()).unwrap_or(1).clamp(1, 64);
                }
            }
            "vMerge" => {
                if let Some(table) = self.tables.last_mut() {
                    table.continues = value().as_deref() != Some("restart");
                }
            }
            name => self.property(name, value),
        }
    }

    /// What a paragraph says of itself, and the marks inside it that stand for white space.
    fn property(&mut self, name: &str, value: impl Fn() -> Option<String>) {
        let Some(paragraph) = self.paragraphs.last_mut() else { return };
        match name {
            "tab" | "br" | "cr" => paragraph.text.push(' '),
            "noBreakHyphen" => paragraph.text.push('-'),
            "pStyle" => paragraph.style = value().unwrap_or_default(),
            "outlineLvl" => {
                paragraph.outline = value().and_then(|v| v.parse::<u8>().ok()).filter(|l| *l < 9);
            }
            "numId" => {
                let level = paragraph.list.as_ref().map_or(0, |(_, level)| *level);
                paragraph.list = Some((value().unwrap_or_default(), level));
            }
            "ilvl" => {
                let level = value().and_then(|v| v.parse().ok()).unwrap_or(0);
                let id = paragraph.list.take().map(|(id, _)| id).unwrap_or_default();
                paragraph.list = Some((id, level));
            }
            _ => {}
        }
    }

    fn is_run(&self) -> bool {
        !self.paragraphs.is_empty()
    }

    fn close(&mut self, name: &str) {
        match name {
            "t" => self.in_text = false,
            "r" => self.hidden_run = false,
            "p" => self.end_paragraph(),
            "tc" => {
                let Some(table) = self.tables.last_mut() else { return };
                let mut text = std::mem::take(&mut table.cell);
                if table.continues && text.trim().is_empty() {
                    let above = table.rows.last().and_then(|row| row.get(table.row.len()));
                    text = above.cloned().unwrap_or_default();
                }
                let end = table.row.len() + table.span;
                table.row.push(text);
                table.row.resize(end, String::new());
            }
            "tr" => {
                if let Some(table) = self.tables.last_mut() {
                    let row = std::mem::take(&mut table.row);
                    table.rows.push(row);
                }
            }
            "tbl" => self.end_table(),
            _ => {}
        }
    }

    fn end_table(&mut self) {
        let Some(done) = self.tables.pop() else { return };
        let Some(outer) = self.tables.last_mut() else {
            table::push(&mut self.draft, done.rows, None);
            return;
        };
        // A table inside a cell is part of what the cell says.
        for row in done.rows {
            outer.cell.push(' ');
            outer.cell.push_str(&row.join(" "));
        }
    }

    fn end_paragraph(&mut self) {
        let Some(paragraph) = self.paragraphs.pop() else { return };
        if let Some(table) = self.tables.last_mut() {
            table.cell.push(' ');
            table.cell.push_str(&paragraph.text);
            return;
        }
        let role = self.styles.role(&paragraph.style);
        let list = paragraph.list.or_else(|| self.styles.list(&paragraph.style));
        // Counted even where nothing is left to say.
        let mark = list.and_then(|(id, level)| self.numbering.next(&id, level));
        if paragraph.text.trim().is_empty() {
            return;
        }
        let outlined = paragraph.outline.map(|level| (level + 1).min(6));
        let marked = |mark: &str| format!("{mark}{}", paragraph.text);
        match (role, outlined) {
            (Role::Contents, _) => {}
            (Role::Title, _) => {
                self.draft.entitle(&paragraph.text);
                self.draft.push(BlockKind::Heading(1), &paragraph.text);
            }
            (_, Some(level)) | (Role::Heading(level), None) => {
                self.draft
                    .push(BlockKind::Heading(level), &marked(mark.as_deref().unwrap_or_default()));
            }
            (Role::Body, None) => match mark {
                Some(mark) => self.draft.push(BlockKind::ListItem, &marked(&mark)),
                None if super::list::is_item(&paragraph.text) => {
                    self.draft.push(BlockKind::ListItem, &paragraph.text);
                }
                None => self.draft.push(BlockKind::Paragraph, &paragraph.text),
            },
        }
    }
}

/// Deleted and moved text, the second telling of a drawing, and parts that hold no running text.
fn is_left_out(name: &str) -> bool {
    matches!(
        name,
        "del"
            | "moveFrom"
            | "Fallback"
            | "instrText"
            | "delText"
            | "pPrChange"
            | "rPrChange"
            | "tblPrChange"
            | "tcPrChange"
            | "sectPr"
            | "tabs"
    )
}

pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element
        .attributes()
        .with_checks(false)
        .flatten()
        .find(|attribute| attribute.key.local_name().into_inner() == name)?;
    Some(found.value.into_owned())
}

/// Only characters and the five names that XML knows: nothing can be defined, so nothing expands.
fn resolved(name: &quick_xml::events::BytesRef<'_>) -> Result<String, String> {
    if let Some(c) = name.resolve_char_ref().map_err(|e| format!("is damaged ({e})"))? {
        return Ok(c.to_string());
    }
    quick_xml::escape::resolve_predefined_entity(name)
        .map(str::to_owned)
        .ok_or_else(|| "uses an entity that XML does not know; save it again".to_owned())
}
