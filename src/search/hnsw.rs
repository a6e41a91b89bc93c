//! Approximate nearest neighbours: a hierarchical navigable small world graph over `i8` codes
//! (Malkov & Yashunin 2016, "Efficient and robust approximate nearest neighbor search").
//!
//! It is built in memory from checked vectors and never read from a file. `eval/side_by_side/search.py`
//! compares it with hnswlib.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{self, AtomicBool, AtomicU32, AtomicUsize};
use std::thread;

use crate::base::lease::Background;
use crate::base::random::SplitMix64;
use crate::search::codes::{Code, Codes};
use crate::search::distance::prefetch;
use crate::search::near::Near;
use crate::search::unpoisoned;

/// Most links of a node on an upper layer (`M`); the ground layer has twice as many.
pub const LINKS: usize = 16;
/// Candidates kept while a new node's neighbours are looked for (`efConstruction`).
pub const BUILD_BREADTH: usize = 100;
/// Locks of the nodes' links, one for all nodes of equal number modulo this.
const LOCKS: usize = 1024;
/// How many neighbours ahead the codes are fetched.
const AHEAD: usize = 2;

/// The graph over some rows of [`Codes`], which the caller hands in again for each search.
pub(super) struct Hnsw {
    ground: Links,
    upper: Vec<UpperLayer>,
    /// The highest layer of each row.
    levels: Vec<u8>,
    /// Where every search begins, on the highest layer; `None` of an empty graph.
    entry: Option<u32>,
    /// Rows with the code of one in the graph. They are no nodes: as nodes they would fill each
    /// other's links, and no link would lead in or out.
    twins: HashMap<u32, Vec<u32>>,
    /// One for each search that ever ran beside others.
    scratch: Mutex<Vec<Scratch>>,
}

struct UpperLayer {
    place: HashMap<u32, u32>,
    links: Links,
}

impl Hnsw {
    /// Builds over `rows` with `threads` threads, which give way to replies. `proceed` is asked
    /// before each row; once it says no, there is no graph.
    pub(super) fn build(
        codes: &Codes,
        rows: Vec<u32>,
        threads: usize,
        proceed: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let (mut rows, twins) = distinct(codes, rows);
        let mut random = SplitMix64::new(rows.len() as u64);
        // In the order of a file, where like stands by like, clusters end up as islands that a search
        // from elsewhere does not reach.
        random.shuffle(&mut rows);
        let graph = Self { twins, ..Self::unlinked(codes.len(), &rows, &mut random) };
        let locks: Vec<Mutex<()>> = (0..LOCKS).map(|_| Mutex::default()).collect();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut background = Background::default();
            let mut insertion =
                Insertion { graph: &graph, codes, locks: &locks, scratch: Scratch::default() };
            while let Some(&row) = rows.get(next.fetch_add(1, atomic::Ordering::Relaxed)) {
                background.give_way();
                if !proceed() {
                    stopped.store(true, atomic::Ordering::Relaxed);
                    return;
                }
                insertion.insert(row);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where there is no thread to be had, the others do its part.
                drop(thread::Builder::new().name("graph".into()).spawn_scoped(scope, work));
            }
            work();
        });
        (!stopped.into_inner()).then_some(graph)
    }

    fn unlinked(count: usize, rows: &[u32], random: &mut SplitMix64) -> Self {
        let mut levels = vec![0_u8; count];
        for &row in rows {
            levels[row as usize] = level(random);
        }
        let entry = rows.iter().copied().max_by_key(|&row| levels[row as usize]);
        let top = entry.map_or(0, |row| levels[row as usize]);
        let upper = (1..=top).map(|layer| {
            let reaching = rows.iter().copied().filter(|&row| levels[row as usize] >= layer);
            let place: HashMap<u32, u32> = reaching.zip(0..).collect();
            UpperLayer { links: Links::new(place.len(), LINKS), place }
        });
        let (upper, ground) = (upper.collect(), Links::new(count, 2 * LINKS));
        Self { ground, upper, levels, entry, twins: HashMap::new(), scratch: Mutex::default() }
    }

    /// The rows of about `breadth` codes near the query, nearest first by their codes.
    pub(super) fn search(&self, codes: &Codes, query: &Code, breadth: usize) -> Vec<u32> {
        let Some(entry) = self.entry else { return Vec::new() };
        let probe = Probe { codes, near: |row| codes.near(query, row) };
        let mut at = probe.at(entry);
        for layer in (1..=self.upper.len()).rev() {
            at = self.descend(layer, at, &probe);
        }
        let mut scratch = unpoisoned(&self.scratch).pop().unwrap_or_default();
        self.search_layer(0, at, breadth, &probe, &mut scratch);
        let found = scratch.nearest_first();
        unpoisoned(&self.scratch).push(scratch);
        let twins = |row: u32| self.twins.get(&row).into_iter().flatten().copied();
        found.into_iter().flat_map(|near| [near.row].into_iter().chain(twins(near.row))).collect()
    }

    /// Bytes of memory: links, layers and twins, without what hash tables and the allocator add and
    /// without the searches' own state (a byte a row for each that runs beside others).
    pub(super) fn bytes(&self) -> usize {
        let layers = std::iter::once(&self.ground).chain(self.upper.iter().map(|u| &u.links));
        let cells: usize = layers.map(|links| links.cells.len()).sum();
        let places: usize = self.upper.iter().map(|u| u.place.len()).sum();
        let twins: usize = self.twins.values().map(Vec::len).sum();
        cells * size_of::<AtomicU32>()
            + places * size_of::<(u32, u32)>()
            + self.twins.len() * size_of::<(u32, Vec<u32>)>()
            + twins * size_of::<u32>()
            + self.levels.len()
    }

    fn links(&self, layer: usize) -> &Links {
        layer.checked_sub(1).map_or(&self.ground, |upper| &self.upper[upper].links)
    }

    fn place(&self, layer: usize, row: u32) -> u32 {
        layer.checked_sub(1).map_or(row, |upper| self.upper[upper].place[&row])
    }

    fn neighbours(&self, layer: usize, row: u32) -> impl Iterator<Item = u32> {
        self.links(layer).get(self.place(layer, row))
    }

    /// Goes to the nearest neighbour until none is nearer.
    fn descend<F: Fn(u32) -> f32>(&self, layer: usize, from: Near, probe: &Probe<'_, F>) -> Near {
        let mut at = from;
        loop {
            let best = self.neighbours(layer, at.row).map(|row| probe.at(row)).max();
            match best {
                Some(better) if better.score > at.score => at = better,
                Some(_) | None => return at,
            }
        }
    }

    /// Leaves the `breadth` nearest rows that are found from `start` in `scratch.best`.
    fn search_layer<F: Fn(u32) -> f32>(
        &self,
        layer: usize,
        start: Near,
        breadth: usize,
        probe: &Probe<'_, F>,
        scratch: &mut Scratch,
    ) {
        scratch.begin(self.levels.len());
        scratch.visit(start.row);
        scratch.offer(start, breadth);
        let mut fresh = mem::take(&mut scratch.fresh);
        let prefetch_links = |row: u32| self.links(layer).prefetch(self.place(layer, row));
        while let Some(at) = scratch.next(breadth) {
            if let Some(next) = scratch.todo.peek() {
                prefetch_links(next.row);
            }
            fresh.clear();
            fresh.extend(self.neighbours(layer, at.row).filter(|&row| scratch.visit(row)));
            fresh.iter().take(AHEAD).for_each(|&row| probe.codes.prefetch(row));
            for (number, &row) in fresh.iter().enumerate() {
                if let Some(&later) = fresh.get(number + AHEAD) {
                    probe.codes.prefetch(later);
                }
                scratch.offer(probe.at(row), breadth);
                if scratch.todo.peek().is_some_and(|next| next.row == row) {
                    prefetch_links(row);
                }
            }
        }
        scratch.fresh = fresh;
    }
}

/// The first row of each code, and the others by it.
fn distinct(codes: &Codes, rows: Vec<u32>) -> (Vec<u32>, HashMap<u32, Vec<u32>>) {
    let mut first_of = HashMap::with_capacity(rows.len());
    let (mut firsts, mut twins) = (Vec::with_capacity(rows.len()), HashMap::new());
    for row in rows {
        match first_of.entry(codes.identity(row)) {
            Entry::Vacant(free) => {
                free.insert(row);
                firsts.push(row);
            }
            Entry::Occupied(first) => twins.entry(*first.get()).or_insert_with(Vec::new).push(row),
        }
    }
    (firsts, twins)
}

/// Exponentially fewer rows on each higher layer.
fn level(random: &mut SplitMix64) -> u8 {
    let scale = 1.0 / (LINKS as f32).ln();
    // At most six: the least that the generator leaves is 2⁻²⁴.
    (-(1.0 - random.unit()).ln() * scale) as u8
}

/// A thread's part in the build.
struct Insertion<'a> {
    graph: &'a Hnsw,
    codes: &'a Codes,
    locks: &'a [Mutex<()>],
    scratch: Scratch,
}

impl Insertion<'_> {
    /// Looks for neighbours on all layers before the row is linked on any, and links from the ground
    /// up, each time away from the row before towards it. Whoever meets the row therefore finds its
    /// links, on this layer and below; another row might else be linked to nothing but this one.
    fn insert(&mut self, row: u32) {
        let graph = self.graph;
        let Some(entry) = graph.entry.filter(|&entry| entry != row) else { return };
        let level = usize::from(graph.levels[row as usize]);
        let probe = Probe { codes: self.codes, near: |other| self.codes.between(row, other) };
        let mut at = probe.at(entry);
        for layer in (level + 1..=graph.upper.len()).rev() {
            at = graph.descend(layer, at, &probe);
        }
        let mut chosen: Vec<Vec<Near>> = Vec::with_capacity(level + 1);
        for layer in (0..=level).rev() {
            graph.search_layer(layer, at, BUILD_BREADTH, &probe, &mut self.scratch);
            let found = self.scratch.nearest_first();
            at = found.first().copied().unwrap_or(at);
            chosen.push(self.diverse(&found, LINKS));
        }
        for (layer, chosen) in chosen.iter().rev().enumerate() {
            let place = graph.place(layer, row);
            graph.links(layer).set(place, chosen.iter().map(|near| near.row));
            for near in chosen {
                self.link(layer, near.row, Near { row, ..*near });
            }
        }
    }

    /// Adds a link; where there is no room, the most diverse ones stay.
    fn link(&self, layer: usize, from: u32, to: Near) {
        let (links, place) = (self.graph.links(layer), self.graph.place(layer, from));
        let _guard = unpoisoned(&self.locks[from as usize % LOCKS]);
        if links.push(place, to.row) {
            return;
        }
        let others = links.get(place);
        let mut near: Vec<Near> =
            others.map(|row| Near { score: self.codes.between(from, row), row }).collect();
        near.push(to);
        near.sort_unstable_by(|a, b| b.cmp(a));
        links.set(place, self.diverse(&near, links.width).iter().map(|near| near.row));
    }

    /// Of `sorted`, nearest first, those that are as near to the row as to any taken before: links
    /// that lead in different directions.
    fn diverse(&self, sorted: &[Near], most: usize) -> Vec<Near> {
        let mut taken: Vec<Near> = Vec::with_capacity(most);
        for near in sorted {
            if taken.len() == most {
                break;
            }
            if taken.iter().all(|t| self.codes.between(t.row, near.row) <= near.score) {
                taken.push(*near);
            }
        }
        taken
    }
}

/// The link lists of one layer in one piece: of each place a length and then the links.
///
/// Cells are atomic so that searches read while the build writes: they see old and new links
/// mixed, each of which is a row with links of its own. Writers hold the row's lock, but for the
/// one who links the row first.
struct Links {
    width: usize,
    cells: Vec<AtomicU32>,
}

impl Links {
    fn new(places: usize, width: usize) -> Self {
        let cells = (0..places * (width + 1)).map(|_| AtomicU32::new(0)).collect();
        Self { width, cells }
    }

    fn cells(&self, place: u32) -> (&AtomicU32, &[AtomicU32]) {
        let start = place as usize * (self.width + 1);
        (&self.cells[start], &self.cells[start + 1..][..self.width])
    }

    fn prefetch(&self, place: u32) {
        let start = place as usize * (self.width + 1);
        prefetch(&self.cells[start..][..=self.width]);
    }

    fn get(&self, place: u32) -> impl Iterator<Item = u32> {
        let (length, cells) = self.cells(place);
        // Whoever sees a length sees the links that it counts, and whoever sees a link sees those of
        // the row that it leads to.
        let length = length.load(atomic::Ordering::Acquire) as usize;
        cells[..length].iter().map(|cell| cell.load(atomic::Ordering::Acquire))
    }

    /// False where there is no room.
    fn push(&self, place: u32, link: u32) -> bool {
        let (length, cells) = self.cells(place);
        let used = length.load(atomic::Ordering::Relaxed);
        let Some(cell) = cells.get(used as usize) else { return false };
        cell.store(link, atomic::Ordering::Release);
        length.store(used + 1, atomic::Ordering::Release);
        true
    }

    fn set(&self, place: u32, links: impl Iterator<Item = u32>) {
        let (length, cells) = self.cells(place);
        let mut used = 0;
        for (cell, link) in cells.iter().zip(links) {
            cell.store(link, atomic::Ordering::Release);
            used += 1;
        }
        length.store(used, atomic::Ordering::Release);
    }
}

/// What the rows are compared with.
struct Probe<'a, F> {
    codes: &'a Codes,
    near: F,
}

impl<F: Fn(u32) -> f32> Probe<'_, F> {
    fn at(&self, row: u32) -> Near {
        Near { score: (self.near)(row), row }
    }
}

/// The state of one search, kept for the next one since clearing it costs more than using it.
#[derive(Default)]
struct Scratch {
    /// A row was seen in this search when its entry is the search's number.
    seen: Vec<u8>,
    number: u8,
    todo: BinaryHeap<Near>,
    best: BinaryHeap<Reverse<Near>>,
    fresh: Vec<u32>,
}

impl Scratch {
    fn begin(&mut self, rows: usize) {
        self.seen.resize(rows, 0);
        self.number = self.number.wrapping_add(1);
        if self.number == 0 {
            self.seen.fill(0);
            self.number = 1;
        }
        self.todo.clear();
        self.best.clear();
    }

    /// True the first time.
    fn visit(&mut self, row: u32) -> bool {
        mem::replace(&mut self.seen[row as usize], self.number) != self.number
    }

    fn offer(&mut self, near: Near, breadth: usize) {
        if self.best.len() < breadth {
            self.best.push(Reverse(near));
        } else if let Some(mut worst) = self.best.peek_mut()
            && near > worst.0
        {
            *worst = Reverse(near);
        } else {
            return;
        }
        self.todo.push(near);
    }

    /// The nearest row whose neighbours are not seen yet, while it may lead to nearer ones.
    fn next(&mut self, breadth: usize) -> Option<Near> {
        let at = self.todo.pop()?;
        let full = self.best.len() >= breadth;
        let hopeless = full && self.best.peek().is_some_and(|worst| at < worst.0);
        (!hopeless).then_some(at)
    }

    fn nearest_first(&mut self) -> Vec<Near> {
        let mut found: Vec<Near> = self.best.drain().map(|Reverse(near)| near).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Stopwatch;
    use crate::base::lease::Reply;
    use crate::search::flat::FlatIndex;
    use crate::search::sample::clustered;
    use crate::search::vectors::Matrix;
    use proptest::prelude::*;

    /// Share of the ten nearest that were found, or as good ones.
    fn recall(index: &FlatIndex, graph: &Hnsw, accept: impl Fn(u32) -> bool) -> f64 {
        let (mut hits, mut wanted) = (0, 0);
        for at in (0..index.len()).step_by(7) {
            let query = index.row(at);
            let truth = index.nearest(query, 10, |row| accept(row).then_some(row));
            let Some(&(_, limit)) = truth.last() else { continue };
            let found = graph.search(index.codes(), &Code::new(query), 64);
            let good = found.iter().filter(|&&row| index.score(query, row) >= limit).count();
            hits += good.min(truth.len());
            wanted += truth.len();
        }
        hits as f64 / wanted.max(1) as f64
    }

    fn all(index: &FlatIndex) -> Vec<u32> {
        (0..index.len() as u32).collect()
    }

    /// The nodes that some way leads to from where searches begin on the ground layer.
    fn reachable(graph: &Hnsw) -> usize {
        let mut seen = vec![false; graph.levels.len()];
        let mut todo = Vec::from_iter(graph.entry);
        while let Some(row) = todo.pop() {
            if !mem::replace(&mut seen[row as usize], true) {
                todo.extend(graph.neighbours(0, row));
            }
        }
        seen.iter().filter(|&&seen| seen).count()
    }

    #[test]
    fn threads_build_a_graph_that_finds_the_nearest() {
        let index = FlatIndex::new(clustered(3000, 48, 5), None);
        let graph = Hnsw::build(index.codes(), all(&index), 2, &|| true).unwrap();
        let recall = recall(&index, &graph, |_| true);
        assert!(recall > 0.99, "{recall}");
    }

    #[test]
    fn a_way_leads_to_every_row() {
        let index = FlatIndex::new(clustered(2000, 24, 8), None);
        for threads in 1..=8 {
            let graph = Hnsw::build(index.codes(), all(&index), threads, &|| true).unwrap();
            assert_eq!(reachable(&graph), 2000, "{threads} threads");
        }
    }

    #[test]
    fn equal_rows_do_not_hide_each_other_or_their_neighbours() {
        let some = clustered(300, 24, 9);
        // Each tenth row is there 120 times, in one piece, as a file might have it.
        let times = |at: usize| if at.is_multiple_of(10) { 120 } else { 1 };
        let rows = (0..300).flat_map(|at| std::iter::repeat_n(some.row(at), times(at)));
        let index = FlatIndex::new(Matrix::from_rows(24, rows).unwrap(), None);
        let graph = Hnsw::build(index.codes(), all(&index), 2, &|| true).unwrap();
        let recall = recall(&index, &graph, |_| true);
        assert!(recall > 0.99, "{recall}");
        assert_eq!(reachable(&graph), 300);
        let found = graph.search(index.codes(), &Code::new(index.row(0)), 64);
        assert_eq!(found[..120], (0..120).collect::<Vec<u32>>());
        assert!(found.len() >= 120 + 63);
    }

    #[test]
    fn a_stopped_build_leaves_nothing() {
        let index = FlatIndex::new(clustered(50, 8, 5), None);
        let asked = AtomicUsize::new(0);
        let proceed = || asked.fetch_add(1, atomic::Ordering::Relaxed) < 20;
        assert!(Hnsw::build(index.codes(), all(&index), 2, &proceed).is_none());
    }

    #[test]
    fn a_build_waits_while_a_reply_is_being_made() {
        let index = FlatIndex::new(clustered(50, 8, 5), None);
        let build = || {
            let watch = Stopwatch::start();
            Hnsw::build(index.codes(), all(&index), 1, &|| true).unwrap();
            watch.elapsed()
        };
        let alone = build();
        let _reply = Reply::begin();
        assert!(build() >= alone.max(Duration::from_millis(20)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn holds_the_given_rows_and_only_those(
            seed in any::<u64>(), count in 0_usize..400, threads in 1_usize..4,
        ) {
            let index = FlatIndex::new(clustered(count, 16, seed), None);
            let even = |row: u32| row.is_multiple_of(2);
            let rows: Vec<u32> = (0..count as u32).filter(|&row| even(row)).collect();
            let graph = Hnsw::build(index.codes(), rows.clone(), threads, &|| true).unwrap();
            for &row in &rows {
                let links: Vec<u32> = graph.neighbours(0, row).collect();
                let mut once = links.clone();
                once.sort_unstable();
                once.dedup();
                prop_assert_eq!(once.len(), links.len());
                prop_assert!(links.iter().all(|&to| even(to) && to != row));
            }
            let recall = recall(&index, &graph, even);
            prop_assert!(rows.is_empty() || recall > 0.95, "{recall}");
        }
    }
}
