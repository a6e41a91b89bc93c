//! The folder that holds the weights: where it is, what is in it, whether it is intact.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::base::digest::sha256_file;
use crate::model::ModelError;
use crate::model::manifest::{Kind, Manifest, ModelEntry};

/// Prefix of unfinished work inside the folder; swept by the next pull.
pub(super) const SCRATCH: &str = ".pull-";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDir(PathBuf);

/// One line of `huida models list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub kind: Kind,
    pub licence: String,
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// Whether a pull without names takes it.
    pub default: bool,
    /// A file of the right name and size is there; [`ModelDir::verify`] looks inside.
    pub installed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Intact,
    /// Not there.
    Missing,
    /// Pull it again.
    Damaged {
        /// SHA-256 of the manifest, hex.
        expected: String,
        /// SHA-256 of the file, hex.
        got: String,
    },
}

impl ModelDir {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `HUIDA_MODELS` if set; else `models` of the checkout the process runs in; else
    /// `huida/models` in the user's cache folder.
    pub fn resolve() -> Self {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(dir) = variable("HUIDA_MODELS") {
            return Self(dir);
        }
        if Path::new("models/manifest.toml").is_file() {
            return Self("models".into());
        }
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        Self(cache.unwrap_or_else(|| ".cache".into()).join("huida/models"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the model's weights are, or will be.
    pub fn file(&self, model: &ModelEntry) -> PathBuf {
        self.0.join(&model.file)
    }

    /// A file of the right name and size is there. Files arrive by rename, so it is whole.
    pub fn has(&self, model: &ModelEntry) -> bool {
        fs::metadata(self.file(model)).is_ok_and(|m| m.is_file() && m.len() == model.size)
    }

    /// The weights of an installed model, for opening.
    pub fn installed(&self, model: &ModelEntry) -> Result<PathBuf, ModelError> {
        if self.has(model) {
            return Ok(self.file(model));
        }
        Err(ModelError::Missing { name: model.name.clone() })
    }

    /// Every model of the manifest with what is known of it without reading weights.
    pub fn list(&self, manifest: &Manifest) -> Vec<Listed> {
        let line = |model: &ModelEntry| Listed {
            name: model.name.clone(),
            kind: model.kind,
            licence: model.licence.clone(),
            file: model.file.clone(),
            size: model.size,
            default: model.default,
            installed: self.has(model),
        };
        manifest.models().iter().map(line).collect()
    }

    /// Reads the whole file and compares its digest with the manifest's.
    pub fn verify(&self, model: &ModelEntry) -> io::Result<Condition> {
        match sha256_file(&self.file(model)) {
            Ok(got) if got == model.sha256 => Ok(Condition::Intact),
            Ok(got) => Ok(Condition::Damaged { expected: model.sha256.clone(), got }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Condition::Missing),
            Err(e) => Err(e),
        }
    }

    /// Waits until no other process changes the folder; held until the handle is dropped.
    pub(super) fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.0)?;
        let path = self.0.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// Removes what a killed process left; call with the lock held.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// A scratch folder on the same file system, so that results can be renamed into place.
    pub(super) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_follow_the_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let dir = ModelDir::at(temp.path());
        let manifest = Manifest::builtin();
        let mut model = manifest.get("e5-small").unwrap().clone();
        (model.size, model.sha256) = (3, crate::base::digest::sha256_hex(b"abc"));
        assert_eq!(dir.verify(&model).unwrap(), Condition::Missing);
        assert!(matches!(dir.installed(&model), Err(ModelError::Missing { .. })));
        fs::write(dir.file(&model), b"abc").unwrap();
        assert_eq!(dir.verify(&model).unwrap(), Condition::Intact);
        assert_eq!(dir.installed(&model).unwrap(), temp.path().join("e5-small-q4_0.gguf"));
        fs::write(dir.file(&model), b"abd").unwrap();
        assert!(matches!(dir.verify(&model).unwrap(), Condition::Damaged { .. }));
        assert!(dir.list(&manifest).iter().all(|m| !m.installed), "sizes differ");
    }

    #[test]
    fn leftovers_are_swept_and_files_stay() {
        let temp = tempfile::tempdir().unwrap();
        let dir = ModelDir::at(temp.path());
        let _lock = dir.lock().unwrap();
        let left = dir.scratch().unwrap().keep();
        fs::write(left.join("half"), b"x").unwrap();
        fs::write(temp.path().join("kept.gguf"), b"x").unwrap();
        dir.sweep().unwrap();
        assert!(!left.exists() && temp.path().join("kept.gguf").exists());
    }
}
