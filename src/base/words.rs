//! Chinese text as words with their parts of speech, from one dictionary per process.

use std::sync::LazyLock;

use jieba_rs::{Jieba, Tag};

/// The built-in dictionary; slow to load, so once.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// The words of a text in order; those that are in no dictionary are guessed.
pub fn cut(text: &str) -> Vec<&str> {
    JIEBA.cut(text, true).into_iter().map(|token| token.word).collect()
}

/// The same with their parts of speech in the marks of ICTCLAS (`n` noun, `v` verb, `r` pronoun …).
pub fn tagged(text: &str) -> Vec<Tag<'_>> {
    JIEBA.tag(text, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_carry_their_parts_of_speech() {
        let words: Vec<_> = tagged("电影好看").into_iter().map(|t| (t.word, t.tag)).collect();
        assert_eq!(words, [("电影", "n"), ("好看", "v")]);
        assert_eq!(cut("电影好看"), ["电影", "好看"]);
    }
}
