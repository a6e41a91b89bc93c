//! Byte-level BPE as stored in a GGUF file, and the way back from tokens to text as they come.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;
use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;

use crate::model::ModelError;

/// Tokenizer of a generator.
pub struct Bpe {
    tokenizer: Tokenizer,
    /// Finds the spellings of special tokens.
    specials: AhoCorasick,
    /// Byte of each character of a byte-level token.
    bytes: HashMap<char, u8>,
}

impl Bpe {
    /// Errors name what the file lacks.
    pub fn from_gguf(content: &gguf_file::Content) -> Result<Self, String> {
        let tokenizer = Tokenizer::from_gguf(content).map_err(|e| e.to_string())?;
        let added = tokenizer.get_added_tokens_decoder();
        let specials = AhoCorasick::new(added.values().map(|token| token.content.as_str()));
        let specials = specials.map_err(|e| e.to_string())?;
        Ok(Self { tokenizer, specials, bytes: byte_alphabet() })
    }

    /// Tokens of `text`; a special token's spelling becomes that token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        Ok(encoding.map_err(|e| ModelError::BadRequest(e.to_string()))?.get_ids().to_vec())
    }

    /// `text` without the spellings of special tokens, so that what a customer writes cannot
    /// end his turn and speak as someone else. Repeats until none is left: cutting one out of
    /// `<|im_<|im_end|>end|>` would otherwise leave the next.
    pub fn strip_specials(&self, text: &str) -> String {
        let mut text = text.to_owned();
        while self.specials.is_match(&text) {
            let mut kept = String::with_capacity(text.len());
            self.specials.replace_all_with(&text, &mut kept, |_, _, _| true);
            text = kept;
        }
        text
    }

    /// The id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The bytes that a token stands for; none for special and unknown tokens.
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        let special =
            self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id);
        let token = self.tokenizer.id_to_token(id).filter(|_| !special).unwrap_or_default();
        token.chars().filter_map(|c| self.bytes.get(&c).copied()).collect()
    }

    /// The text that `token` completes; empty while a character is unfinished.
    pub fn text(&self, stream: &mut TextStream, token: u32) -> String {
        stream.push(&self.token_bytes(token))
    }
}

/// GPT-2's alphabet: printable Latin-1 bytes are their own characters, the others follow from
/// U+0100 on in order (`bytes_to_unicode` in openai/gpt-2 `encoder.py`).
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=u8::MAX).filter(|&b| printable(b)).map(|b| (char::from(b), b));
    let shifted = (0..=u8::MAX).filter(|&b| !printable(b));
    own.chain(('\u{100}'..).zip(shifted)).collect()
}

/// Cuts a stream of bytes into whole characters.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The beginning of a character whose other bytes have not come yet.
    pending: Vec<u8>,
}

impl TextStream {
    /// Characters finished by `bytes`; bytes that can begin no character become U+FFFD.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = taken + invalid.len() == self.pending.len();
            let unfinished =
                at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if !invalid.is_empty() && !unfinished {
                text.push(char::REPLACEMENT_CHARACTER);
                taken += invalid.len();
            }
        }
        self.pending.drain(..taken);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pull::installed_or_pull;
    use proptest::prelude::*;

    fn bpe() -> Bpe {
        let mut file = std::fs::File::open(installed_or_pull("qwen2.5-coder-0.5b")).unwrap();
        Bpe::from_gguf(&gguf_file::Content::read(&mut file).unwrap()).unwrap()
    }

    #[test]
    fn specials_are_tokens_text_round_trips_and_injections_are_cut() {
        let bpe = bpe();
        let ids = bpe.encode("<|im_start|>user\n退款多久到账？<|im_end|>").unwrap();
        assert_eq!(ids[0], 151_644);
        assert_eq!(ids.last(), Some(&151_645));
        assert_eq!(bpe.id("<|im_end|>"), Some(151_645));

        let text = "退款3—5个工作日到账😀，don't worry\n\t龘 naïve";
        let mut stream = TextStream::default();
        let pieces: Vec<String> =
            bpe.encode(text).unwrap().into_iter().map(|id| bpe.text(&mut stream, id)).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|p| !p.contains(char::REPLACEMENT_CHARACTER)));
        assert_eq!(bpe.text(&mut TextStream::default(), 151_645), "");

        assert_eq!(bpe.strip_specials("a<|im_end|>b"), "ab");
        assert_eq!(bpe.strip_specials("<|im_<|im_end|>end|>x"), "x");
        assert_eq!(bpe.strip_specials("a < b | c"), "a < b | c");
    }

    #[test]
    fn the_alphabet_names_every_byte_once() {
        let alphabet = byte_alphabet();
        let mut bytes: Vec<u8> = alphabet.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(&[b'a', 0xFF, b'b']), "a\u{FFFD}b");
        assert_eq!(stream.push(&[0xE9, 0x80]), "");
        assert_eq!(stream.push(b"x"), "\u{FFFD}x");
    }

    proptest! {
        #[test]
        fn any_cut_of_any_text_comes_out_whole(text in ".*", cuts in prop::collection::vec(1_usize..6, 1..40)) {
            let mut stream = TextStream::default();
            let mut rest = text.as_bytes();
            let mut out = String::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                out.push_str(&stream.push(head));
                rest = tail;
            }
            prop_assert_eq!(out, text);
        }
    }
}
