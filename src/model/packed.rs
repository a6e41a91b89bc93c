//! A model's weights in the form in which they are multiplied, in a file of their own that is
//! written once beside the GGUF file and mapped at every start.
//!
//! ```text
//! 0   "HUIDAPK" and the number of the layout, 8 bytes
//! 8   length of the directory, u64 little-endian
//! 16  SHA-256 of all that follows, 32 bytes
//! 48  directory, JSON: the source's digest; name, kind, shape and place of each tensor
//! …   the GGUF file's header (tokenizer, dimensions), then the tensors, each from a multiple of 64
//! ```
//! Matrices of floats keep the precision of the file and are multiplied as floats. A start reads and
//! checks this file alone. It is derived: one that is damaged, of another version
//! or of another source is written anew from the GGUF file, whose own digest is checked then; where
//! the folder cannot be written the packed form is kept in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::digest::sha256_file;
use crate::model::dir::SCRATCH;
use crate::model::gguf::GgufFile;
use crate::model::kernels::{
    Dense, Format, LAYOUT, Mapped, Packed, Precision, Weights, pack, pack_floats,
};
use crate::model::{Arithmetic, ModelError, ModelIdentity};

/// The last byte counts for the file as well: it is another file when the directory is another.
const MAGIC: [u8; 8] = [b'H', b'U', b'I', b'D', b'A', b'P', b'K', LAYOUT];
/// Bytes before the directory.
const HEAD: usize = 8 + 8 + 32;
const ALIGN: usize = 64;
/// Inputs are quantised in blocks of so many, beside matrices of floats as well.
const BLOCK: usize = 32;

/// What a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
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
const HEADER: &str = "";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    /// Row-major; a vector is one row.
    rows: usize,
    width: usize,
    /// First byte, counted from the first tensor, and their number.
    start: usize,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    /// SHA-256 of the GGUF file, hex.
    source: String,
    tensors: BTreeMap<String, Entry>,
}

enum Bytes {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// All tensors of one model.
pub(crate) struct PackedModel {
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
    bytes: Bytes,
    /// Where in `bytes` the tensors begin.
    base: usize,
}

/// A matrix of a [`PackedModel`], found and checked once.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    form: Form,
    rows: usize,
    width: usize,
    place: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Codes(Format),
    Floats(Precision),
}

impl Form {
    fn view(self, rows: usize, width: usize, bytes: &[u8]) -> Option<Weights<'_>> {
        match self {
            Self::Codes(format) => Packed::new(format, rows, width, bytes).map(Weights::Codes),
            Self::Floats(precision) => {
                Dense::new(precision, rows, width, bytes).map(Weights::Floats)
            }
        }
    }
}

/// Writes the packed form of an installed model, so that the first start does not.
pub fn prepare(gguf: &Path, identity: &ModelIdentity) -> Result<(), ModelError> {
    PackedModel::open(gguf, identity).map(|_| ())
}

/// Where the packed form of a GGUF file is kept.
pub(crate) fn packed_path(gguf: &Path) -> PathBuf {
    gguf.with_extension("packed")
}

impl PackedModel {
    /// Maps the packed form of the GGUF file at `source`, writing it first where it is missing or
    /// not this source's, and reads the header.
    ///
    /// # Errors
    /// `Missing` when there is neither, `Corrupt` when the GGUF file is not what `identity` says.
    pub(crate) fn open(
        source: &Path,
        identity: &ModelIdentity,
    ) -> Result<(Self, GgufFile), ModelError> {
        let path = packed_path(source);
        let packed = match Self::map(&path, identity) {
            Ok(found) => found,
            Err(_) => Self::pack(source, &path, identity)?,
        };
        let header = packed.tensors.get(HEADER).filter(|e| e.kind == Kind::Header);
        let header = header.ok_or_else(|| packed.corrupt("no header".to_owned()))?;
        let header = packed.bytes[packed.base + header.start..][..header.bytes].to_vec();
        let header = GgufFile::of_header(source, header)?;
        Ok((packed, header))
    }

    fn pack(source: &Path, path: &Path, identity: &ModelIdentity) -> Result<Self, ModelError> {
        let mut gguf = checked(source, identity)?;
        let header = gguf.header()?;
        let directory = plan(&gguf, identity, header.len(), false)?;
        match write_file(path, &mut gguf, &directory) {
            Ok(()) => Self::map(path, identity),
            Err(Failed::Model(error)) => Err(error),
            Err(Failed::Io(error)) => {
                tracing::warn!(path = %path.display(), %error, "packed weights are kept in memory");
                Self::in_memory(path, &mut gguf, directory)
            }
        }
    }

    /// [`PackedModel::open`]; or, for comparison, the GGUF file at `source` with every matrix widened
    /// to floats, in memory.
    ///
    /// # Errors
    /// As [`PackedModel::open`].
    pub(crate) fn open_for(
        arithmetic: Arithmetic,
        source: &Path,
        identity: &ModelIdentity,
    ) -> Result<(Self, GgufFile), ModelError> {
        if arithmetic == Arithmetic::AsStored {
            return Self::open(source, identity);
        }
        let mut gguf = checked(source, identity)?;
        let header = gguf.header()?;
        let directory = plan(&gguf, identity, header.len(), true)?;
        let packed = Self::in_memory(source, &mut gguf, directory)?;
        Ok((packed, gguf))
    }

    fn in_memory(
        path: &Path,
        gguf: &mut GgufFile,
        directory: Directory,
    ) -> Result<Self, ModelError> {
        let mut bytes = Vec::new();
        write_tensors(gguf, &directory, &mut bytes).map_err(|e| e.about(path))?;
        let (path, tensors) = (path.to_owned(), directory.tensors);
        Ok(Self { path, tensors, bytes: Bytes::Owned(bytes), base: 0 })
    }

    fn map(path: &Path, identity: &ModelIdentity) -> Result<Self, ModelError> {
        let corrupt = |reason: &str| ModelError::Corrupt {
            path: path.display().to_string(),
            reason: reason.to_owned(),
        };
        let bytes = Mapped::open(path)
            .map_err(|source| ModelError::Io { path: path.display().to_string(), source })?;
        let head = bytes.first_chunk::<HEAD>().ok_or_else(|| corrupt("too short"))?;
        let (magic, rest) = head.split_at(8);
        let (length, digest) = rest.split_at(8);
        if magic != MAGIC {
            return Err(corrupt("not a packed model of this version"));
        }
        if Sha256::digest(&bytes[HEAD..])[..] != *digest {
            return Err(corrupt("the checksum does not agree"));
        }
        let length = length.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let end = usize::try_from(length).ok().and_then(|n| n.checked_add(HEAD));
        let directory = end.and_then(|end| bytes.get(HEAD..end));
        let directory = directory.ok_or_else(|| corrupt("the directory is cut off"))?;
        let base = (HEAD + directory.len()).next_multiple_of(ALIGN);
        let directory: Directory =
            serde_json::from_slice(directory).map_err(|e| corrupt(&e.to_string()))?;
        if directory.source != identity.sha256 {
            return Err(corrupt("packed from another file"));
        }
        let room = bytes.len().checked_sub(base).ok_or_else(|| corrupt("it is cut off"))?;
        let inside = |e: &Entry| e.start.checked_add(e.bytes).is_some_and(|end| end <= room);
        if !directory.tensors.values().all(inside) {
            return Err(corrupt("a tensor is cut off"));
        }
        if directory.tensors.get(HEADER).is_none_or(|e| e.kind != Kind::Header) {
            return Err(corrupt("the header is missing"));
        }
        let (path, tensors) = (path.to_owned(), directory.tensors);
        Ok(Self { path, tensors, bytes: Bytes::Mapped(bytes), base })
    }

    fn entry(&self, name: &str, rows: usize, width: usize) -> Result<&Entry, ModelError> {
        let entry = self.tensors.get(name);
        let entry = entry.ok_or_else(|| self.corrupt(format!("tensor `{name}` is missing")))?;
        if (entry.rows, entry.width) != (rows, width) {
            let found = [entry.rows, entry.width];
            let reason =
                format!("tensor `{name}` has shape {found:?} instead of {:?}", [rows, width]);
            return Err(self.corrupt(reason));
        }
        Ok(entry)
    }

    pub(crate) fn corrupt(&self, reason: String) -> ModelError {
        ModelError::Corrupt { path: self.path.display().to_string(), reason }
    }

    /// Whether a matrix of floats is among the tensors, which reads its inputs as floats.
    pub(crate) fn has_dense(&self) -> bool {
        self.tensors.values().any(|e| matches!(e.kind, Kind::Dense(_)))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A vector, or a small table, copied out.
    pub(crate) fn floats(
        &self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<Vec<f32>, ModelError> {
        let entry = self.entry(name, rows, width)?;
        if entry.kind != Kind::Floats {
            return Err(self.corrupt(format!("tensor `{name}` is not kept as floats")));
        }
        let bytes = &self.bytes[self.base + entry.start..][..entry.bytes];
        let (floats, _) = bytes.as_chunks::<4>();
        if entry.bytes != 4 * rows * width {
            return Err(self.corrupt(format!("tensor `{name}` has the wrong size")));
        }
        Ok(floats.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// A matrix of `rows` outputs and `width` inputs.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<Matrix, ModelError> {
        let entry = self.entry(name, rows, width)?;
        let form = match entry.kind {
            Kind::Panels(code) => Format::from_code(code).map(Form::Codes),
            Kind::Dense(code) => Precision::from_code(code).map(Form::Floats),
            Kind::Floats | Kind::Header => None,
        };
        let form =
            form.ok_or_else(|| self.corrupt(format!("tensor `{name}` is not a packed matrix")))?;
        let start = self.base + entry.start;
        let place = start..start + entry.bytes;
        if form.view(rows, width, &self.bytes[place.clone()]).is_none() {
            return Err(self.corrupt(format!("tensor `{name}` has the wrong size")));
        }
        Ok(Matrix { form, rows, width, place })
    }

    /// The panels of a matrix of this model.
    pub(crate) fn view(&self, matrix: &Matrix) -> Weights<'_> {
        let bytes = &self.bytes[matrix.place.clone()];
        matrix
            .form
            .view(matrix.rows, matrix.width, bytes)
            .expect("checked when the matrix was found")
    }
}

/// Opens the GGUF file after its digest was found to be the one of `identity`.
fn checked(source: &Path, identity: &ModelIdentity) -> Result<GgufFile, ModelError> {
    let path = || source.display().to_string();
    if !source.exists() {
        return Err(ModelError::Missing { name: identity.name.clone() });
    }
    let got = sha256_file(source).map_err(|source| ModelError::Io { path: path(), source })?;
    if got != identity.sha256 {
        let (name, expected) = (&identity.name, &identity.sha256);
        let reason =
            format!("sha256 is {got}, expected {expected}: run `huida models pull {name}`");
        return Err(ModelError::Corrupt { path: path(), reason });
    }
    GgufFile::open(source)
}

/// Names, kinds and places of everything in the file; with `widen`, every matrix as floats.
fn plan(
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
    Ok(Directory { source: identity.sha256.clone(), tensors })
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
fn stored_precision(dtype: GgmlDType) -> Option<Precision> {
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
fn kernel_format(dtype: GgmlDType) -> Option<Format> {
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

enum Failed {
    Model(ModelError),
    Io(io::Error),
}

impl Failed {
    fn about(self, path: &Path) -> ModelError {
        match self {
            Self::Model(error) => error,
            Self::Io(source) => ModelError::Io { path: path.display().to_string(), source },
        }
    }
}

impl From<ModelError> for Failed {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the file in a scratch folder and moves it into place when it is whole and on the disk.
fn write_file(path: &Path, gguf: &mut GgufFile, directory: &Directory) -> Result<(), Failed> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(folder)?;
    let written = scratch.path().join("packed");
    let listing = serde_json::to_vec(directory).map_err(io::Error::other)?;
    let mut file = File::create(&written)?;
    file.seek(SeekFrom::Start(HEAD as u64))?;
    let mut body = Hashed { file: BufWriter::with_capacity(1 << 20, file), digest: Sha256::new() };
    body.write_all(&listing)?;
    body.write_all(&vec![0; padding(HEAD + listing.len())])?;
    write_tensors(gguf, directory, &mut body)?;
    let digest = body.digest.finalize();
    let mut file = body.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&MAGIC)?;
    file.write_all(&(listing.len() as u64).to_le_bytes())?;
    file.write_all(&digest)?;
    file.sync_all()?;
    fs::rename(written, path)?;
    Ok(())
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(ALIGN) - length
}

/// Writes every tensor at its place, one in memory at a time.
fn write_tensors(
    gguf: &mut GgufFile,
    directory: &Directory,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let mut in_order: Vec<(&String, &Entry)> = directory.tensors.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.start);
    for (name, entry) in in_order {
        let bytes = match entry.kind {
            Kind::Header => Ok(gguf.header()?),
            Kind::Floats => widened(&gguf.stored(name)?)
                .map(|floats| floats.into_iter().flat_map(f32::to_le_bytes).collect()),
            Kind::Panels(code) => panels(&gguf.stored(name)?, code, entry),
            Kind::Dense(code) => dense(&gguf.stored(name)?, code, entry),
        };
        let bytes =
            bytes.map_err(|error| gguf.corrupt(format_args!("tensor `{name}`: {error}")))?;
        out.write_all(&bytes)?;
        out.write_all(&vec![0; padding(bytes.len())])?;
    }
    Ok(())
}

/// The values of a tensor.
fn widened(tensor: &QTensor) -> candle_core::Result<Vec<f32>> {
    let floats = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    if !floats.iter().all(|x| x.is_finite()) {
        candle_core::bail!("a weight is not a finite number");
    }
    Ok(floats)
}

fn panels(tensor: &QTensor, code: u32, entry: &Entry) -> candle_core::Result<Vec<u8>> {
    let mut out = Vec::new();
    let format = kernel_format(tensor.dtype());
    let done = if let Some(format) = format.filter(|f| f.code() == code) {
        pack(format, entry.rows, entry.width, &tensor.data()?, &mut out)
    } else {
        let floats = Tensor::from_vec(widened(tensor)?, tensor.shape(), &Device::Cpu)?;
        let again = QTensor::quantize(&floats, GgmlDType::Q8_0)?;
        pack(Format::Q8_0, entry.rows, entry.width, &again.data()?, &mut out)
    };
    done.map_err(candle_core::Error::wrap)?;
    Ok(out)
}

fn dense(tensor: &QTensor, code: u32, entry: &Entry) -> candle_core::Result<Vec<u8>> {
    let mut out = Vec::new();
    let precision = stored_precision(tensor.dtype());
    let done = if let Some(precision) = precision.filter(|p| p.code() == code) {
        pack_floats(precision, entry.rows, entry.width, &tensor.data()?, &mut out)
    } else {
        let bytes: Vec<u8> = widened(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
        pack_floats(Precision::F32, entry.rows, entry.width, &bytes, &mut out)
    };
    done.map_err(candle_core::Error::wrap)?;
    Ok(out)
}

/// Passes bytes on and digests them.
struct Hashed<W> {
    file: W,
    digest: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::{self, Value};

    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn gguf(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// A GGUF file of a matrix and a vector, all of whose values are `value`.
        fn write(&self, name: &str, value: f32) -> ModelIdentity {
            let tensor = |shape: &[usize]| {
                let tensor = Tensor::full(value, shape, &Device::Cpu).unwrap();
                QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
            };
            let tensors = [("blk.0.up.weight", tensor(&[18, 64])), ("norm.weight", tensor(&[5]))];
            let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
            let metadata = [("general.architecture", &Value::String("none".into()))];
            let mut file = File::create(self.gguf(name)).unwrap();
            gguf_file::write(&mut file, &metadata, &tensors).unwrap();
            let sha256 = sha256_file(&self.gguf(name)).unwrap();
            ModelIdentity { name: name.to_owned(), sha256 }
        }

        /// A weight of the model, as it is after opening.
        fn weight(&self, identity: &ModelIdentity) -> f32 {
            let (packed, _) = PackedModel::open(&self.gguf(&identity.name), identity).unwrap();
            let matrix = packed.matrix("blk.0.up.weight", 18, 64).unwrap();
            let mut row = [0.0; 64];
            packed.view(&matrix).row(17, &mut row);
            assert_eq!(packed.floats("norm.weight", 1, 5).unwrap(), row[..5]);
            row[63]
        }

        fn packed(&self, identity: &ModelIdentity) -> PathBuf {
            packed_path(&self.gguf(&identity.name))
        }

        fn refused(&self, identity: &ModelIdentity) -> String {
            PackedModel::map(&self.packed(identity), identity).err().unwrap().to_string()
        }
    }

    #[test]
    fn what_was_packed_from_another_file_is_packed_anew() {
        let site = Site::new();
        let (one, two) = (site.write("one.gguf", 1.0), site.write("two.gguf", 2.0));
        assert_eq!((site.weight(&one), site.weight(&two)), (1.0, 2.0));
        // Somebody puts the wrong one there …
        fs::copy(site.packed(&two), site.packed(&one)).unwrap();
        assert!(site.refused(&one).contains("another file"));
        assert_eq!(site.weight(&one), 1.0);
        // … and a model comes in another edition under its old name.
        let edition = site.write("one.gguf", 3.0);
        assert!(site.refused(&edition).contains("another file"));
        assert_eq!(site.weight(&edition), 3.0);
        assert!(PackedModel::map(&site.packed(&edition), &edition).is_ok());
    }

    #[test]
    fn what_is_damaged_or_of_another_layout_is_packed_anew() {
        let site = Site::new();
        let model = site.write("model.gguf", 1.0);
        site.weight(&model);
        let whole = fs::read(site.packed(&model)).unwrap();
        for (at, reason) in [(7, "version"), (8, "trailing"), (20, "checksum"), (60, "checksum")] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(site.packed(&model), bytes).unwrap();
            assert!(site.refused(&model).contains(reason), "{at}: {}", site.refused(&model));
            assert_eq!(site.weight(&model), 1.0);
        }
        for length in [0, 40, 100, whole.len() - 1] {
            fs::write(site.packed(&model), &whole[..length]).unwrap();
            site.refused(&model);
            assert_eq!(site.weight(&model), 1.0);
        }
        assert_eq!(fs::read(site.packed(&model)).unwrap(), whole);
    }

    /// See `another_layout_has_another_number` for the panels inside.
    #[test]
    fn another_directory_has_another_number() {
        let site = Site::new();
        let model = site.write("model.gguf", 1.0);
        site.weight(&model);
        let digest = sha256_file(&site.packed(&model)).unwrap();
        let golden = "6e69e022f54e20c582cb95c3f280855443ca882c8dfd2103fb90d50e50c80157";
        assert_eq!((LAYOUT, digest.as_str()), (1, golden));
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused_by_name() {
        let site = Site::new();
        let model = site.write("model.gguf", f32::NAN);
        let error = PackedModel::open(&site.gguf("model.gguf"), &model).err().unwrap();
        assert!(matches!(error, ModelError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("tensor `blk.0.up.weight`"), "{error}");
        assert!(!site.packed(&model).exists());
    }
}
