//! A trained vote: multinomial logistic regression from a message to a class, on its embedding and
//! its hashed terms.
//!
//! Classes are names: entry ids for retrieval, with one more for "out of scope" if the caller has
//! such examples. An entry's own phrasings are labelled examples too, so a head exists before the
//! first label does. Everything is in order of the seed: equal inputs give equal weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::file::write_atomic;
use crate::search::SearchError;
use crate::search::bm25::terms;
use crate::search::flat::{centre_of, centred};
use crate::search::frame::{self, Frame};
use crate::search::vectors::Matrix;

const FRAME: Frame = Frame { magic: *b"HUIDAHED", version: 1, what: "head file" };

/// Length of the embedding's part of the features; the terms' part has length 1.
const DENSE_SCALE: f32 = 3.0;
/// Step of AdaGrad before its own scaling.
const STEP: f32 = 0.2;
const BATCH: usize = 16;
/// Epochs without a better inner loss after which training stops.
const PATIENCE: usize = 3;
/// Fewer inner examples than this say nothing about when to stop.
const LEAST_INNER: usize = 40;

/// One labelled message.
#[derive(Clone, Copy, Debug)]
pub struct Example<'a> {
    /// Normalised.
    pub text: &'a str,
    /// Its embedding.
    pub vector: &'a [f32],
    /// Place of its class in the list of names.
    pub class: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    pub seed: u64,
    /// Weight of the examples against the penalty ½‖w‖², as `C` in liblinear and scikit-learn.
    pub strength: f32,
    /// Most passes over the examples; also their number when there are too few to hold any back.
    pub epochs: usize,
    /// Share of the examples held back to find out when to stop; the fit then runs on all.
    pub inner_share: f32,
    /// Examples weigh (mean class size ÷ own class size) to this power: 0 all alike, 1 balanced.
    pub balance: f32,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { seed: 1, strength: 10.0, epochs: 30, inner_share: 0.1, balance: 0.0 }
    }
}

/// A fitted head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    classes: Vec<String>,
    /// Taken off every embedding: the mean of the training examples.
    centre: Vec<f32>,
    /// Hashes of the known terms, ascending.
    terms: Vec<u32>,
    /// One row per feature (embedding, then terms, then 1), one column per class.
    weights: Matrix,
}

/// An example as features: the row numbers that are not zero, with their values.
struct Encoded {
    features: Vec<(usize, f32)>,
    class: usize,
    weight: f32,
}

impl Head {
    /// Fits a head; about a second for 2 500 examples of 64 classes on one core.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] when there is nothing to learn (fewer than two classes, no
    /// examples) or an example's class or vector does not fit.
    pub fn fit(
        examples: &[Example<'_>],
        classes: &[String],
        options: &FitOptions,
    ) -> Result<Self, SearchError> {
        let mut head = Self::blank(examples, classes)?;
        let encoded = head.encode_all(examples, options.balance);
        let mut random = SplitMix(options.seed);
        let inner = inner_split(&encoded, options.inner_share, &mut random);
        let kept: Vec<usize> = (0..encoded.len()).filter(|at| !inner.contains(at)).collect();
        let mut epochs = options.epochs;
        if inner.len() >= LEAST_INNER {
            let mut trial = Trainer::new(&head, &encoded, kept, options);
            let mut best = f32::INFINITY;
            epochs = 0;
            for epoch in 1..=options.epochs {
                trial.epoch(&mut random);
                let loss = trial.loss(&inner);
                if loss < best {
                    (best, epochs) = (loss, epoch);
                } else if epoch >= epochs + PATIENCE {
                    break;
                }
            }
        }
        let all = (0..encoded.len()).collect();
        let mut trainer = Trainer::new(&head, &encoded, all, options);
        for _ in 0..epochs {
            trainer.epoch(&mut random);
        }
        let weights = trainer.weights;
        head.weights = Matrix::from_rows(classes.len(), weights.chunks_exact(classes.len()))?;
        Ok(head)
    }

    /// Names of the classes, in the order of [`Head::probabilities`].
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Width of the embeddings.
    pub fn dim(&self) -> usize {
        self.centre.len()
    }

    /// Probability of each class for a normalised text and its embedding; they add up to 1.
    /// Of a vector of the wrong width only what fits is read.
    pub fn probabilities(&self, text: &str, vector: &[f32]) -> Vec<f32> {
        let mut scores = vec![0.0; self.classes.len()];
        for (row, value) in self.encode(text, vector) {
            add_scaled(&mut scores, self.weights.row(row), value);
        }
        softmax(&mut scores);
        scores
    }

    pub fn write(&self, path: &Path) -> Result<(), SearchError> {
        let header = Header {
            classes: self.classes.clone(),
            centre: self.centre.clone(),
            terms: self.terms.clone(),
        };
        let header =
            serde_json::to_vec(&header).map_err(|e| SearchError::BadInput(format!("head: {e}")))?;
        let mut body = (header.len() as u64).to_le_bytes().to_vec();
        body.extend_from_slice(&header);
        self.weights.rows().for_each(|row| frame::put_floats(&mut body, row));
        write_atomic(path, &FRAME.seal(&body)).map_err(SearchError::io(path))
    }

    /// Reads a file written by [`Head::write`]; anything else is refused.
    pub fn read(path: &Path) -> Result<Self, SearchError> {
        let bytes = fs::read(path).map_err(SearchError::io(path))?;
        let body = FRAME.open(&bytes, path)?;
        Self::decode(body).ok_or_else(|| SearchError::corrupt(path, "its sizes do not agree"))
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (size, rest) = body.split_first_chunk::<8>()?;
        let (header, weights) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*size)).ok()?)?;
        let Header { classes, centre, terms } = serde_json::from_slice(header).ok()?;
        let weights = frame::floats(weights)?;
        let rows = centre.len() + terms.len() + 1;
        if classes.is_empty() || weights.len() != rows.checked_mul(classes.len())? {
            return None;
        }
        let weights = Matrix::from_rows(classes.len(), weights.chunks_exact(classes.len())).ok()?;
        Some(Self { classes, centre, terms, weights })
    }

    /// A head that knows its features and has learned nothing.
    fn blank(examples: &[Example<'_>], classes: &[String]) -> Result<Self, SearchError> {
        if classes.len() < 2 || examples.is_empty() {
            return Err(SearchError::BadInput("a head needs examples of two classes".into()));
        }
        if let Some(bad) = examples.iter().find(|e| e.class >= classes.len()) {
            return Err(SearchError::BadInput(format!("an example of class {}", bad.class)));
        }
        let dim = examples[0].vector.len();
        let centre = centre_of(&Matrix::from_rows(dim, examples.iter().map(|e| e.vector))?);
        let known: BTreeSet<u32> =
            examples.iter().flat_map(|e| terms(e.text)).map(|t| hash(&t)).collect();
        Ok(Self {
            classes: classes.to_vec(),
            centre,
            terms: known.into_iter().collect(),
            weights: Matrix::default(),
        })
    }

    /// Rows and values of the features that are not zero: the centred embedding, the known terms by
    /// 1 + ln(count), each part scaled as a whole, and the constant 1.
    fn encode(&self, text: &str, vector: &[f32]) -> Vec<(usize, f32)> {
        let dense = centred(vector, &self.centre);
        let mut features: Vec<(usize, f32)> =
            dense.iter().enumerate().map(|(row, x)| (row, x * DENSE_SCALE)).collect();
        let mut counts: BTreeMap<u32, f32> = BTreeMap::new();
        for term in terms(text) {
            *counts.entry(hash(&term)).or_default() += 1.0;
        }
        let weight = |count: f32| 1.0 + count.ln();
        // Unknown terms count for the length: a text made of them says little.
        let length = counts.values().map(|&c| weight(c).powi(2)).sum::<f32>().sqrt();
        for (term, count) in counts {
            if let Ok(at) = self.terms.binary_search(&term) {
                features.push((self.dim() + at, weight(count) / length));
            }
        }
        features.push((self.dim() + self.terms.len(), 1.0));
        features
    }

    fn encode_all(&self, examples: &[Example<'_>], balance: f32) -> Vec<Encoded> {
        let mut sizes = vec![0.0_f32; self.classes.len()];
        examples.iter().for_each(|e| sizes[e.class] += 1.0);
        let seen = sizes.iter().filter(|&&s| s > 0.0).count();
        let mean = examples.len() as f32 / seen as f32;
        let encode = |e: &Example<'_>| Encoded {
            features: self.encode(e.text, e.vector),
            class: e.class,
            weight: (mean / sizes[e.class]).powf(balance),
        };
        examples.iter().map(encode).collect()
    }
}

/// What a head file holds beside the weights.
#[derive(Serialize, Deserialize)]
struct Header {
    classes: Vec<String>,
    centre: Vec<f32>,
    terms: Vec<u32>,
}

/// Minibatch AdaGrad (Duchi, Hazan & Singer 2011) over some of the examples.
struct Trainer<'a> {
    examples: &'a [Encoded],
    /// Which of them are trained on; shuffled each epoch.
    order: Vec<usize>,
    classes: usize,
    /// Penalty per row and batch. Only rows that a batch touches are updated; a row met in every
    /// tenth batch pays ten times as much there.
    penalty: Vec<f32>,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    squares: Vec<f32>,
}

impl<'a> Trainer<'a> {
    fn new(head: &Head, examples: &'a [Encoded], order: Vec<usize>, options: &FitOptions) -> Self {
        let classes = head.classes.len();
        let rows = head.centre.len() + head.terms.len() + 1;
        let count = order.len().max(1) as f32;
        let mut met = vec![0.0_f32; rows];
        for &at in &order {
            examples[at].features.iter().for_each(|&(row, _)| met[row] += 1.0);
        }
        let base = 1.0 / (options.strength * count);
        let in_batch = |met: f32| 1.0 - (1.0 - met / count).powi(BATCH as i32);
        let mut penalty: Vec<f32> =
            met.iter().map(|&m| if m > 0.0 { base / in_batch(m) } else { 0.0 }).collect();
        // The constant stands for how common a class is; pulling it to 0 would be a belief.
        penalty[rows - 1] = 0.0;
        let zeros = vec![0.0; rows * classes];
        let (weights, gradient) = (zeros.clone(), zeros.clone());
        Self { examples, order, classes, penalty, weights, gradient, squares: zeros }
    }

    fn epoch(&mut self, random: &mut SplitMix) {
        random.shuffle(&mut self.order);
        for batch in 0..self.order.len().div_ceil(BATCH) {
            let end = self.order.len().min((batch + 1) * BATCH);
            self.step(batch * BATCH..end);
        }
    }

    fn step(&mut self, batch: std::ops::Range<usize>) {
        let share = 1.0 / batch.len() as f32;
        let mut touched = BTreeSet::new();
        for at in batch {
            let example = &self.examples[self.order[at]];
            let mut error = self.predict(example);
            error[example.class] -= 1.0;
            error.iter_mut().for_each(|e| *e *= example.weight * share);
            for &(row, value) in &example.features {
                let start = row * self.classes;
                let gradient = &mut self.gradient[start..start + self.classes];
                add_scaled(gradient, &error, value);
                touched.insert(row);
            }
        }
        touched.into_iter().for_each(|row| self.update(row));
    }

    fn update(&mut self, row: usize) {
        let here = row * self.classes..(row + 1) * self.classes;
        let penalty = self.penalty[row];
        let weights = &mut self.weights[here.clone()];
        let gradients = &mut self.gradient[here.clone()];
        let squares = &mut self.squares[here];
        for ((weight, gradient), square) in weights.iter_mut().zip(gradients).zip(squares) {
            let slope = *gradient + penalty * *weight;
            *square += slope * slope;
            *weight -= STEP * slope / (square.sqrt() + 1e-8);
            *gradient = 0.0;
        }
    }

    fn predict(&self, example: &Encoded) -> Vec<f32> {
        let mut scores = vec![0.0; self.classes];
        for &(row, value) in &example.features {
            let start = row * self.classes;
            add_scaled(&mut scores, &self.weights[start..start + self.classes], value);
        }
        softmax(&mut scores);
        scores
    }

    /// Mean negative log-likelihood of some examples.
    fn loss(&self, of: &BTreeSet<usize>) -> f32 {
        let (mut loss, mut total) = (0.0, 0.0);
        for example in of.iter().map(|&at| &self.examples[at]) {
            loss -= example.weight * self.predict(example)[example.class].max(1e-9).ln();
            total += example.weight;
        }
        loss / total
    }
}

/// Examples to hold back; a class keeps at least two of its own.
fn inner_split(examples: &[Encoded], share: f32, random: &mut SplitMix) -> BTreeSet<usize> {
    let mut left: BTreeMap<usize, usize> = BTreeMap::new();
    examples.iter().for_each(|e| *left.entry(e.class).or_default() += 1);
    let mut order: Vec<usize> = (0..examples.len()).collect();
    random.shuffle(&mut order);
    let wanted = (examples.len() as f32 * share) as usize;
    let mut inner = BTreeSet::new();
    for at in order {
        let left = left.entry(examples[at].class).or_default();
        if inner.len() < wanted && *left > 2 {
            *left -= 1;
            inner.insert(at);
        }
    }
    inner
}

fn add_scaled(to: &mut [f32], from: &[f32], scale: f32) {
    for (x, y) in to.iter_mut().zip(from) {
        *x += y * scale;
    }
}

fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - top).exp());
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= total);
}

/// 32-bit FNV-1a: the same on every machine and in every version, unlike the standard hasher.
fn hash(term: &str) -> u32 {
    term.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Steele, Lea & Flood's SplitMix64: a few lines are enough to shuffle repeatably.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Fisher–Yates.
    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let at = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, at);
        }
    }
}
