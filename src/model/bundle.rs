//! Carries models to a site without a connection: a plain tar of weights, checked on the way in.
//!
//! Members are named like the files of the manifest, and the manifest of the program that imports
//! says what they must be. Only models that were imported stand in none: for those the first member
//! is the list of them, which says it in its place.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};

use crate::base::digest::sha256_file;
use crate::base::file::{sync_dir, write_atomic};
use crate::model::dir::ModelDir;
use crate::model::manifest::{IMPORTED, Manifest, ModelEntry, is_plain_name};
use crate::model::pull::{Job, Origin, Progress, PullError, Pulled, Stage};

/// Longest list of imported models, bytes.
const LIST_BYTES: u64 = 1 << 20;

/// Writes the named models (without names: the default ones), which must be installed and intact,
/// into one tar. The same models always give the same bytes. Returns their names.
pub fn bundle(
    manifest: &Manifest,
    names: &[String],
    dir: &ModelDir,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<String>, PullError> {
    let disk = PullError::disk(out);
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temp = tempfile::NamedTempFile::new_in(parent).map_err(&disk)?;
    let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, temp));
    let models = manifest.select(names)?;
    let chosen = |entry: &ModelEntry| models.iter().any(|m| m.name == entry.name);
    let imported = Manifest::imported(dir.path())?.only(chosen);
    if !imported.models().is_empty() {
        let list = imported.to_toml()?;
        let size = list.len() as u64;
        tar.append_data(&mut header(size), IMPORTED, list.as_bytes()).map_err(&disk)?;
    }
    for model in &models {
        let artefact = model.artefact();
        let path = dir.file(model);
        if !dir.has(model) {
            let (model, what) = (model.name.clone(), path.display().to_string());
            return Err(PullError::NotFound { model, what });
        }
        let mut report = |stage, done| progress(step(model, stage, done));
        report(Stage::Verify, 0);
        let got = sha256_file(&path).map_err(PullError::disk(&path))?;
        report(Stage::Verify, artefact.size);
        if got != artefact.sha256 {
            return Err(PullError::digest(artefact, got));
        }
        let file = File::open(&path).map_err(PullError::disk(&path))?;
        tar.append_data(&mut header(artefact.size), artefact.file, file).map_err(&disk)?;
    }
    let mut buffered = tar.into_inner().map_err(&disk)?;
    buffered.flush().map_err(&disk)?;
    let temp = buffered.into_inner().map_err(|e| disk(e.into_error()))?;
    temp.as_file().sync_all().map_err(&disk)?;
    temp.persist(out).map_err(|e| disk(e.error))?;
    Ok(models.iter().map(|m| m.name.clone()).collect())
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

fn step(model: &ModelEntry, stage: Stage, done: u64) -> Progress<'_> {
    Progress { model: &model.name, file: &model.file, stage, done, total: model.size }
}

/// Installs every model of a bundle, or none: all members are checked against the manifest, or the
/// bundle's own list of imported models, before the first is moved into place.
pub fn import(
    manifest: &Manifest,
    dir: &ModelDir,
    tar: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Pulled>, PullError> {
    let disk = PullError::disk(dir.path());
    let _lock = dir.lock().map_err(&disk)?;
    dir.sweep().map_err(&disk)?;
    let scratch = dir.scratch().map_err(&disk)?;
    let here = Manifest::imported(dir.path())?;
    let mut brought: Option<Manifest> = None;
    let mut checked: Vec<ModelEntry> = Vec::new();
    each_member(tar, &mut |name, size, member| {
        if name == IMPORTED {
            if brought.is_some() || !checked.is_empty() {
                return Err(refused(tar, &format!("`{name}` is not its first member")));
            }
            brought = Some(list(manifest, &here, tar, size, member)?);
            return Ok(true);
        }
        let brought = brought.iter().flat_map(Manifest::models);
        let model = brought.chain(manifest.models()).find(|m| m.file == name);
        let model = model.ok_or_else(|| {
            let reason = format!(
                "`{name}` is no model of the manifest, nor of a list of imported models in it; \
                 bundle it anew, or import the folder that it was made of"
            );
            refused(tar, &reason)
        })?;
        if checked.iter().any(|m| m.file == model.file) {
            return Err(refused(tar, &format!("`{name}` stands in it twice")));
        }
        if size != model.size {
            return Err(PullError::size(model.artefact(), size));
        }
        let path = scratch.path().join(&model.file);
        let mut file = File::create(&path).map_err(&disk)?;
        progress(step(model, Stage::Download, 0));
        io::copy(member, &mut file).map_err(|e| refused(tar, &e.to_string()))?;
        file.sync_all().map_err(&disk)?;
        progress(step(model, Stage::Download, size));
        let got = sha256_file(&path).map_err(&disk)?;
        if got != model.sha256 {
            return Err(PullError::digest(model.artefact(), got));
        }
        progress(step(model, Stage::Verify, size));
        checked.push(model.clone());
        Ok(true)
    })?;
    if checked.is_empty() {
        return Err(refused(tar, "it holds no model"));
    }
    for model in &checked {
        std::fs::rename(scratch.path().join(&model.file), dir.file(model)).map_err(&disk)?;
    }
    sync_dir(dir.path()).map_err(&disk)?;
    if let Some(brought) = brought {
        let arrived = checked.iter().filter(|m| brought.get(&m.name).is_ok());
        let listed = arrived.fold(here, |listed, entry| listed.with(entry.clone()));
        let path = Manifest::imported_list(dir.path());
        write_atomic(&path, listed.to_toml()?.as_bytes()).map_err(PullError::disk(&path))?;
    }
    let origin = Origin::Local(tar.to_owned());
    let pulled =
        |m: &ModelEntry| Pulled { name: m.name.clone(), path: dir.file(m), origin: origin.clone() };
    Ok(checked.iter().map(pulled).collect())
}

/// The list of imported models that a bundle brings. One that was imported here under the same name
/// is replaced, as importing a folder again would; models of the manifest are not.
fn list(
    manifest: &Manifest,
    here: &Manifest,
    tar: &Path,
    size: u64,
    member: &mut dyn Read,
) -> Result<Manifest, PullError> {
    let unreadable = |e: &dyn std::fmt::Display| refused(tar, &format!("its list: {e}"));
    if size > LIST_BYTES {
        return Err(unreadable(&"too long"));
    }
    let mut text = String::new();
    member.read_to_string(&mut text).map_err(|e| unreadable(&e))?;
    let brought = Manifest::brought(&text).map_err(|e| unreadable(&e))?;
    let mut own = manifest.models().iter().filter(|m| here.get(&m.name).is_err());
    if let Some(own) = own.find(|own| brought.models().iter().any(|m| m.file == own.file)) {
        return Err(unreadable(&format!("`{}` belongs to a model of the manifest", own.file)));
    }
    Ok(brought)
}

/// Installs the one model of `job` out of a bundle.
pub(super) fn take(job: &mut Job<'_>, tar: &Path) -> Result<(), PullError> {
    let mut found = false;
    each_member(tar, &mut |name, _, member| {
        found = name == job.model.file;
        if found {
            job.install(job.model.artefact(), member)?;
        }
        Ok(!found)
    })?;
    if found {
        return Ok(());
    }
    let what = format!("{} in {}", job.model.file, tar.display());
    Err(PullError::NotFound { model: job.model.name.clone(), what })
}

/// Takes a member's name, size and bytes; whether to go on.
type See<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<bool, PullError> + 'a;

/// Shows `see` each member until it answers `false`. Anything but
/// plain files with plain names is refused before a byte of it is read.
fn each_member(tar: &Path, see: &mut See<'_>) -> Result<(), PullError> {
    let unreadable = |e: io::Error| refused(tar, &format!("it cannot be read as a tar ({e})"));
    let file = File::open(tar).map_err(PullError::disk(tar))?;
    let mut archive = Archive::new(file);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let plain = entry.header().entry_type() == EntryType::Regular && is_plain_name(&path);
        let Some(name) = path.to_str().filter(|_| plain) else {
            return Err(refused(tar, &format!("`{}` is not a plain file", path.display())));
        };
        let size = entry.size();
        if !see(name, size, &mut entry)? {
            break;
        }
    }
    Ok(())
}

fn refused(tar: &Path, reason: &str) -> PullError {
    PullError::Bundle { bundle: tar.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
