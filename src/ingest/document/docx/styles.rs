//! What a Word style says about its paragraphs.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::attribute;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Body,
    Title,
    Heading(u8),
    /// A line of the table of contents, which says nothing that is not said below.
    Contents,
}

#[derive(Default)]
struct Style {
    name: String,
    outline: Option<u8>,
    based_on: Option<String>,
    list: Option<(String, usize)>,
}

#[derive(Default)]
pub(super) struct Styles {
    by_id: HashMap<String, Style>,
}

/// Longest chain of styles that are based on each other; Word stops at eleven.
const CHAIN: usize = 16;

impl Styles {
    /// A part that cannot be read leaves the styles before the damage.
    pub(super) fn read(xml: &str) -> Self {
        let mut styles = Self::default();
        let mut id = String::new();
        let mut style = Style::default();
        let mut reader = Reader::from_str(xml);
        loop {
            match reader.read_event() {
                Ok(Event::Start(element) | Event::Empty(element)) => {
                    let value = || attribute(&element, "val");
                    match element.local_name().into_inner() {
                        "style" => {
                            id = attribute(&element, "styleId").unwrap_or_default();
                            style = Style::default();
                        }
                        "name" => style.name = value().unwrap_or_default().to_lowercase(),
                        "basedOn" => style.based_on = value(),
                        "outlineLvl" => style.outline = value().and_then(|v| v.parse().ok()),
                        "ilvl" => {
                            let level = value().and_then(|v| v.parse().ok()).unwrap_or(0);
                            style.list.get_or_insert_default().1 = level;
                        }
                        "numId" => {
                            style.list.get_or_insert_default().0 = value().unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                Ok(Event::End(element)) if element.local_name().into_inner() == "style" => {
                    styles.by_id.insert(std::mem::take(&mut id), std::mem::take(&mut style));
                }
                Ok(Event::Eof) | Err(_) => return styles,
                Ok(_) => {}
            }
        }
    }

    pub(super) fn role(&self, id: &str) -> Role {
        for style in self.chain(id) {
            let name = style.name.as_str();
            let level = ["heading", "标题"].into_iter().find_map(|word| {
                name.strip_prefix(word)?.trim().parse::<u8>().ok().filter(|l| (1..=9).contains(l))
            });
            if let Some(level) = level {
                return Role::Heading(level.min(6));
            }
            if name == "title" {
                return Role::Title;
            }
            if ["toc", "目录"].iter().any(|word| name.starts_with(word)) {
                return Role::Contents;
            }
            if let Some(outline) = style.outline.filter(|level| *level < 9) {
                return Role::Heading((outline + 1).min(6));
            }
        }
        Role::Body
    }

    /// The list that the style's paragraphs belong to.
    pub(super) fn list(&self, id: &str) -> Option<(String, usize)> {
        self.chain(id).find_map(|style| style.list.clone()).filter(|(id, _)| !id.is_empty())
    }

    fn chain<'a>(&'a self, id: &str) -> impl Iterator<Item = &'a Style> {
        let next = move |style: &&'a Style| self.by_id.get(style.based_on.as_deref()?);
        std::iter::successors(self.by_id.get(id), next).take(CHAIN)
    }
}
