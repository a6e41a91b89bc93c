//! From pieces of text at places on pages to headings, paragraphs, list items and rows.

use std::collections::BTreeMap;

use crate::ingest::document::{BlockKind, Draft, list, outline, table, tidy};

/// Text set in one go, at its place on the page; lengths are points, upwards.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) left: f32,
    pub(super) right: f32,
    pub(super) baseline: f32,
    pub(super) size: f32,
    pub(super) bold: bool,
}

pub(super) struct Page {
    pub(super) number: u32,
    /// In reading order.
    pub(super) pieces: Vec<Piece>,
}

/// A piece of a line with its extent; several where a table has columns.
#[derive(Clone, Debug)]
struct Cell {
    text: String,
    left: f32,
    right: f32,
}

#[derive(Clone, Debug)]
struct Line {
    page: u32,
    cells: Vec<Cell>,
    baseline: f32,
    size: f32,
    bold: bool,
}

impl Line {
    fn text(&self) -> String {
        let texts: Vec<&str> = self.cells.iter().map(|cell| cell.text.as_str()).collect();
        texts.join(" ")
    }

    fn left(&self) -> f32 {
        self.cells.first().map_or(0.0, |cell| cell.left)
    }

    fn right(&self) -> f32 {
        self.cells.last().map_or(0.0, |cell| cell.right)
    }
}

/// Pieces further apart than this part of their size are words or cells of their own.
const WORD_GAP: f32 = 0.2;
/// Narrower gaps are never between columns.
const CELL_GAP: f32 = 0.35;
/// A heading is set this much larger than the text.
const HEADING_SIZE: f32 = 1.15;
const HEADING_CHARS: usize = 60;

pub(super) fn blocks(draft: &mut Draft, pages: Vec<Page>) {
    let mut pages: Vec<Vec<Line>> = pages.into_iter().map(lines).collect();
    let sizes = Sizes::of(pages.iter().flatten());
    remove_running_heads(&mut pages, &sizes);
    let lines: Vec<Line> = pages.into_iter().flatten().collect();
    let mut paragraph = Paragraph::default();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let rows = table_at(&lines[at..]);
        if rows > 1 {
            paragraph.end(draft);
            let cells = lines[at..at + rows]
                .iter()
                .map(|line| line.cells.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>());
            table::push(draft, cells.collect(), Some(line.page));
            at += rows;
            continue;
        }
        match sizes.heading(line) {
            Some(level) => {
                if !paragraph.is_same_heading(level, line) {
                    paragraph.end(draft);
                }
                paragraph.add(line, BlockKind::Heading(level));
            }
            None => {
                if !paragraph.goes_on(line, &lines) {
                    paragraph.end(draft);
                }
                let is_item = list::is_item(&line.text());
                paragraph
                    .add(line, if is_item { BlockKind::ListItem } else { BlockKind::Paragraph });
            }
        }
        at += 1;
    }
    paragraph.end(draft);
}

/// Pieces on one baseline, put together from left to right as they come.
fn lines(page: Page) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for piece in page.pieces {
        let text = plain_radicals(piece.text.trim());
        let spaced = piece.text.starts_with(char::is_whitespace);
        let same = lines.last_mut().filter(|line| {
            (line.baseline - piece.baseline).abs() < 0.4 * line.size.max(piece.size)
                && piece.left > line.right() - line.size
        });
        let Some(line) = same else {
            lines.push(Line {
                page: page.number,
                cells: vec![Cell { text, left: piece.left, right: piece.right }],
                baseline: piece.baseline,
                size: piece.size,
                bold: piece.bold,
            });
            continue;
        };
        let gap = (piece.left - line.right()) / line.size;
        line.size = line.size.max(piece.size);
        line.bold &= piece.bold;
        match line.cells.last_mut() {
            Some(cell) if gap < CELL_GAP => {
                if gap > WORD_GAP || spaced {
                    cell.text.push(' ');
                }
                cell.text.push_str(&text);
                cell.right = cell.right.max(piece.right);
            }
            Some(_) | None => {
                line.cells.push(Cell { text, left: piece.left, right: piece.right });
            }
        }
    }
    lines
}

/// Fonts often set 一 and 用 as the radicals that look the same; their code points differ.
fn plain_radicals(text: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    if !text.contains(|c| matches!(u32::from(c), 0x2E80..=0x2FDF)) {
        return text.to_owned();
    }
    let plain = |c: char| match c {
        '⺟' => '母',
        '⻅' => '见',
        '⻆' => '角',
        '⻉' => '贝',
        '⻋' => '车',
        '⻓' => '长',
        '⻔' => '门',
        '⻙' => '韦',
        '⻚' => '页',
        '⻛' => '风',
        '⻜' => '飞',
        '⻝' => '食',
        '⻢' => '马',
        '⻤' => '鬼',
        '⻥' => '鱼',
        '⻦' => '鸟',
        '⻨' => '麦',
        '⻩' => '黄',
        '⻬' => '齐',
        '⻮' => '齿',
        '⻰' => '龙',
        '⻳' => '龟',
        other => other,
    };
    let is_kangxi = |c: char| matches!(u32::from(c), 0x2F00..=0x2FDF);
    let unfolded = |c: char| std::iter::once(c).nfkc().next().unwrap_or(c);
    text.chars().map(plain).map(|c| if is_kangxi(c) { unfolded(c) } else { c }).collect()
}

/// This many lines at the top and bottom of a page may be running heads and page numbers.
const EDGE_LINES: usize = 2;
/// They stand further from the text than lines of text from each other, in heights of its letters.
const APART: f32 = 2.0;
/// Fewer pages tell nothing about what repeats.
const FEWEST_PAGES: usize = 3;

/// Takes away the lines at the edges that say the same, but for numbers, on many pages. What is
/// set larger than the text is a heading, even if every page begins with one.
fn remove_running_heads(pages: &mut [Vec<Line>], sizes: &Sizes) {
    if pages.len() < FEWEST_PAGES {
        return;
    }
    let mut seen: BTreeMap<(String, i32), usize> = BTreeMap::new();
    for page in pages.iter() {
        let mut keys: Vec<_> =
            edges(page, sizes).into_iter().map(|at| edge_key(&page[at])).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            *seen.entry(key).or_default() += 1;
        }
    }
    // Left and right pages may differ, and chapters change the words.
    let enough = FEWEST_PAGES.max(pages.len() / 4);
    for page in pages.iter_mut() {
        let repeated: Vec<usize> = edges(page, sizes)
            .into_iter()
            .filter(|at| seen.get(&edge_key(&page[*at])).is_some_and(|n| *n >= enough))
            .filter(|at| !sizes.is_larger(&page[*at]))
            .collect();
        for at in repeated.into_iter().rev() {
            page.remove(at);
        }
    }
}

/// The lines nearest to the top and the bottom, as far as they are set apart from the text: the last
/// line of a form may say the same on every page and is text all the same. Ascending.
fn edges(page: &[Line], sizes: &Sizes) -> Vec<usize> {
    let mut inward: Vec<usize> = (0..page.len()).collect();
    inward.sort_by(|a, b| page[*a].baseline.total_cmp(&page[*b].baseline));
    let is_apart = |inward: &[usize], at: usize| {
        inward.get(at + 1).is_none_or(|next| {
            (page[inward[at]].baseline - page[*next].baseline).abs() > APART * sizes.body
        })
    };
    let outer = |inward: &[usize]| {
        let last = (0..EDGE_LINES.min(inward.len())).rev().find(|at| is_apart(inward, *at));
        inward[..last.map_or(0, |last| last + 1)].to_vec()
    };
    let mut edges = outer(&inward);
    inward.reverse();
    edges.extend(outer(&inward));
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// What a running head says, numbers left open, and how high it stands.
fn edge_key(line: &Line) -> (String, i32) {
    let mut words = String::new();
    for c in line.text().chars().filter(|c| !c.is_whitespace()) {
        let c = if c.is_numeric() { '#' } else { c };
        if c != '#' || !words.ends_with('#') {
            words.push(c);
        }
    }
    (words, (line.baseline / 4.0).round() as i32)
}

/// How many lines from here on are rows of one table: as many cells each, one below the other.
fn table_at(lines: &[Line]) -> usize {
    let Some(first) = lines.first().filter(|line| line.cells.len() > 1) else { return 0 };
    let below = |line: &&Line| {
        line.page == first.page
            && line.cells.len() == first.cells.len()
            && line
                .cells
                .iter()
                .zip(&first.cells)
                .all(|(cell, head)| cell.left < head.right && head.left < cell.right)
    };
    lines.iter().take_while(below).count()
}

/// The size of running text, and the larger ones, which are headings of some level.
struct Sizes {
    body: f32,
    /// In tenths of points, largest first.
    larger: Vec<i32>,
}

fn tenths(size: f32) -> i32 {
    (size * 10.0).round() as i32
}

impl Sizes {
    fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let mut chars: BTreeMap<i32, usize> = BTreeMap::new();
        for line in lines {
            *chars.entry(tenths(line.size)).or_default() += line.text().chars().count();
        }
        let most = chars.iter().max_by_key(|(_, n)| **n).map_or(100, |(size, _)| *size);
        let body = most as f32 / 10.0;
        let least = tenths(body * HEADING_SIZE);
        let larger: Vec<i32> = chars.keys().rev().copied().filter(|s| *s >= least).collect();
        Self { body, larger }
    }

    fn is_larger(&self, line: &Line) -> bool {
        self.larger.contains(&tenths(line.size))
    }

    fn heading(&self, line: &Line) -> Option<u8> {
        let text = line.text();
        let is_short = text.chars().count() <= HEADING_CHARS
            && !text.ends_with(['。', '；', ';', '，', ',', '、'])
            && text.chars().any(char::is_alphabetic);
        if !is_short {
            return None;
        }
        if let Some(rank) = self.larger.iter().position(|size| *size == tenths(line.size)) {
            return Some(u8::try_from(rank + 1).unwrap_or(6).min(6));
        }
        let below = u8::try_from(self.larger.len()).unwrap_or(6);
        let own = outline::level(&text).filter(|level| *level == 1 || line.bold);
        let level =
            own.or((line.bold && line.size >= self.body && !list::is_item(&text)).then_some(1))?;
        Some((below + level).min(6))
    }
}

/// A line shorter than the column by this many characters ends its paragraph.
const SHORT_BY: f32 = 4.0;
/// A first line is set in by at least this many characters.
const INDENT: f32 = 1.2;
/// Lines of a paragraph are at most this many sizes apart.
const LINE_SPACING: f32 = 2.2;

/// Lines that belong together.
#[derive(Default)]
struct Paragraph {
    text: String,
    kind: Option<BlockKind>,
    page: u32,
    last: Option<Line>,
    /// What one line lies below the other in this paragraph.
    spacing: Option<f32>,
}

impl Paragraph {
    fn is_same_heading(&self, level: u8, line: &Line) -> bool {
        let close =
            |last: &Line| last.page == line.page && last.baseline - line.baseline < 1.8 * line.size;
        self.kind == Some(BlockKind::Heading(level))
            && outline::level(&line.text()).is_none()
            && self.last.as_ref().is_some_and(close)
    }

    /// Whether the line continues the paragraph.
    fn goes_on(&self, line: &Line, all: &[Line]) -> bool {
        let Some(last) = &self.last else { return false };
        let in_text = matches!(self.kind, Some(BlockKind::Paragraph | BlockKind::ListItem));
        if !in_text
            || list::is_item(&line.text())
            || (last.size - line.size).abs() > 0.12 * last.size
        {
            return false;
        }
        let column = |line: &Line| {
            let page = all.partition_point(|l| l.page < line.page)
                ..all.partition_point(|l| l.page <= line.page);
            all[page]
                .iter()
                .filter(|l| (l.left() - line.left()).abs() < 4.0 * l.size)
                .map(Line::right)
                .fold(0.0_f32, f32::max)
        };
        let is_full = column(last) - last.right() < SHORT_BY * last.size;
        let ended = tidy::is_ended(&self.text);
        if last.page != line.page || line.baseline > last.baseline {
            // Over the end of a page or a column.
            return is_full && !ended;
        }
        let spacing = last.baseline - line.baseline;
        let is_near = spacing < LINE_SPACING * last.size
            && self.spacing.is_none_or(|usual| spacing < 1.3 * usual + 1.0);
        let indented = line.left() - last.left() > INDENT * line.size
            && self.kind != Some(BlockKind::ListItem)
            && self.spacing.is_some();
        is_near && !(indented && ended) && (is_full || !ended && spacing < 1.6 * last.size)
    }

    fn add(&mut self, line: &Line, kind: BlockKind) {
        if let Some(last) = &self.last {
            self.spacing.get_or_insert(last.baseline - line.baseline);
        } else {
            (self.kind, self.page) = (Some(kind), line.page);
        }
        join(&mut self.text, &line.text());
        self.last = Some(line.clone());
    }

    fn end(&mut self, draft: &mut Draft) {
        let done = std::mem::take(self);
        if let Some(kind) = done.kind {
            draft.push_on_page(kind, &done.text, Some(done.page));
        }
    }
}

/// Continues a text with its next line: no space between Chinese characters, and no hyphen where
/// an English word was divided.
fn join(text: &mut String, line: &str) {
    let Some(last) = text.chars().next_back() else {
        text.push_str(line);
        return;
    };
    let first = line.chars().next().unwrap_or(' ');
    let before = text[..text.len() - last.len_utf8()].chars().next_back();
    if matches!(last, '-' | '\u{2010}' | '\u{ad}')
        && before.is_some_and(|c| c.is_ascii_alphabetic())
        && first.is_ascii_lowercase()
    {
        text.pop();
    } else if !tidy::is_wide(last) && !tidy::is_wide(first) {
        text.push(' ');
    }
    text.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, left: f32, baseline: f32, size: f32) -> Piece {
        let width: f32 = text.chars().map(|c| if c.is_ascii() { 0.5 } else { 1.0 }).sum();
        Piece { text: text.into(), left, right: left + width * size, baseline, size, bold: false }
    }

    fn read(pages: Vec<Vec<Piece>>) -> Vec<(BlockKind, String, Option<u32>)> {
        let pages = (1..).zip(pages).map(|(number, pieces)| Page { number, pieces }).collect();
        let mut draft = Draft::default();
        blocks(&mut draft, pages);
        draft.blocks.into_iter().map(|b| (b.kind, b.text, b.page)).collect()
    }

    #[test]
    fn paragraphs_go_on_over_lines_and_pages_without_running_heads() {
        let page = |n: usize, body: Vec<Piece>| {
            let mut pieces = vec![piece("售后手册 内部资料", 72.0, 800.0, 9.0)];
            pieces.extend(body);
            pieces.push(piece(&format!("第 {n} 页"), 280.0, 30.0, 9.0));
            pieces
        };
        let blocks = read(vec![
            page(
                1,
                vec![
                    piece("退货与退款", 72.0, 740.0, 18.0),
                    piece(
                        "自签收之日起七天内，商品未使用且包装完好的，可以申请无理由退",
                        72.0,
                        700.0,
                        12.0,
                    ),
                    piece(
                        "货。生鲜除外，具体以商品页的说明为准，运费由买家承担。请在订",
                        72.0,
                        682.0,
                        12.0,
                    ),
                ],
            ),
            page(
                2,
                vec![
                    piece("单页申请。", 72.0, 740.0, 12.0),
                    piece("Refunds go back to the original pay-", 72.0, 700.0, 12.0),
                    piece("ment method within three days.", 72.0, 682.0, 12.0),
                ],
            ),
            page(
                3,
                vec![
                    piece("地区", 72.0, 740.0, 12.0),
                    piece("运费", 150.0, 740.0, 12.0),
                    piece("江浙沪", 72.0, 720.0, 12.0),
                    piece("8元", 150.0, 720.0, 12.0),
                ],
            ),
        ]);
        let expected = [
            (BlockKind::Heading(1), "退货与退款", 1),
            (
                BlockKind::Paragraph,
                "自签收之日起七天内，商品未使用且包装完好的，可以申请无理由退货。生鲜除外，具体以商品页的说明为准，运费由买家承担。请在订单页申请。",
                1,
            ),
            (
                BlockKind::Paragraph,
                "Refunds go back to the original payment method within three days.",
                2,
            ),
            (BlockKind::TableRow, "地区: 江浙沪; 运费: 8元", 3),
        ];
        let expected: Vec<_> =
            expected.into_iter().map(|(k, t, p)| (k, t.to_owned(), Some(p))).collect();
        assert_eq!(blocks, expected);
    }

    #[test]
    fn radicals_are_characters() {
        assert_eq!(plain_radicals("⾃签收之⽇，商品⻚"), "自签收之日，商品页");
    }
}
