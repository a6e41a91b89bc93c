//! The generations on disk and the one that serves: built aside, published by one rename.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::base::clock::Clock;
use crate::base::fault::Fault;
use crate::base::file::{sync_dir, write_atomic};
use crate::model::ModelIdentity;
use crate::pipeline::generation::{Generation, GenerationError};

/// Holds the id of the generation that serves.
const CURRENT: &str = "CURRENT";
/// Held by whoever builds; two builders would tread on each other's pruning.
const LOCK: &str = "BUILD.lock";
const BUILDING: &str = ".building-";

/// The folder of generations; knows names and order, not contents.
#[derive(Clone, Debug)]
pub struct GenerationDir {
    root: PathBuf,
    keep: usize,
}

/// A generation in the making. Dropped without [`Building::publish`], it leaves nothing behind.
pub struct Building {
    dir: GenerationDir,
    id: String,
    path: PathBuf,
    _lock: File,
}

impl GenerationDir {
    /// `keep`: how many old generations stay beside the current one.
    pub fn new(root: PathBuf, keep: usize) -> Self {
        Self { root, keep }
    }

    fn io(&self, source: std::io::Error) -> GenerationError {
        GenerationError::Io { path: self.root.display().to_string(), source }
    }

    /// The id that serves; `None` before the first build.
    pub fn current_id(&self) -> Result<Option<String>, GenerationError> {
        match fs::read_to_string(self.root.join(CURRENT)) {
            Ok(id) => Ok(Some(id.trim().to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io(e)),
        }
    }

    pub fn path_of(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Waits for another builder, then clears what killed builders left.
    pub fn begin(&self, clock: &Clock) -> Result<Building, GenerationError> {
        fs::create_dir_all(&self.root).map_err(|e| self.io(e))?;
        let lock = File::create(self.root.join(LOCK)).map_err(|e| self.io(e))?;
        lock.lock().map_err(|e| self.io(e))?;
        for name in self.names()?.iter().filter(|name| name.starts_with(BUILDING)) {
            fs::remove_dir_all(self.root.join(name)).map_err(|e| self.io(e))?;
        }
        let mut number = clock.now();
        while self.path_of(&format!("g{number}")).exists() {
            number += 1;
        }
        let id = format!("g{number}");
        let path = self.root.join(format!("{BUILDING}{id}"));
        fs::create_dir(&path).map_err(|e| self.io(e))?;
        Ok(Building { dir: self.clone(), id, path, _lock: lock })
    }

    fn names(&self) -> Result<Vec<String>, GenerationError> {
        let listing = fs::read_dir(&self.root).map_err(|e| self.io(e))?;
        let names = listing.map(|item| Ok(item?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<_>>().map_err(|e| self.io(e))
    }

    fn prune(&self, current: &str) -> Result<(), GenerationError> {
        let mut old: Vec<String> =
            self.names()?.into_iter().filter(|n| is_generation(n) && n != current).collect();
        // Ids carry their build time and have equal length for centuries: text order is age.
        old.sort();
        let surplus = old.len().saturating_sub(self.keep);
        for name in old.drain(..surplus) {
            fs::remove_dir_all(self.root.join(name)).map_err(|e| self.io(e))?;
        }
        Ok(())
    }
}

fn is_generation(name: &str) -> bool {
    name.strip_prefix('g').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

impl Building {
    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this generation the one that serves; until the last rename the old one does.
    pub fn publish(self) -> Result<String, GenerationError> {
        let dir = &self.dir;
        sync_tree(&self.path).map_err(|e| dir.io(e))?;
        Fault::PublishUnnamed.passes();
        fs::rename(&self.path, dir.path_of(&self.id)).map_err(|e| dir.io(e))?;
        sync_dir(&dir.root).map_err(|e| dir.io(e))?;
        Fault::PublishUnnoticed.passes();
        write_atomic(&dir.root.join(CURRENT), self.id.as_bytes()).map_err(|e| dir.io(e))?;
        Fault::PublishSwitched.passes();
        if let Err(error) = dir.prune(&self.id) {
            // The new generation serves; old ones only take room.
            tracing::warn!(%error, "old generations could not be removed");
        }
        Ok(self.id.clone())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if self.path.exists() {
            // The next builder clears what cannot be cleared now.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        if path.is_dir() { sync_tree(&path)? } else { File::open(&path)?.sync_all()? }
    }
    sync_dir(dir)
}

/// The generation that answers now. A turn keeps the one it began with.
pub struct Generations {
    dir: GenerationDir,
    running: ModelIdentity,
    current: RwLock<Arc<Generation>>,
}

impl Generations {
    /// Opens what [`GenerationDir::current_id`] names.
    pub fn open(dir: GenerationDir, running: ModelIdentity) -> Result<Self, GenerationError> {
        let id = dir.current_id()?;
        let id = id.ok_or_else(|| GenerationError::None(dir.root.display().to_string()))?;
        let generation = Generation::open(&dir.path_of(&id))?;
        generation.check_model(&running)?;
        Ok(Self { dir, running, current: RwLock::new(Arc::new(generation)) })
    }

    pub fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Switches when another generation was published; true when it did. On an error the present
    /// one goes on serving.
    pub fn refresh(&self) -> Result<bool, GenerationError> {
        let published = self.dir.current_id()?;
        let Some(id) = published.filter(|id| *id != self.current().id()) else { return Ok(false) };
        let generation = Generation::open(&self.dir.path_of(&id))?;
        generation.check_model(&self.running)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(generation);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_published_never_serves() {
        let root = tempfile::tempdir().unwrap();
        let dir = GenerationDir::new(root.path().to_owned(), 1);
        let clock = Clock::frozen(1_000_000_000_000);
        let first = dir.begin(&clock).unwrap();
        fs::write(first.path().join("x"), "1").unwrap();
        let first = first.publish().unwrap();
        assert_eq!(dir.current_id().unwrap(), Some(first.clone()));

        // A builder that is killed leaves its folder; the next one clears it.
        fs::create_dir(root.path().join(".building-g5")).unwrap();
        let abandoned = dir.begin(&clock).unwrap();
        fs::write(abandoned.path().join("x"), "2").unwrap();
        drop(abandoned);
        assert_eq!(dir.current_id().unwrap(), Some(first.clone()));
        let left: Vec<_> =
            dir.names().unwrap().into_iter().filter(|n| n.starts_with('.')).collect();
        assert_eq!(left, [] as [&str; 0]);

        let second = dir.begin(&clock).unwrap().publish().unwrap();
        let third = dir.begin(&clock).unwrap().publish().unwrap();
        assert!(!dir.path_of(&first).exists(), "only one old generation is kept");
        assert!(dir.path_of(&second).exists() && dir.path_of(&third).exists());
        assert_eq!(dir.current_id().unwrap(), Some(third));
    }
}
