//! HTML as a reader sees it: no scripts, styles, navigation or hidden parts.

use encoding_rs::Encoding;
use scraper::ElementRef;
use scraper::Html;
use scraper::node::{Element, Node};

use super::{BlockKind, Draft, table, tidy};

pub(super) fn read(bytes: &[u8]) -> Result<Draft, String> {
    let mut draft = Draft::default();
    let page = decode(bytes)?;
    if nests_too_deep(&page) {
        return Err(format!("nests more than {MOST_NESTED} elements in one another"));
    }
    append(&mut draft, &page);
    Ok(draft)
}

/// The parser looks through all open elements at every tag, some seconds for so many; no page for
/// readers comes near this.
const MOST_NESTED: usize = 30_000;

/// Told from the tags alone, so that a page made to be slow is refused before it is parsed.
fn nests_too_deep(page: &str) -> bool {
    let (mut depth, mut drawing) = (0_usize, false);
    for tag in page.split('<').skip(1) {
        let (ends, name) = tag.strip_prefix('/').map_or((false, tag), |name| (true, name));
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let name_end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        let name = name[..name_end].to_ascii_lowercase();
        if DRAWINGS.contains(&name.as_str()) {
            drawing = !ends;
        }
        // In a drawing every element needs an end and may be its own; outside, the slash says nothing.
        let no_end = if drawing { is_closed(tag) } else { UNNESTED.contains(&name.as_str()) };
        if no_end {
            continue;
        }
        depth = if ends { depth.saturating_sub(1) } else { depth + 1 };
        if depth > MOST_NESTED {
            return true;
        }
    }
    false
}

fn is_closed(tag: &str) -> bool {
    tag.split_once('>').is_some_and(|(tag, _)| tag.ends_with('/'))
}

/// Elements that are read by the rules of XML.
const DRAWINGS: [&str; 2] = ["svg", "math"];

/// Elements without an end, or whose end is commonly left out.
const UNNESTED: [&str; 21] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr", "p", "li", "td", "th", "tr", "dt", "dd", "option",
];

/// Takes what a page or a piece of one says.
pub(super) fn append(draft: &mut Draft, source: &str) {
    let page = Html::parse_document(source);
    Reader { draft, inline: String::new(), heading: None, items: Vec::new(), mark: String::new() }
        .walk(&page);
}

/// How much of a page is searched for the name of its encoding.
const META_BYTES: usize = 4_096;

/// By byte order mark, else UTF-8, else what the page says of itself, else GB18030.
fn decode(bytes: &[u8]) -> Result<String, String> {
    let marked = Encoding::for_bom(bytes).is_some();
    if !marked && std::str::from_utf8(bytes).is_err() {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(META_BYTES)]).to_lowercase();
        if let Some(encoding) = declared(&head) {
            return Ok(encoding.decode(bytes).0.into_owned());
        }
    }
    super::decoded(bytes)
}

fn declared(head: &str) -> Option<&'static Encoding> {
    let (_, rest) = head.split_once("charset=")?;
    let label: String = rest
        .trim_start_matches(['"', '\''])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    let encoding = Encoding::for_label(label.as_bytes())?;
    // GB2312 and GBK are parts of it, and pages that name them use all of it.
    Some(if encoding == encoding_rs::GBK { encoding_rs::GB18030 } else { encoding })
}

struct Reader<'a> {
    draft: &'a mut Draft,
    inline: String,
    heading: Option<u8>,
    /// One for each open list; numbered ones count.
    items: Vec<Option<u64>>,
    mark: String,
}

impl Reader<'_> {
    fn walk(mut self, page: &Html) {
        // Not by recursion: pages nest as deeply as they like.
        let mut node = Some(page.tree.root());
        while let Some(current) = node {
            let enter = match current.value() {
                Node::Text(text) => {
                    self.text(text);
                    false
                }
                Node::Element(element) => self.open(element, ElementRef::wrap(current)),
                Node::Document | Node::Fragment => true,
                Node::Comment(_) | Node::Doctype(_) | Node::ProcessingInstruction(_) => false,
            };
            node = if enter { current.first_child() } else { None };
            let mut left = current;
            let mut entered = enter;
            while node.is_none() {
                if entered && let Node::Element(element) = left.value() {
                    self.close(element);
                }
                if let Some(next) = left.next_sibling() {
                    node = Some(next);
                    break;
                }
                let Some(parent) = left.parent() else { break };
                left = parent;
                entered = true;
            }
        }
        self.end_block();
    }

    fn text(&mut self, text: &str) {
        self.inline.push_str(text);
    }

    /// Whether to read what is inside.
    fn open(&mut self, element: &Element, whole: Option<ElementRef<'_>>) -> bool {
        let name = element.name();
        if is_unseen(element) {
            return false;
        }
        if name == "title" {
            let title: String = whole.iter().flat_map(ElementRef::text).collect();
            self.draft.entitle(&title);
            return false;
        }
        if name == "table"
            && let Some(rows) = whole.and_then(rows)
        {
            self.end_block();
            table::push(self.draft, rows, None);
            return false;
        }
        if is_block(name) {
            self.end_block();
        }
        match name {
            "ul" => self.items.push(None),
            "ol" => {
                let start = element.attr("start").and_then(|s| s.trim().parse().ok());
                self.items.push(Some(start.unwrap_or(1)));
            }
            "li" => {
                self.mark.clear();
                if let Some(Some(next)) = self.items.last_mut() {
                    self.mark = format!("{next}. ");
                    *next = next.saturating_add(1);
                }
            }
            "td" | "th" => self.inline.push(' '),
            _ => self.heading = heading(name).or(self.heading),
        }
        true
    }

    fn close(&mut self, element: &Element) {
        let name = element.name();
        if is_block(name) {
            self.end_block();
        }
        match name {
            "ul" | "ol" => {
                self.items.pop();
            }
            _ if heading(name).is_some() => self.heading = None,
            _ => {}
        }
    }

    fn end_block(&mut self) {
        let text = std::mem::take(&mut self.inline);
        if text.trim().is_empty() {
            return;
        }
        match self.heading {
            Some(level) => self.draft.push(BlockKind::Heading(level), &text),
            None if self.items.is_empty() => self.draft.push(BlockKind::Paragraph, &text),
            None => {
                let mark = std::mem::take(&mut self.mark);
                self.draft.push(BlockKind::ListItem, &(mark + text.trim_start()));
            }
        }
    }
}

fn heading(name: &str) -> Option<u8> {
    let level = name.strip_prefix('h')?.parse().ok()?;
    (1..=6).contains(&level).then_some(level)
}

fn is_unseen(element: &Element) -> bool {
    const LEFT_OUT: [&str; 18] = [
        "script", "style", "noscript", "template", "nav", "aside", "footer", "button", "select",
        "textarea", "svg", "iframe", "object", "canvas", "audio", "video", "map", "dialog",
    ];
    let style = element.attr("style").unwrap_or_default().to_lowercase().replace(' ', "");
    LEFT_OUT.contains(&element.name())
        || element.attr("hidden").is_some()
        || element.attr("aria-hidden") == Some("true")
        || matches!(element.attr("role"), Some("navigation" | "banner" | "contentinfo" | "search"))
        || style.contains("display:none")
        || style.contains("visibility:hidden")
}

fn is_block(name: &str) -> bool {
    const BLOCKS: [&str; 34] = [
        "address",
        "article",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "form",
        "head",
        "header",
        "hr",
        "html",
        "li",
        "main",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "ul",
        "option",
    ];
    BLOCKS.contains(&name) || heading(name).is_some()
}

/// Most columns over which one cell spreads.
const MOST_SPANNED: usize = 100;

/// The rows of a table of data; `None` where a table only arranges the page.
fn rows(table: ElementRef<'_>) -> Option<Vec<Vec<String>>> {
    let inside = || table.descendent_elements().skip(1);
    if inside().any(|e| matches!(e.value().name(), "table" | "h1" | "h2" | "h3" | "ul" | "ol")) {
        return None;
    }
    let mut rows = Vec::new();
    // Texts that reach down from rows above: how many rows are left, by column.
    let mut reaching: Vec<(usize, String)> = Vec::new();
    for tr in inside().filter(|e| e.value().name() == "tr") {
        if is_unseen(tr.value()) {
            continue;
        }
        let mut row: Vec<String> = Vec::new();
        for cell in tr.child_elements().filter(|e| matches!(e.value().name(), "td" | "th")) {
            take_reaching(&mut row, &mut reaching);
            let span = |name| cell.attr(name).and_then(|s| s.trim().parse::<usize>().ok());
            let (down, across) = (span("rowspan").unwrap_or(1), span("colspan").unwrap_or(1));
            let text = visible_text(cell);
            for at in 0..across.clamp(1, MOST_SPANNED) {
                let text = if at == 0 { text.clone() } else { String::new() };
                if down > 1 {
                    reaching.resize(reaching.len().max(row.len() + 1), (0, String::new()));
                    reaching[row.len()] = (down - 1, text.clone());
                }
                row.push(text);
            }
        }
        take_reaching(&mut row, &mut reaching);
        rows.push(row);
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    (columns > 1).then_some(rows)
}

/// Continues the row with the texts that reach into its next columns.
fn take_reaching(row: &mut Vec<String>, reaching: &mut [(usize, String)]) {
    while let Some((left, text)) = reaching.get_mut(row.len())
        && *left > 0
    {
        *left -= 1;
        row.push(text.clone());
    }
}

fn visible_text(cell: ElementRef<'_>) -> String {
    let mut text = String::new();
    for node in cell.descendants() {
        if let Node::Text(part) = node.value() {
            let unseen = node
                .ancestors()
                .take_while(|a| a.id() != cell.id())
                .any(|a| a.value().as_element().is_some_and(is_unseen));
            if !unseen {
                text.push_str(part);
            }
        } else if node.value().as_element().is_some_and(|e| is_block(e.name())) {
            text.push(' ');
        }
    }
    tidy::line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nests_without_end_is_refused_unparsed() {
        assert!(nests_too_deep(&"<div>".repeat(MOST_NESTED + 1)));
        assert!(nests_too_deep(&"<path>".repeat(MOST_NESTED + 1)));
        assert!(nests_too_deep(&"<path/>".repeat(MOST_NESTED + 1)), "no drawing: it stays open");
        assert!(nests_too_deep(&format!("<svg>{}", "<td>".repeat(MOST_NESTED))));
        assert!(!nests_too_deep(&"<svg><path d='M0 0'/><path/></svg>".repeat(MOST_NESTED)));
        assert!(!nests_too_deep(&"<div><br><p>一<p>二</div>".repeat(MOST_NESTED)));
        assert!(!nests_too_deep(&"1 < 2 && 3 <= 4 ".repeat(MOST_NESTED)));
        assert!(read("<b>".repeat(MOST_NESTED + 1).as_bytes()).is_err());
    }

    const PAGE: &str = r#"<!DOCTYPE html><html><head><title>帮助 中心</title><style>p{}</style></head><body>
        <nav><a>首页</a></nav><header><h1>退货<br>政策</h1></header>
        <p>七天内
        可退。<script>alert("x")</script><span style="display: none">暗</span></p><div hidden>没有</div>
        <p>如下：</p><ol><li>打开</li><li><p>点击</p>再点</li></ol>第一行<br>第二行
        <table><tr><th>地区</th><th colspan=2>运费</th></tr><tr><td rowspan="2">江浙沪</td><td>8元</td><td>快</td></tr>
        <tr><td>6元</td><td>慢</td></tr></table>
        <table><tr><td><h2>二</h2>文字</td></tr></table><footer>版权所有</footer></body></html>"#;

    fn blocks(draft: &Draft) -> Vec<(BlockKind, &str)> {
        draft.blocks.iter().map(|b| (b.kind, b.text.as_str())).collect()
    }

    #[test]
    fn a_page_as_it_is_seen() {
        let draft = read(PAGE.as_bytes()).unwrap();
        assert_eq!(draft.title.as_deref(), Some("帮助 中心"));
        assert_eq!(
            blocks(&draft),
            [
                (BlockKind::Heading(1), "退货"),
                (BlockKind::Heading(1), "政策"),
                (BlockKind::Paragraph, "七天内可退。"),
                (BlockKind::Paragraph, "如下："),
                (BlockKind::ListItem, "1. 打开"),
                (BlockKind::ListItem, "2. 点击"),
                (BlockKind::ListItem, "再点"),
                (BlockKind::Paragraph, "第一行"),
                (BlockKind::Paragraph, "第二行"),
                (BlockKind::TableRow, "地区: 江浙沪; 运费: 8元; 快"),
                (BlockKind::TableRow, "地区: 江浙沪; 运费: 6元; 慢"),
                (BlockKind::Heading(2), "二"),
                (BlockKind::Paragraph, "文字"),
            ]
        );
    }

    #[test]
    fn the_encoding_is_found() {
        let page = "<meta charset=gb2312><p>退货政策㐂</p>";
        let (gb, _, _) = encoding_rs::GB18030.encode(page);
        let (big5, _, _) = encoding_rs::BIG5.encode("<meta charset=\"big5\"><p>退貨</p>");
        assert_eq!(blocks(&read(&gb).unwrap()), [(BlockKind::Paragraph, "退货政策㐂")]);
        assert_eq!(blocks(&read(&big5).unwrap()), [(BlockKind::Paragraph, "退貨")]);
    }

    #[test]
    fn deep_nesting_is_no_recursion() {
        let deep = "<b>".repeat(20_000) + "底";
        assert_eq!(blocks(&read(deep.as_bytes()).unwrap()), [(BlockKind::Paragraph, "底")]);
    }
}
