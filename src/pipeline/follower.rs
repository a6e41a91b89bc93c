//! Keeps what answers in step with the disk and the store: another generation is opened, what was
//! changed since it was built is embedded, indexed beside it, and switched to as a whole.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Stopwatch;
use crate::domain::knowledge::{EntryId, EntryState, VersionedEntry};
use crate::engine::embed::EmbedWorker;
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{FitError, write_index};
use crate::pipeline::generation::GenerationError;
use crate::pipeline::generations::{Generations, Serving};
use crate::search::SearchError;
use crate::search::index::KnowledgeIndex;
use crate::search::layers::{Changes, Layers};
use crate::store::{Store, StoreError};

/// Changed entries that are followed; more are a new knowledge base, which `index build` embeds
/// without keeping a service busy.
const MOST_CHANGES: usize = 2_000;
/// How long changes that could not be indexed are left alone: an embedder that is busy or away
/// comes back by itself.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Run `huida index build`.
    #[error("{0} entries changed since the index was built: run `huida index build`")]
    TooMany(usize),
    #[error("changed entries cannot be indexed: {0}")]
    Index(#[from] FitError),
    #[error("changed entries cannot be read back: {0}")]
    Search(#[from] SearchError),
    #[error("no folder for changed entries: {0}")]
    Folder(#[from] std::io::Error),
}

/// Looks at the disk and the store and changes what answers; the only one that does.
pub struct Follower {
    store: Arc<dyn Store>,
    embedder: Arc<EmbedWorker>,
    generations: Arc<Generations>,
    refused: Mutex<Option<Refused>>,
}

/// Changes that could not be taken in. To try again is to compare all entries again.
struct Refused {
    generation: String,
    revision: i64,
    /// `None`: nothing but other changes or another generation can mend it.
    since: Option<Stopwatch>,
}

impl Refused {
    /// What an error says of the changes up to `revision`; one of the store says nothing of them.
    fn of(generation: &str, revision: i64, error: &FollowError) -> Option<Self> {
        let since = match error {
            FollowError::Generation(_) | FollowError::Store(_) => return None,
            FollowError::TooMany(_) => None,
            FollowError::Index(_) | FollowError::Search(_) | FollowError::Folder(_) => {
                Some(Stopwatch::start())
            }
        };
        Some(Self { generation: generation.to_owned(), revision, since })
    }

    fn stands_for(&self, generation: &str, revision: i64) -> bool {
        self.generation == generation
            && self.revision == revision
            && self.since.is_none_or(|since| since.elapsed() < RETRY)
    }
}

impl Follower {
    pub fn new(
        store: Arc<dyn Store>,
        embedder: Arc<EmbedWorker>,
        generations: Arc<Generations>,
    ) -> Self {
        Self { store, embedder, generations, refused: Mutex::default() }
    }

    /// Takes in what was published and changed since the last look; true when something else
    /// answers now. What served goes on serving until all of it is in. What was refused once is
    /// not tried again before something changes or, where that may help, some time has passed.
    ///
    /// # Errors
    /// What served goes on serving, without what was withdrawn: to hide needs no embedder. So does a
    /// new generation whose changes cannot be taken in; one of which the store cannot tell what was
    /// withdrawn is not switched to.
    pub fn look(&self) -> Result<bool, FollowError> {
        // Held to the end: nobody else switches meanwhile.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.generations.current();
        let published = self.generations.published()?;
        let target = published.as_ref().unwrap_or(&current);
        let (next, fault) = match self.follow(target, &mut refused) {
            Ok(followed) => (followed.or(published), None),
            Err(error) => match self.without_withdrawn(target) {
                Ok(kept) => (kept.or(published), Some(error)),
                Err(_) => (None, Some(error)),
            },
        };
        let mut is_other = false;
        if let Some(next) = next {
            is_other = next.id() != current.id();
            self.generations.switch(next);
        }
        fault.map_or(Ok(is_other), Err)
    }

    /// `serving` with what changed since; `None` when that is in, or was refused.
    fn follow(
        &self,
        serving: &Serving,
        refused: &mut Option<Refused>,
    ) -> Result<Option<Serving>, FollowError> {
        let generation = serving.generation.id();
        // Read first: what is written meanwhile is found by the next look.
        let revision = self.store.revision()?;
        let was_refused = refused.as_ref().is_some_and(|r| r.stands_for(generation, revision));
        if was_refused || serving.is_at(revision) {
            return Ok(None);
        }
        let layers = self.layers(serving);
        *refused = layers.as_ref().err().and_then(|e| Refused::of(generation, revision, e));
        Ok(Some(serving.with(layers?, revision)))
    }

    fn layers(&self, serving: &Serving) -> Result<Layers, FollowError> {
        let Difference { hidden, fresh, .. } = self.difference(serving)?;
        if fresh.len() > MOST_CHANGES {
            return Err(FollowError::TooMany(fresh.len()));
        }
        let changes = self.index(serving, &fresh)?;
        Ok(serving.knowledge.with(hidden, changes))
    }

    /// `serving` without the entries that are no longer so, and without what changed since; `None`
    /// when all that it holds is still so.
    fn without_withdrawn(&self, serving: &Serving) -> Result<Option<Serving>, FollowError> {
        let Difference { hidden, withdrawn, .. } = self.difference(serving)?;
        Ok(withdrawn.then(|| serving.hiding(hidden)))
    }

    fn difference(&self, serving: &Serving) -> Result<Difference, FollowError> {
        let base = &serving.generation.index;
        let heads = self.store.heads()?;
        let published = heads.iter().filter(|head| head.state == EntryState::Published);
        let current: HashMap<&EntryId, u32> = published.map(|h| (&h.id, h.version)).collect();
        let built = base.entries();
        let stale = |at: &u32| {
            let built = &built[*at as usize];
            current.get(&built.entry.id) != Some(&built.version)
        };
        let hidden: HashSet<u32> = (0..built.len() as u32).filter(stale).collect();
        let is_built = |id: &EntryId| base.ordinal(id).is_some_and(|at| !hidden.contains(&at));
        let mut fresh: Vec<EntryId> =
            current.keys().filter(|id| !is_built(id)).map(|id| (*id).clone()).collect();
        fresh.sort();
        let is_current = |e: &VersionedEntry| {
            current.get(&e.entry.id).is_some_and(|version| *version == e.version)
        };
        let withdrawn = !serving.knowledge.entries().all(is_current);
        Ok(Difference { hidden, fresh, withdrawn })
    }

    fn index(&self, serving: &Serving, ids: &[EntryId]) -> Result<Option<Changes>, FollowError> {
        if ids.is_empty() {
            return Ok(None);
        }
        let mut entries = self.store.entries_by_id(ids)?;
        // One may have been withdrawn since the heads were read.
        entries.retain(|e| e.entry.state == EntryState::Published);
        if entries.is_empty() {
            return Ok(None);
        }
        // Also another generation's: the same embedder made them.
        let current = self.generations.current();
        let known = current.knowledge.changed_folder().map(Path::to_owned);
        let mut embedding = Embedding::new(&self.embedder, known.into_iter().collect());
        let folder = tempfile::Builder::new().prefix("huida-changes").tempdir()?;
        let base = Arc::clone(serving.knowledge.base());
        let synonyms = &base.manifest().synonyms;
        write_index(folder.path(), &entries, synonyms, &mut embedding, &mut |_| ())?;
        let index = KnowledgeIndex::open_beside(folder.path(), base)?;
        Ok(Some(Changes { index, folder }))
    }
}

/// How the store differs from a generation.
struct Difference {
    /// Entries of the generation that are no longer so, by ordinal.
    hidden: HashSet<u32>,
    /// Published entries that it does not hold as they are now.
    fresh: Vec<EntryId>,
    /// Something is found now that is no longer so.
    withdrawn: bool,
}

/// Whether what is searched is exactly what the store publishes.
pub fn agrees(knowledge: &Layers, store: &dyn Store) -> Result<bool, StoreError> {
    let stored = store.entries()?;
    let published: HashMap<&EntryId, _> = stored
        .iter()
        .filter(|e| e.entry.state == EntryState::Published)
        .map(|e| (&e.entry.id, e))
        .collect();
    let searched: Vec<_> = knowledge.entries().collect();
    Ok(searched.len() == published.len()
        && searched.iter().all(|e| published.get(&e.entry.id) == Some(e)))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::domain::knowledge::{Change, Entry};
    use crate::model::{Control, Embedder, ModelError, ModelIdentity};
    use crate::pipeline::generation::testing::{QUESTIONS, entry, model};
    use crate::pipeline::generations::GenerationDir;
    use crate::pipeline::generations::testing::publish;
    use crate::pipeline::retrieve::{Question, Scope, Trained, look_up};
    use crate::search::index::Exclude;
    use crate::store::Import;
    use crate::store::sqlite::SqliteStore;

    const NEW: &str = "怎么开票";

    /// Gives all texts one vector; remembers what served meanwhile, and may be out of order.
    struct Fake {
        identity: ModelIdentity,
        generations: OnceLock<Arc<Generations>>,
        served: Mutex<Vec<String>>,
        is_broken: AtomicBool,
    }

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.identity
        }
        fn dim(&self) -> usize {
            2
        }
        fn tokens(&self, _: &str) -> Result<Vec<u32>, ModelError> {
            Ok(vec![1])
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            let serving = self.generations.get().unwrap().current();
            self.served.lock().unwrap().push(serving.id());
            if self.is_broken.load(Ordering::SeqCst) {
                return Err(ModelError::Inference("out of order".into()));
            }
            Ok(texts.iter().map(|_| vec![0.6, 0.8]).collect())
        }
    }

    /// A store and a generation that agree, and who follows.
    struct Site {
        folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        fake: Arc<Fake>,
        generations: Arc<Generations>,
        follower: Follower,
    }

    impl Site {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(&folder.path().join("huida.db")).unwrap();
            let store: Arc<dyn Store> = Arc::new(store);
            let fake = Arc::new(Fake {
                identity: model("ours"),
                generations: OnceLock::new(),
                served: Mutex::default(),
                is_broken: AtomicBool::new(false),
            });
            let dir = GenerationDir::new(folder.path().join("index"), 2);
            publish(&dir, &fake.identity);
            let generations = Arc::new(Generations::open(dir, fake.identity.clone()).unwrap());
            fake.generations.set(generations.clone()).ok().unwrap();
            let embedder = Arc::new(EmbedWorker::start(fake.clone()).unwrap());
            let follower = Follower::new(store.clone(), embedder, generations.clone());
            let site = Self { folder, store, fake, generations, follower };
            site.import(QUESTIONS.map(|(question, _)| entry(question)).to_vec());
            assert!(!site.follower.look().unwrap(), "store and generation agree");
            site
        }

        fn import(&self, entries: Vec<Entry>) {
            let import = Import::of(entries, Change::by("anna", "test"));
            self.store.import_entries(&import, 0).unwrap();
        }

        fn withdraw(&self, question: &str) {
            self.import(vec![Entry { state: EntryState::Archived, ..entry(question) }]);
        }

        /// Publishes what the store held at first.
        fn publish(&self) -> String {
            let dir = GenerationDir::new(self.folder.path().join("index"), 2);
            publish(&dir, &self.fake.identity)
        }

        fn serving(&self) -> String {
            self.generations.current().id()
        }

        /// Everything that a question finds now.
        fn found(&self) -> Vec<String> {
            let serving = self.generations.current();
            let question = Question { text: "怎么退款", vector: &[1.0, 0.0], rewritten: false };
            let scope = Scope { exclude: Exclude::None, asker: None, now: 0 };
            let found =
                look_up(&serving.knowledge, Trained::default(), question, scope).unwrap().evidence;
            found.into_iter().map(|evidence| evidence.id.0).collect()
        }

        fn embedded(&self) -> usize {
            self.fake.served.lock().unwrap().len()
        }
    }

    #[test]
    fn a_switch_brings_back_nothing_that_was_withdrawn() {
        let site = Site::new();
        let first = site.serving();
        assert_eq!(site.found(), ["怎么退款", "怎么发货"]);
        site.withdraw("怎么退款");
        site.import(vec![entry(NEW)]);
        let second = site.publish();
        assert!(site.follower.look().unwrap());
        assert!(site.serving().starts_with(&format!("{second}+")), "{}", site.serving());
        assert_eq!(site.found().len(), 2);
        assert!(!site.found().contains(&"怎么退款".to_owned()), "{:?}", site.found());
        let meanwhile = site.fake.served.lock().unwrap().clone();
        assert!(!meanwhile.is_empty() && meanwhile.iter().all(|id| *id == first), "{meanwhile:?}");
        // What the former one had embedded, the next one has.
        site.publish();
        assert!(site.follower.look().unwrap());
        assert_eq!((site.found().len(), site.embedded()), (2, meanwhile.len()));
    }

    #[test]
    fn changes_that_cannot_be_embedded_are_left_alone_until_others_come() {
        let site = Site::new();
        site.fake.is_broken.store(true, Ordering::SeqCst);
        site.import(vec![entry(NEW)]);
        assert!(matches!(site.follower.look(), Err(FollowError::Index(_))));
        let tried = site.embedded();
        assert!(!site.follower.look().unwrap());
        assert_eq!(site.embedded(), tried, "it is not tried again");
        // A generation that is published meanwhile serves all the same.
        let second = site.publish();
        assert!(matches!(site.follower.look(), Err(FollowError::Index(_))));
        assert_eq!(site.serving(), second);
        assert!(!site.follower.look().unwrap());
        site.fake.is_broken.store(false, Ordering::SeqCst);
        assert!(!site.follower.look().unwrap());
        site.withdraw("怎么发货");
        assert!(site.follower.look().unwrap());
        assert_eq!(site.found(), ["怎么退款", NEW]);
    }

    #[test]
    fn what_is_withdrawn_goes_at_once_though_nothing_else_can_be_taken_in() {
        let site = Site::new();
        site.fake.is_broken.store(true, Ordering::SeqCst);
        site.withdraw("怎么退款");
        site.import(vec![entry(NEW)]);
        assert!(matches!(site.follower.look(), Err(FollowError::Index(_))));
        assert_eq!(site.found(), ["怎么发货"]);
        site.publish();
        site.import((0..=MOST_CHANGES).map(|n| entry(&format!("问题{n}"))).collect());
        assert!(matches!(site.follower.look(), Err(FollowError::TooMany(_))));
        assert_eq!(site.found(), ["怎么发货"], "a new generation does not bring it back");
    }

    #[test]
    fn too_many_changes_are_told_once_until_they_change() {
        let site = Site::new();
        let first = site.serving();
        let many = |count: usize| (0..count).map(|n| entry(&format!("问题{n}"))).collect();
        site.import(many(MOST_CHANGES + 1));
        assert!(matches!(site.follower.look(), Err(FollowError::TooMany(2_001))));
        assert!(!site.follower.look().unwrap());
        site.import(many(MOST_CHANGES + 2));
        assert!(matches!(site.follower.look(), Err(FollowError::TooMany(2_002))));
        assert!(!site.follower.look().unwrap());
        assert_eq!((site.serving(), site.embedded()), (first, 0));
        let second = site.publish();
        assert!(matches!(site.follower.look(), Err(FollowError::TooMany(2_002))));
        assert_eq!(site.serving(), second);
    }
}
