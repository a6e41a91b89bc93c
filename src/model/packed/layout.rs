//! What stands where in a packed file, and in which form each tensor does.
//!
//! ```text
//! 0   "HUIDAPK" and the number of the layout, 8 bytes
//! 8   length of the directory, u64 little-endian
//! 16  SHA-256 of all that follows, 32 bytes
//! 48  directory, JSON: the source's digest; name, kind, shape and place of each tensor
//! …   the GGUF file's header (tokenizer, dimensions), then the tensors, each from a multiple of 64
//! ```
//! Matrices of floats keep the precision of the file and are multiplied as floats. The output matrix
//! stands there once more in four bits (`arch/output.rs`), unless it has no more anyway.

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::gguf::GgufFile;
use crate::model::kernels::{Dense, Format, LAYOUT, Packed, Precision, Weights};
use crate::model::{ModelError, ModelIdentity};

/// The last byte counts for the file as well: it is another file when the directory is another.
pub(super) const MAGIC: [u8; 8] = [b'H', b'U', b'I', b'D', b'A', b'P', b'K', LAYOUT];
/// Bytes before the directory.
pub(super) const HEAD: usize = 8 + 8 + 32;
pub(super) const ALIGN: usize = 64;
/// Inputs are quantised in blocks of so many, beside matrices of floats as well.
const BLOCK: usize = 32;

/// What a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Little-endian f32.
    Floats,
    /// Panels of the format with this number.
    Panels(u32),
    /// Panels of floats of the precision with this number.
    Dense(u32),
    /// The GGUF file's bytes before its tensors.
    Header,
}

/// Name of the header among the tensors; no tensor has it.
pub(super) const HEADER: &str = "";
/// Name of the output matrix in four bits.
pub(crate) const SCREEN: &str = "screen";
pub(super) const SCREEN_FORMAT: Format = Format::Q4_0;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Row-major; a vector is one row.
    pub(super) rows: usize,
    pub(super) width: usize,
    /// First byte, counted from the first tensor, and their number.
    pub(super) start: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory {
    /// SHA-256 of the GGUF file, hex.
    pub(super) source: String,
    pub(super) tensors: BTreeMap<String, Entry>,
}

impl Directory {
    /// The directory of a packed file of `source`, and where the tensors begin; or what is wrong
    /// with the file.
    pub(super) fn of_file(bytes: &[u8], source: &str) -> Result<(Self, usize), String> {
        let head = bytes.first_chunk::<HEAD>().ok_or("too short")?;
        let (magic, rest) = head.split_at(8);
        let (length, digest) = rest.split_at(8);
        if magic != MAGIC {
            return Err("not a packed model of this version".into());
        }
        if Sha256::digest(&bytes[HEAD..])[..] != *digest {
            return Err("the checksum does not agree".into());
        }
        let length = length.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let end = usize::try_from(length).ok().and_then(|n| n.checked_add(HEAD));
        let directory = end.and_then(|end| bytes.get(HEAD..end));
        let directory = directory.ok_or("the directory is cut off")?;
        let base = (HEAD + directory.len()).next_multiple_of(ALIGN);
        let directory: Self = serde_json::from_slice(directory).map_err(|e| e.to_string())?;
        if directory.source != source {
            return Err("packed from another file".into());
        }
        let room = bytes.len().checked_sub(base).ok_or("it is cut off")?;
        let inside = |e: &Entry| e.start.checked_add(e.bytes).is_some_and(|end| end <= room);
        if !directory.tensors.values().all(inside) {
            return Err("a tensor is cut off".into());
        }
        if directory.tensors.get(HEADER).is_none_or(|e| e.kind != Kind::Header) {
            return Err("the header is missing".into());
        }
        Ok((directory, base))
    }
}

/// What a matrix is multiplied as.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Codes(Format),
    Floats(Precision),
}

impl Form {
    pub(super) fn view(self, rows: usize, width: usize, bytes: &[u8]) -> Option<Weights<'_>> {
        match self {
            Self::Codes(format) => Packed::new(format, rows, width, bytes).map(Weights::Codes),
            Self::Floats(precision) => {
                Dense::new(precision, rows, width, bytes).map(Weights::Floats)
            }
        }
    }
}

/// Names, kinds and places of everything in the file; with `widen`, every matrix as floats.
pub(super) fn plan(
    gguf: &GgufFile,
    identity: &ModelIdentity,
    header: usize,
    widen: bool,
) -> Result<Directory, ModelError> {
    let first = Entry { kind: Kind::Header, rows: 1, width: header, start: 0, bytes: header };
    let mut tensors = BTreeMap::from([(HEADER.to_owned(), first)]);
    let mut start = header.next_multiple_of(ALIGN);
    // Always in the same order, so that the same file gives the same bytes.
    let mut listed: Vec<_> = gguf.tensors().collect();
    listed.sort_unstable_by_key(|(name, ..)| *name);
    for (name, dtype, shape) in listed {
        let (rows, width) = match *shape {
            [width] => (1, width),
            [rows, width] => (rows, width),
            _ => return Err(gguf.corrupt(format_args!("tensor `{name}` has {} axes", shape.len()))),
        };
        let (kind, bytes) = if multiplied(name, shape) {
            let (kind, unit, bytes) = match matrix_form(dtype, widen) {
                Form::Codes(f) => (Kind::Panels(f.code()), f.inputs(), f.packed_bytes(rows, width)),
                Form::Floats(p) => (Kind::Dense(p.code()), BLOCK, p.packed_bytes(rows, width)),
            };
            if !width.is_multiple_of(unit) {
                let reason = "its width is no multiple of its blocks: this engine cannot run it";
                return Err(gguf.corrupt(format_args!("tensor `{name}` {shape:?}: {reason}")));
            }
            (kind, bytes)
        } else {
            (Kind::Floats, rows * width * size_of::<f32>())
        };
        tensors.insert(name.to_owned(), Entry { kind, rows, width, start, bytes });
        start = (start + bytes).next_multiple_of(ALIGN);
    }
    if let Some(screen) = output_matrix(&tensors).and_then(|(_, output)| screen(output, start)) {
        tensors.insert(SCREEN.to_owned(), screen);
    }
    Ok(Directory { source: identity.sha256.clone(), tensors })
}

/// The matrix that gives logits: a model's own, or that of its embedding.
pub(super) fn output_matrix(tensors: &BTreeMap<String, Entry>) -> Option<(&String, &Entry)> {
    let named = |name| tensors.get_key_value(name);
    named("output.weight").or_else(|| named("token_embd.weight"))
}

fn screen(output: &Entry, start: usize) -> Option<Entry> {
    let &Entry { kind: Kind::Panels(code), rows, width, .. } = output else { return None };
    let bytes = SCREEN_FORMAT.packed_bytes(rows, width);
    let kind = Kind::Panels(SCREEN_FORMAT.code());
    let larger = Format::from_code(code)?.bits() > SCREEN_FORMAT.bits();
    larger.then_some(Entry { kind, rows, width, start, bytes })
}

/// Projections and token tables are packed; norms, biases and small tables stay floats.
fn multiplied(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2
        && (name.starts_with("blk.") || matches!(name, "token_embd.weight" | "output.weight"))
}

/// How a matrix of the file is multiplied.
fn matrix_form(dtype: GgmlDType, widen: bool) -> Form {
    match stored_precision(dtype) {
        Some(precision) => Form::Floats(precision),
        None if widen => Form::Floats(Precision::F32),
        // A format without a kernel becomes Q8_0, which loses less than quantised inputs do.
        None => Form::Codes(kernel_format(dtype).unwrap_or(Format::Q8_0)),
    }
}

/// The precision of floats of the file; none for blocks.
pub(super) fn stored_precision(dtype: GgmlDType) -> Option<Precision> {
    match dtype {
        GgmlDType::F32 => Some(Precision::F32),
        GgmlDType::F16 => Some(Precision::F16),
        GgmlDType::BF16 => Some(Precision::Bf16),
        GgmlDType::Q4_0
        | GgmlDType::Q5_0
        | GgmlDType::Q8_0
        | GgmlDType::Q4K
        | GgmlDType::Q6K
        | GgmlDType::Q4_1
        | GgmlDType::Q5_1
        | GgmlDType::Q8_1
        | GgmlDType::Q2K
        | GgmlDType::Q3K
        | GgmlDType::Q5K
        | GgmlDType::Q8K => None,
    }
}

/// The kernel format of the file's own blocks.
pub(super) fn kernel_format(dtype: GgmlDType) -> Option<Format> {
    match dtype {
        GgmlDType::Q4_0 => Some(Format::Q4_0),
        GgmlDType::Q5_0 => Some(Format::Q5_0),
        GgmlDType::Q8_0 => Some(Format::Q8_0),
        GgmlDType::Q4K => Some(Format::Q4K),
        GgmlDType::Q6K => Some(Format::Q6K),
        GgmlDType::F32
        | GgmlDType::F16
        | GgmlDType::BF16
        | GgmlDType::Q4_1
        | GgmlDType::Q5_1
        | GgmlDType::Q8_1
        | GgmlDType::Q2K
        | GgmlDType::Q3K
        | GgmlDType::Q5K
        | GgmlDType::Q8K => None,
    }
}
