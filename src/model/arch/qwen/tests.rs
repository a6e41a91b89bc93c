use super::*;
use crate::model::arch::output::MARGIN;
use crate::model::bpe::Bpe;
use crate::model::manifest::Manifest;
use crate::model::pull::installed_or_pull;
use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen2::ModelWeights;
use std::fs::File;
use std::io::BufReader;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

const NAME: &str = "qwen2.5-coder-0.5b";

static MODEL: LazyLock<Mutex<(Qwen, Bpe)>> = LazyLock::new(|| {
    let identity = Manifest::builtin().get(NAME).unwrap().identity();
    let (packed, header) = PackedModel::open(&installed_or_pull(NAME), &identity).unwrap();
    let bpe = Bpe::from_gguf(header.content()).unwrap();
    Mutex::new((Qwen::load(packed, &header).unwrap(), bpe))
});

fn model() -> MutexGuard<'static, (Qwen, Bpe)> {
    MODEL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tokens(text: &str) -> Vec<u32> {
    model().1.encode(text).unwrap()
}

fn cache() -> KvCache {
    KvCache::new(model().0.config().kv_shape())
}

fn read(tokens: &[u32], cache: &mut KvCache) -> Vec<Vec<f32>> {
    let logits = model().0.forward_one(tokens, cache, Logits::All).unwrap();
    logits.rows().map(<[f32]>::to_vec).collect()
}
/// One pass per token.
fn step_by_step(tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = cache();
    tokens.iter().flat_map(|t| read(&[*t], &mut cache)).collect()
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Root mean square of the difference, relative to the spread of the logits.
fn relative_error(a: &[f32], b: &[f32]) -> f32 {
    let mean = b.iter().sum::<f32>() / b.len() as f32;
    let square = |x: f32| x * x;
    let error: f32 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (error / b.iter().map(|b| square(b - mean)).sum::<f32>()).sqrt()
}

/// How far rounding to int8 may move a row of logits. It moves an input by 1/127 of the largest
/// of those it shares a scale with, uniformly: 1/(127·√12) of it. The largest of 32 normal
/// values is about 2.1 deviations (what the reference shares a scale among), of 128 about 2.7
/// (what we do): 0.48 % and 0.61 % of the input's spread. Two roundings per half-layer, 24
/// layers of two halves, each adding to a stream that keeps growing: at most √(2·2·24) times
/// that between a rounded and an exact pass, and both together between two that are rounded
/// differently.
fn rounding() -> f32 {
    9.8 * 0.0048_f32.hypot(0.0061)
}

#[test]
fn agrees_with_candle_transformers_at_every_position() {
    let mut reader = BufReader::new(File::open(installed_or_pull(NAME)).unwrap());
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut reference = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    for text in ["退款多久可以到账？三到五个工作日", "fn main() { println!(\"Hello"]
    {
        let tokens = tokens(text);
        let ours = read(&tokens, &mut cache());
        for (position, (ours, &token)) in ours.iter().zip(&tokens).enumerate() {
            let input = Tensor::new(&[[token]], &Device::Cpu).unwrap();
            let theirs = reference.forward(&input, position).unwrap();
            let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let error = relative_error(ours, &theirs);
            assert!(error < rounding(), "{text} at {position}: {error}");
            assert_eq!(top(ours), top(&theirs), "{text} at {position}");
        }
    }
}

#[test]
fn a_long_pass_says_exactly_what_single_steps_say() {
    let tokens = tokens("仓库收到退货并验收后，退款会在三个工作日内原路退回。");
    assert_eq!(read(&tokens, &mut cache()), step_by_step(&tokens));
}

#[test]
fn going_back_leaves_no_trace() {
    let (shared, wrong, right) = (tokens("退款一般"), tokens("我不知道"), tokens("三天内到"));
    let mut used = cache();
    read(&shared, &mut used);
    read(&wrong, &mut used);
    used.truncate(shared.len());
    let mut fresh = cache();
    read(&shared, &mut fresh);
    assert_eq!(read(&right, &mut used), read(&right, &mut fresh));
    assert_eq!(used.len(), fresh.len());
}

#[test]
fn sequences_of_one_pass_do_not_see_each_other() {
    let mut start = cache();
    read(&tokens("退款一般"), &mut start);
    let (a, b) = (tokens("三天内到账"), tokens("需要五个工作日"));
    let alone = [&a, &b].map(|branch| read(branch, &mut start.clone()));
    let (mut first, mut second, mut third) = (start.clone(), start.clone(), cache());
    let mut parts = [
        Part { tokens: &a, cache: &mut first, logits: Logits::All, rough: false },
        Part { tokens: &a, cache: &mut third, logits: Logits::None, rough: false },
        Part { tokens: &b, cache: &mut second, logits: Logits::Last, rough: false },
    ];
    let together = model().0.forward(&mut parts).unwrap();
    let wanted = alone[0].iter().chain(alone[1].last());
    assert!(together.rows().eq(wanted.map(Vec::as_slice)));
    assert_eq!((first.len(), third.len()), (start.len() + a.len(), a.len()));
}

#[test]
fn refuses_nothing_and_too_much() {
    let mut cache = cache();
    let QwenConfig { context, vocab, .. } = model().0.config().clone();
    let mut refused =
        |tokens: &[u32]| model().0.forward_one(tokens, &mut cache, Logits::Last).is_err();
    assert!(refused(&[]));
    assert!(refused(&vec![1; context + 1]));
    assert!(refused(&[vocab as u32]));
    assert!(cache.is_empty());
}

/// What `output.rs` relies on.
#[test]
fn rough_logits_are_off_by_less_than_half_the_margin() {
    let text = include_str!("../../../../eval/sets/service_text.txt");
    let all = tokens(text);
    let last = |tokens: &[u32], rough: bool| {
        let cache = &mut cache();
        let part = Part { tokens, cache, logits: Logits::Last, rough };
        let rows = model().0.forward(&mut [part]).unwrap();
        rows.last().unwrap().to_vec()
    };
    let (mut rough_ones, mut furthest) = (0, 0.0_f32);
    for tokens in all.chunks(24).step_by(4) {
        let (exact, rough) = (last(tokens, false), last(tokens, true));
        assert_eq!(top(&rough), top(&exact));
        assert_eq!(rough[top(&rough)], exact[top(&exact)]);
        let mean = exact.iter().sum::<f32>() / exact.len() as f32;
        let squares = exact.iter().map(|logit| (logit - mean).powi(2));
        let deviation = (squares.sum::<f32>() / exact.len() as f32).sqrt();
        for (rough, exact) in rough.iter().zip(&exact).filter(|(rough, exact)| rough != exact) {
            rough_ones += 1;
            furthest = furthest.max((rough - exact).abs() / deviation);
        }
    }
    assert!(rough_ones > all.len(), "the matrix was read whole: {rough_ones}");
    assert!(furthest < 0.5 * MARGIN, "{furthest} standard deviations of a row");
}
