//! Brings in an embedder as the hub publishes it: a folder with `config.json`, `model.safetensors`
//! and a tokenizer becomes a GGUF file of ours, entered in a list beside the weights.
//!
//! Floats stay the floats of the file unless they are asked to become Q8_0. Before anything is
//! installed the result is opened and asked for a vector, so that what is listed runs.

mod checkpoint;
mod sentencepiece;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::digest::sha256_file;
use crate::base::file::{sync_dir, write_atomic};
use crate::model::dir::ModelDir;
use crate::model::encoder::BertEncoder;
use crate::model::manifest::{
    Kind, Manifest, ManifestError, ModelEntry, import_file, is_import_name,
};
use crate::model::packed::packed_path;
use crate::model::{Control, Embedder, ModelError, ModelIdentity};

use checkpoint::Checkpoint;

/// Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Mend the folder, or choose another model.
    #[error("{path}: {reason}")]
    Checkpoint { path: String, reason: String },
    /// Choose another name.
    #[error("the name `{name}` {reason}: give another one with --name")]
    Name { name: String, reason: &'static str },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Converted, and then not usable.
    #[error("the converted model does not run: {0}")]
    Unusable(ModelError),
    #[error("{path}: {source}. The folder must be readable, the model folder writable")]
    Disk { path: String, source: io::Error },
}

impl ImportError {
    fn about(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Checkpoint { path: path.display().to_string(), reason: reason.to_string() }
    }

    fn disk(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |source| Self::Disk { path: path.clone(), source }
    }
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// As the folder has them.
    #[default]
    AsIs,
    /// 8-bit blocks: a quarter of the memory of f32, and the integer kernels.
    Q8_0,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The first token's.
    Cls,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Empty: the folder's.
    pub name: String,
    pub storage: Storage,
    /// What the model wants in front of every text.
    pub prefix: String,
    /// `None`: as `1_Pooling/config.json` says, else the mean.
    pub pooling: Option<Pooling>,
}

/// Converts, tries and installs; an earlier import of the same name is replaced.
///
/// # Errors
/// Nothing was installed then.
pub fn import_checkpoint(
    dir: &ModelDir,
    folder: &Path,
    options: &Options,
) -> Result<ModelEntry, ImportError> {
    let name = name(folder, options)?;
    let checkpoint = Checkpoint::read(folder, options.pooling)?;
    let disk = ImportError::disk(dir.path());
    let _lock = dir.lock().map_err(&disk)?;
    let scratch = dir.scratch().map_err(&disk)?;
    let file = import_file(&name);
    let converted = scratch.path().join(&file);
    checkpoint.write_gguf(&converted, options)?;
    let sha256 = sha256_file(&converted).map_err(&disk)?;
    let identity = ModelIdentity { name: name.clone(), sha256: sha256.clone() };
    let encoder = BertEncoder::open(&converted, identity).map_err(ImportError::Unusable)?;
    let asked = encoder.tokens("自检").and_then(|t| encoder.embed(&[t], &Control::default()));
    asked.map_err(ImportError::Unusable)?;
    let entry = ModelEntry {
        name,
        kind: Kind::Embedder,
        licence: "see its own card".into(),
        default: false,
        size: fs::metadata(&converted).map_err(&disk)?.len(),
        file,
        sha256,
        convert: None,
        sources: Vec::new(),
    };
    let listed = Manifest::imported(dir.path())?.with(entry.clone());
    for from in [packed_path(&converted), converted] {
        let to = dir.path().join(from.file_name().unwrap_or_default());
        if from.exists() {
            fs::rename(&from, to).map_err(&disk)?;
        }
    }
    sync_dir(dir.path()).map_err(&disk)?;
    let list = Manifest::imported_list(dir.path());
    write_atomic(&list, listed.to_toml()?.as_bytes()).map_err(ImportError::disk(&list))?;
    Ok(entry)
}

fn name(folder: &Path, options: &Options) -> Result<String, ImportError> {
    let canonical = folder.canonicalize().map_err(ImportError::disk(folder))?;
    let own = || canonical.file_name().map(|n| n.to_string_lossy().to_lowercase());
    let name = match options.name.as_str() {
        "" => own().unwrap_or_default(),
        given => given.to_owned(),
    };
    if !is_import_name(&name) {
        return Err(ImportError::Name { name, reason: "is not 1 to 64 of a-z 0-9 - _ ." });
    }
    let builtin = Manifest::builtin();
    let file = import_file(&name);
    if builtin.models().iter().any(|m| m.name == name || m.file == file) {
        return Err(ImportError::Name { name, reason: "belongs to a model of the manifest" });
    }
    Ok(name)
}

fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    fs::read(path).map_err(ImportError::disk(path))
}

/// The first of these files of the folder that is there.
fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests;
