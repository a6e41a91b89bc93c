//! `sentencepiece.bpe.model` of XLM-R as a `tokenizer.json`, for folders that have no other.
//!
//! The file is a protocol buffer (`sentencepiece_model.proto`): pieces with scores in field 1, the
//! normaliser in field 3. XLM-R numbers its tokens as fairseq does: four marks of its own, then the
//! file's pieces after its first three, then the mask.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Pieces of the file that are marks.
const OWN_MARKS: usize = 3;
const MARKS: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
const MASK: &str = "<mask>";

pub(super) fn to_tokenizer_json(file: &[u8]) -> Result<String, String> {
    let (mut pieces, mut charsmap) = (Vec::new(), Vec::new());
    for field in Fields(file) {
        match field? {
            (1, Data::Bytes(piece)) => pieces.push(read_piece(piece)?),
            (3, Data::Bytes(normaliser)) => {
                for field in Fields(normaliser) {
                    if let (2, Data::Bytes(map)) = field? {
                        charsmap = map.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    if pieces.len() <= OWN_MARKS {
        return Err("no SentencePiece model: it has no pieces".into());
    }
    let marks = MARKS.iter().map(|mark| ((*mark).to_owned(), 0.0));
    let rest = pieces.into_iter().skip(OWN_MARKS);
    let vocab: Vec<(String, f32)> = marks.chain(rest).chain([(MASK.to_owned(), 0.0)]).collect();
    let mask = vocab.len() - 1;
    let special = |(id, text): (usize, &str)| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": text == MASK,
               "rstrip": false, "normalized": false, "special": true})
    };
    let added = MARKS.iter().copied().enumerate().chain([(mask, MASK)]).map(special);
    let added: Vec<_> = added.collect();
    let mut steps = Vec::new();
    if !charsmap.is_empty() {
        steps.push(
            json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(charsmap)}),
        );
    }
    steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    let one = |id: usize| json!({"id": MARKS[id], "ids": [id], "tokens": [MARKS[id]]});
    let mark = |id: usize| json!({"SpecialToken": {"id": MARKS[id], "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}",
                          "prepend_scheme": "always", "split": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [mark(0), text("A"), mark(2)],
            "pair": [mark(0), text("A"), mark(2), mark(2), text("B"), mark(2)],
            "special_tokens": {"<s>": one(0), "</s>": one(2)},
        },
        "decoder": null,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": false},
    });
    Ok(json.to_string())
}

fn read_piece(message: &[u8]) -> Result<(String, f32), String> {
    let (mut text, mut score) = (None, 0.0);
    for field in Fields(message) {
        match field? {
            (1, Data::Bytes(bytes)) => {
                text = Some(String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())?);
            }
            (2, Data::Fixed32(bits)) => score = f32::from_bits(bits),
            _ => {}
        }
    }
    Ok((text.ok_or("a piece without its text")?, score))
}

/// What a field holds.
#[derive(Debug, PartialEq)]
enum Data<'a> {
    Number,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in order; ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(CUT)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("no SentencePiece model: a number has no end".into())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(CUT)?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Data<'a>), String> {
        let key = self.varint()?;
        let data = match key & 7 {
            0 => {
                self.varint()?;
                Data::Number
            }
            1 => {
                self.take(8)?;
                Data::Number
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|e| e.to_string())?;
                Data::Bytes(self.take(length)?)
            }
            5 => {
                let (bytes, _) = self.take(4)?.as_chunks::<4>();
                Data::Fixed32(bytes.first().map_or(0, |b| u32::from_le_bytes(*b)))
            }
            other => return Err(format!("no SentencePiece model: wire type {other}")),
        };
        Ok((key >> 3, data))
    }
}

const CUT: &str = "no SentencePiece model: it ends in the middle of a field";

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Data<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}
