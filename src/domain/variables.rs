//! What an answer leaves open for the customer who reads it: `{nickname}`, `{order_id}`, `{date}`.

use std::collections::BTreeMap;

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

/// A text in pieces: as it stands, or the name between braces. Braces around anything but a name of
/// letters, digits and underscores are text.
enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        let name = from[1..].split_once('}').map(|(name, _)| name);
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        pieces.push(Piece::Text(before));
        if let Some(name) = name.filter(|name| is_name(name)) {
            pieces.push(Piece::Name(name));
            rest = &from[name.len() + 2..];
        } else {
            pieces.push(Piece::Text(&from[..1]));
            rest = &from[1..];
        }
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Names in a text that are no variables.
pub fn unknown(text: &str) -> Vec<&str> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Name(name) if Variable::parse(name).is_none() => Some(name),
        Piece::Name(_) | Piece::Text(_) => None,
    });
    names.collect()
}

/// Variables that a text still leaves open.
pub fn open_in(text: &str) -> Vec<Variable> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Name(name) => Variable::parse(name),
        Piece::Text(_) => None,
    });
    names.collect()
}

/// The text with what is known put in; what is not stays as it is written.
pub fn fill(text: &str, values: &Values) -> String {
    let filled = pieces(text).into_iter().map(|piece| match piece {
        Piece::Text(text) => text.to_owned(),
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
        assert_eq!(unknown("{nickname}{price}{x y}{"), ["price"]);
    }

    #[test]
    fn a_value_is_never_read_again() {
        let values = Values::from([(Variable::Nickname, "{order_id}".into())]);
        assert_eq!(fill("{nickname}", &values), "{order_id}");
    }
}
