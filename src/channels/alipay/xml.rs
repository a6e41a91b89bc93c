//! Reads the XML of a push: the text of every element that has none inside, by its name.

use std::collections::BTreeMap;

use crate::channels::PushError;
use crate::channels::xml::{Elements, NOT_XML, walk};

const MAX_ELEMENTS: usize = 256;
const MAX_DEPTH: usize = 8;

/// Texts by the element's name, wherever it stands. A name that comes twice has none of the two:
/// which one counts is not for us to choose.
#[derive(Debug, Default)]
pub(super) struct Leaves(BTreeMap<String, Option<String>>);

impl Leaves {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }

    /// A text that is not empty, without white space around it.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|text| !text.is_empty())
    }
}

/// No DTD, no entities but the predefined, bounded in depth and number.
pub(super) fn leaves(text: &str) -> Result<Leaves, PushError> {
    let mut found = Walk::default();
    walk(text.trim_start_matches('\u{FEFF}').trim(), &mut found)?;
    found.finish()
}

#[derive(Default)]
struct Walk {
    leaves: Leaves,
    elements: usize,
    /// Names and texts of the open elements, and whether one was opened inside.
    open: Vec<(String, String, bool)>,
}

impl Elements for Walk {
    fn open(&mut self, name: &str) -> Result<(), PushError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS || self.open.len() >= MAX_DEPTH {
            return Err(PushError::Malformed("too many or too deeply nested elements"));
        }
        match self.open.last_mut() {
            Some((_, _, parent)) => *parent = true,
            None if self.elements > 1 => return Err(NOT_XML),
            None => {}
        }
        self.open.push((name.to_owned(), String::new(), false));
        Ok(())
    }

    fn close(&mut self) -> Result<(), PushError> {
        let (name, text, parent) = self.open.pop().ok_or(NOT_XML)?;
        if !parent {
            let first = !self.leaves.0.contains_key(&name);
            self.leaves.0.insert(name, first.then_some(text));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), PushError> {
        match self.open.last_mut() {
            Some((_, so_far, _)) => so_far.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(NOT_XML),
        }
        Ok(())
    }
}

impl Walk {
    fn finish(self) -> Result<Leaves, PushError> {
        if self.elements > 0 && self.open.is_empty() { Ok(self.leaves) } else { Err(NOT_XML) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_are_found_at_any_depth() {
        let text = "<?xml version=\"1.0\" encoding=\"gbk\"?><XML><AppId><![CDATA[1]]></AppId>\
                    <Text> <Content>a &lt; b</Content> </Text><Empty/><Twice>x</Twice>\
                    <Twice>y</Twice></XML>";
        let leaves = leaves(text).unwrap();
        assert_eq!(leaves.get("AppId"), Some("1"));
        assert_eq!(leaves.get("Content"), Some("a < b"));
        assert_eq!((leaves.get("Empty"), leaves.filled("Empty")), (Some(""), None));
        assert_eq!((leaves.get("Twice"), leaves.get("Text")), (None, None));
    }

    #[test]
    fn bombs_and_broken_texts_are_refused() {
        let nested = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
        assert!(leaves(&nested(MAX_DEPTH)).is_ok());
        for text in [
            "",
            "x",
            "<a>",
            "</a>",
            "<a/><b/>",
            "<a>&b;</a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<a><?php ?></a>",
            &nested(MAX_DEPTH + 1),
            &format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS)),
        ] {
            assert!(matches!(leaves(text), Err(PushError::Malformed(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(<XML>|</XML>|<Content>|</Content>|<!\\[CDATA\\[|\\]\\]>|&|;|<|>|.){0,40}") {
            let _ = leaves(&text);
        }
    }
}
