//! Walks the XML that platforms post: no DTD, no instructions, no entities but the predefined.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event};

use crate::channels::PushError;

pub(super) const NOT_XML: PushError = PushError::Malformed("body is not well-formed XML");

/// Takes in what is walked over; bounds depth and number of elements.
pub(super) trait Elements {
    fn open(&mut self, name: &str) -> Result<(), PushError>;

    fn close(&mut self) -> Result<(), PushError>;

    /// A piece of the open element's text; several may follow each other.
    fn text(&mut self, text: &str) -> Result<(), PushError>;
}

pub(super) fn walk(text: &str, into: &mut impl Elements) -> Result<(), PushError> {
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event().map_err(|_| NOT_XML)? {
            Event::Start(tag) => into.open(tag.name().as_ref())?,
            Event::Empty(tag) => {
                into.open(tag.name().as_ref())?;
                into.close()?;
            }
            Event::End(_) => into.close()?,
            Event::Text(text) => into.text(&text.into_inner())?,
            Event::CData(text) => into.text(&text.into_inner())?,
            Event::GeneralRef(reference) => resolved(&reference, into)?,
            Event::DocType(_) => return Err(PushError::Malformed("a DTD is not accepted")),
            Event::PI(_) => return Err(PushError::Malformed("instructions are not accepted")),
            Event::Comment(_) | Event::Decl(_) => {}
            Event::Eof => return Ok(()),
        }
    }
}

fn resolved(reference: &BytesRef<'_>, into: &mut impl Elements) -> Result<(), PushError> {
    const UNKNOWN: PushError = PushError::Malformed("an entity is not known");
    match reference.resolve_char_ref().map_err(|_| UNKNOWN)? {
        Some(character) => into.text(character.encode_utf8(&mut [0; 4])),
        None => into.text(resolve_xml_entity(reference).ok_or(UNKNOWN)?),
    }
}
