//! An index together with what has changed since it was built: a small second index, and the entries
//! of the first that must no longer be found.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::domain::evidence::Evidence;
use crate::domain::knowledge::VersionedEntry;
use crate::search::SearchError;
use crate::search::index::{Exclude, KnowledgeIndex, Query};

/// Changed entries, indexed.
pub struct Changes {
    /// Opened beside the index that they change.
    pub index: KnowledgeIndex,
    /// Where its files lie; they go when it does.
    pub folder: TempDir,
}

/// What is searched.
#[derive(Clone)]
pub struct Layers {
    base: Arc<KnowledgeIndex>,
    /// Entries of the base that were changed or taken out, by ordinal.
    hidden: Arc<HashSet<u32>>,
    changes: Option<Arc<Changes>>,
}

impl Layers {
    /// An index as it was built.
    pub fn of(base: Arc<KnowledgeIndex>) -> Self {
        Self { base, hidden: Arc::default(), changes: None }
    }

    /// With other entries hidden and changes in place of those that there were.
    pub fn with(&self, hidden: HashSet<u32>, changes: Option<Changes>) -> Self {
        Self {
            base: Arc::clone(&self.base),
            hidden: Arc::new(hidden),
            changes: changes.map(Arc::new),
        }
    }

    /// The index below the changes.
    pub fn base(&self) -> &Arc<KnowledgeIndex> {
        &self.base
    }

    /// A normalised text in the words of the index, as questions must be embedded and asked.
    pub fn unify(&self, text: &str) -> String {
        self.base.unify(text)
    }

    /// Where the changed entries are indexed; their vectors can be used again.
    pub fn changed_folder(&self) -> Option<&Path> {
        self.changes.as_ref().map(|changes| changes.folder.path())
    }

    /// What a search can find, by layer.
    pub fn entries(&self) -> impl Iterator<Item = &VersionedEntry> {
        let base = (0..).zip(self.base.entries());
        let kept = base.filter(|(at, _)| !self.hidden.contains(at)).map(|(_, entry)| entry);
        let changes = self.changes.as_ref().map_or(&[][..], |c| c.index.entries());
        kept.chain(changes)
    }

    /// Entries that the index does not hold as they are now, and those it should no longer hold.
    pub fn changed(&self) -> usize {
        let fresh = self.changes.as_ref().map_or(&[][..], |c| c.index.entries());
        let replaced = |e: &&VersionedEntry| self.base.ordinal(&e.entry.id).is_none();
        self.hidden.len() + fresh.iter().filter(replaced).count()
    }

    /// The best evidence of all layers, best first; of equal ones the base's first.
    pub fn search(&self, query: &Query<'_>) -> Result<Vec<Evidence>, SearchError> {
        let mut found = in_layer(&self.base, query, &self.hidden)?;
        if let Some(changes) = &self.changes {
            // What is left out is numbered in the base.
            let query = Query { exclude: Exclude::None, ..*query };
            found.extend(in_layer(&changes.index, &query, &HashSet::new())?);
            found.sort_by(|a, b| b.scores.fused.total_cmp(&a.scores.fused));
            // Within a layer no answer is there twice.
            let mut said = HashSet::new();
            found.retain(|e| e.answer.as_ref().is_none_or(|answer| said.insert(answer.clone())));
            found.truncate(query.k);
        }
        Ok(found)
    }
}

fn in_layer(
    index: &KnowledgeIndex,
    query: &Query<'_>,
    hidden: &HashSet<u32>,
) -> Result<Vec<Evidence>, SearchError> {
    let candidates = index.search_answers(query, hidden)?;
    Ok(candidates.iter().filter_map(|found| index.evidence(found, query.asker)).collect())
}
