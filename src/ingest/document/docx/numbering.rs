//! The numbers that Word sets before list items, which stand nowhere in the text.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::attribute;

#[derive(Clone, Default)]
struct Level {
    format: String,
    /// `%1.%2、`: the numbers of the levels above and its own.
    text: String,
    start: u32,
}

const LEVELS: usize = 9;

#[derive(Default)]
pub(super) struct Numbering {
    lists: HashMap<String, Vec<Level>>,
    abstract_of: HashMap<String, String>,
    counts: HashMap<String, [Option<u32>; LEVELS]>,
}

impl Numbering {
    /// A part that cannot be read leaves the lists before the damage.
    pub(super) fn read(xml: &str) -> Self {
        let mut numbering = Self::default();
        let (mut list, mut number) = (String::new(), String::new());
        let mut reader = Reader::from_str(xml);
        loop {
            match reader.read_event() {
                Ok(Event::Start(element) | Event::Empty(element)) => {
                    let value = || attribute(&element, "val").unwrap_or_default();
                    let levels = numbering.lists.entry(list.clone()).or_default();
                    match element.local_name().into_inner() {
                        "abstractNum" => {
                            list = attribute(&element, "abstractNumId").unwrap_or_default();
                        }
                        "lvl" if levels.len() < LEVELS => {
                            levels.push(Level { start: 1, ..Level::default() });
                        }
                        "start" => set(levels, |l| l.start = value().parse().unwrap_or(1)),
                        "numFmt" => set(levels, |l| l.format = value()),
                        "lvlText" => set(levels, |l| l.text = value()),
                        "num" => number = attribute(&element, "numId").unwrap_or_default(),
                        "abstractNumId" => {
                            numbering.abstract_of.insert(number.clone(), value());
                        }
                        _ => {}
                    }
                }
                Ok(Event::Eof) | Err(_) => return numbering,
                Ok(_) => {}
            }
        }
    }

    /// The mark of the list's next item; empty for a bullet, `None` if it is in no list.
    pub(super) fn next(&mut self, id: &str, level: usize) -> Option<String> {
        // Zero takes a paragraph out of its style's list.
        if id == "0" || level >= LEVELS {
            return None;
        }
        let list = self.abstract_of.get(id)?;
        let levels = self.lists.get(list)?;
        let own = levels.get(level)?;
        let counts = self.counts.entry(list.clone()).or_default();
        let start = |at: usize| levels.get(at).map_or(1, |l| l.start);
        counts[level] = Some(counts[level].map_or(start(level), |n| n.saturating_add(1)));
        counts[level + 1..].fill(None);
        if matches!(own.format.as_str(), "bullet" | "none") {
            return Some(String::new());
        }
        let mut mark = own.text.clone();
        for (at, count) in counts.iter().enumerate().take(level + 1) {
            let count = count.unwrap_or(start(at));
            let format = levels.get(at).map_or("decimal", |l| l.format.as_str());
            mark = mark.replace(&format!("%{}", at + 1), &numeral(count, format));
        }
        Some(format!("{mark} "))
    }
}

fn set(levels: &mut [Level], change: impl FnOnce(&mut Level)) {
    if let Some(level) = levels.last_mut() {
        change(level);
    }
}

fn numeral(count: u32, format: &str) -> String {
    let letter = |first: u8| {
        let at = u8::try_from(count.saturating_sub(1) % 26).unwrap_or(0);
        char::from(first + at).to_string()
    };
    match format {
        "chineseCounting"
        | "chineseCountingThousand"
        | "japaneseCounting"
        | "taiwaneseCountingThousand"
        | "ideographTraditional" => chinese(count),
        "lowerLetter" => letter(b'a'),
        "upperLetter" => letter(b'A'),
        _ => count.to_string(),
    }
}

/// 1 to 99 in words; beyond that digits.
fn chinese(count: u32) -> String {
    const DIGITS: [&str; 10] = ["", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
    let digit = |n: u32| DIGITS[n as usize % 10];
    match count {
        1..=9 => digit(count).to_owned(),
        10..=19 => format!("十{}", digit(count)),
        20..=99 => format!("{}十{}", digit(count / 10), digit(count)),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_below_each_other() {
        let xml = r#"<w:numbering xmlns:w="w"><w:abstractNum w:abstractNumId="7">
            <w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="chineseCounting"/><w:lvlText w:val="%1、"/></w:lvl>
            <w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="（%2）"/></w:lvl>
            </w:abstractNum><w:num w:numId="2"><w:abstractNumId w:val="7"/></w:num></w:numbering>"#;
        let mut numbering = Numbering::read(xml);
        let marks: Vec<_> = [0, 1, 1, 0, 1].map(|level| numbering.next("2", level).unwrap()).into();
        assert_eq!(marks, ["一、 ", "（1） ", "（2） ", "二、 ", "（1） "]);
        assert_eq!(numbering.next("0", 0), None);
        assert_eq!(numbering.next("9", 0), None);
        assert_eq!(chinese(10) + &chinese(21), "十二十一");
    }
}
