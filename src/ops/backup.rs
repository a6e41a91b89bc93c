//! One file with all that an installation remembers: the store and the generation that serves.
//!
//! A plain tar: first the list of its members with size and SHA-256, then the members. Models are
//! carried by `models bundle`, the configuration by whoever wrote it.

pub mod restore;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use crate::base::clock::{Clock, UnixMs};
use crate::base::digest::FileStamp;
use crate::base::file::sync_dir;
use crate::pipeline::generation::{Generation, GenerationError};
use crate::pipeline::generations::GenerationDir;
use crate::store::sqlite::file::{examine, snapshot};
use crate::store::{AuditState, StoreError};

/// Counts up whenever an older backup can no longer be read.
const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const STORE: &str = "store.db";
/// What names of the generation's files begin with.
const GENERATION: &str = "generation/";

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("there is no store at {}: nothing to back up", .0.display())]
    NoStore(PathBuf),
    /// Ask for it, or restore elsewhere.
    #[error("there is a store at {}: `--force` moves it aside and restores", .0.display())]
    Exists(PathBuf),
    /// The file is no backup, of a newer build, or damaged: nothing was changed.
    #[error("{file}: {reason}; nothing was restored")]
    Refused { file: String, reason: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

impl BackupError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { path: path.clone(), source }
    }
}

/// Where an installation keeps what it remembers.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub store: &'a Path,
    pub generations: &'a GenerationDir,
}

/// What a backup holds; its first member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Version of the program that wrote it.
    pub written_by: String,
    pub written_at: UnixMs,
    /// Of the store.
    pub schema: u32,
    /// What served; `None`: nothing was built yet.
    pub generation: Option<String>,
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    name: String,
    #[serde(flatten)]
    stamp: FileStamp,
}

/// A backup that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub manifest: Manifest,
    pub bytes: u64,
    /// A broken chain is carried as it is: it may be what the backup is made for.
    pub audit: AuditState,
}

/// Writes what `site` remembers at this moment, also while a service runs on it.
pub fn write(site: Site<'_>, out: &Path, clock: &Clock) -> Result<Written, BackupError> {
    if !site.store.is_file() {
        return Err(BackupError::NoStore(site.store.to_owned()));
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = BackupError::at(out);
    let scratch =
        tempfile::Builder::new().prefix(".huida-backup").tempdir_in(parent).map_err(&disk)?;
    let copy = scratch.path().join(STORE);
    // Before the store: a generation may be older than what is stored, and not newer.
    let generation = site.generations.current_id()?;
    snapshot(site.store, &copy)?;
    let examined = examine(&copy)?;
    let mut files = vec![(STORE.to_owned(), copy)];
    if let Some(id) = &generation {
        let folder = site.generations.path_of(id);
        // Reads every file of it against its digest.
        Generation::open(&folder)?;
        files_below(&folder, GENERATION, &mut files).map_err(BackupError::at(&folder))?;
    }
    let members = files.iter().map(|(name, path)| {
        let stamp = FileStamp::of(path).map_err(BackupError::at(path))?;
        Ok(Member { name: name.clone(), stamp })
    });
    let manifest = Manifest {
        format: FORMAT,
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
        written_at: clock.now(),
        schema: examined.schema,
        generation,
        members: members.collect::<Result<_, BackupError>>()?,
    };
    let bytes = pack(&manifest, &files, out, parent).map_err(disk)?;
    Ok(Written { manifest, bytes, audit: examined.audit })
}

/// Every file of a folder by the name of its member, in order of names.
fn files_below(folder: &Path, prefix: &str, into: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let mut items = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    items.sort_by_key(fs::DirEntry::file_name);
    for item in items {
        let name = format!("{prefix}{}", item.file_name().to_string_lossy());
        if item.file_type()?.is_dir() {
            files_below(&item.path(), &format!("{name}/"), into)?;
        } else {
            into.push((name, item.path()));
        }
    }
    Ok(())
}

/// The file is there whole or not at all.
fn pack(
    manifest: &Manifest,
    files: &[(String, PathBuf)],
    out: &Path,
    parent: &Path,
) -> io::Result<u64> {
    let temp = tempfile::NamedTempFile::new_in(parent)?;
    let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, temp));
    let list = serde_json::to_vec_pretty(manifest)?;
    tar.append_data(&mut header(list.len() as u64), MANIFEST, list.as_slice())?;
    for ((name, path), member) in files.iter().zip(&manifest.members) {
        tar.append_data(&mut header(member.stamp.size), name, File::open(path)?)?;
    }
    let mut buffered = tar.into_inner()?;
    buffered.flush()?;
    let temp = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    temp.as_file().sync_all()?;
    let bytes = temp.as_file().metadata()?.len();
    temp.persist(out).map_err(|e| e.error)?;
    sync_dir(parent)?;
    Ok(bytes)
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    // It holds what customers wrote.
    header.set_mode(0o600);
    header.set_mtime(0);
    header
}
