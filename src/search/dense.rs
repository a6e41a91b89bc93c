//! Nearest vectors by whichever is better for their number: an exact scan, or a graph that is built
//! in the background while the scan serves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crate::base::lease;
use crate::search::SearchError;
use crate::search::codes::Code;
use crate::search::flat::{FlatIndex, top_k};
use crate::search::hnsw::Hnsw;
use crate::search::vectors::Matrix;

/// From this many rows on a graph serves. On a Zen 3 core, 384 wide, the scan takes 0.08 ms for
/// 2,000 rows, 0.34 ms for 10,000 and 0.8 ms for 20,000, the graph 0.1 ms for 20,000: it is faster
/// from a few thousand on, but the scan is exact and costs no build, so it stays while it is done
/// within a millisecond.
pub const CROSSOVER: usize = 20_000;
/// Rows that a search in the graph looks at, at least.
const BREADTH: usize = 64;
/// A filter that leaves too few is answered by looking at this many times as many rows, once.
const OVER_FETCH: usize = 8;
/// Rows beyond those wanted that are computed again exactly: codes may exchange close ones.
const RESCORED: usize = 32;
/// Share of deleted rows past which the graph is built again without them.
const MOST_DELETED: f64 = 0.2;

/// Centred rows and the search in them; to be shared between threads.
pub struct DenseIndex {
    shared: Arc<Shared>,
    builder: Mutex<Option<JoinHandle<()>>>,
    crossover: usize,
}

struct Shared {
    flat: FlatIndex,
    /// Tombstones: rows are never moved, so that their numbers stay.
    deleted: Vec<AtomicBool>,
    graph: RwLock<Option<Arc<Hnsw>>>,
    /// Live rows when the last build began, and how many of them are gone since.
    built: AtomicUsize,
    gone: AtomicUsize,
    closed: AtomicBool,
}

impl DenseIndex {
    pub fn new(vectors: &Matrix) -> Result<Self, SearchError> {
        Self::with_crossover(vectors, CROSSOVER)
    }

    /// As [`DenseIndex::new`], but never with a graph.
    pub fn exact(vectors: &Matrix) -> Result<Self, SearchError> {
        Self::with_crossover(vectors, usize::MAX)
    }

    pub(super) fn with_crossover(vectors: &Matrix, crossover: usize) -> Result<Self, SearchError> {
        let flat = FlatIndex::new(vectors)?;
        let deleted = (0..flat.len()).map(|_| AtomicBool::new(false)).collect();
        let shared = Shared {
            flat,
            deleted,
            graph: RwLock::default(),
            built: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        let index = Self { shared: Arc::new(shared), builder: Mutex::default(), crossover };
        if index.flat().len() >= crossover {
            index.rebuild(&mut locked(&index.builder));
        }
        Ok(index)
    }

    /// The rows themselves.
    pub fn flat(&self) -> &FlatIndex {
        &self.shared.flat
    }

    /// Cosine of a [`FlatIndex::centred`] query with every row, deleted ones included; `None` when
    /// there are so many that only the nearest should be asked for.
    pub fn scores(&self, query: &[f32]) -> Option<Vec<f32>> {
        self.shared.graph().is_none().then(|| self.flat().scores(query))
    }

    /// The `k` nearest live rows that `accept` takes, nearest first.
    pub fn nearest(
        &self,
        query: &[f32],
        k: usize,
        accept: impl Fn(u32) -> bool,
    ) -> Vec<(u32, f32)> {
        let accept = |row: u32| self.shared.is_live(row) && accept(row);
        let found = self.shared.graph().and_then(|graph| self.in_graph(&graph, query, k, &accept));
        found.unwrap_or_else(|| self.flat().nearest(query, k, accept))
    }

    /// `None` when the filter leaves fewer than `k` even of many: rare rows are better scanned for.
    fn in_graph(
        &self,
        graph: &Hnsw,
        query: &[f32],
        k: usize,
        accept: &impl Fn(u32) -> bool,
    ) -> Option<Vec<(u32, f32)>> {
        let code = Code::new(query);
        let breadth = BREADTH.max(2 * k);
        [breadth, breadth * OVER_FETCH].into_iter().find_map(|breadth| {
            let mut found = graph.search(self.flat().codes(), &code, breadth);
            found.retain(|&row| accept(row));
            let rescored = found.iter().take(k + RESCORED);
            let exact = rescored.map(|&row| (row, self.flat().score(query, row)));
            (found.len() >= k).then(|| top_k(exact, k))
        })
    }

    /// Takes a row out for good; past a fifth of them the graph is built again in the background.
    pub fn delete(&self, row: u32) {
        let Some(deleted) = self.shared.deleted.get(row as usize) else { return };
        if deleted.swap(true, Ordering::Relaxed) {
            return;
        }
        let gone = self.shared.gone.fetch_add(1, Ordering::Relaxed) + 1;
        let built = self.shared.built.load(Ordering::Relaxed);
        if built > 0 && gone as f64 > built as f64 * MOST_DELETED {
            let mut builder = locked(&self.builder);
            if builder.as_ref().is_none_or(JoinHandle::is_finished) {
                self.rebuild(&mut builder);
            }
        }
    }

    /// Waits for a build that has begun.
    pub fn settle(&self) {
        let builder = locked(&self.builder).take();
        // A builder that panicked leaves the scan serving; the panic hook has told of it.
        let _ = builder.map(JoinHandle::join);
    }

    /// Bytes of memory for each row.
    pub fn bytes_per_row(&self) -> usize {
        let flat = self.flat();
        let row = flat.dim() * size_of::<f32>() + size_of::<AtomicBool>();
        let graph = self.shared.graph().map_or(0, |graph| graph.bytes_per_row());
        row + flat.codes().bytes_per_row() + graph
    }

    fn rebuild(&self, builder: &mut Option<JoinHandle<()>>) {
        let shared = Arc::clone(&self.shared);
        let crossover = self.crossover;
        let spawned =
            thread::Builder::new().name("graph".into()).spawn(move || shared.build(crossover));
        match spawned {
            Ok(handle) => *builder = Some(handle),
            Err(error) => tracing::warn!(%error, "no thread for the graph: the scan serves"),
        }
    }
}

impl Drop for DenseIndex {
    fn drop(&mut self) {
        // The builder sees it before its next row.
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn build(&self, crossover: usize) {
        self.gone.store(0, Ordering::Relaxed);
        let live = self.live();
        self.built.store(live.len(), Ordering::Relaxed);
        if live.len() < crossover {
            *self.graph.write().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let proceed = || {
            lease::give_way();
            !self.closed.load(Ordering::Relaxed)
        };
        if let Some(graph) = Hnsw::build(self.flat.codes(), live, threads, &proceed) {
            *self.graph.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(graph));
        }
    }

    fn graph(&self) -> Option<Arc<Hnsw>> {
        self.graph.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_live(&self, row: u32) -> bool {
        !self.deleted[row as usize].load(Ordering::Relaxed)
    }

    fn live(&self) -> Vec<u32> {
        (0..self.deleted.len() as u32).filter(|&row| self.is_live(row)).collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::flat::testing::clustered;

    const COUNT: usize = 2000;

    fn with_graph() -> DenseIndex {
        let index = DenseIndex::with_crossover(&clustered(COUNT, 32, 3), 100).unwrap();
        index.settle();
        assert!(index.shared.graph().is_some());
        index
    }

    /// Share of the ten nearest that are found as the scan finds them, scores included.
    fn agreement(index: &DenseIndex, accept: impl Fn(u32) -> bool + Copy) -> f64 {
        let (mut hits, mut wanted) = (0, 0);
        for at in (0..COUNT).step_by(13) {
            let query = index.flat().row(at);
            let scan = index.flat().nearest(query, 10, |r| index.shared.is_live(r) && accept(r));
            let found = index.nearest(query, 10, accept);
            assert_eq!(found.len(), scan.len());
            hits += scan.iter().filter(|row| found.contains(row)).count();
            wanted += scan.len();
        }
        hits as f64 / wanted as f64
    }

    #[test]
    fn few_rows_are_scanned() {
        let index = DenseIndex::new(&clustered(300, 8, 1)).unwrap();
        index.settle();
        let query = index.flat().row(5);
        assert_eq!(index.scores(query), Some(index.flat().scores(query)));
        assert_eq!(index.nearest(query, 3, |_| true), index.flat().nearest(query, 3, |_| true));
    }

    #[test]
    fn many_rows_are_searched_in_a_graph() {
        let index = with_graph();
        assert_eq!(index.scores(index.flat().row(0)), None);
        assert!(agreement(&index, |_| true) > 0.99);
        assert!(index.bytes_per_row() > 32 * 5);
    }

    #[test]
    fn a_filter_never_costs_results() {
        let index = with_graph();
        assert!(agreement(&index, |row| row.is_multiple_of(2)) > 0.99);
        assert!(agreement(&index, |row| row.is_multiple_of(40)) > 0.99);
        // So few are left that they are scanned.
        assert!((agreement(&index, |row| row < 15) - 1.0).abs() < 1e-9);
        assert!(index.nearest(index.flat().row(0), 10, |_| false).is_empty());
    }

    #[test]
    fn deleted_rows_are_not_found_and_leave_the_graph_past_a_fifth() {
        let index = with_graph();
        let first = index.shared.graph().unwrap();
        (0..400).for_each(|row| index.delete(row));
        index.settle();
        assert!(Arc::ptr_eq(&first, &index.shared.graph().unwrap()));
        assert!(agreement(&index, |_| true) > 0.99);
        index.delete(400);
        index.settle();
        let second = index.shared.graph().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let query = Code::new(index.flat().row(3));
        assert!(second.search(index.flat().codes(), &query, 64).iter().all(|&row| row > 400));
        assert!(agreement(&index, |_| true) > 0.99);
        index.delete(u32::MAX);
    }

    #[test]
    fn too_few_left_for_a_graph_are_scanned() {
        let index = with_graph();
        (0..COUNT as u32 - 50).for_each(|row| index.delete(row));
        index.settle();
        index.delete(COUNT as u32 - 50);
        index.settle();
        assert!(index.scores(index.flat().row(0)).is_some());
    }

    #[test]
    fn dropping_stops_the_build() {
        let index = DenseIndex::with_crossover(&clustered(COUNT, 32, 3), 100).unwrap();
        let shared = Arc::downgrade(&index.shared);
        let builder = locked(&index.builder).take();
        drop(index);
        builder.unwrap().join().unwrap();
        assert!(shared.upgrade().is_none());
    }
}
