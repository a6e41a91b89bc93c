//! What an answer leaves open for the customer who reads it: `{nickname}`, `{order_id}`, `{date}`.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;

use crate::base::spelling::is_invisible;
use crate::base::text::prefix_bytes;
use crate::domain::knowledge::words;

words!(
    Variable {
        /// How the platform calls the customer.
        Nickname = "nickname",
        /// The order that the conversation is about.
        OrderId = "order_id",
        /// Today, in the company's zone.
        Date = "date",
    }
);

impl Variable {
    /// All names, for a message to the operator.
    pub fn names() -> String {
        Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What is known of a customer at this moment.
pub type Values = BTreeMap<Variable, String>;

/// A text in pieces. Braces around anything but a name of letters, digits and underscores are text.
enum Piece<'a> {
    Text(&'a str),
    /// As variables are written: `{nickname}`.
    Name(&'a str),
    /// What reads as a name and is not written as one: `{ nickname }`, `｛nickname｝`.
    Misspelt {
        raw: &'a str,
        name: String,
    },
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(OPENING) {
        let (before, from) = rest.split_at(open);
        pieces.push(Piece::Text(before));
        let (piece, length) = braced(from).unwrap_or_else(|| {
            let brace = from.chars().next().map_or(0, char::len_utf8);
            (Piece::Text(&from[..brace]), brace)
        });
        pieces.push(piece);
        rest = &from[length..];
    }
    pieces.push(Piece::Text(rest));
    pieces
}

const OPENING: [char; 3] = ['{', '｛', '﹛'];
const CLOSING: [char; 3] = ['}', '｝', '﹜'];
/// No variable's name is longer, in bytes as written: a stray brace is not looked for to the end.
const NAME_REACH: usize = 128;

/// The name that a text begins with, and its length in bytes.
fn braced(from: &str) -> Option<(Piece<'_>, usize)> {
    let raw = prefix_bytes(from, NAME_REACH);
    let close = raw.find(CLOSING)?;
    let brace = |at: usize| raw[at..].chars().next().map_or(0, char::len_utf8);
    let end = close + brace(close);
    let (raw, inner) = (&raw[..end], &raw[brace(0)..close]);
    let name: String = inner.chars().filter(|c| !is_invisible(*c)).nfkc().collect();
    let name = name.trim().to_owned();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let exact = raw.starts_with('{') && raw.ends_with('}') && inner == name;
    let piece = match (is_name, exact) {
        (true, true) => Piece::Name(inner),
        (true, false) => Piece::Misspelt { raw, name },
        (false, _) => return None,
    };
    Some((piece, end))
}

/// What stands in braces and is no variable: `{price}`, and variables written as `{ nickname }`.
pub fn unknown(text: &str) -> Vec<String> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Name(name) if Variable::parse(name).is_none() => Some(format!("{{{name}}}")),
        Piece::Misspelt { raw, .. } => Some(raw.to_owned()),
        Piece::Name(_) | Piece::Text(_) => None,
    });
    names.collect()
}

/// Variables that a text still leaves open, however they are written.
pub fn open_in(text: &str) -> Vec<Variable> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Name(name) => Variable::parse(name),
        Piece::Misspelt { name, .. } => Variable::parse(&name.to_lowercase()),
        Piece::Text(_) => None,
    });
    names.collect()
}

/// The text with what is known put in; what is not stays as it is written.
pub fn fill(text: &str, values: &Values) -> String {
    let filled = pieces(text).into_iter().map(|piece| match piece {
        Piece::Text(text) | Piece::Misspelt { raw: text, .. } => text.to_owned(),
        Piece::Name(name) => {
            let value = Variable::parse(name).and_then(|variable| values.get(&variable));
            value.cloned().unwrap_or_else(|| format!("{{{name}}}"))
        }
    });
    filled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_are_put_in_and_others_stay_open() {
        let values = Values::from([(Variable::Nickname, "王女士".into())]);
        let text = fill("{nickname}您好，订单{order_id}已发出{ 3}{", &values);
        assert_eq!(text, "王女士您好，订单{order_id}已发出{ 3}{");
        assert_eq!(open_in(&text), [Variable::OrderId]);
        assert_eq!(unknown("{nickname}{price}{x y}{"), ["{price}"]);
    }

    #[test]
    fn a_misspelt_one_is_found_and_never_leaves_as_it_is() {
        for text in
            ["{ nickname }", "｛nickname｝", "{nick\u{200b}name}", "{ｎｉｃｋname}", "﹛nickname}"]
        {
            assert_eq!(unknown(&format!("您好{text}，")), [text]);
            assert_eq!(open_in(text), [Variable::Nickname], "{text}");
            assert_eq!(fill(text, &Values::from([(Variable::Nickname, "王".into())])), text);
        }
        for text in ["{}", "{ 3 }", "{ x y }", "｛说明｝", "{\"a\": 1}", "｛", "{nickname", "{ "]
        {
            assert!(unknown(text).is_empty() && open_in(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_value_is_never_read_again() {
        let values = Values::from([(Variable::Nickname, "{order_id}".into())]);
        assert_eq!(fill("{nickname}", &values), "{order_id}");
    }
}
