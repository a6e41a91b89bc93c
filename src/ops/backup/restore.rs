//! A backup put in the place of what an installation remembers: all of it checked first, then
//! switched to by one written line that survives a kill.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::{BackupError, FORMAT, GENERATION, MANIFEST, Manifest, Member, STORE, Site};
use crate::base::clock::Clock;
use crate::base::digest::hex;
use crate::base::fault::Fault;
use crate::base::file::{sync_dir, write_atomic};
use crate::pipeline::generation::Generation;
use crate::pipeline::generations::Building;
use crate::store::sqlite::file::examine;
use crate::store::sqlite::hold::{Hold, beside};
use crate::store::{AuditState, StoreError};

/// Longest list of members, bytes.
const LIST_BYTES: u64 = 1 << 20;
/// The store of the backup, beside the one that it is to replace.
const INCOMING: &str = ".incoming";
/// Once this lies beside the store the restore is decided; until then nothing has happened.
const DECIDED: &str = ".restore.json";
/// SQLite keeps these beside a database; a log without its database would spoil the next one.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// What a restore has decided to do, so that another process can end it.
#[derive(Debug, Serialize, Deserialize)]
struct Decided {
    /// Where the former store goes, if there is one.
    aside: PathBuf,
    /// What is to serve.
    generation: Option<String>,
}

/// A backup that was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    pub manifest: Manifest,
    pub audit: AuditState,
    /// The id that the backup's generation has here.
    pub generation: Option<String>,
    /// Where the former store is now.
    pub aside: Option<PathBuf>,
}

/// Puts what `file` holds in the place of what `site` remembers. `force`: also where there is a
/// store already, which is moved aside.
///
/// # Errors
/// The former state is as it was, unless the disk fails after all was checked: then [`finish`]
/// ends it.
pub fn restore(
    site: Site<'_>,
    file: &Path,
    force: bool,
    clock: &Clock,
) -> Result<Restored, BackupError> {
    let hold = Hold::sole(site.store)?;
    end(site, &hold)?;
    let former = site.store.exists();
    if former && !force {
        return Err(BackupError::Exists(site.store.to_owned()));
    }
    // Held to the end: what is placed and does not serve yet would be cleared by a builder.
    let building = site.generations.begin(clock)?;
    let incoming = beside(site.store, INCOMING);
    let manifest = unpack(file, &incoming, &building)?;
    let examined = examine(&incoming).map_err(|e| refused(file, &format!("its store: {e}")))?;
    let generation = match &manifest.generation {
        Some(_) => {
            let damaged = |e| refused(file, &format!("its generation: {e}"));
            Generation::open(building.path()).map_err(damaged)?;
            Some(building.place()?.to_owned())
        }
        None => None,
    };
    Fault::RestoreStaged.passes();
    let aside = beside(site.store, &format!(".before-{}", clock.now()));
    let decided = Decided { aside: aside.clone(), generation: generation.clone() };
    let line = serde_json::to_vec(&decided).map_err(|e| BackupError::at(site.store)(e.into()))?;
    write_atomic(&beside(site.store, DECIDED), &line).map_err(BackupError::at(site.store))?;
    Fault::RestoreCommitted.passes();
    end(site, &hold)?;
    let aside = former.then_some(aside);
    Ok(Restored { manifest, audit: examined.audit, generation, aside })
}

/// Ends what a restore had decided when it was killed; true if there was one. Whoever opens store
/// or generations calls this first.
pub fn finish(site: Site<'_>) -> Result<bool, BackupError> {
    if !beside(site.store, DECIDED).exists() {
        return Ok(false);
    }
    match Hold::sole(site.store) {
        Ok(hold) => end(site, &hold),
        Err(StoreError::InUse(store)) => Err(StoreError::Replaced(store).into()),
        Err(error) => Err(error.into()),
    }
}

/// Every step can be done again, wherever an earlier attempt was cut off.
fn end(site: Site<'_>, _: &Hold) -> Result<bool, BackupError> {
    let disk = BackupError::at(site.store);
    let decided = beside(site.store, DECIDED);
    let line = match fs::read(&decided) {
        Ok(line) => line,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(disk(e)),
    };
    let Decided { aside, generation } =
        serde_json::from_slice(&line).map_err(|e| disk(e.into()))?;
    let parent = site.store.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let incoming = beside(site.store, INCOMING);
    if incoming.exists() {
        for suffix in COMPANIONS.into_iter().chain([""]) {
            let (from, to) = (beside(site.store, suffix), beside(&aside, suffix));
            if from.exists() {
                fs::rename(from, to).map_err(&disk)?;
            }
        }
        sync_dir(parent).map_err(&disk)?;
        Fault::RestoreMoved.passes();
        fs::rename(incoming, site.store).map_err(&disk)?;
        sync_dir(parent).map_err(&disk)?;
    }
    Fault::RestoreStored.passes();
    site.generations.switch(generation.as_deref())?;
    fs::remove_file(decided).map_err(&disk)?;
    sync_dir(parent).map_err(disk)?;
    Ok(true)
}

/// Lays the members out, each with the size and digest that the list says, all of them and no other.
fn unpack(tar: &Path, incoming: &Path, building: &Building) -> Result<Manifest, BackupError> {
    for suffix in COMPANIONS.into_iter().chain([""]) {
        match fs::remove_file(beside(incoming, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(BackupError::at(incoming)(e));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let unreadable = |e: io::Error| refused(tar, &format!("it cannot be read as a tar ({e})"));
    let mut archive = Archive::new(File::open(tar).map_err(BackupError::at(tar))?);
    let mut entries = archive.entries().map_err(unreadable)?;
    let mut first =
        entries.next().ok_or_else(|| refused(tar, "it is empty"))?.map_err(unreadable)?;
    let manifest = manifest(tar, &mut first)?;
    let mut awaited: HashMap<&str, &Member> =
        manifest.members.iter().map(|m| (m.name.as_str(), m)).collect();
    for entry in entries {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let name = path.to_str().unwrap_or_default();
        let plain = entry.header().entry_type() == EntryType::Regular;
        let member = awaited.remove(name).filter(|m| plain && m.stamp.size == entry.size());
        let member = member.ok_or_else(|| {
            refused(tar, &format!("`{}` is not as its list says", path.display()))
        })?;
        let to = match name.strip_prefix(GENERATION) {
            Some(below) => building.path().join(below),
            None => incoming.to_owned(),
        };
        let got = lay_out(&mut entry, &to).map_err(|e| refused(tar, &format!("`{name}`: {e}")))?;
        if got != member.stamp.sha256 {
            return Err(refused(tar, &format!("`{name}` is damaged: its sha256 is {got}")));
        }
    }
    if let Some(name) = awaited.keys().min() {
        return Err(refused(tar, &format!("`{name}` is missing: it was cut off")));
    }
    Ok(manifest)
}

/// Writes a member to disk; its SHA-256.
fn lay_out(member: &mut dyn Read, to: &Path) -> io::Result<String> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(to)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let n = member.read(&mut buffer)?;
        if n == 0 {
            file.sync_all()?;
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
    }
}

/// The list of a backup that this build reads: one store, and files below one folder.
fn manifest(tar: &Path, first: &mut tar::Entry<'_, File>) -> Result<Manifest, BackupError> {
    let none = || refused(tar, "it is no backup of this program: `huida backup FILE` writes them");
    let is_list = first.path().is_ok_and(|p| p.as_ref() == Path::new(MANIFEST));
    if !is_list || first.size() > LIST_BYTES {
        return Err(none());
    }
    let list: serde_json::Value = serde_json::from_reader(first).map_err(|_| none())?;
    let format = list.get("format").and_then(serde_json::Value::as_u64).ok_or_else(none)?;
    if format != u64::from(FORMAT) {
        let reason = format!("it has format {format}, this build reads {FORMAT}: use its huida");
        return Err(refused(tar, &reason));
    }
    let manifest: Manifest = serde_json::from_value(list).map_err(|_| none())?;
    let mut seen = HashSet::new();
    for Member { name, .. } in &manifest.members {
        let below = name.strip_prefix(GENERATION).filter(|_| manifest.generation.is_some());
        let known = name == STORE || below.is_some_and(stays_below);
        if !known || !seen.insert(name.as_str()) {
            return Err(refused(tar, &format!("its list names `{name}`")));
        }
    }
    if seen.contains(STORE) { Ok(manifest) } else { Err(refused(tar, "it holds no store")) }
}

/// Whether a name leads nowhere but down.
fn stays_below(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn refused(tar: &Path, reason: &str) -> BackupError {
    BackupError::Refused { file: tar.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ops::backup::write;
    use crate::pipeline::generations::GenerationDir;
    use crate::store::Store;
    use crate::store::contract::import_one;
    use crate::store::sqlite::SqliteStore;

    /// A folder with a store, without an index.
    struct Place {
        folder: tempfile::TempDir,
        generations: GenerationDir,
        store: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let generations = GenerationDir::new(folder.path().join("generations"), 2);
            let store = folder.path().join("huida.db");
            Self { folder, generations, store }
        }

        fn site(&self) -> Site<'_> {
            Site { store: &self.store, generations: &self.generations }
        }

        fn with(ids: &[&str]) -> Self {
            let place = Self::new();
            let store = SqliteStore::open(&place.store).unwrap();
            for id in ids {
                import_one(&store, id, id);
            }
            place
        }

        fn ids(&self) -> Vec<String> {
            let entries = SqliteStore::open(&self.store).unwrap().entries().unwrap();
            entries.into_iter().map(|e| e.entry.id.0).collect()
        }

        fn backup(&self) -> PathBuf {
            let out = self.folder.path().join("backup.tar");
            write(self.site(), &out, &Clock::System).unwrap();
            out
        }

        fn restore(&self, file: &Path, force: bool) -> Result<Restored, BackupError> {
            restore(self.site(), file, force, &Clock::System)
        }
    }

    #[test]
    fn a_store_comes_back_and_the_former_one_is_kept() {
        let (from, to) = (Place::with(&["a", "b"]), Place::with(&["c"]));
        let file = from.backup();
        let refused = to.restore(&file, false);
        assert!(matches!(refused, Err(BackupError::Exists(_))));
        assert_eq!(to.ids(), ["c"]);
        let restored = to.restore(&file, true).unwrap();
        assert_eq!(to.ids(), ["a", "b"]);
        assert_eq!(restored.audit, AuditState::Intact { rows: 2 });
        let aside = SqliteStore::open(&restored.aside.unwrap()).unwrap();
        assert_eq!(aside.entries().unwrap().len(), 1);
        let fresh = Place::new();
        assert_eq!(fresh.restore(&file, false).unwrap().aside, None);
        assert_eq!(fresh.ids(), ["a", "b"]);
    }

    #[test]
    fn what_is_in_use_is_not_replaced() {
        let (from, to) = (Place::with(&["a"]), Place::with(&["c"]));
        let file = from.backup();
        let service = SqliteStore::open(&to.store).unwrap();
        assert!(matches!(to.restore(&file, true), Err(BackupError::Store(_))));
        drop(service);
        to.restore(&file, true).unwrap();
    }

    #[test]
    fn other_files_are_refused_and_nothing_changes() {
        let place = Place::with(&["c"]);
        let path = place.folder.path().join("x.tar");
        let mut tar = tar::Builder::new(Vec::new());
        let list = serde_json::json!({"format": 99, "members": []}).to_string();
        tar.append_data(&mut super::super::header(list.len() as u64), MANIFEST, list.as_bytes())
            .unwrap();
        let newer = tar.into_inner().unwrap();
        for (bytes, word) in
            [(b"not a tar".to_vec(), "tar"), (vec![], "empty"), (newer, "format 99")]
        {
            fs::write(&path, bytes).unwrap();
            let refused = place.restore(&path, true).unwrap_err().to_string();
            assert!(refused.contains(word) && refused.contains("nothing was"), "{refused}");
        }
        assert_eq!(place.ids(), ["c"]);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for name in ["../x", "/x", "a/../../x", "", "a/./../..", "."] {
            assert!(!stays_below(name), "{name}");
        }
        assert!(stays_below("tantivy/meta.json"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Wherever a byte changes or the file ends early: refused, or all of it as it was.
        #[test]
        fn a_damaged_backup_restores_nothing_else(at in 0.0..1.0_f64, cut in any::<bool>()) {
            let (from, to) = (Place::with(&["a"]), Place::with(&["c"]));
            let file = from.backup();
            let mut bytes = fs::read(&file).unwrap();
            let at = (bytes.len() as f64 * at) as usize;
            if cut { bytes.truncate(at) } else { bytes[at] ^= 0x20 }
            fs::write(&file, bytes).unwrap();
            match to.restore(&file, true) {
                Ok(_) => prop_assert_eq!(to.ids(), ["a"]),
                Err(BackupError::Refused { .. }) => prop_assert_eq!(to.ids(), ["c"]),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
