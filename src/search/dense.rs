//! Nearest vectors by whichever is better for their number: an exact scan, or a graph that is built
//! in the background while the scan serves.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::base::lease::step_back;
use crate::search::adapter::Adapter;
use crate::search::codes::Code;
use crate::search::flat::FlatIndex;
use crate::search::hnsw::Hnsw;
use crate::search::near::top_groups;
use crate::search::unpoisoned;
use crate::search::vectors::Matrix;

pub use crate::search::hnsw::{BUILD_BREADTH, LINKS};

/// Codes that a search in the graph looks at, at least.
const BREADTH: usize = 96;
/// As many for each group that is wanted, since rows of a group lie close together.
const PER_GROUP: usize = 4;
/// A filter that leaves too few is answered by looking at this many times as many, once.
const OVER_FETCH: usize = 4;
/// Groups beyond those wanted whose rows are computed again exactly: codes may exchange close ones.
const RESCORED: usize = 32;
/// Share of deleted rows past which the graph is built again without them.
const MOST_DELETED: f64 = 0.2;

/// Centred rows and the search in them; to be shared between threads.
pub struct DenseIndex {
    shared: Arc<Shared>,
}

struct Shared {
    flat: FlatIndex,
    /// Tombstones: rows are never moved, so that their numbers stay.
    deleted: Vec<AtomicBool>,
    graph: Mutex<Option<Arc<Hnsw>>>,
    upkeep: Mutex<Upkeep>,
    closed: AtomicBool,
}

/// What decides whether the graph is built; under one lock, so that no delete is overlooked between
/// a builder's last look and its end, and no second builder begins beside it.
struct Upkeep {
    /// Fewer live rows than this are scanned.
    crossover: usize,
    is_building: bool,
    /// Live rows when the last build began, and how many of them are gone since.
    built: usize,
    gone: usize,
    builder: Option<JoinHandle<()>>,
}

impl Upkeep {
    fn is_due(&self) -> bool {
        self.gone as f64 > self.built as f64 * MOST_DELETED
    }
}

impl DenseIndex {
    /// An exact scan, until [`DenseIndex::grow`].
    pub fn new(vectors: Matrix) -> Self {
        Self::adapted(vectors, None)
    }

    /// As [`DenseIndex::new`], of vectors as a trained map sees them.
    pub(super) fn adapted(vectors: Matrix, adapter: Option<Arc<Adapter>>) -> Self {
        Self::of(FlatIndex::new(vectors, adapter))
    }

    /// As [`DenseIndex::new`], around the centre of `other` and through its map: cosines of both can
    /// be compared.
    pub(super) fn beside(vectors: Matrix, other: &Self) -> Self {
        Self::of(FlatIndex::beside(vectors, other.flat()))
    }

    fn of(flat: FlatIndex) -> Self {
        let deleted = (0..flat.len()).map(|_| AtomicBool::new(false)).collect();
        let upkeep =
            Upkeep { crossover: usize::MAX, is_building: false, built: 0, gone: 0, builder: None };
        let shared = Shared {
            flat,
            deleted,
            graph: Mutex::default(),
            upkeep: Mutex::new(upkeep),
            closed: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// From now on a graph serves while there are at least `crossover` live rows; it is built in
    /// the background.
    pub fn grow(&self, crossover: usize) {
        let mut upkeep = unpoisoned(&self.shared.upkeep);
        upkeep.crossover = crossover;
        if self.flat().len() >= crossover && upkeep.built == 0 {
            self.build(&mut upkeep);
        }
    }

    /// Whether [`DenseIndex::grow`] was asked for.
    #[cfg(test)]
    pub(super) fn grows(&self) -> bool {
        unpoisoned(&self.shared.upkeep).crossover != usize::MAX
    }

    pub fn len(&self) -> usize {
        self.flat().len()
    }

    pub fn is_empty(&self) -> bool {
        self.flat().is_empty()
    }

    pub fn dim(&self) -> usize {
        self.flat().dim()
    }

    /// The query as the rows see it: centre taken off, length one.
    pub fn centred(&self, vector: &[f32]) -> Vec<f32> {
        self.flat().centred(vector)
    }

    /// Row `at`, centred, of length one.
    pub fn row(&self, at: usize) -> &[f32] {
        self.flat().row(at)
    }

    pub(super) fn flat(&self) -> &FlatIndex {
        &self.shared.flat
    }

    /// Cosine of a [`DenseIndex::centred`] query with every row, deleted ones included; `None` when
    /// there are so many that only the nearest should be asked for.
    pub fn scores(&self, query: &[f32]) -> Option<Vec<f32>> {
        self.shared.graph().is_none().then(|| self.flat().scores(query))
    }

    /// The `k` nearest groups by the nearest live row of each, nearest first. A row without a group
    /// is left out; rows of a group must be neighbours.
    pub fn nearest(
        &self,
        query: &[f32],
        k: usize,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Vec<(u32, f32)> {
        let group = |row: u32| if self.shared.is_live(row) { group(row) } else { None };
        let found = self.shared.graph().and_then(|graph| self.in_graph(&graph, query, k, group));
        found.unwrap_or_else(|| self.flat().nearest(query, k, group))
    }

    /// `None` when there are fewer than `k` groups even among many rows: those are better scanned for.
    fn in_graph(
        &self,
        graph: &Hnsw,
        query: &[f32],
        k: usize,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Option<Vec<(u32, f32)>> {
        let code = Code::new(query);
        let breadth = BREADTH.max(PER_GROUP * k);
        [breadth, breadth * OVER_FETCH].into_iter().find_map(|breadth| {
            let found = graph.search(self.flat().codes(), &code, breadth);
            let mut groups = HashSet::new();
            let grouped = found.into_iter().filter_map(|row| Some((row, group(row)?)));
            let mut first: Vec<(u32, u32)> = grouped
                .take_while(|&(_, group)| {
                    groups.insert(group);
                    groups.len() <= k + RESCORED
                })
                .collect();
            if groups.len() < k {
                return None;
            }
            first.sort_unstable();
            let exact = first.iter().map(|&(row, group)| (group, self.flat().score(query, row)));
            Some(top_groups(&exact.collect::<Vec<_>>(), k))
        })
    }

    /// Takes a row out for good; past a fifth of them the graph is built again in the background.
    pub fn delete(&self, row: u32) {
        let Some(deleted) = self.shared.deleted.get(row as usize) else { return };
        let mut upkeep = unpoisoned(&self.shared.upkeep);
        if deleted.swap(true, Ordering::Relaxed) {
            return;
        }
        upkeep.gone += 1;
        if upkeep.built > 0 && upkeep.is_due() {
            self.build(&mut upkeep);
        }
    }

    /// Waits for a build that has begun.
    pub fn settle(&self) {
        let builder = unpoisoned(&self.shared.upkeep).builder.take();
        // A builder that panicked leaves what served before; the panic hook has told of it.
        let _ = builder.map(JoinHandle::join);
    }

    /// Bytes of memory: vectors, codes, tombstones and the graph (see there for what is left out).
    pub fn bytes(&self) -> usize {
        let flat = self.flat();
        let row = flat.dim() * size_of::<f32>() + size_of::<AtomicBool>();
        let graph = self.shared.graph().map_or(0, |graph| graph.bytes());
        flat.len() * (row + flat.codes().bytes_per_row()) + graph
    }

    fn build(&self, upkeep: &mut Upkeep) {
        if upkeep.is_building {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match thread::Builder::new().name("graph".into()).spawn(move || shared.build()) {
            Ok(builder) => (upkeep.is_building, upkeep.builder) = (true, Some(builder)),
            Err(error) => tracing::warn!(%error, "no thread to build a graph: the scan serves"),
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
    /// Builds until a graph is finished whose rows are still there.
    fn build(&self) {
        step_back();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let proceed = || !self.closed.load(Ordering::Relaxed);
        while let Some(live) = self.due() {
            let Some(graph) = Hnsw::build(self.flat.codes(), live, threads, &proceed) else {
                return;
            };
            *unpoisoned(&self.graph) = Some(Arc::new(graph));
        }
    }

    /// The rows to build from; `None` when the builder may end.
    fn due(&self) -> Option<Vec<u32>> {
        let mut upkeep = unpoisoned(&self.upkeep);
        if upkeep.built > 0 && !upkeep.is_due() {
            upkeep.is_building = false;
            return None;
        }
        let live: Vec<u32> = (0..self.flat.len() as u32).filter(|&row| self.is_live(row)).collect();
        upkeep.gone = 0;
        if live.len() < upkeep.crossover {
            (upkeep.built, upkeep.is_building) = (0, false);
            *unpoisoned(&self.graph) = None;
            return None;
        }
        upkeep.built = live.len();
        Some(live)
    }

    fn graph(&self) -> Option<Arc<Hnsw>> {
        unpoisoned(&self.graph).clone()
    }

    fn is_live(&self, row: u32) -> bool {
        !self.deleted[row as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lease::Reply;
    use crate::search::sample::clustered;

    const COUNT: usize = 2000;

    fn scanned() -> DenseIndex {
        DenseIndex::new(clustered(COUNT, 32, 3))
    }

    fn with_graph() -> DenseIndex {
        let index = scanned();
        index.grow(100);
        index.settle();
        index
    }

    /// Share of the ten nearest that the graph finds as the scan does, scores included.
    fn agreement(index: &DenseIndex, group: impl Fn(u32) -> Option<u32>) -> f64 {
        let graph = index.shared.graph().unwrap();
        let group = |row: u32| if index.shared.is_live(row) { group(row) } else { None };
        let (mut hits, mut wanted) = (0, 0);
        for at in (0..COUNT).step_by(13) {
            let query = index.row(at);
            let scan = index.flat().nearest(query, 10, group);
            let found = index.in_graph(&graph, query, 10, group).expect("enough are left");
            assert_eq!(found.len(), scan.len());
            hits += scan.iter().filter(|row| found.contains(row)).count();
            wanted += scan.len();
        }
        hits as f64 / wanted as f64
    }

    /// Whatever the graph itself would return.
    fn holds(index: &DenseIndex, row: u32) -> bool {
        let (codes, query) = (index.flat().codes(), Code::new(index.row(row as usize)));
        index.shared.graph().unwrap().search(codes, &query, 64).contains(&row)
    }

    #[test]
    fn nothing_is_built_that_was_not_asked_for() {
        let index = scanned();
        index.grow(COUNT + 1);
        index.settle();
        let query = index.row(5);
        assert_eq!(index.scores(query), Some(index.flat().scores(query)));
        assert_eq!(index.nearest(query, 3, Some), index.flat().nearest(query, 3, Some));
    }

    #[test]
    fn many_rows_are_searched_in_a_graph() {
        let index = with_graph();
        assert_eq!(index.scores(index.row(0)), None);
        assert!(agreement(&index, Some) > 0.99);
        // Vectors, codes and 33 cells of links for each row, and something for the upper layers.
        let least = COUNT * (32 * 4 + 32 + 4 + 1 + 33 * 4 + 1);
        assert!((least + 1..least * 11 / 10).contains(&index.bytes()), "{}", index.bytes());
    }

    #[test]
    fn groups_are_counted_and_not_their_rows() {
        let index = with_graph();
        assert!(agreement(&index, |row| Some(row / 5)) > 0.99);
        // A hundred rows of one group are nearest.
        let group = |row: u32| Some(if row < 100 { 0 } else { row });
        assert_eq!(index.nearest(index.row(3), 10, group).len(), 10);
    }

    #[test]
    fn a_filter_never_costs_results() {
        let index = with_graph();
        assert!(agreement(&index, |row| row.is_multiple_of(2).then_some(row)) > 0.99);
        let (graph, query) = (index.shared.graph().unwrap(), index.row(0));
        let few = |row: u32| row.is_multiple_of(400).then_some(row);
        assert_eq!(index.in_graph(&graph, query, 10, few), None);
        assert_eq!(index.nearest(query, 10, few), index.flat().nearest(query, 10, few));
        assert_eq!(index.nearest(query, 10, few).len(), 5);
        assert!(index.nearest(query, 10, |_| None).is_empty());
    }

    #[test]
    fn deleted_rows_are_not_found_and_leave_the_graph_past_a_fifth() {
        let index = with_graph();
        let first = index.shared.graph().unwrap();
        (0..400).for_each(|row| index.delete(row));
        index.settle();
        assert!(Arc::ptr_eq(&first, &index.shared.graph().unwrap()));
        assert!(holds(&index, 3) && agreement(&index, Some) > 0.99);
        // The same row twice is one row.
        index.delete(399);
        index.settle();
        assert!(Arc::ptr_eq(&first, &index.shared.graph().unwrap()));
        index.delete(400);
        index.settle();
        assert!(!Arc::ptr_eq(&first, &index.shared.graph().unwrap()));
        assert!(!holds(&index, 3) && agreement(&index, Some) > 0.99);
        index.delete(u32::MAX);
    }

    #[test]
    fn what_is_deleted_during_a_build_is_not_forgotten() {
        let index = scanned();
        let reply = Reply::begin();
        index.grow(100);
        while unpoisoned(&index.shared.upkeep).built == 0 {
            thread::yield_now();
        }
        // From two threads, as any number of callers may.
        thread::scope(|scope| {
            scope.spawn(|| (0..300).for_each(|row| index.delete(row)));
            scope.spawn(|| (300..600).for_each(|row| index.delete(row)));
        });
        assert!(index.shared.graph().is_none(), "the build that began before goes on");
        drop(reply);
        index.settle();
        assert!(!holds(&index, 3) && holds(&index, 700));
        assert_eq!(unpoisoned(&index.shared.upkeep).built, COUNT - 600);
    }

    #[test]
    fn too_few_left_for_a_graph_are_scanned() {
        let index = with_graph();
        (0..COUNT as u32 - 50).for_each(|row| index.delete(row));
        index.settle();
        assert!(index.scores(index.row(0)).is_some());
        assert_eq!(index.nearest(index.row(0), 60, Some).len(), 50);
    }

    #[test]
    fn dropping_stops_the_build() {
        let index = scanned();
        // Makes the builder wait before its first row.
        let reply = Reply::begin();
        index.grow(100);
        let (shared, builder) = {
            let mut upkeep = unpoisoned(&index.shared.upkeep);
            (Arc::clone(&index.shared), upkeep.builder.take().unwrap())
        };
        drop(index);
        drop(reply);
        builder.join().unwrap();
        assert!(shared.graph().is_none());
    }
}
