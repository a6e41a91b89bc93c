//! Shapes that need arithmetic or the operator's lists: telephones, identity and card numbers, links.

use std::ops::Range;

use serde::Deserialize;

use crate::base::pattern::pattern;
use crate::gate::compliance::AllowLists;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Matcher {
    Mobile,
    IdCard,
    BankCard,
    Link,
}

const CHINESE_DIGITS: &str = "零〇一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖";
const CHINESE_VALUES: &str = "0012345678912123456789";

/// Kinds of files, which are named like hosts: `说明.pdf`, `node.js`.
const FILES: [&str; 30] = [
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "csv", "txt", "md", "jpg", "jpeg", "png",
    "gif", "webp", "mp3", "mp4", "mov", "avi", "exe", "apk", "dmg", "ofd", "js", "ts", "py", "rb",
    "json", "xml", "html",
];
/// Units behind a number: `2.5.kg`.
const UNITS: [&str; 12] = ["cm", "mm", "km", "kg", "mg", "ml", "kb", "mb", "gb", "tb", "kw", "hz"];
/// Endings of three letters and more; those of two are countries'.
const ENDINGS: [&str; 52] = [
    "com", "net", "org", "edu", "gov", "info", "biz", "xyz", "top", "vip", "shop", "store",
    "online", "site", "app", "dev", "link", "live", "club", "wang", "ltd", "group", "work",
    "works", "tech", "fun", "icu", "mobi", "pro", "art", "ink", "cloud", "website", "space",
    "host", "press", "asia", "cool", "news", "run", "pub", "zone", "world", "life", "email",
    "company", "click", "win", "loan", "bid", "cash", "fund",
];

// In groups of 3-4-4, 3-3-5 or 4-3-4, or digit by digit, in figures or Chinese numerals.
pattern!(
    MOBILE = r"(?:(?:\+|00)?86[-‐‑–—−_./·• ]{0,2}|0)?1(?:[3-9]\d(?:[-‐‑–—−_./·• ]{0,2}\d{4}[-‐‑–—−_./·• ]{0,2}\d{4}|[-‐‑–—−_/·• ]\d{3}[-‐‑–—−_/·• ]\d{5}|\d[-‐‑–—−_./·• ]\d{3}[-‐‑–—−_./·• ]\d{4})|[-‐‑–—−_./·• ][3-9](?:[-‐‑–—−_./·• ]\d){9})|[一幺壹][-‐‑–—−_./·• ]?[三四五六七八九叁肆伍陆柒捌玖](?:[-‐‑–—−_./·• ]?[零〇一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖]){9}"
);
pattern!(ID_CARD = r"[1-9](?:[-‐‑–—−_./·• ]?\d){16}[-‐‑–—−_./·• ]?[\dx]");
pattern!(BANK_CARD = r"\d(?:[-‐‑–—−_./·• ]?\d){15,18}");
pattern!(
    LINK = r"[a-z][a-z0-9+-]*://[a-z0-9._~:/?#@!$&'*+=%-]*|www\.[a-z0-9._~:/?#@!$&'*+=%-]+|[a-z0-9_-]+(?:(?:\.|\[\.\])[a-z0-9_-]+|点(?:com|cn|net|org|vip|top|shop))+(?:[@:/?#][a-z0-9._~:/?#@!$&'*+=%-]*)?"
);

impl Matcher {
    /// The first that is the thing itself and is not allowed.
    pub(super) fn find(self, folded: &str, lists: &AllowLists) -> Option<Range<usize>> {
        let pattern = match self {
            Self::Mobile => &MOBILE,
            Self::IdCard => &ID_CARD,
            Self::BankCard => &BANK_CARD,
            Self::Link => &LINK,
        };
        let mut from = 0;
        while let Some(found) = pattern.find_at(folded, from) {
            let span = match self {
                Self::Link => is_foreign_link(found.as_str(), lists).then(|| found.range()),
                Self::Mobile | Self::IdCard | Self::BankCard => {
                    self.judge(folded, found.range(), lists)
                }
            };
            if span.is_some() {
                return span;
            }
            // A rejected number may hide a true one that starts inside it.
            from = match self {
                Self::Link => found.end(),
                Self::Mobile | Self::IdCard | Self::BankCard => {
                    found.start() + found.as_str().chars().next().map_or(1, char::len_utf8)
                }
            };
        }
        None
    }

    /// A number's span when it is none that stands inside a longer one.
    fn judge(self, folded: &str, span: Range<usize>, lists: &AllowLists) -> Option<Range<usize>> {
        if folded[..span.start].ends_with(is_digit) {
            return None;
        }
        let ends = |end: usize| !folded[end..].starts_with(is_digit);
        let text = &folded[span.clone()];
        match self {
            Self::Mobile => {
                let digits = digits_of(text);
                let number = &digits[digits.len().saturating_sub(11)..];
                let listed = lists.service_numbers.iter().any(|n| n == number || *n == digits);
                (ends(span.end) && !listed).then_some(span)
            }
            Self::IdCard => (ends(span.end) && is_id_card(text)).then_some(span),
            // An amount may stand behind a card's number: any whole group may be its last.
            Self::BankCard => {
                let lengths = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
                let ends = |end: usize| ends(end) && !folded[end..].starts_with('x');
                let mut wholes = lengths.filter(|end| ends(span.start + end));
                let is_card = |end: &usize| {
                    let digits = digits_of(&text[..*end]);
                    let listed = lists.service_numbers.contains(&digits);
                    (16..=19).contains(&digits.len()) && luhn(&digits) && !listed
                };
                wholes.find(is_card).map(|end| span.start..span.start + end)
            }
            Self::Link => None,
        }
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Figures and Chinese numerals as figures.
pub(super) fn digits_of(text: &str) -> String {
    let chinese = |c: char| {
        let mut pairs = CHINESE_DIGITS.chars().zip(CHINESE_VALUES.chars());
        pairs.find(|(digit, _)| *digit == c).map(|(_, value)| value)
    };
    text.chars().filter_map(|c| if c.is_ascii_digit() { Some(c) } else { chinese(c) }).collect()
}

/// GB 11643-1999: seventeen digits weighted by 2^(17 − i) mod 11 give the eighteenth.
fn is_id_card(text: &str) -> bool {
    let signs: Vec<char> = text.chars().filter(|c| c.is_ascii_digit() || *c == 'x').collect();
    let [body @ .., check] = signs.as_slice() else { return false };
    let digits: Option<Vec<u32>> = body.iter().map(|c| c.to_digit(10)).collect();
    let Some(digits) = digits.filter(|d| d.len() == 17) else { return false };
    let number = |part: Range<usize>| digits[part].iter().fold(0, |n, d| n * 10 + d);
    let born = (1800..2100).contains(&number(6..10));
    if !born || !(1..=12).contains(&number(10..12)) || !(1..=31).contains(&number(12..14)) {
        return false;
    }
    let sum = digits.iter().fold(0, |sum, d| (sum + d) * 2 % 11);
    let expected = (12 - sum) % 11;
    check.to_digit(10).unwrap_or(10) == expected
}

/// ISO/IEC 7812-1, the check digit of payment cards.
fn luhn(digits: &str) -> bool {
    let mut sum = 0;
    for (i, d) in digits.chars().rev().filter_map(|c| c.to_digit(10)).enumerate() {
        let doubled = if i % 2 == 1 { d * 2 } else { d };
        sum += doubled / 10 + doubled % 10;
    }
    sum % 10 == 0
}

/// Whether it leads to a host, and to none that is listed.
fn is_foreign_link(link: &str, lists: &AllowLists) -> bool {
    let stated = link.contains("://") || link.starts_with("www.");
    (stated || is_host(link)) && !host_listed(host_of(link), &lists.link_hosts)
}

fn host_of(link: &str) -> &str {
    let bare = link.split_once("://").map_or(link, |(_, rest)| rest);
    let authority = bare.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ is not the host.
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.split(':').next().unwrap_or_default().trim_end_matches('.')
}

/// Whether a dotted run without a scheme leads to a host and is no number, file or unit.
fn is_host(run: &str) -> bool {
    let host = host_of(run);
    let labels: Vec<&str> = host.split(['.', '[', ']', '点']).filter(|l| !l.is_empty()).collect();
    let [names @ .., last] = labels.as_slice() else { return false };
    let goes_on = run.contains(['/', '?', '#', ':']);
    if last.len() < 2 || !last.bytes().all(|b| b.is_ascii_lowercase()) {
        // xn--… is an ending in another script; four numbers are an address where something follows.
        let address = labels.len() == 4 && labels.iter().all(|l| l.parse::<u8>().is_ok());
        return last.starts_with("xn--") || (address && goes_on);
    }
    let figures = names.iter().all(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let known = last.len() == 2 || ENDINGS.contains(last);
    let other = FILES.contains(last) || (figures && UNITS.contains(last));
    !names.is_empty() && (goes_on && !(figures && UNITS.contains(last)) || (known && !other))
}

fn host_listed(host: &str, hosts: &[String]) -> bool {
    let below = |listed: &String| {
        host == listed || host.strip_suffix(listed.as_str()).is_some_and(|h| h.ends_with('.'))
    };
    hosts.iter().any(below)
}
