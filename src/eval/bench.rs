//! `bench embed|generate|search`: speed on this machine, in one process, on the given inputs.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::random::SplitMix64;
use crate::engine::embed::EmbedWorker;
use crate::eval::{EvalError, percentile};
use crate::model::perplexity::Surprise;
use crate::model::{
    Arithmetic, Control, GenerateRequest, Generated, Generator, Sampling, kernels_in_use,
};
use crate::pipeline::fit::embed_all;
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
    /// Prefix and special tokens included.
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
    embed_all(texts, embedder, progress)?;
    let seconds = watch.elapsed().as_secs_f64();
    Ok(EmbedReport {
        n: texts.len(),
        tokens: texts.iter().map(|t| embedder.count_tokens(t)).sum(),
        ms_p50: percentile(&times, 0.5),
        ms_p95: percentile(&times, 0.95),
        texts_per_s: texts.len() as f64 / seconds,
    })
}

#[derive(Clone, Debug, Serialize)]
pub struct GenerateReport {
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    pub prefill_tok_s: f64,
    pub decode_tok_s: f64,
    /// New tokens by the time they took, drafts accepted from the prompt included.
    pub effective_tok_s: f64,
    /// Share of the new tokens that were drafted from the prompt.
    pub accepted_share: f64,
    /// Prompts whose reply is the same, token for token, with drafts and without.
    pub same_with_drafts: usize,
    /// Median over the prompts.
    pub first_token_ms: f64,
    /// The same for a prompt whose beginning was read before.
    pub first_token_again_ms: f64,
}

/// Each prompt greedily, without drafts and with them, and once more for the time to the first
/// token when the same beginning was read before.
pub fn generate(
    prompts: &[String],
    model: &mut dyn Generator,
    tokens: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<GenerateReport, EvalError> {
    if prompts.is_empty() {
        return Err(EvalError::Input("no prompts: nothing to measure".into()));
    }
    let mut run = |prompt: &str, lookup: bool| {
        let prompt = prompt.to_owned();
        let sampling = Sampling::Greedy;
        let request = GenerateRequest { prompt, max_tokens: tokens, sampling, lookup };
        model.generate(&request, &Control::default(), &mut |_| ())
    };
    let (mut plain, mut drafted) = (Speed::default(), Speed::default());
    let (mut first, mut again, mut same) = (Vec::new(), Vec::new(), 0);
    for (at, prompt) in prompts.iter().enumerate() {
        progress(at, prompts.len());
        let cold = run(prompt, false)?;
        let warm = run(prompt, true)?;
        first.push(cold.prefill_s * 1e3);
        again.push(warm.prefill_s * 1e3);
        same += usize::from((&cold.text, &cold.logprobs) == (&warm.text, &warm.logprobs));
        plain.add(&cold);
        drafted.add(&warm);
    }
    progress(prompts.len(), prompts.len());
    Ok(GenerateReport {
        prompt_tokens: plain.read,
        new_tokens: plain.new,
        prefill_tok_s: rate(plain.read, plain.prefill_s),
        decode_tok_s: rate(plain.decoded, plain.decode_s),
        effective_tok_s: rate(drafted.decoded, drafted.decode_s),
        accepted_share: drafted.accepted as f64 / drafted.new.max(1) as f64,
        same_with_drafts: same,
        first_token_ms: percentile(&first, 0.5),
        first_token_again_ms: percentile(&again, 0.5),
    })
}

/// Sums over replies.
#[derive(Default)]
struct Speed {
    /// Prompt tokens that were not known from an earlier prompt.
    read: usize,
    new: usize,
    /// New tokens without each reply's first, which comes out of the prefill.
    decoded: usize,
    accepted: usize,
    prefill_s: f64,
    decode_s: f64,
}

impl Speed {
    fn add(&mut self, done: &Generated) {
        self.read += done.prompt_tokens - done.reused_tokens;
        self.new += done.new_tokens;
        self.decoded += done.new_tokens.saturating_sub(1);
        self.accepted += done.accepted;
        self.prefill_s += done.prefill_s;
        self.decode_s += done.decode_s;
    }
}

fn rate(n: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
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
