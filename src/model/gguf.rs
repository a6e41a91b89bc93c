//! Typed access to a GGUF file: metadata by key and tensors by name, each failure naming the file.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The bytes are read by
//! `candle_core`; this adds the checks that every model file wants, so that a wrong file is a
//! [`ModelError::Corrupt`] with a reason and never a panic further in.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use crate::model::ModelError;

/// An open GGUF file: its header in memory, its tensors read on demand.
pub struct GgufFile {
    path: PathBuf,
    reader: Box<dyn Source>,
    content: Content,
}

/// Where the bytes come from: the file, or its header kept elsewhere.
trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.display().to_string(), source };
        let reader = BufReader::new(File::open(path).map_err(io)?);
        Self::read(path, Box::new(reader))
    }

    /// The header of the file at `path`, kept elsewhere: metadata and names, no tensors.
    pub fn of_header(path: &Path, header: Vec<u8>) -> Result<Self, ModelError> {
        Self::read(path, Box::new(Cursor::new(header)))
    }

    fn read(path: &Path, mut reader: Box<dyn Source>) -> Result<Self, ModelError> {
        let content = Content::read(&mut reader).map_err(|e| corrupt(path, e))?;
        Ok(Self { path: path.to_owned(), reader, content })
    }

    /// The bytes before the tensors.
    pub fn header(&mut self) -> Result<Vec<u8>, ModelError> {
        let io = |source| ModelError::Io { path: self.path.display().to_string(), source };
        self.reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut header = Vec::new();
        let length = self.content.tensor_data_offset;
        self.reader.by_ref().take(length).read_to_end(&mut header).map_err(io)?;
        Ok(header)
    }

    /// A [`ModelError::Corrupt`] about this file.
    pub fn corrupt(&self, reason: impl std::fmt::Display) -> ModelError {
        corrupt(&self.path, reason)
    }

    fn value(&self, key: &str) -> Result<&Value, ModelError> {
        let value = self.content.metadata.get(key);
        value.ok_or_else(|| self.corrupt(format_args!("metadata key `{key}` is missing")))
    }

    fn mistyped(&self, key: &str, wanted: &str) -> ModelError {
        self.corrupt(format_args!("metadata key `{key}` is not {wanted}"))
    }

    pub fn text(&self, key: &str) -> Result<&str, ModelError> {
        let text = self.value(key)?.to_string();
        text.map(String::as_str).map_err(|_| self.mistyped(key, "a string"))
    }

    /// Any unsigned integer.
    pub fn count(&self, key: &str) -> Result<usize, ModelError> {
        let number = self.value(key)?.to_u64().ok();
        let number = number.and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| self.mistyped(key, "an unsigned integer"))
    }

    pub fn float(&self, key: &str) -> Result<f32, ModelError> {
        self.value(key)?.to_f32().map_err(|_| self.mistyped(key, "a 32-bit float"))
    }

    /// The elements of an array, each converted by `element`; `wanted` names their type in errors.
    pub fn array<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        element: impl Fn(&'a Value) -> candle_core::Result<T>,
    ) -> Result<Vec<T>, ModelError> {
        let values = self.value(key)?.to_vec().map_err(|_| self.mistyped(key, "an array"))?;
        let elements: candle_core::Result<Vec<T>> = values.iter().map(element).collect();
        elements.map_err(|_| self.mistyped(key, wanted))
    }

    /// Shape of a tensor, row-major; at least one dimension.
    pub fn shape(&self, name: &str) -> Result<&[usize], ModelError> {
        let dims = self.content.tensor_infos.get(name).map(|info| info.shape.dims());
        let dims = dims.filter(|dims| !dims.is_empty());
        dims.ok_or_else(|| self.corrupt(format_args!("tensor `{name}` is missing")))
    }

    /// The file's header, for readers that know candle's own type.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Name, block format and shape (row-major) of every tensor.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, GgmlDType, &[usize])> {
        let infos = self.content.tensor_infos.iter();
        infos.map(|(name, info)| (name.as_str(), info.ggml_dtype, info.shape.dims()))
    }

    /// A tensor as it is stored.
    pub fn stored(&mut self, name: &str) -> Result<QTensor, ModelError> {
        let tensor = self.content.tensor(&mut self.reader, name, &Device::Cpu);
        tensor.map_err(|e| corrupt(&self.path, e))
    }

    /// The tensor as it is stored; its shape must be `shape`, row-major.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, ModelError> {
        let tensor = self.stored(name)?;
        if tensor.shape().dims() != shape {
            let found = tensor.shape().dims();
            let reason = format!("tensor `{name}` has shape {found:?} instead of {shape:?}");
            return Err(corrupt(&self.path, reason));
        }
        Ok(tensor)
    }
}

fn corrupt(path: &Path, reason: impl std::fmt::Display) -> ModelError {
    ModelError::Corrupt { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    fn written(metadata: &[(&str, &Value)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let tensor = Tensor::new(&[[1_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, candle_core::quantized::GgmlDType::F32).unwrap();
        candle_core::quantized::gguf_file::write(&mut file, metadata, &[("w", &tensor)]).unwrap();
        file
    }

    #[test]
    fn errors_name_the_key_and_the_file() {
        let file = written(&[("a.count", &Value::U32(3)), ("a.name", &Value::String("n".into()))]);
        let gguf = GgufFile::open(file.path()).unwrap();
        assert_eq!(gguf.count("a.count").unwrap(), 3);
        assert_eq!(gguf.text("a.name").unwrap(), "n");
        let missing = gguf.count("b").unwrap_err().to_string();
        assert!(missing.contains("`b` is missing"), "{missing}");
        assert!(missing.contains(file.path().to_str().unwrap()), "{missing}");
        let mistyped = gguf.float("a.name").unwrap_err().to_string();
        assert!(mistyped.contains("`a.name` is not a 32-bit float"), "{mistyped}");
    }

    #[test]
    fn tensors_must_have_the_expected_shape() {
        let file = written(&[]);
        let mut gguf = GgufFile::open(file.path()).unwrap();
        let tensor = gguf.tensor("w", &[2, 2]).unwrap().dequantize(&Device::Cpu).unwrap();
        let floats = tensor.to_vec2::<f32>().unwrap();
        assert_eq!(floats, [[1.0, 2.0], [3.0, 4.0]]);
        assert!(matches!(gguf.tensor("w", &[4]), Err(ModelError::Corrupt { .. })));
        assert!(matches!(gguf.tensor("v", &[4]), Err(ModelError::Corrupt { .. })));
    }

    #[test]
    fn a_file_that_is_no_gguf_is_corrupt() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a model at all").unwrap();
        assert!(matches!(GgufFile::open(file.path()), Err(ModelError::Corrupt { .. })));
    }
}
