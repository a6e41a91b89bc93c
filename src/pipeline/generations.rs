//! The generations on disk and the one that serves: built aside, published by one rename.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::base::clock::{Clock, Stopwatch, UnixMs};
use crate::base::fault::Fault;
use crate::base::file::{sync_dir, write_atomic};
use crate::model::ModelIdentity;
use crate::pipeline::generation::{Generation, GenerationError};
use crate::search::layers::Layers;

/// Holds the id of the generation that serves.
const CURRENT: &str = "CURRENT";
/// Held by whoever builds; two builders would tread on each other's pruning.
const LOCK: &str = "BUILD.lock";
const BUILDING: &str = ".building-";
/// Vectors that builds have computed since a generation was last published.
const JOURNAL: &str = "embedded.journal";
/// How names begin under which a file is written before it is renamed.
const UNFINISHED: &str = ".tmp";
/// How long a generation that could not be opened is left alone.
const RETRY: Duration = Duration::from_secs(600);

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

    /// Folders of built generations, the newest first.
    pub fn built(&self) -> Result<Vec<PathBuf>, GenerationError> {
        let mut numbers: Vec<u64> = self.names()?.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().rev().map(|n| self.path_of(&format!("g{n}"))).collect())
    }

    /// Makes a placed generation the one that serves, or none.
    pub fn switch(&self, id: Option<&str>) -> Result<(), GenerationError> {
        let current = self.root.join(CURRENT);
        match id {
            Some(id) => write_atomic(&current, id.as_bytes()).map_err(|e| self.io(e)),
            None => match fs::remove_file(&current) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.io(e)),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }

    /// Opens the generation that serves, of a service that embeds with `running`.
    pub fn open_current(&self, running: &ModelIdentity) -> Result<Generation, GenerationError> {
        let id = self.current_id()?;
        let id = id.ok_or_else(|| GenerationError::None(self.root.display().to_string()))?;
        Generation::open_for(&self.path_of(&id), running)
    }

    /// Waits for another builder, then clears what killed builders left.
    pub fn begin(&self, clock: &Clock) -> Result<Building, GenerationError> {
        fs::create_dir_all(&self.root).map_err(|e| self.io(e))?;
        let lock = File::create(self.root.join(LOCK)).map_err(|e| self.io(e))?;
        lock.lock().map_err(|e| self.io(e))?;
        let current = self.current_id()?.as_deref().and_then(number);
        self.clear(current)?;
        // Also where the clock was set back, a new generation is newer than all others.
        let number = current.map_or(0, |current| current + 1).max(clock.now().unsigned_abs());
        let id = format!("g{number}");
        let path = self.root.join(format!("{BUILDING}{id}"));
        fs::create_dir(&path).map_err(|e| self.io(e))?;
        Ok(Building { dir: self.clone(), id, path, _lock: lock })
    }

    /// Removes what was begun and, since it never served, what is newer than the current one.
    fn clear(&self, current: Option<u64>) -> Result<(), GenerationError> {
        for name in self.names()? {
            let path = self.root.join(&name);
            if name.starts_with(UNFINISHED) {
                fs::remove_file(path).map_err(|e| self.io(e))?;
            } else if name.starts_with(BUILDING) || number(&name).is_some_and(|n| Some(n) > current)
            {
                fs::remove_dir_all(path).map_err(|e| self.io(e))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, GenerationError> {
        let listing = fs::read_dir(&self.root).map_err(|e| self.io(e))?;
        let names = listing.map(|item| Ok(item?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<_>>().map_err(|e| self.io(e))
    }

    fn prune(&self, current: &str) -> Result<(), GenerationError> {
        let names = self.names()?.into_iter().filter(|name| name != current);
        let mut old: Vec<(u64, String)> =
            names.filter_map(|name| Some((number(&name)?, name))).collect();
        old.sort();
        let surplus = old.len().saturating_sub(self.keep);
        for (_, name) in old.drain(..surplus) {
            fs::remove_dir_all(self.root.join(name)).map_err(|e| self.io(e))?;
        }
        Ok(())
    }
}

/// When the build of a generation of this id began.
pub fn begun_at(id: &str) -> Option<UnixMs> {
    number(id).and_then(|number| UnixMs::try_from(number).ok())
}

/// What a generation's id counts: the time of its build. `None` for any other name.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix('g').filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

impl Building {
    /// The id of what is built.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where vectors are kept until a generation that holds them is published.
    pub fn journal(&self) -> PathBuf {
        self.dir.root.join(JOURNAL)
    }

    /// Folders of earlier generations, the newest first.
    pub fn earlier(&self) -> Result<Vec<PathBuf>, GenerationError> {
        self.dir.built()
    }

    /// Gives it its own name, under which it can be switched to. What is not switched to while this
    /// is held is cleared by the next builder.
    pub fn place(&self) -> Result<&str, GenerationError> {
        let dir = &self.dir;
        sync_tree(&self.path).map_err(|e| dir.io(e))?;
        Fault::PublishUnnamed.passes();
        fs::rename(&self.path, dir.path_of(&self.id)).map_err(|e| dir.io(e))?;
        sync_dir(&dir.root).map_err(|e| dir.io(e))?;
        Ok(&self.id)
    }

    /// Makes this generation the one that serves; until the last rename the old one does.
    pub fn publish(self) -> Result<String, GenerationError> {
        let id = self.place()?;
        Fault::PublishUnnoticed.passes();
        self.dir.switch(Some(id))?;
        Fault::PublishSwitched.passes();
        // What it held is in the generation; where there was none, nothing is to be removed.
        let _ = fs::remove_file(self.journal());
        if let Err(error) = self.dir.prune(id) {
            // The new generation serves; old ones only take room.
            tracing::warn!(%error, "old generations could not be removed");
        }
        Ok(id.to_owned())
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

/// What answers: a generation, and what has changed in the store since it was built.
pub struct Serving {
    pub generation: Arc<Generation>,
    pub knowledge: Layers,
    /// The store's revision whose changes are in; `None`: as built.
    revision: Option<i64>,
}

impl Serving {
    fn of(generation: Generation) -> Self {
        let knowledge = Layers::of(Arc::clone(&generation.index));
        Self { generation: Arc::new(generation), knowledge, revision: None }
    }

    /// The same generation with the changes up to `revision` of the store.
    pub fn with(&self, knowledge: Layers, revision: i64) -> Self {
        let generation = Arc::clone(&self.generation);
        Self { generation, knowledge, revision: Some(revision) }
    }

    /// The same generation with nothing changed but these entries hidden, by ordinal.
    pub fn hiding(&self, hidden: HashSet<u32>) -> Self {
        let generation = Arc::clone(&self.generation);
        Self { generation, knowledge: self.knowledge.with(hidden, None), revision: None }
    }

    /// Names the generation, and with changes the store's revision.
    pub fn id(&self) -> String {
        let id = self.generation.id();
        match self.revision.filter(|_| self.knowledge.changed() > 0) {
            Some(revision) => format!("{id}+{revision}"),
            None => id.to_owned(),
        }
    }

    /// Whether the changes up to this revision of the store are in.
    pub fn is_at(&self, revision: i64) -> bool {
        self.revision == Some(revision)
    }
}

/// What answers now. A turn keeps what it began with.
pub struct Generations {
    dir: GenerationDir,
    running: ModelIdentity,
    current: RwLock<Arc<Serving>>,
    /// Whether what is switched to is to grow as well.
    grows: AtomicBool,
    refused: Mutex<Option<Refused>>,
    /// Of the generation that serves.
    tightened: RwLock<Option<Tightened>>,
}

/// A gate that proved less trustworthy than it was fitted: see [`watch`](crate::pipeline::watch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tightened {
    /// Less confident replies go to a person, whatever the thresholds say.
    pub least: f32,
    pub since: UnixMs,
    /// Because messages are unlike those it was fitted on: those to come will be as well, and that is
    /// no news.
    pub shifted: bool,
}

/// A published generation that could not be opened. To try again is to read all of it again.
struct Refused {
    id: String,
    since: Stopwatch,
}

impl Generations {
    /// Opens what [`GenerationDir::current_id`] names.
    pub fn open(dir: GenerationDir, running: ModelIdentity) -> Result<Self, GenerationError> {
        let serving = Serving::of(dir.open_current(&running)?);
        let current = RwLock::new(Arc::new(serving));
        let (grows, refused) = (AtomicBool::new(false), Mutex::default());
        Ok(Self { dir, running, current, grows, refused, tightened: RwLock::default() })
    }

    pub fn current(&self) -> Arc<Serving> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the serving generation's gate lets out at least.
    pub fn tightened(&self) -> Option<Tightened> {
        *self.tightened.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets out less until another generation serves.
    pub fn tighten(&self, to: Tightened) {
        *self.tightened.write().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    /// False for what only a gate that was made stricter keeps back.
    pub fn admits(&self, confidence: f32) -> bool {
        self.tightened().is_none_or(|tightened| confidence >= tightened.least)
    }

    /// For a service that stays: what very many entries are searched faster with is built in the
    /// background, now and whenever [`Generations::switch`] brings other entries.
    pub fn grow(&self) {
        self.grows.store(true, Ordering::SeqCst);
        self.current().generation.index.grow();
    }

    /// Another generation than the one that serves, if one was published: opened as it was built,
    /// not switched to. One that cannot be opened is looked at again only much later.
    pub fn published(&self) -> Result<Option<Serving>, GenerationError> {
        let published = self.dir.current_id()?;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(id) = published.filter(|id| *id != self.current().generation.id()) else {
            *refused = None;
            return Ok(None);
        };
        if refused.as_ref().is_some_and(|r| r.id == id && r.since.elapsed() < RETRY) {
            return Ok(None);
        }
        let opened = Generation::open_for(&self.dir.path_of(&id), &self.running);
        *refused = opened.is_err().then(|| Refused { id, since: Stopwatch::start() });
        Ok(Some(Serving::of(opened?)))
    }

    /// Puts `serving` in the place of what answered until now.
    pub fn switch(&self, serving: Serving) {
        let index = Arc::clone(&serving.generation.index);
        if serving.generation.id() != self.current().generation.id() {
            // Fitted anew, on what was learned since.
            *self.tightened.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(serving);
        // Asked after the switch, as `grow` asks for what serves after it has told.
        if self.grows.load(Ordering::SeqCst) {
            index.grow();
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::gate::drift::Usual;
    use crate::gate::threshold::{Promise, Threshold};
    use crate::pipeline::generation::testing::{write, write_with};

    /// Publishes a generation of the two entries of [`write`].
    pub(in crate::pipeline) fn publish(dir: &GenerationDir, made_by: &ModelIdentity) -> String {
        let building = dir.begin(&Clock::System).unwrap();
        write(building.path(), made_by, None);
        building.publish().unwrap()
    }

    /// The same with a gate that opens at `value`.
    pub(in crate::pipeline) fn publish_open(
        dir: &GenerationDir,
        made_by: &ModelIdentity,
        value: f32,
    ) -> String {
        let building = dir.begin(&Clock::System).unwrap();
        write_with(building.path(), made_by, None, |gate| {
            let Promise { alpha, confidence } = gate.promise;
            let (n_selected, errors, rows, promised) = (0, 0, 0, true);
            gate.thresholds.common =
                Some(Threshold { value, alpha, confidence, n_selected, errors, rows, promised });
            let spread: Vec<f32> = (0..400_u16).map(|n| f32::from(n) / 400.0).collect();
            gate.usual = Usual::of(&spread);
        });
        building.publish().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::publish;
    use super::*;
    use crate::pipeline::generation::testing::model;

    /// Switches to what was published, as a service does whose store holds nothing else.
    fn refresh(generations: &Generations) -> Result<bool, GenerationError> {
        let published = generations.published()?;
        Ok(published.map(|serving| generations.switch(serving)).is_some())
    }

    #[test]
    fn a_generation_that_cannot_serve_is_tried_once_until_another_comes() {
        let root = tempfile::tempdir().unwrap();
        let dir = GenerationDir::new(root.path().to_owned(), 2);
        let (ours, other) = (model("ours"), model("other"));
        let first = publish(&dir, &ours);
        let generations = Generations::open(dir.clone(), ours.clone()).unwrap();
        assert!(!refresh(&generations).unwrap());
        for damaged in [false, true] {
            let id = publish(&dir, if damaged { &ours } else { &other });
            if damaged {
                fs::remove_file(dir.path_of(&id).join("gate.json")).unwrap();
            }
            assert!(refresh(&generations).is_err());
            assert!(!refresh(&generations).unwrap(), "it is not opened again");
            assert_eq!(generations.current().generation.id(), first);
        }
        let last = publish(&dir, &ours);
        assert!(refresh(&generations).unwrap());
        assert_eq!(generations.current().generation.id(), last);
    }

    #[test]
    fn what_is_switched_to_grows_in_a_service_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = GenerationDir::new(root.path().to_owned(), 2);
        let ours = model("ours");
        publish(&dir, &ours);
        let generations = Generations::open(dir.clone(), ours.clone()).unwrap();
        let grows = || generations.current().generation.index.grows();
        let switch = || {
            publish(&dir, &ours);
            assert!(refresh(&generations).unwrap());
        };
        assert!(!grows());
        switch();
        assert!(!grows(), "a command ends at once");
        generations.grow();
        assert!(grows());
        switch();
        assert!(grows());
    }

    #[test]
    fn a_builder_that_was_killed_leaves_nothing_to_the_next() {
        let root = tempfile::tempdir().unwrap();
        let dir = GenerationDir::new(root.path().to_owned(), 1);
        let names = |dir: &GenerationDir| {
            let mut names = dir.names().unwrap();
            names.sort();
            names
        };
        let clock = Clock::frozen(1_000);
        // Killed before the very first switch.
        fs::create_dir(root.path().join("g900")).unwrap();
        dir.begin(&clock).unwrap().publish().unwrap();
        dir.begin(&clock).unwrap().publish().unwrap();
        assert_eq!(names(&dir), [LOCK, CURRENT, "g1000", "g1001"]);
        // Killed between its name and the switch, and while it switched.
        fs::create_dir(root.path().join("g1002")).unwrap();
        fs::write(root.path().join(".tmpAbCdEf"), "g1002").unwrap();
        dir.begin(&clock).unwrap().publish().unwrap();
        assert_eq!(
            names(&dir),
            [LOCK, CURRENT, "g1001", "g1002"],
            "g1001 can still be gone back to"
        );
    }

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
