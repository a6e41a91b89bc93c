//! Qwen2, Qwen2.5 and Qwen3 from GGUF: grouped-query attention, keys and values kept outside in
//! [`KvCache`]s, several sequences in one pass.
//!
//! Architecture: "Qwen2 Technical Report" (arXiv 2407.10671) §2.2: RMSNorm before attention and
//! MLP, rotary positions, biases on q, k and v, SiLU-gated MLP; Qwen3 (arXiv 2505.09388) §2 has no
//! biases and norms the heads of q and k. Tensor names: llama.cpp `gguf-py`.
//!
//! The rows of all sequences of a pass lie below each other, so a weight is read once for all of
//! them; only attention tells them apart.

use std::cell::RefCell;

use crate::model::ModelError;
use crate::model::arch::output::Output;
use crate::model::gguf::GgufFile;
use crate::model::kernels::{
    Activations, Attention, Isa, PAGE, Sink, multiply, over_parts, over_rows,
};
use crate::model::kv::{KvCache, KvShape};
use crate::model::packed::{Matrix, PackedModel};

/// Tokens of one sequence that are one attention task: enough to share the keys they read.
const TASK_TOKENS: usize = 16;
/// Layers of anything that runs on a processor; a larger number is a broken file.
const MAX_LAYERS: usize = 256;

/// Sizes and constants, as the file states them.
#[derive(Clone, Debug, PartialEq)]
pub struct QwenConfig {
    pub layers: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Longest sequence, tokens.
    pub context: usize,
    pub rms_eps: f32,
    pub rope_base: f32,
    /// Biases on q, k and v (Qwen2) or norms of their heads (Qwen3).
    biased: bool,
    /// Some weights are floats, so that keys and values are kept as floats.
    dense: bool,
}

impl QwenConfig {
    fn read(gguf: &GgufFile) -> Result<Self, ModelError> {
        let architecture = gguf.text("general.architecture")?;
        let biased = match architecture {
            "qwen2" => true,
            "qwen3" => false,
            other => {
                let reason = format_args!("architecture `{other}` is neither qwen2 nor qwen3");
                return Err(gguf.corrupt(reason));
            }
        };
        let key = |part: &str| format!("{architecture}.{part}");
        let hidden = gguf.count(&key("embedding_length"))?;
        let heads = gguf.count(&key("attention.head_count"))?;
        let own_dim = gguf.count(&key("attention.key_length"));
        let config = Self {
            layers: gguf.count(&key("block_count"))?,
            hidden,
            ffn: gguf.count(&key("feed_forward_length"))?,
            heads,
            kv_heads: gguf.count(&key("attention.head_count_kv"))?,
            // Files before Qwen3 leave it out.
            head_dim: own_dim.unwrap_or(hidden / heads.max(1)),
            vocab: gguf.shape("token_embd.weight")?[0],
            context: gguf.count(&key("context_length"))?,
            rms_eps: gguf.float(&key("attention.layer_norm_rms_epsilon"))?,
            rope_base: gguf.float(&key("rope.freq_base"))?,
            biased,
            dense: false,
        };
        let Self { heads, kv_heads, head_dim, layers, context, .. } = config;
        let whole = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
        let vectors = head_dim > 0 && head_dim.is_multiple_of(PAGE);
        if !whole || !vectors || layers > MAX_LAYERS || context == 0 {
            return Err(gguf.corrupt(format_args!("dimensions make no sense: {config:?}")));
        }
        Ok(config)
    }

    pub fn kv_shape(&self) -> KvShape {
        let (heads, head_dim, floats) = (self.kv_heads, self.head_dim, self.dense);
        KvShape { layers: self.layers, heads, head_dim, floats }
    }

    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of a row of queries, keys and values.
    fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

struct Layer {
    attention_norm: Vec<f32>,
    qkv: [Matrix; 3],
    /// Of Qwen2.
    qkv_bias: Option<Vec<f32>>,
    /// Of Qwen3: for the heads of q and of k.
    head_norms: Option<[Vec<f32>; 2]>,
    output: Matrix,
    mlp_norm: Vec<f32>,
    gate_up: [Matrix; 2],
    down: Matrix,
}

impl Layer {
    fn load(packed: &PackedModel, config: &QwenConfig, index: usize) -> Result<Self, ModelError> {
        let QwenConfig { hidden, ffn, heads, kv_heads, head_dim, biased, .. } = *config;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        let floats = |part: &str, width| packed.floats(&name(part), 1, width);
        let matrix = |part: &str, rows, width| packed.matrix(&name(part), rows, width);
        let biases = || {
            let parts = [("attn_q.bias", q), ("attn_k.bias", kv), ("attn_v.bias", kv)];
            let biases = parts.map(|(part, width)| floats(part, width));
            Ok::<_, ModelError>(biases.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
        };
        let head_norms = || {
            let norm = |part| floats(part, head_dim);
            Ok::<_, ModelError>([norm("attn_q_norm.weight")?, norm("attn_k_norm.weight")?])
        };
        Ok(Self {
            attention_norm: floats("attn_norm.weight", hidden)?,
            qkv: [
                matrix("attn_q.weight", q, hidden)?,
                matrix("attn_k.weight", kv, hidden)?,
                matrix("attn_v.weight", kv, hidden)?,
            ],
            qkv_bias: biased.then(biases).transpose()?,
            head_norms: (!biased).then(head_norms).transpose()?,
            output: matrix("attn_output.weight", hidden, q)?,
            mlp_norm: floats("ffn_norm.weight", hidden)?,
            gate_up: [
                matrix("ffn_gate.weight", ffn, hidden)?,
                matrix("ffn_up.weight", ffn, hidden)?,
            ],
            down: matrix("ffn_down.weight", hidden, ffn)?,
        })
    }
}

/// Which positions of a part are turned into logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: more of the prompt follows.
    None,
    /// Of the last token: what generation needs.
    Last,
    /// Of every token: what scoring given text needs.
    All,
}

/// Tokens of one sequence in a pass.
pub struct Part<'a> {
    /// Read after those in `cache`; at least one.
    pub tokens: &'a [u32],
    pub cache: &'a mut KvCache,
    pub logits: Logits,
    /// Whether logits that cannot be the best of their row may be rough.
    pub rough: bool,
}

/// Logits, a row per asked-for token, parts in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitRows {
    vocab: usize,
    values: Vec<f32>,
}

impl LogitRows {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab.max(1))
    }

    pub fn last(&self) -> Option<&[f32]> {
        self.rows().last()
    }
}

/// Buffers of a pass, reused by the next one.
#[derive(Default)]
struct Workspace {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    /// A row for norms and for gathered heads, `[rows, widest]`.
    wide: Vec<f32>,
    qkv: Vec<f32>,
    /// What attention mixed, one piece per task.
    mixed: Vec<f32>,
    inputs: Activations,
    inner: Activations,
}

/// The model; of earlier passes it keeps nothing but buffers.
pub struct Qwen {
    config: QwenConfig,
    packed: PackedModel,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Output,
    /// Rotation frequencies, `[head_dim / 2]`.
    frequencies: Vec<f32>,
    work: Workspace,
}

impl Qwen {
    /// Finds the weights that the header describes. Errors name what is missing or of the wrong
    /// shape.
    pub(crate) fn load(packed: PackedModel, header: &GgufFile) -> Result<Self, ModelError> {
        let mut config = QwenConfig::read(header)?;
        config.dense = packed.has_dense();
        let QwenConfig { vocab, hidden, head_dim, .. } = config;
        let layers = (0..config.layers).map(|i| Layer::load(&packed, &config, i));
        let layers = layers.collect::<Result<_, _>>()?;
        let mut work = Workspace::default();
        (work.inputs.keeps_floats, work.inner.keeps_floats) = (config.dense, config.dense);
        let power = |i: usize| 1.0 / config.rope_base.powf(2.0 * i as f32 / head_dim as f32);
        Ok(Self {
            embedding: packed.matrix("token_embd.weight", vocab, hidden)?,
            output: Output::load(&packed, vocab, hidden)?,
            norm: packed.floats("output_norm.weight", 1, hidden)?,
            frequencies: (0..head_dim / 2).map(power).collect(),
            layers,
            config,
            packed,
            work,
        })
    }

    pub fn config(&self) -> &QwenConfig {
        &self.config
    }

    /// Reads the tokens of one sequence; all logits are exact.
    pub fn forward_one(
        &mut self,
        tokens: &[u32],
        cache: &mut KvCache,
        logits: Logits,
    ) -> Result<LogitRows, ModelError> {
        self.forward(&mut [Part { tokens, cache, logits, rough: false }])
    }

    /// Reads all parts in one pass, each as if it were the only one. The caches hold the new tokens
    /// afterwards; after an error they are as they were.
    ///
    /// # Errors
    /// `BadRequest` when a part is empty, leaves the window or names a token that does not exist;
    /// `Inference` when a row is not finite.
    pub fn forward(&mut self, parts: &mut [Part<'_>]) -> Result<LogitRows, ModelError> {
        self.check(parts)?;
        let mut work = std::mem::take(&mut self.work);
        let logits = self.pass(parts, &mut work);
        self.work = work;
        let logits = logits?;
        for part in parts {
            part.cache.advance(part.tokens.len());
        }
        Ok(logits)
    }

    fn pass(&self, parts: &mut [Part<'_>], work: &mut Workspace) -> Result<LogitRows, ModelError> {
        for part in parts.iter_mut() {
            part.cache.reserve(part.tokens.len());
        }
        let angles = self.angles(parts);
        self.embed(parts, &mut work.x);
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(index, layer, parts, &angles, work);
            let Workspace { x, wide, inputs, inner, .. } = work;
            self.norm(&layer.mlp_norm, x, wide, inputs);
            let gate_up = layer.gate_up.each_ref().map(|m| self.packed.view(m));
            multiply(&gate_up, inputs, Sink::SwiGlu { out: inner });
            let down = [self.packed.view(&layer.down)];
            multiply(&down, inner, Sink::Add { out: x, bias: None });
        }
        // Before the caches count the rows: halves would turn their keys into numbers again.
        if !work.x.iter().all(|x| x.is_finite()) {
            return Err(ModelError::not_finite("a row of the pass"));
        }
        Ok(self.logits(parts, work))
    }

    fn check(&self, parts: &[Part<'_>]) -> Result<(), ModelError> {
        let QwenConfig { context, vocab, .. } = self.config;
        let bad = |reason: String| Err(ModelError::BadRequest(reason));
        if parts.is_empty() || parts.iter().any(|p| p.tokens.is_empty()) {
            return bad("nothing to read".to_owned());
        }
        for part in parts {
            let (new, held) = (part.tokens.len(), part.cache.len());
            if held + new > context {
                return bad(format!("{new} tokens after {held} in a window of {context}"));
            }
            if let Some(token) = part.tokens.iter().find(|t| **t as usize >= vocab) {
                return bad(format!("token {token} of a vocabulary of {vocab}"));
            }
        }
        Ok(())
    }

    fn embed(&self, parts: &[Part<'_>], x: &mut Vec<f32>) {
        let hidden = self.config.hidden;
        let table = self.packed.view(&self.embedding);
        let tokens: Vec<u32> = parts.iter().flat_map(|p| p.tokens).copied().collect();
        x.resize(tokens.len() * hidden, 0.0);
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            table.row(*token as usize, x);
        }
    }

    /// Cosines, then sines, of each row's position, `[rows, head_dim]`.
    fn angles(&self, parts: &[Part<'_>]) -> Vec<f32> {
        let places = parts.iter().flat_map(|p| p.cache.len()..p.cache.len() + p.tokens.len());
        let angles = |place: usize| {
            let angle = move |f: &f32| place as f32 * f;
            let cosines = self.frequencies.iter().map(angle).map(f32::cos);
            cosines.chain(self.frequencies.iter().map(angle).map(f32::sin))
        };
        places.flat_map(angles).collect()
    }

    /// Norms every row of `x` and quantises it for the next product.
    fn norm(&self, weight: &[f32], x: &[f32], wide: &mut Vec<f32>, inputs: &mut Activations) {
        let (hidden, eps, isa) = (self.config.hidden, self.config.rms_eps, Isa::detected());
        wide.resize(x.len().max(wide.len()), 0.0);
        inputs.resize(x.len() / hidden, hidden);
        over_rows(wide, inputs, |row, out, inputs| {
            isa.rms_norm(&x[row * hidden..(row + 1) * hidden], weight, eps, out);
            isa.quantise(out, inputs);
        });
    }

    /// Self-attention of one layer, added to the residual stream.
    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        parts: &mut [Part<'_>],
        angles: &[f32],
        work: &mut Workspace,
    ) {
        let Workspace { x, wide, qkv, mixed, inputs, .. } = work;
        self.norm(&layer.attention_norm, x, wide, inputs);
        let weights = layer.qkv.each_ref().map(|m| self.packed.view(m));
        qkv.resize(inputs.rows * self.config.qkv_width(), 0.0);
        multiply(&weights, inputs, Sink::Store { out: qkv, bias: layer.qkv_bias.as_deref() });
        self.turn(layer, angles, qkv);
        self.keep(index, parts, qkv);
        let rows = self.mix(index, parts, qkv, mixed);
        // Back from pieces to rows.
        let (dim, group, isa) = (self.config.head_dim, self.config.group(), Isa::detected());
        let width = self.config.heads * dim;
        inputs.resize(rows.len(), width);
        wide.resize((rows.len() * width).max(wide.len()), 0.0);
        over_rows(wide, inputs, |row, out, inputs| {
            let MixedRow { first, step } = rows[row];
            for (kv_head, out) in out.chunks_exact_mut(group * dim).enumerate() {
                let at = first + kv_head * step;
                out.copy_from_slice(&mixed[at..at + group * dim]);
            }
            isa.quantise(out, inputs);
        });
        multiply(&[self.packed.view(&layer.output)], inputs, Sink::Add { out: x, bias: None });
    }

    /// Norms (Qwen3) and rotates queries and keys; divides the queries by √head_dim.
    fn turn(&self, layer: &Layer, angles: &[f32], qkv: &mut [f32]) {
        let QwenConfig { heads, kv_heads, head_dim: dim, rms_eps, .. } = self.config;
        let (width, isa) = (self.config.qkv_width(), Isa::detected());
        let scale = (dim as f32).sqrt().recip();
        let turned = (heads + kv_heads) * dim;
        for (row, angles) in qkv.chunks_exact_mut(width).zip(angles.chunks_exact(dim)) {
            if let Some([q_norm, k_norm]) = &layer.head_norms {
                let mut normed = vec![0.0; dim];
                for (at, head) in row[..turned].chunks_exact_mut(dim).enumerate() {
                    let weight = if at < heads { q_norm } else { k_norm };
                    isa.rms_norm(head, weight, rms_eps, &mut normed);
                    head.copy_from_slice(&normed);
                }
            }
            let (cos, sin) = angles.split_at(dim / 2);
            isa.rotate(&mut row[..turned], cos, sin);
            row[..heads * dim].iter_mut().for_each(|q| *q *= scale);
        }
    }

    /// Writes keys and values of all rows into their caches.
    fn keep(&self, layer: usize, parts: &mut [Part<'_>], qkv: &[f32]) {
        let QwenConfig { heads, kv_heads, head_dim: dim, .. } = self.config;
        let mut rows = qkv.chunks_exact(self.config.qkv_width());
        for part in parts {
            let start = part.cache.len();
            for (row, place) in rows.by_ref().take(part.tokens.len()).zip(start..) {
                let (keys, values) = row[heads * dim..].split_at(kv_heads * dim);
                part.cache.put(layer, place, keys, values);
            }
        }
    }

    /// Attention of all parts; where each row's heads are in `mixed`.
    fn mix(
        &self,
        layer: usize,
        parts: &[Part<'_>],
        qkv: &[f32],
        mixed: &mut Vec<f32>,
    ) -> Vec<MixedRow> {
        let QwenConfig { kv_heads, head_dim: dim, .. } = self.config;
        let (width, piece) = (self.config.qkv_width(), self.config.group() * dim);
        let total: usize = parts.iter().map(|p| p.tokens.len()).sum();
        mixed.resize(total * kv_heads * piece, 0.0);
        let (mut tasks, mut rows) = (Vec::new(), Vec::with_capacity(total));
        let (mut rest, mut qkv, mut first) = (mixed.as_mut_slice(), qkv, 0);
        for part in parts {
            for from in (0..part.tokens.len()).step_by(TASK_TOKENS) {
                let tokens = TASK_TOKENS.min(part.tokens.len() - from);
                let (own, others) = qkv.split_at(tokens * width);
                qkv = others;
                for kv_head in 0..kv_heads {
                    let (out, others) = rest.split_at_mut(tokens * piece);
                    rest = others;
                    let start = part.cache.len() + from;
                    tasks.push((
                        HeadTask { cache: part.cache, layer, kv_head, start, qkv: own },
                        out,
                    ));
                }
                let row = |at| MixedRow { first: first + at * piece, step: tokens * piece };
                rows.extend((0..tokens).map(row));
                first += tokens * kv_heads * piece;
            }
        }
        over_parts(tasks, |_, (task, out)| {
            HEAD.with_borrow_mut(|work| work.attend(&self.config, &task, out));
        });
        rows
    }

    /// Logits of the rows that were asked for. Rows that may be rough are told apart from the others,
    /// so that none depends on those beside it.
    fn logits(&self, parts: &[Part<'_>], work: &mut Workspace) -> LogitRows {
        let QwenConfig { hidden, vocab, .. } = self.config;
        let Workspace { x, wide, inputs, qkv: asked, .. } = work;
        let wanted = wanted(parts);
        let mut values = vec![0.0; wanted.len() * vocab];
        for rough in [true, false] {
            let own = || (0_usize..).zip(&wanted).filter(|(_, row)| row.rough == rough);
            asked.clear();
            own().for_each(|(_, row)| asked.extend(&x[row.at * hidden..][..hidden]));
            if asked.is_empty() {
                continue;
            }
            self.norm(&self.norm, asked, wide, inputs);
            let logits = self.output.logits(&self.packed, inputs, rough);
            if logits.len() == values.len() {
                return LogitRows { vocab, values: logits };
            }
            for ((at, _), logits) in own().zip(logits.chunks_exact(vocab)) {
                values[at * vocab..][..vocab].copy_from_slice(logits);
            }
        }
        LogitRows { vocab, values }
    }
}

/// A row of a pass whose logits were asked for.
struct WantedRow {
    at: usize,
    rough: bool,
}

fn wanted(parts: &[Part<'_>]) -> Vec<WantedRow> {
    let (mut wanted, mut first) = (Vec::new(), 0);
    for part in parts {
        let end = first + part.tokens.len();
        let from = match part.logits {
            Logits::None => end,
            Logits::Last => end - 1,
            Logits::All => first,
        };
        wanted.extend((from..end).map(|at| WantedRow { at, rough: part.rough }));
        first = end;
    }
    wanted
}

/// Where the heads of one row are: those of the first key head, and the step to the next one's.
#[derive(Clone, Copy)]
struct MixedRow {
    first: usize,
    step: usize,
}

/// Some neighbouring tokens of one sequence under one key head.
struct HeadTask<'a> {
    cache: &'a KvCache,
    layer: usize,
    kv_head: usize,
    /// Position of the first token.
    start: usize,
    /// `[tokens, qkv width]`.
    qkv: &'a [f32],
}

/// A thread's buffers for attention.
#[derive(Default)]
struct HeadWork {
    queries: Vec<f32>,
    visible: Vec<usize>,
    scores: Vec<f32>,
    wide: Vec<f32>,
}

thread_local! {
    static HEAD: RefCell<HeadWork> = RefCell::default();
}

impl HeadWork {
    /// Into `out`, `[tokens, group, head_dim]`.
    fn attend(&mut self, config: &QwenConfig, task: &HeadTask<'_>, out: &mut [f32]) {
        let (dim, group) = (config.head_dim, config.group());
        let first = task.kv_head * group * dim;
        self.queries.clear();
        self.visible.clear();
        for (row, place) in task.qkv.chunks_exact(config.qkv_width()).zip(task.start..) {
            self.queries.extend(&row[first..first + group * dim]);
            self.visible.resize(self.visible.len() + group, place + 1);
        }
        let tokens = self.visible.len() / group;
        let pages = task.cache.head(task.layer, task.kv_head, task.start + tokens);
        self.scores.resize(self.visible.len() * pages.len() * PAGE, 0.0);
        self.wide.resize(PAGE * dim, 0.0);
        Isa::detected().attend(Attention {
            dim,
            queries: &self.queries,
            visible: &self.visible,
            pages: &pages,
            scores: &mut self.scores,
            wide: &mut self.wide,
            out,
        });
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiny_tests;
