//! A document cut into passages: pieces that can be found, shown and answered from by themselves.

use std::ops::Range;

use super::document::{Block, BlockKind, Document};
use crate::understand::clauses::sentences;

/// A stretch of a document under one heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// From the document's highest heading down to the one above the passage.
    pub heading_path: Vec<String>,
    /// What announced the list that this passage continues; it stands in an earlier one.
    pub lead_in: Option<String>,
    /// Where it begins.
    pub page: Option<u32>,
    /// Characters of [`Document::text`].
    pub range: Range<usize>,
    /// What stands there, as it stands there.
    pub text: String,
}

/// About this long, characters: two or three answers' worth, so that a question finds the one it
/// is about and not the chapter. The embedder tells texts of this length apart best.
const TARGET_CHARS: usize = 300;
/// Never longer, characters, but for a table's row: what the embedder reads of a text is 512 tokens,
/// and a Chinese character takes up to one.
const MOST_CHARS: usize = 480;
/// A rest shorter than this joins the passage before it.
const REST_CHARS: usize = 60;

/// The passages in order; every character but white space and headings is in exactly one. A heading
/// with nothing below it is a passage itself.
pub fn passages(document: &Document) -> Vec<Passage> {
    let text = document.text();
    let mut cutter = Cutter { text: &text, path: Vec::new(), units: Vec::new(), done: Vec::new() };
    let mut bytes = 0;
    let mut waiting: Option<(usize, &Block)> = None;
    for block in &document.blocks {
        let begin = bytes;
        bytes += block.text.len() + 1;
        let BlockKind::Heading(level) = block.kind else {
            waiting = None;
            cutter.add(block, begin);
            continue;
        };
        cutter.end_section();
        if let Some((begin, heading)) = waiting.take()
            && !is_above(heading, level)
        {
            cutter.heading_alone(heading, begin);
        }
        cutter.path.retain(|(above, _)| *above < level);
        cutter.path.push((level, block.text.clone()));
        waiting = Some((begin, block));
    }
    cutter.end_section();
    if let Some((begin, heading)) = waiting {
        cutter.heading_alone(heading, begin);
    }
    cutter.done
}

fn is_above(heading: &Block, level: u8) -> bool {
    matches!(heading.kind, BlockKind::Heading(above) if above < level)
}

/// What is never cut.
#[derive(Clone, Debug)]
struct Unit {
    bytes: Range<usize>,
    chars: Range<usize>,
    page: Option<u32>,
    /// Item of a list with the lead-in's place.
    list: Option<Option<Range<usize>>>,
}

struct Cutter<'a> {
    text: &'a str,
    path: Vec<(u8, String)>,
    /// Of the section being read.
    units: Vec<Unit>,
    done: Vec<Passage>,
}

impl Cutter<'_> {
    fn add(&mut self, block: &Block, begin: usize) {
        let whole = 0..block.text.len();
        let is_long = block.text.chars().count() > MOST_CHARS;
        let parts = match block.kind {
            BlockKind::TableRow => vec![whole],
            BlockKind::ListItem if !is_long => vec![whole],
            BlockKind::ListItem | BlockKind::Paragraph | BlockKind::Heading(_) => {
                sentences(&block.text).into_iter().flat_map(|s| shortened(&block.text, s)).collect()
            }
        };
        let is_item = block.kind == BlockKind::ListItem;
        let mut chars = block.offset;
        for part in parts {
            let length = block.text[part.clone()].chars().count();
            let unit = Unit {
                bytes: begin + part.start..begin + part.end,
                chars: chars..chars + length,
                page: block.page,
                list: is_item.then(|| self.lead_in()),
            };
            chars += length;
            self.units.push(unit);
        }
    }

    /// The sentence that announces the item about to be added.
    fn lead_in(&self) -> Option<Range<usize>> {
        let last = self.units.last()?;
        match &last.list {
            Some(lead_in) => lead_in.clone(),
            None => announces(&self.text[last.bytes.clone()]).then(|| last.bytes.clone()),
        }
    }

    fn end_section(&mut self) {
        let units = std::mem::take(&mut self.units);
        let mut rest = units.as_slice();
        while !rest.is_empty() {
            let (mut now, mut later) = rest.split_at(next_cut(rest));
            if !later.is_empty() && length(later) < REST_CHARS && length(rest) <= MOST_CHARS {
                (now, later) = (rest, &[]);
            }
            self.finish(now);
            rest = later;
        }
    }

    fn finish(&mut self, units: &[Unit]) {
        let (Some(first), Some(last)) = (units.first(), units.last()) else { return };
        let text = self.text[first.bytes.start..last.bytes.end].trim_end();
        if text.is_empty() {
            return;
        }
        let lead_in = first.list.clone().flatten().filter(|lead| lead.end <= first.bytes.start);
        self.done.push(Passage {
            heading_path: self.path.iter().map(|(_, text)| text.clone()).collect(),
            lead_in: lead_in.map(|at| self.text[at].trim().to_owned()),
            page: first.page,
            range: first.chars.start..first.chars.start + text.chars().count(),
            text: text.to_owned(),
        });
    }

    fn heading_alone(&mut self, heading: &Block, begin: usize) {
        let own = self.path.pop();
        let length = heading.text.chars().count();
        self.finish(&[Unit {
            bytes: begin..begin + heading.text.len(),
            chars: heading.offset..heading.offset + length,
            page: heading.page,
            list: None,
        }]);
        self.path.extend(own);
    }
}

/// How many units the next passage takes.
fn next_cut(units: &[Unit]) -> usize {
    let mut taken = 1;
    while let Some(next) = units.get(taken) {
        let so_far = length(&units[..taken]);
        let with_next = length(&units[..=taken]);
        let first_item = next.list.is_some() && units[taken - 1].list.is_none();
        let is_led = next.list.as_ref().is_some_and(Option::is_some);
        if first_item && is_led && taken > 1 && length(&units[..taken - 1]) >= REST_CHARS {
            // A list that does not fit in here begins a passage with its lead-in.
            let items = units[taken..].iter().take_while(|unit| unit.list == next.list).count();
            if length(&units[..taken + items]) > MOST_CHARS {
                return taken - 1;
            }
        }
        // A list may fill the passage to the brim.
        let most = if is_led { MOST_CHARS } else { TARGET_CHARS };
        // A short beginning takes what follows while that fits at all.
        if with_next > most && (so_far >= REST_CHARS || with_next > MOST_CHARS) {
            // The lead-in goes with its list.
            return if first_item && is_led && taken > 1 { taken - 1 } else { taken };
        }
        taken += 1;
    }
    taken
}

fn length(units: &[Unit]) -> usize {
    match (units.first(), units.last()) {
        (Some(first), Some(last)) => last.chars.end - first.chars.start,
        _ => 0,
    }
}

fn announces(sentence: &str) -> bool {
    let sentence = sentence.trim_end();
    let sentence = sentence.trim_end_matches(['。', '.']);
    sentence.ends_with(['：', ':']) || sentence.ends_with("如下") || sentence.ends_with("following")
}

/// A sentence without end is cut at a clause, a word, or where it must.
fn shortened(text: &str, sentence: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = sentence.start;
    while let Some((cut, _)) = text[start..sentence.end].char_indices().nth(MOST_CHARS) {
        let room = &text[start..start + cut];
        let behind = |marks: &[char]| {
            let (at, mark) = room.char_indices().rfind(|(_, c)| marks.contains(c))?;
            Some(start + at + mark.len_utf8())
        };
        let end =
            behind(&['，', ',', '、', '：', ':']).or_else(|| behind(&[' '])).unwrap_or(start + cut);
        parts.push(start..end);
        start = end;
    }
    parts.push(start..sentence.end);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(blocks: &[(BlockKind, &str)]) -> Document {
        let mut offset = 0;
        let blocks = blocks.iter().map(|(kind, text)| {
            let block = Block { kind: *kind, text: (*text).into(), page: None, offset };
            offset += text.chars().count() + 1;
            block
        });
        Document { title: String::new(), blocks: blocks.collect(), notes: Vec::new() }
    }

    #[test]
    fn sections_are_not_mixed_and_bare_headings_are_kept() {
        let passages = passages(&document(&[
            (BlockKind::Paragraph, "前言。"),
            (BlockKind::Heading(1), "退货"),
            (BlockKind::Heading(2), "期限"),
            (BlockKind::Paragraph, "七天内。"),
            (BlockKind::Heading(2), "空的"),
            (BlockKind::Heading(1), "运费"),
            (BlockKind::TableRow, "地区: 江浙沪; 运费: 8元"),
        ]));
        let found: Vec<_> = passages
            .iter()
            .map(|p| (p.heading_path.join("/"), p.text.as_str(), p.range.clone()))
            .collect();
        assert_eq!(
            found,
            [
                (String::new(), "前言。", 0..3),
                ("退货/期限".to_owned(), "七天内。", 10..14),
                ("退货".to_owned(), "空的", 15..17),
                ("运费".to_owned(), "地区: 江浙沪; 运费: 8元", 21..36),
            ]
        );
    }

    #[test]
    fn a_list_stays_with_what_announces_it() {
        let before = "自签收之日起七天内可以申请。".repeat(20);
        let item = "请准备好订单号、商品照片和购买凭证。".repeat(6);
        let passages = passages(&document(&[
            (BlockKind::Paragraph, &before),
            (BlockKind::Paragraph, "请按以下步骤操作："),
            (BlockKind::ListItem, &item),
            (BlockKind::ListItem, &item),
            (BlockKind::ListItem, &item),
            (BlockKind::ListItem, &item),
            (BlockKind::ListItem, &item),
        ]));
        assert_eq!(passages.len(), 3);
        assert!(passages[1].text.starts_with("请按以下步骤操作：\n请准备"));
        assert_eq!(passages[1].lead_in, None);
        assert_eq!(passages[2].lead_in.as_deref(), Some("请按以下步骤操作："));
    }

    fn any_block() -> impl Strategy<Value = (BlockKind, String)> {
        let kind = prop_oneof![
            1 => (1_u8..4).prop_map(BlockKind::Heading),
            4 => Just(BlockKind::Paragraph),
            3 => Just(BlockKind::ListItem),
            1 => Just(BlockKind::TableRow),
        ];
        let text = prop_oneof![
            "[退货运费七天。！？：；，a-z .!?:1-9（）“”]{1,40}",
            "[退货运费。，a. ]{200,900}",
            "[退a]{500,1300}",
        ];
        (kind, text).prop_filter("blocks hold something", |(_, t)| !t.trim().is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn nothing_is_lost_or_told_twice(blocks in prop::collection::vec(any_block(), 0..12)) {
            let blocks: Vec<(BlockKind, &str)> =
                blocks.iter().map(|(kind, text)| (*kind, text.trim())).collect();
            let document = document(&blocks);
            let text: Vec<char> = document.text().chars().collect();
            let mut told = vec![0; text.len()];
            for passage in passages(&document) {
                let there: String = text[passage.range.clone()].iter().collect();
                prop_assert_eq!(&there, &passage.text);
                let is_row = document.blocks.iter().any(|b| {
                    b.offset == passage.range.start
                        && matches!(b.kind, BlockKind::TableRow | BlockKind::Heading(_))
                });
                prop_assert!(passage.range.len() <= MOST_CHARS || is_row);
                for at in passage.range {
                    told[at] += 1;
                }
            }
            let mut at = 0;
            for block in &document.blocks {
                let is_heading = matches!(block.kind, BlockKind::Heading(_));
                for c in block.text.chars() {
                    prop_assert!(told[at] <= 1);
                    prop_assert!(told[at] == 1 || is_heading || c.is_whitespace(), "{} of {:?}", at, block);
                    at += 1;
                }
                at += 1;
            }
        }
    }
}
