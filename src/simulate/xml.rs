//! The flat XML that platforms push and get back.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::Fault;

/// A member's value; numbers stand bare, as the platforms write them.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

pub(super) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

pub(super) fn write(members: &[(&str, Value)]) -> String {
    let element = |(name, value): &(&str, Value)| match value {
        Value::Number(number) => format!("<{name}>{number}</{name}>"),
        Value::Text(text) => {
            let text = text.replace("]]>", "]]]]><![CDATA[>");
            format!("<{name}><![CDATA[{text}]]></{name}>")
        }
    };
    format!("<xml>{}</xml>", members.iter().map(element).collect::<String>())
}

/// Members below the root by name; those inside of others by the inner name alone.
pub(super) fn read(body: &[u8]) -> Result<BTreeMap<String, String>, Fault> {
    let bad = |reason: &dyn std::fmt::Display| Fault::new(format!("no XML: {reason}"));
    let source = std::str::from_utf8(body).map_err(|e| bad(&e))?;
    let mut reader = Reader::from_str(source);
    let (mut open, mut fields) = (Vec::new(), BTreeMap::<String, String>::new());
    loop {
        let mut add = |open: &[String], text: &str| {
            if let [_, .., name] = open {
                fields.entry(name.clone()).or_default().push_str(text);
            }
        };
        match reader.read_event().map_err(|e| bad(&e))? {
            Event::Start(start) => {
                open.push(start.name().as_ref().to_owned());
                add(&open, "");
            }
            Event::End(_) => {
                open.pop();
            }
            Event::Text(text) => {
                let text = text.into_inner();
                if !text.trim().is_empty() {
                    add(&open, &text);
                }
            }
            Event::CData(text) => add(&open, &text.into_inner()),
            Event::GeneralRef(_) => return Err(bad(&"an entity where CDATA is expected")),
            Event::Eof if open.is_empty() => return Ok(fields),
            Event::Eof => return Err(bad(&"it ends too early")),
            Event::Empty(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let body = write(&[("A", text("x]]>y<&")), ("N", Value::Number(7))]);
        let fields = read(body.as_bytes()).unwrap();
        assert_eq!((fields["A"].as_str(), fields["N"].as_str()), ("x]]>y<&", "7"));
        assert!(read(b"<xml><A>").is_err());
    }
}
