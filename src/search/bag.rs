//! A text as a bag of hashed terms: what heads and votes know of its wording.

use std::collections::BTreeMap;

use crate::base::text::is_han;
use crate::search::bm25::terms;

/// The hashes of a text's terms and word pairs with their weights: a term that is there twice does
/// not count twice.
pub(super) fn hashed_terms(text: &str) -> BTreeMap<u32, f32> {
    let mut counts: BTreeMap<u32, f32> = BTreeMap::new();
    for term in terms(text).into_iter().chain(word_pairs(text)) {
        *counts.entry(hash(&term)).or_default() += 1.0;
    }
    counts.values_mut().for_each(|count| *count = 1.0 + count.ln());
    counts
}

/// Neighbouring words that are written apart; neighbouring Han characters are terms already.
fn word_pairs(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let apart = words.windows(2).filter(|pair| !pair.concat().contains(is_han));
    apart.map(|pair| pair.join(" ")).collect()
}

/// 32-bit FNV-1a: the same on every machine and in every version, unlike the standard hasher.
fn hash(term: &str) -> u32 {
    term.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_written_apart_are_pairs_too() {
        assert_eq!(word_pairs("where's my card?"), ["where s", "s my", "my card"]);
        assert_eq!(word_pairs("微粒贷 app 退款"), Vec::<String>::new());
    }

    #[test]
    fn a_term_that_is_there_twice_does_not_count_twice() {
        let (once, twice) = (hashed_terms("refund"), hashed_terms("refund, refund"));
        let weight = |bag: &BTreeMap<u32, f32>| bag[&hash("refund")];
        assert!(weight(&twice) > weight(&once) && weight(&twice) < 2.0 * weight(&once));
    }
}
