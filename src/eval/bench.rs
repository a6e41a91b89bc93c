//! `bench embed|search`: speed on this machine, in one process, on the given inputs.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::engine::embed::EmbedWorker;
use crate::eval::generation::rate;
use crate::eval::{EvalError, percentile};
use crate::model::perplexity::Surprise;
use crate::model::{Arithmetic, Control, kernels_in_use};
use crate::search::dense::{BUILD_BREADTH, DenseIndex, LINKS};
use crate::search::index::POOL;
use crate::search::sample::clustered;
use crate::search::vectors::Matrix;

/// Texts that are embedded one at a time; beyond that the percentiles no longer move.
const SINGLE: usize = 500;
/// Queries of one search benchmark.
const QUERIES: usize = 1_000;
/// Queries whose exact neighbours are computed for recall.
const CHECKED: usize = 100;
const NEIGHBOURS: usize = 10;
/// Vectors that stand for one entry's phrasings where the service's own question is measured.
const PHRASINGS: u32 = 4;

#[derive(Clone, Debug, Serialize)]
pub struct EmbedReport {
    pub n: usize,
    /// As they are read: prefix and special tokens included, cut at the window.
    pub tokens: usize,
    /// One text at a time.
    pub ms_p50: f64,
    pub ms_p95: f64,
    /// All texts, batched.
    pub texts_per_s: f64,
}

pub fn embed(
    texts: &[String],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<EmbedReport, EvalError> {
    if texts.is_empty() {
        return Err(EvalError::Input("no texts: nothing to measure".into()));
    }
    let control = Control::default();
    // The first forward allocates; it is nobody's latency.
    embedder.embed_one(&texts[0], &control)?;
    let mut times = Vec::new();
    for text in texts.iter().take(SINGLE) {
        let watch = Stopwatch::start();
        embedder.embed_one(text, &control)?;
        times.push(watch.ms());
    }
    let watch = Stopwatch::start();
    embedder.embed(texts, &control, progress)?;
    let seconds = watch.elapsed().as_secs_f64();
    let length = |text: &String| -> Result<usize, EvalError> { Ok(embedder.tokens(text)?.len()) };
    let tokens = texts.iter().map(length).sum::<Result<usize, EvalError>>()?;
    Ok(EmbedReport {
        n: texts.len(),
        tokens,
        ms_p50: percentile(&times, 0.5),
        ms_p95: percentile(&times, 0.95),
        texts_per_s: texts.len() as f64 / seconds,
    })
}

#[derive(Clone, Debug, Serialize)]
pub struct PerplexityReport {
    pub model: String,
    /// `as stored` or `floats`.
    pub arithmetic: &'static str,
    pub kernels: &'static str,
    /// Tokens that were predicted.
    pub tokens: usize,
    pub perplexity: f64,
    /// Mean surprise of a token.
    pub nats_per_token: f64,
    pub tok_s: f64,
}

pub fn perplexity(
    model: &str,
    text: &str,
    surprise: &mut Surprise,
    arithmetic: Arithmetic,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PerplexityReport, EvalError> {
    let watch = Stopwatch::start();
    let done = surprise.of(text, &Control::default(), progress)?;
    Ok(PerplexityReport {
        model: model.to_owned(),
        arithmetic: match arithmetic {
            Arithmetic::AsStored => "as stored",
            Arithmetic::Floats => "floats",
        },
        kernels: kernels_in_use().map_err(|e| EvalError::Input(e.to_string()))?,
        tokens: done.predicted,
        perplexity: done.perplexity(),
        nats_per_token: done.nats / done.predicted.max(1) as f64,
        tok_s: rate(done.predicted, watch.elapsed().as_secs_f64()),
    })
}

#[derive(Clone, Debug, Serialize)]
pub struct SearchReport {
    pub vectors: usize,
    pub dim: usize,
    pub build_s: f64,
    /// The ten nearest: one thread, one query after another.
    pub queries_per_s: f64,
    /// Against neighbours computed in double precision.
    pub recall_at_10: f64,
    pub ms_p99: f64,
    /// What the service asks of each of its lists: all scores where it scans, the nearest entries
    /// that are valid where it has a graph.
    pub service_p50_ms: f64,
    pub service_p99_ms: f64,
    /// Vectors, codes and graph.
    pub bytes_per_vector: f64,
    pub setup: SearchSetup,
}

/// What another program needs to know to do the same.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SearchSetup {
    /// At the end of the dump.
    pub queries: usize,
    /// How many of them recall is computed of, from the first.
    pub checked: usize,
    pub neighbours: usize,
    /// Of the graph: `M` and `ef_construction`; `null` for a scan.
    pub links: Option<usize>,
    pub build_breadth: Option<usize>,
    pub build_threads: usize,
}

#[derive(Clone, Debug)]
pub struct SearchBench {
    pub vectors: usize,
    pub dim: usize,
    /// Scan, however many there are; otherwise search in a graph, however few.
    pub exact: bool,
    /// Where to write the vectors and then the queries, as little-endian `f32`, for other programs.
    pub dump: Option<PathBuf>,
}

/// Made-up vectors from a fixed seed, and queries from among them that are not indexed.
pub fn search(bench: &SearchBench) -> Result<SearchReport, EvalError> {
    let SearchBench { vectors: count, dim, exact, ref dump } = *bench;
    if count == 0 || dim == 0 {
        return Err(EvalError::Input("--vectors and --dim must be at least 1".into()));
    }
    let (rows, queries) = held_out(&clustered(count + QUERIES, dim, 7))?;
    if let Some(file) = dump {
        let all = rows.rows().chain(queries.rows()).flatten();
        std::fs::write(file, all.flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .map_err(|e| EvalError::Input(format!("{}: {e}", file.display())))?;
    }
    let watch = Stopwatch::start();
    let index = DenseIndex::new(rows);
    if !exact {
        index.grow(1);
        index.settle();
    }
    let build_s = watch.elapsed().as_secs_f64();
    let (mut times, mut service) = (Vec::new(), Vec::new());
    let mut recalls = Vec::new();
    for (at, query) in queries.rows().enumerate() {
        let query = index.centred(query);
        let watch = Stopwatch::start();
        let found = index.nearest(&query, NEIGHBOURS, Some);
        times.push(watch.ms());
        if at < CHECKED {
            recalls.push(recall(&index, &query, &found));
        }
    }
    // Apart from the others, so that neither finds what the other left in the cache.
    for query in queries.rows() {
        let query = index.centred(query);
        let watch = Stopwatch::start();
        if index.scores(&query).is_none() {
            let entry = |row: u32| (!row.is_multiple_of(100)).then_some(row / PHRASINGS);
            std::hint::black_box(index.nearest(&query, POOL, entry));
        }
        service.push(watch.ms());
    }
    let setup = SearchSetup {
        queries: QUERIES,
        checked: CHECKED,
        neighbours: NEIGHBOURS,
        links: (!exact).then_some(LINKS),
        build_breadth: (!exact).then_some(BUILD_BREADTH),
        build_threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(SearchReport {
        vectors: count,
        dim,
        build_s,
        queries_per_s: queries.len() as f64 / (times.iter().sum::<f64>() / 1e3),
        recall_at_10: recalls.iter().sum::<f64>() / recalls.len() as f64,
        ms_p99: percentile(&times, 0.99),
        service_p50_ms: percentile(&service, 0.5),
        service_p99_ms: percentile(&service, 0.99),
        bytes_per_vector: index.bytes() as f64 / count as f64,
        setup,
    })
}

/// Share of the true nearest that were found; a found one with an equal score counts.
fn recall(index: &DenseIndex, query: &[f32], found: &[(u32, f32)]) -> f64 {
    let exact = |row: &[f32]| -> f64 {
        row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let mut all: Vec<f64> = (0..index.len()).map(|at| exact(index.row(at))).collect();
    let wanted = NEIGHBOURS.min(all.len());
    let of_found: Vec<f64> = found.iter().map(|(at, _)| all[*at as usize]).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let limit = all[wanted - 1] - 1e-6;
    of_found.iter().filter(|score| **score >= limit).count() as f64 / wanted as f64
}

/// Takes [`QUERIES`] rows out, evenly from everywhere; the rest stay in their order.
fn held_out(all: &Matrix) -> Result<(Matrix, Matrix), EvalError> {
    let is_query = |at: usize| (at + 1) * QUERIES / all.len() > at * QUERIES / all.len();
    let some = |wanted: bool| {
        let rows = all.rows().enumerate().filter(move |(at, _)| is_query(*at) == wanted);
        Matrix::from_rows(all.dim(), rows.map(|(_, row)| row))
    };
    Ok((some(false)?, some(true)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(exact: bool) -> SearchBench {
        SearchBench { vectors: 500, dim: 16, exact, dump: None }
    }

    #[test]
    fn an_exact_scan_finds_all_neighbours_and_dumps_what_it_searched() {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("vectors.f32");
        let report = search(&SearchBench { dump: Some(dump.clone()), ..bench(true) }).unwrap();
        assert!((report.recall_at_10 - 1.0).abs() < 1e-9);
        assert_eq!(report.bytes_per_vector, f64::from(16 * 4 + 16 + 4 + 1));
        let setup = report.setup;
        assert_eq!((setup.queries, setup.links), (QUERIES, None));
        assert_eq!(dump.metadata().unwrap().len(), (500 + QUERIES as u64) * 16 * 4);
        assert!(search(&SearchBench { vectors: 0, ..bench(true) }).is_err());
    }

    #[test]
    fn a_graph_is_searched_unless_a_scan_is_asked_for() {
        let report = search(&bench(false)).unwrap();
        assert!(report.recall_at_10 > 0.9 && report.setup.links == Some(LINKS));
        assert!(report.bytes_per_vector > f64::from(16 * 4 + 16 + 4 + 1 + 32 * 4));
    }

    #[test]
    fn recall_counts_what_was_missed() {
        let index = DenseIndex::new(clustered(100, 16, 2));
        let query = index.row(0).to_vec();
        let mut found = index.nearest(&query, NEIGHBOURS, Some);
        assert_eq!(recall(&index, &query, &found), 1.0);
        found.truncate(NEIGHBOURS / 2);
        assert_eq!(recall(&index, &query, &found), 0.5);
    }
}
