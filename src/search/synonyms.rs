//! Words that mean the same to one operator's customers: all are read as the first of their group, in
//! questions as in the knowledge, before anything is embedded or compared.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use serde::{Deserialize, Serialize};

/// A shorter word would be found inside of others.
const LEAST_CHARS: usize = 2;
/// Words of all groups; more are a dictionary and no list that a person answers for.
const MOST_WORDS: usize = 10_000;

/// Groups of normalised words, none in two of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<String>>", into = "Vec<Vec<String>>")]
pub struct Synonyms {
    groups: Vec<Vec<String>>,
    /// The group of each word, in the order of the matcher's patterns.
    group_of: Vec<usize>,
    /// `None` without words.
    matcher: Option<AhoCorasick>,
}

/// Why a list cannot be meant, and which of its groups is at fault, from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Conflict {
    pub group: usize,
    pub reason: String,
}

impl Synonyms {
    /// # Errors
    /// [`Conflict`] for a group of fewer than two words, a word that is too short to be told from a
    /// part of another, one that stands there twice, and more words than a person answers for.
    pub fn new(groups: Vec<Vec<String>>) -> Result<Self, Conflict> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (group, words) in groups.iter().enumerate() {
            let conflict = |reason: String| Err(Conflict { group, reason });
            if words.len() < 2 {
                return conflict("a group needs two words at least".into());
            }
            for word in words {
                if word.chars().count() < LEAST_CHARS {
                    return conflict(format!("{word:?} is too short: it stands in other words"));
                }
                match seen.insert(word, group) {
                    Some(first) if first == group => {
                        return conflict(format!("{word:?} is there twice"));
                    }
                    Some(first) => {
                        let of = &groups[first][0];
                        return conflict(format!("{word:?} is in the group of {of:?} already"));
                    }
                    None => {}
                }
            }
            if seen.len() > MOST_WORDS {
                return conflict(format!("more than {MOST_WORDS} words"));
            }
        }
        let numbered = groups.iter().enumerate();
        let group_of = numbered.flat_map(|(at, group)| group.iter().map(move |_| at)).collect();
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(groups.iter().flatten())
            .map_err(|e| Conflict { group: 0, reason: e.to_string() })?;
        let matcher = (!groups.is_empty()).then_some(matcher);
        Ok(Self { groups, group_of, matcher })
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The normalised text with the first word of a group in place of any other. Of words that
    /// overlap the longest is meant, and one in Latin letters or digits only where it stands alone.
    pub fn unify(&self, text: &str) -> String {
        let Some(matcher) = &self.matcher else { return text.to_owned() };
        let (mut unified, mut copied, mut from) = (String::with_capacity(text.len()), 0, 0);
        while let Some(found) = matcher.find(Input::new(text).range(from..)) {
            if !stands_alone(text, found.start(), found.end()) {
                let skipped = text[found.start()..].chars().next().map_or(1, char::len_utf8);
                from = found.start() + skipped;
                continue;
            }
            unified.push_str(&text[copied..found.start()]);
            unified.push_str(&self.groups[self.group_of[found.pattern().as_usize()]][0]);
            (copied, from) = (found.end(), found.end());
        }
        unified.push_str(&text[copied..]);
        unified
    }
}

/// Whether no word in letters or digits goes on beyond either end.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let is_latin = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let (before, word, after) = (&text[..start], &text[start..end], &text[end..]);
    let goes_on = |inside: Option<char>, outside| is_latin(inside) && is_latin(outside);
    !goes_on(word.chars().next(), before.chars().next_back())
        && !goes_on(word.chars().next_back(), after.chars().next())
}

impl TryFrom<Vec<Vec<String>>> for Synonyms {
    type Error = Conflict;

    fn try_from(groups: Vec<Vec<String>>) -> Result<Self, Conflict> {
        Self::new(groups)
    }
}

impl From<Synonyms> for Vec<Vec<String>> {
    fn from(synonyms: Synonyms) -> Self {
        synonyms.groups
    }
}

impl PartialEq for Synonyms {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups
    }
}

impl Eq for Synonyms {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn synonyms(groups: &[&[&str]]) -> Result<Synonyms, Conflict> {
        let owned = |group: &&[&str]| group.iter().map(ToString::to_string).collect();
        Synonyms::new(groups.iter().map(owned).collect())
    }

    #[test]
    fn every_word_is_read_as_the_first_of_its_group() {
        let list = synonyms(&[&["退款", "退钱", "退钱款"], &["app", "软件"], &["会员", "vip"]]);
        let list = list.unwrap();
        for (text, unified) in [
            ("软件里怎么退钱", "app里怎么退款"),
            ("退钱款多久", "退款多久"),
            ("退款", "退款"),
            ("vip有什么", "会员有什么"),
            ("我是vip", "我是会员"),
            ("vip2 vips avip", "vip2 vips avip"),
            ("发票", "发票"),
            ("", ""),
        ] {
            assert_eq!(list.unify(text), unified);
            assert_eq!(list.unify(unified), unified);
        }
        assert_eq!(Synonyms::default().unify("退钱"), "退钱");
        assert_eq!(synonyms(&[]).unwrap(), Synonyms::default());
    }

    #[test]
    fn a_word_that_does_not_stand_alone_hides_none_that_does() {
        let list = synonyms(&[&["手机", "iphone"], &["电话", "phone号"]]).unwrap();
        assert_eq!(list.unify("myphone号 iphone"), "myphone号 手机");
        assert_eq!(list.unify("my iphones"), "my iphones");
    }

    #[test]
    fn refuses_lists_that_cannot_be_meant() {
        let fault = |groups: &[&[&str]]| {
            let Conflict { group, reason } = synonyms(groups).unwrap_err();
            format!("{group}: {reason}")
        };
        assert_eq!(fault(&[&["退款"]]), "0: a group needs two words at least");
        assert!(fault(&[&["退款", ""]]).contains("too short"));
        assert!(fault(&[&["银行卡", "卡"]]).contains("too short"));
        assert_eq!(fault(&[&["退款", "退钱", "退款"]]), "0: \"退款\" is there twice");
        let twice = fault(&[&["退款", "退钱"], &["还款", "退钱"]]);
        assert_eq!(twice, "1: \"退钱\" is in the group of \"退款\" already");
    }

    #[test]
    fn is_stored_as_its_groups() {
        let list = synonyms(&[&["退款", "退钱"]]).unwrap();
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, r#"[["退款","退钱"]]"#);
        assert_eq!(serde_json::from_str::<Synonyms>(&text).unwrap(), list);
        assert!(serde_json::from_str::<Synonyms>(r#"[["退款"]]"#).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_one_without_the_words_is_kept(text in "[a-z退款钱 0-9]{0,20}") {
            let list = synonyms(&[&["退款", "退钱"], &["app", "ab"]]).unwrap();
            let unified = list.unify(&text);
            prop_assert!(!unified.contains("退钱"));
            if !text.contains("退钱") && !text.contains("ab") {
                prop_assert_eq!(unified, text);
            }
        }
    }
}
