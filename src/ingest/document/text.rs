//! Plain text: paragraphs by lines and blank lines, headings and lists by their own marks.

use super::{BlockKind, Draft, list, outline, tidy};

/// A line at least this wide that ends within a sentence was broken to fit; columns, of which a
/// Chinese character takes two.
const WRAPPED: usize = 56;

pub(super) fn read(text: &str) -> Draft {
    let mut draft = Draft::default();
    let mut paragraph = Paragraph::default();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            paragraph.end(&mut draft);
            continue;
        }
        let begins = list::is_item(line) || outline::level(line).is_some();
        if begins || !paragraph.is_open {
            paragraph.end(&mut draft);
        }
        paragraph.add(line);
    }
    paragraph.end(&mut draft);
    demote_empty_headings(&mut draft);
    draft
}

#[derive(Default)]
struct Paragraph {
    text: String,
    /// The last line was broken to fit.
    is_open: bool,
}

impl Paragraph {
    fn add(&mut self, line: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.is_open = width(line) >= WRAPPED && !tidy::is_ended(line);
    }

    fn end(&mut self, draft: &mut Draft) {
        let text = std::mem::take(&mut self.text);
        self.is_open = false;
        let kind = match outline::level(&text) {
            Some(level) => BlockKind::Heading(level),
            None if list::is_item(&text) => BlockKind::ListItem,
            None => BlockKind::Paragraph,
        };
        draft.push(kind, &text);
    }
}

fn width(line: &str) -> usize {
    line.chars().map(|c| if tidy::is_wide(c) { 2 } else { 1 }).sum()
}

/// “一、身份证” and “二、银行卡” in a row are a list, not sections without words.
pub(super) fn demote_empty_headings(draft: &mut Draft) {
    let kinds: Vec<BlockKind> = draft.blocks.iter().map(|block| block.kind).collect();
    for (at, block) in draft.blocks.iter_mut().enumerate() {
        let BlockKind::Heading(level) = block.kind else { continue };
        let is_same =
            |other: Option<&BlockKind>| matches!(other, Some(BlockKind::Heading(l)) if *l == level);
        let followed = is_same(kinds.get(at + 1));
        let last = at > 0 && is_same(kinds.get(at - 1)) && kinds.get(at + 1).is_none();
        if (followed || last) && list::is_item(&block.text) {
            block.kind = BlockKind::ListItem;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(BlockKind, String)> {
        read(text).blocks.into_iter().map(|b| (b.kind, b.text)).collect()
    }

    #[test]
    fn lines_that_were_broken_are_joined() {
        let text = "第一章 退货\n自签收之日起七天内，商品未使用且包装完好的，可以申请无理由退货，生\n鲜除外。\n1. 打开订单\n2. 点击退货\n\n电话：400";
        assert_eq!(
            blocks(text),
            [
                (BlockKind::Heading(1), "第一章 退货".to_owned()),
                (
                    BlockKind::Paragraph,
                    "自签收之日起七天内，商品未使用且包装完好的，可以申请无理由退货，生鲜除外。"
                        .to_owned()
                ),
                (BlockKind::ListItem, "1. 打开订单".to_owned()),
                (BlockKind::ListItem, "2. 点击退货".to_owned()),
                (BlockKind::Paragraph, "电话：400".to_owned()),
            ]
        );
    }

    #[test]
    fn headings_without_words_are_a_list() {
        let kinds: Vec<_> =
            blocks("材料如下：\n一、身份证\n二、银行卡").into_iter().map(|b| b.0).collect();
        assert_eq!(kinds, [BlockKind::Paragraph, BlockKind::ListItem, BlockKind::ListItem]);
    }
}
