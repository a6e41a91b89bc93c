//! `bench embed|search`: speed on this machine, in one process, on the given inputs.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::random::SplitMix64;
use crate::engine::embed::EmbedWorker;
use crate::eval::{EvalError, percentile};
use crate::model::Control;
use crate::search::dense::DenseIndex;
use crate::search::flat::{FlatIndex, normalise};
use crate::search::vectors::Matrix;

/// Texts that are embedded one at a time; beyond that the percentiles no longer move.
const SINGLE: usize = 500;
/// Queries of one search benchmark.
const QUERIES: usize = 1_000;
/// Queries whose exact neighbours are computed for recall.
const CHECKED: usize = 100;
const NEIGHBOURS: usize = 10;
/// Vectors of one made-up topic: real embeddings come in clusters, not evenly spread.
const TOPIC: usize = 50;

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
pub struct SearchReport {
    pub vectors: usize,
    pub dim: usize,
    pub build_s: f64,
    /// One thread, one query after another.
    pub queries_per_s: f64,
    /// Against neighbours computed in double precision.
    pub recall_at_10: f64,
    pub ms_p99: f64,
    pub bytes_per_vector: f64,
}

#[derive(Clone, Debug)]
pub struct SearchBench {
    pub vectors: usize,
    pub dim: usize,
    /// Scan, however many there are.
    pub exact: bool,
    /// Where to write the vectors and then the queries, as little-endian `f32`, for other programs.
    pub dump: Option<PathBuf>,
}

/// Clustered vectors made from a fixed seed, searched as the service would.
pub fn search(bench: &SearchBench) -> Result<SearchReport, EvalError> {
    let SearchBench { vectors: count, dim, exact, ref dump } = *bench;
    if count == 0 || dim == 0 {
        return Err(EvalError::Input("--vectors and --dim must be at least 1".into()));
    }
    let mut random = SplitMix64::new(7);
    let rows = clustered(count, dim, &mut random);
    let queries = near(&rows, &mut random);
    let bytes = |v: &Vec<f32>| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    if let Some(file) = dump {
        let all: Vec<u8> = rows.iter().chain(&queries).flat_map(bytes).collect();
        std::fs::write(file, all)
            .map_err(|e| EvalError::Input(format!("{}: {e}", file.display())))?;
    }
    let watch = Stopwatch::start();
    let matrix = Matrix::from_rows(dim, rows.iter().map(Vec::as_slice))?;
    let index = if exact { DenseIndex::exact(&matrix)? } else { DenseIndex::new(&matrix)? };
    index.settle();
    let build_s = watch.elapsed().as_secs_f64();
    let mut times = Vec::with_capacity(queries.len());
    let mut found = Vec::with_capacity(queries.len());
    for query in &queries {
        let watch = Stopwatch::start();
        found.push(index.nearest(&index.flat().centred(query), NEIGHBOURS, |_| true));
        times.push(watch.ms());
    }
    let checked = queries.iter().zip(&found).take(CHECKED);
    let recalls: Vec<f64> = checked
        .map(|(query, found)| recall(index.flat(), &index.flat().centred(query), found))
        .collect();
    Ok(SearchReport {
        vectors: count,
        dim,
        build_s,
        queries_per_s: queries.len() as f64 / (times.iter().sum::<f64>() / 1e3),
        recall_at_10: recalls.iter().sum::<f64>() / recalls.len() as f64,
        ms_p99: percentile(&times, 0.99),
        bytes_per_vector: index.bytes_per_row() as f64,
    })
}

/// Share of the true nearest that were found; a found one with an equal score counts.
fn recall(index: &FlatIndex, query: &[f32], found: &[(u32, f32)]) -> f64 {
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

fn clustered(count: usize, dim: usize, random: &mut SplitMix64) -> Vec<Vec<f32>> {
    let topics: Vec<Vec<f32>> =
        (0..count.div_ceil(TOPIC)).map(|_| direction(dim, random)).collect();
    (0..count).map(|at| around(&topics[at / TOPIC], random)).collect()
}

fn near(rows: &[Vec<f32>], random: &mut SplitMix64) -> Vec<Vec<f32>> {
    (0..QUERIES).map(|at| around(&rows[at * 7919 % rows.len()], random)).collect()
}

fn direction(dim: usize, random: &mut SplitMix64) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..dim).map(|_| random.unit() * 2.0 - 1.0).collect();
    normalise(&mut vector);
    vector
}

/// At a cosine of about 0.8 from `centre`.
fn around(centre: &[f32], random: &mut SplitMix64) -> Vec<f32> {
    let noise = direction(centre.len(), random);
    let mut vector: Vec<f32> = centre.iter().zip(&noise).map(|(c, n)| c + 0.75 * n).collect();
    normalise(&mut vector);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::distance::dot;

    #[test]
    fn an_exact_scan_finds_all_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("vectors.f32");
        let bench = SearchBench { vectors: 500, dim: 16, exact: true, dump: Some(dump.clone()) };
        let report = search(&bench).unwrap();
        assert!((report.recall_at_10 - 1.0).abs() < 1e-9);
        assert_eq!(dump.metadata().unwrap().len(), (500 + QUERIES as u64) * 16 * 4);
        assert!(search(&SearchBench { vectors: 0, ..bench }).is_err());
    }

    #[test]
    fn made_up_vectors_have_length_one() {
        let vector = direction(48, &mut SplitMix64::new(1));
        assert!((dot(&vector, &vector) - 1.0).abs() < 1e-5);
    }
}
