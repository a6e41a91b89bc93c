//! Keeps what answers in step with the store: what was changed since the generation was built is
//! embedded, indexed beside it, and switched to as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::knowledge::{EntryId, EntryState};
use crate::engine::embed::EmbedWorker;
use crate::pipeline::fit::{FitError, write_index};
use crate::pipeline::generations::{Generations, Serving};
use crate::search::SearchError;
use crate::search::index::KnowledgeIndex;
use crate::search::layers::{Changes, Layers};
use crate::store::{Store, StoreError};

/// Changed entries that are followed; more are a new knowledge base, which `index build` embeds
/// without keeping a service busy.
const MOST_CHANGES: usize = 2_000;

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
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

/// Looks at the store and changes what answers.
pub struct Follower {
    pub store: Arc<dyn Store>,
    pub embedder: Arc<EmbedWorker>,
    pub generations: Arc<Generations>,
}

impl Follower {
    /// Takes in what changed since the last look; true when something did. What served goes on
    /// serving until all of it is in, and on any error.
    pub fn look(&self) -> Result<bool, FollowError> {
        let serving = self.generations.current();
        // Read first: what is written meanwhile is found by the next look.
        let revision = self.store.revision()?;
        if serving.is_at(revision) {
            return Ok(false);
        }
        let difference = self.difference(&serving)?;
        let changed = difference.fresh.len();
        if changed > MOST_CHANGES {
            return Err(FollowError::TooMany(changed));
        }
        let changes = self.index(&serving, &difference.fresh)?;
        let differs = changed > 0 || !difference.hidden.is_empty();
        let knowledge = serving.knowledge.with(difference.hidden, changes);
        self.generations.change(&serving, knowledge, revision);
        Ok(differs)
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
        Ok(Difference { hidden, fresh })
    }

    fn index(&self, serving: &Serving, ids: &[EntryId]) -> Result<Option<Changes>, FollowError> {
        if ids.is_empty() {
            return Ok(None);
        }
        let entries = self.store.entries_by_id(ids)?;
        let known = serving.knowledge.changed_vectors()?;
        let folder = tempfile::Builder::new().prefix("huida-changes").tempdir()?;
        let known: Vec<_> = known.iter().collect();
        write_index(folder.path(), &entries, &known, &self.embedder, &mut |_| ())?;
        let base = Arc::clone(serving.knowledge.base());
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
