//! Reads an XML push body with a pull parser: no DTD, no entities but the predefined, bounded.

use super::fields::{Field, Fields, MAX_DEPTH, MAX_FIELDS};
use crate::channels::PushError;
use crate::channels::xml::{Elements, NOT_XML, walk};

/// The children of the root `<xml>`. Deeper elements belong to events that this service does not
/// look into; they are walked over, within the bounds. Line ends are kept as they were sent.
pub(super) fn parse(text: &str) -> Result<Fields, PushError> {
    let mut found = Walk::default();
    walk(text, &mut found)?;
    found.finish()
}

#[derive(Default)]
struct Walk {
    fields: Fields,
    /// Open elements; 1 is inside the root, 2 inside one of its children.
    depth: usize,
    elements: usize,
    /// The known child of the root that is open, and its text so far.
    current: Option<(Field, String)>,
    finished: bool,
    /// Text stands beside the fields.
    stray: bool,
}

impl Elements for Walk {
    fn open(&mut self, name: &str) -> Result<(), PushError> {
        self.elements += 1;
        if self.elements > MAX_FIELDS || self.depth >= MAX_DEPTH {
            return Err(PushError::Malformed("too many or too deeply nested fields"));
        }
        match self.depth {
            0 if self.finished || name != "xml" => return Err(NOT_XML),
            1 => self.current = Field::parse(name).map(|field| (field, String::new())),
            _ if self.current.is_some() => {
                return Err(PushError::Malformed("a text field has elements inside"));
            }
            _ => {}
        }
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), PushError> {
        self.depth = self.depth.checked_sub(1).ok_or(NOT_XML)?;
        if self.depth == 0 {
            self.finished = true;
        }
        match self.current.take() {
            Some((field, value)) => self.fields.insert(field, value),
            None => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), PushError> {
        if let Some((_, value)) = &mut self.current {
            value.push_str(text);
        } else if self.depth == 0 && !text.trim().is_empty() {
            return Err(NOT_XML);
        } else if self.depth == 1 && !text.trim().is_empty() {
            self.stray = true;
        }
        Ok(())
    }
}

impl Walk {
    fn finish(self) -> Result<Fields, PushError> {
        if !self.finished || self.depth != 0 {
            return Err(NOT_XML);
        }
        // A root with nothing but text has no fields, and none that could be doubted.
        if self.stray && self.elements > 1 {
            return Err(PushError::Malformed("text outside of the fields"));
        }
        Ok(self.fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(text: &str) -> Result<Option<String>, PushError> {
        parse(text).map(|fields| fields.get(Field::Content).map(str::to_owned))
    }

    #[test]
    fn cdata_plain_text_and_the_predefined_entities() {
        let ok = |text: &str, expected: &str| {
            assert_eq!(content(text), Ok(Some(expected.to_owned())), "{text}");
        };
        ok("<xml><Content><![CDATA[a<b>&amp;]]></Content></xml>", "a<b>&amp;");
        ok("<xml><Content>&lt;&gt;&amp;&apos;&quot;&#20320;&#x597D;</Content></xml>", "<>&'\"你好");
        ok("<xml><Content>a<![CDATA[]]]]><![CDATA[>]]>b</Content></xml>", "a]]>b");
        ok("<?xml version=\"1.0\"?>\n<xml>\n <Content> 两 </Content>\n</xml>\n", " 两 ");
        ok("<xml><!-- c --><Content/><Unread>x</Unread></xml>", "");
        assert_eq!(content("<xml>x</xml>"), Ok(None));
        ok(
            "<xml><ScanCodeInfo><Content>no</Content></ScanCodeInfo><Content>y</Content></xml>",
            "y",
        );
    }

    #[test]
    fn entity_bombs_and_foreign_entities_are_refused() {
        let bomb = "<?xml version=\"1.0\"?><!DOCTYPE xml [<!ENTITY a \"aaaaaaaaaa\">\
                    <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;\">]>\
                    <xml><Content>&c;</Content></xml>";
        assert_eq!(content(bomb), Err(PushError::Malformed("a DTD is not accepted")));
        let file = "<!DOCTYPE xml SYSTEM \"file:///etc/passwd\"><xml><Content>x</Content></xml>";
        assert_eq!(content(file), Err(PushError::Malformed("a DTD is not accepted")));
        let unknown = PushError::Malformed("an entity is not known");
        for entity in ["&c;", "&nbsp;", "&#0;", "&#xD800;", "&#99999999999;"] {
            let body = format!("<xml><Content>{entity}</Content></xml>");
            assert_eq!(content(&body), Err(unknown), "{entity}");
        }
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let too_many = PushError::Malformed("too many or too deeply nested fields");
        let nested = |n: usize| format!("<xml>{}{}</xml>", "<a>".repeat(n), "</a>".repeat(n));
        assert_eq!(content(&nested(MAX_DEPTH - 1)), Ok(None));
        assert_eq!(content(&nested(MAX_DEPTH)), Err(too_many));
        let wide = |n: usize| format!("<xml>{}</xml>", "<a/>".repeat(n));
        assert_eq!(content(&wide(MAX_FIELDS - 1)), Ok(None));
        assert_eq!(content(&wide(MAX_FIELDS)), Err(too_many));
    }

    #[test]
    fn ambiguous_or_broken_bodies_are_refused() {
        for body in [
            "<xml><Content>a</Content><Content>a</Content></xml>",
            "<xml><Content>a<b/>c</Content></xml>",
            "<xml><Content>a</Content></xml><xml><Content>b</Content></xml>",
            "<xml><Content>a</Content></xml>trailing",
            "<xml>stray<Content>a</Content></xml>",
            "<html><Content>a</Content></html>",
            "<xml><Content>a</xml></Content>",
            "<xml><Content>a</Content>",
            "<xml><Content>a & b</Content></xml>",
            "<xml><?php echo 1 ?></xml>",
            "</xml>",
            "<",
        ] {
            assert!(matches!(parse(body), Err(PushError::Malformed(_))), "{body}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(<xml>|</xml>|<Content>|</Content>|<!\\[CDATA\\[|\\]\\]>|&|;|<|>|.){0,40}") {
            let _ = parse(&text);
        }
    }
}
