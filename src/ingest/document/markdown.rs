//! Markdown, with tables; HTML inside it is read as HTML.

use pulldown_cmark::{Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};

use super::{BlockKind, Draft, html, table};

pub(super) fn read(text: &str) -> Draft {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    let mut reader = Reader::default();
    for event in Parser::new_ext(text.trim_start_matches('\u{feff}'), options) {
        reader.take(event);
    }
    reader.end_block();
    reader.draft
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    inline: String,
    heading: Option<u8>,
    /// One for each open list; numbered ones count.
    lists: Vec<Option<u64>>,
    item_mark: String,
    html: Option<String>,
    metadata: Option<String>,
    rows: Vec<Vec<String>>,
    struck: usize,
    is_code: bool,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.open(&tag),
            Event::End(tag) => self.close(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(text) => self.inline.push_str(&text),
            Event::Html(text) => match &mut self.html {
                Some(html) => html.push_str(&text),
                None => self.inline.push(' '),
            },
            Event::InlineHtml(tag) => self.inline_html(&tag),
            Event::SoftBreak => self.inline.push('\n'),
            Event::HardBreak => self.inline.push(' '),
            Event::Rule => self.end_block(),
            Event::TaskListMarker(_)
            | Event::FootnoteReference(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(metadata) = &mut self.metadata {
            metadata.push_str(text);
        } else if self.is_code {
            for line in text.lines() {
                self.inline.push_str(line);
                self.end_block();
            }
        } else if self.struck == 0 {
            self.inline.push_str(text);
        }
    }

    fn inline_html(&mut self, tag: &str) {
        let tag = tag.to_lowercase();
        if tag.starts_with("<br") && self.heading.is_none() && self.rows.is_empty() {
            self.end_block();
        } else if tag.starts_with("<br") {
            self.inline.push(' ');
        }
    }

    fn open(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => {
                self.end_block();
                self.heading = Some(number(*level));
            }
            Tag::List(first) => {
                self.end_block();
                self.lists.push(*first);
            }
            Tag::Item => {
                self.end_block();
                self.item_mark = match self.lists.last_mut() {
                    Some(Some(next)) => {
                        let mark = format!("{next}. ");
                        *next += 1;
                        mark
                    }
                    Some(None) | None => String::new(),
                };
            }
            Tag::HtmlBlock => {
                self.end_block();
                self.html = Some(String::new());
            }
            Tag::MetadataBlock(MetadataBlockKind::YamlStyle | MetadataBlockKind::PlusesStyle) => {
                self.metadata = Some(String::new());
            }
            Tag::CodeBlock(_) => {
                self.end_block();
                self.is_code = true;
            }
            Tag::Table(_) => self.end_block(),
            Tag::TableHead | Tag::TableRow => self.rows.push(Vec::new()),
            Tag::Strikethrough => self.struck += 1,
            Tag::Paragraph
            | Tag::BlockQuote(_)
            | Tag::FootnoteDefinition(_)
            | Tag::DefinitionList
            | Tag::DefinitionListTitle
            | Tag::DefinitionListDefinition => self.end_block(),
            Tag::TableCell
            | Tag::Emphasis
            | Tag::Strong
            | Tag::Superscript
            | Tag::Subscript
            | Tag::Link { .. }
            | Tag::Image { .. } => {}
        }
    }

    fn close(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                let level = self.heading.take().unwrap_or(1);
                let text = std::mem::take(&mut self.inline);
                self.draft.push(BlockKind::Heading(level), &text);
            }
            TagEnd::List(_) => {
                self.end_block();
                self.lists.pop();
            }
            TagEnd::HtmlBlock => {
                if let Some(source) = self.html.take() {
                    html::append(&mut self.draft, &source);
                }
            }
            TagEnd::MetadataBlock(_) => {
                let metadata = self.metadata.take().unwrap_or_default();
                let title = metadata.lines().find_map(|line| line.strip_prefix("title:"));
                if let Some(title) = title {
                    self.draft.entitle(title.trim().trim_matches(['"', '\'']));
                }
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.inline);
                if let Some(row) = self.rows.last_mut() {
                    row.push(cell);
                }
            }
            TagEnd::Table => table::push(&mut self.draft, std::mem::take(&mut self.rows), None),
            TagEnd::Strikethrough => self.struck = self.struck.saturating_sub(1),
            TagEnd::CodeBlock => {
                self.end_block();
                self.is_code = false;
            }
            TagEnd::Paragraph
            | TagEnd::BlockQuote(_)
            | TagEnd::Item
            | TagEnd::FootnoteDefinition
            | TagEnd::DefinitionList
            | TagEnd::DefinitionListTitle
            | TagEnd::DefinitionListDefinition => self.end_block(),
            TagEnd::TableHead
            | TagEnd::TableRow
            | TagEnd::Emphasis
            | TagEnd::Strong
            | TagEnd::Superscript
            | TagEnd::Subscript
            | TagEnd::Link
            | TagEnd::Image => {}
        }
    }

    fn end_block(&mut self) {
        let text = std::mem::take(&mut self.inline);
        if text.trim().is_empty() {
            return;
        }
        if self.lists.is_empty() {
            self.draft.push(BlockKind::Paragraph, &text);
        } else {
            let mark = std::mem::take(&mut self.item_mark);
            self.draft.push(BlockKind::ListItem, &(mark + &text));
        }
    }
}

fn number(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_block() {
        let draft = read(
            "---\ntitle: 退货手册\n---\n# 退货\n七天内\n可退。~~三十天。~~\n\n1. 打开`订单`\n2. 点击\n   - 退货\n\n\
             | 地区 | 运费 |\n|---|---|\n| 江浙沪 | **8**元 |\n\n<div><p>另见<script>x()</script>官网。</p></div>\n\n```\nGET /a\n```\n",
        );
        assert_eq!(draft.title.as_deref(), Some("退货手册"));
        let blocks: Vec<_> = draft.blocks.iter().map(|b| (b.kind, b.text.as_str())).collect();
        assert_eq!(
            blocks,
            [
                (BlockKind::Heading(1), "退货"),
                (BlockKind::Paragraph, "七天内可退。"),
                (BlockKind::ListItem, "1. 打开订单"),
                (BlockKind::ListItem, "2. 点击"),
                (BlockKind::ListItem, "退货"),
                (BlockKind::TableRow, "地区: 江浙沪; 运费: 8元"),
                (BlockKind::Paragraph, "另见官网。"),
                (BlockKind::Paragraph, "GET /a"),
            ]
        );
    }
}
