//! A model's weights in the form in which they are multiplied, in a file of their own that is
//! written once beside the GGUF file and mapped at every start.
//!
//! A start reads and checks this file alone. It is derived: one that is damaged, of another version
//! or of another source is written anew from the GGUF file, whose own digest is checked then; where
//! the folder cannot be written the packed form is kept in memory. `layout` says what stands where,
//! `write` makes it.

mod layout;
mod write;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use crate::base::digest::sha256_file;
use crate::model::gguf::GgufFile;
use crate::model::kernels::{Format, Mapped, Precision, Weights};
pub(crate) use crate::model::packed::layout::SCREEN;
use crate::model::packed::layout::{Directory, Entry, Form, HEADER, Kind, plan};
use crate::model::packed::write::{Failed, write_file, write_tensors};
use crate::model::{Arithmetic, ModelError, ModelIdentity};

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
        let bytes = Mapped::open(path)
            .map_err(|source| ModelError::Io { path: path.display().to_string(), source })?;
        let (directory, base) = Directory::of_file(&bytes, &identity.sha256)
            .map_err(|reason| ModelError::Corrupt { path: path.display().to_string(), reason })?;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use candle_core::quantized::gguf_file::{self, Value};
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::model::kernels::LAYOUT;

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
        let golden = "dd6ded41e26304afcf08493d6e008329070e0bc722caef8bae088735ebc70075";
        assert_eq!((LAYOUT, digest.as_str()), (2, golden));
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
