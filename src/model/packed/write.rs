//! Makes the packed form of a GGUF file: tensor by tensor, into a file or into memory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use crate::model::ModelError;
use crate::model::dir::SCRATCH;
use crate::model::gguf::GgufFile;
use crate::model::kernels::{Format, PANEL, Packed, Precision, pack, pack_floats};
use crate::model::packed::layout::{
    ALIGN, Directory, Entry, HEAD, Kind, MAGIC, SCREEN, SCREEN_FORMAT, kernel_format,
    output_matrix, stored_precision,
};

/// Rows of the output matrix that are rounded at a time: all of them as floats are larger than the
/// model.
const ROUNDED_ROWS: usize = 256 * PANEL;

/// What kept the packed form from being written: the weights, or the disk.
pub(super) enum Failed {
    Model(ModelError),
    Io(io::Error),
}

impl Failed {
    pub(super) fn about(self, path: &Path) -> ModelError {
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
pub(super) fn write_file(
    path: &Path,
    gguf: &mut GgufFile,
    directory: &Directory,
) -> Result<(), Failed> {
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
pub(super) fn write_tensors(
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
            Kind::Panels(_) if name == SCREEN => screen(gguf, directory),
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

/// The output matrix in four bits.
fn screen(gguf: &mut GgufFile, directory: &Directory) -> candle_core::Result<Vec<u8>> {
    let planned = output_matrix(&directory.tensors).and_then(|(name, entry)| match entry.kind {
        Kind::Panels(code) => Some((name, entry, code)),
        Kind::Floats | Kind::Dense(_) | Kind::Header => None,
    });
    let Some((name, entry, code)) = planned else { candle_core::bail!("nothing to screen") };
    let &Entry { rows, width, .. } = entry;
    let stored = gguf.stored(name).map_err(candle_core::Error::wrap)?;
    let exact = panels(&stored, code, entry)?;
    let exact = Format::from_code(code).and_then(|f| Packed::new(f, rows, width, &exact));
    let Some(exact) = exact else { candle_core::bail!("its panels are incomplete") };
    let mut out = Vec::new();
    for first in (0..rows).step_by(ROUNDED_ROWS) {
        let count = ROUNDED_ROWS.min(rows - first);
        let mut part = vec![0.0; count * width];
        part.chunks_exact_mut(width).zip(first..).for_each(|(part, row)| exact.row(row, part));
        let part = Tensor::from_vec(part, (count, width), &Device::Cpu)?;
        let part = QTensor::quantize(&part, GgmlDType::Q4_0)?.data()?.into_owned();
        pack(SCREEN_FORMAT, count, width, &part, &mut out).map_err(candle_core::Error::wrap)?;
    }
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
