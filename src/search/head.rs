//! A trained vote: multinomial logistic regression from a message to a class, on its embedding and
//! its hashed terms.
//!
//! Beside it, for where straight borders do not suffice, stands a vote by likeness to each labelled
//! message ([`kin`](crate::search::kin)); whoever trains finds out what it is worth.
//!
//! Classes are names: entry ids for retrieval, with one more for "out of scope" if the caller has
//! such examples. An entry's own phrasings are labelled examples too, so a head exists before the
//! first label does. Everything is in order of the seed: equal inputs give equal weights.

mod train;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::file::write_atomic;
use crate::search::SearchError;
use crate::search::bag::hashed_terms;
use crate::search::flat::{add_scaled, centre_of, centred};
use crate::search::frame::{self, Frame};
use crate::search::head::train::{Encoded, train};
use crate::search::kin::{self, Kin};
use crate::search::vectors::Matrix;

pub use crate::search::head::train::FitOptions;

const FRAME: Frame = Frame { magic: *b"HUIDAHED", version: 4, what: "head file" };

/// Length of the embedding's part of the features; the terms' part has length 1.
const DENSE_SCALE: f32 = 3.0;

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
    kin: Option<WeighedKin>,
}

/// The vote by likeness and what it counts in the sum of `fuse.rs`.
#[derive(Clone, Debug, PartialEq)]
struct WeighedKin {
    kin: Kin,
    weight: f32,
}

/// A text as features.
struct Features {
    /// The embedding, centred and scaled as a whole.
    dense: Vec<f32>,
    /// The weight rows of the known terms, ascending, with their values; at the end the constant 1.
    sparse: Vec<(usize, f32)>,
}

impl Head {
    /// Fits a head.
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
        let weights = train(&head, &encoded, options);
        head.weights = Matrix::from_rows(classes.len(), weights.chunks_exact(classes.len()))?;
        Ok(head)
    }

    /// Puts a vote by likeness to these examples beside the head, which counts `weight`.
    ///
    /// # Errors
    /// As [`Head::fit`].
    pub fn add_kin(&mut self, examples: &[Example<'_>], weight: f32) -> Result<(), SearchError> {
        check(examples, self.classes.len())?;
        self.kin = Some(WeighedKin { kin: Kin::fit(examples, self.classes.len())?, weight });
        Ok(())
    }

    /// Counts the vote by likeness for more or less, if there is one.
    pub fn weigh_kin(&mut self, weight: f32) {
        if let Some(weighed) = &mut self.kin {
            weighed.weight = weight;
        }
    }

    /// What the vote by likeness adds to each class, in the order of the classes.
    pub fn kin(&self, text: &str, vector: &[f32]) -> Option<Vec<f32>> {
        let WeighedKin { kin, weight } = self.kin.as_ref()?;
        Some(kin.scores(text, vector).into_iter().map(|score| score * weight).collect())
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
        let Features { dense, sparse } = self.encode(text, vector);
        for (row, value) in dense.into_iter().enumerate().chain(sparse) {
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
            kin: self.kin.as_ref().map(|w| KinHeader { weight: w.weight, parts: w.kin.header() }),
        };
        let header =
            serde_json::to_vec(&header).map_err(|e| SearchError::BadInput(format!("head: {e}")))?;
        let mut body = (header.len() as u64).to_le_bytes().to_vec();
        body.extend_from_slice(&header);
        self.weights.rows().for_each(|row| frame::put_floats(&mut body, row));
        if let Some(weighed) = &self.kin {
            weighed.kin.put_floats(&mut body);
        }
        write_atomic(path, &FRAME.seal(&body)).map_err(SearchError::io(path))
    }

    /// Reads a file written by [`Head::write`]; anything else is refused.
    pub fn read(path: &Path) -> Result<Self, SearchError> {
        let bytes = fs::read(path).map_err(SearchError::io(path))?;
        let body = FRAME.open(&bytes, path)?;
        Self::decode(body)
            .ok_or_else(|| SearchError::corrupt(path, "its sizes do not agree, or its order"))
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (size, rest) = body.split_first_chunk::<8>()?;
        let (header, floats) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*size)).ok()?)?;
        let Header { classes, centre, terms, kin } = serde_json::from_slice(header).ok()?;
        let (dim, width) = (centre.len(), classes.len());
        let floats = frame::floats(floats)?;
        let rows = dim + terms.len() + 1;
        // Terms are looked up by halving.
        if !terms.is_sorted_by(|a, b| a < b) || classes.is_empty() {
            return None;
        }
        let (weights, rest) = floats.split_at_checked(rows.checked_mul(width)?)?;
        let weights = Matrix::from_rows(width, weights.chunks_exact(width)).ok()?;
        let kin = match kin {
            None if rest.is_empty() => None,
            None => return None,
            Some(KinHeader { weight, parts }) => {
                Some(WeighedKin { kin: Kin::decode(parts, rest, dim, width)?, weight })
            }
        };
        Some(Self { classes, centre, terms, weights, kin })
    }

    /// A head that knows its features and has learned nothing.
    fn blank(examples: &[Example<'_>], classes: &[String]) -> Result<Self, SearchError> {
        check(examples, classes.len())?;
        let dim = examples[0].vector.len();
        let centre = centre_of(&Matrix::from_rows(dim, examples.iter().map(|e| e.vector))?);
        let known: BTreeSet<u32> =
            examples.iter().flat_map(|e| hashed_terms(e.text).into_keys()).collect();
        Ok(Self {
            classes: classes.to_vec(),
            centre,
            terms: known.into_iter().collect(),
            weights: Matrix::default(),
            kin: None,
        })
    }

    fn encode(&self, text: &str, vector: &[f32]) -> Features {
        let mut dense = centred(vector, &self.centre);
        dense.iter_mut().for_each(|x| *x *= DENSE_SCALE);
        let weights = hashed_terms(text);
        // Unknown terms count for the length: a text made of them says little.
        let length = weights.values().map(|w| w * w).sum::<f32>().sqrt();
        let known = weights.into_iter().filter_map(|(term, weight)| {
            let at = self.terms.binary_search(&term).ok()?;
            Some((self.dim() + at, weight / length))
        });
        let constant = (self.dim() + self.terms.len(), 1.0);
        Features { dense, sparse: known.chain([constant]).collect() }
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
    kin: Option<KinHeader>,
}

#[derive(Serialize, Deserialize)]
struct KinHeader {
    weight: f32,
    parts: kin::Header,
}

pub(super) fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - top).exp());
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= total);
}

pub(super) fn check(examples: &[Example<'_>], classes: usize) -> Result<(), SearchError> {
    if classes < 2 || examples.is_empty() {
        return Err(SearchError::BadInput("a head needs examples of two classes".into()));
    }
    match examples.iter().find(|e| e.class >= classes) {
        Some(bad) => Err(SearchError::BadInput(format!("an example of class {}", bad.class))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three topics on three axes with some spread, and what people say of them.
    fn sample() -> Vec<(&'static str, [f32; 3], usize)> {
        vec![
            ("怎么申请退款", [1.0, 0.1, 0.0], 0),
            ("退款多久到账", [0.9, 0.0, 0.2], 0),
            ("我要退钱", [1.0, 0.2, 0.1], 0),
            ("发票怎么开", [0.1, 1.0, 0.0], 1),
            ("能开电子发票吗", [0.0, 0.9, 0.1], 1),
            ("发票抬头写错了", [0.2, 1.0, 0.0], 1),
            ("快递几天能到", [0.0, 0.1, 1.0], 2),
            ("什么时候发货", [0.2, 0.0, 0.9], 2),
            ("物流一直不动", [0.1, 0.1, 1.0], 2),
        ]
    }

    fn names() -> Vec<String> {
        ["refund", "invoice", "delivery"].map(String::from).to_vec()
    }

    fn fit(options: &FitOptions) -> Head {
        let data = sample();
        let examples: Vec<Example<'_>> = data
            .iter()
            .map(|(text, vector, class)| Example { text, vector, class: *class })
            .collect();
        Head::fit(&examples, &names(), options).unwrap()
    }

    fn add_kin(head: &mut Head) {
        let data = sample();
        let examples: Vec<Example<'_>> = data
            .iter()
            .map(|(text, vector, class)| Example { text, vector, class: *class })
            .collect();
        head.add_kin(&examples, 1.0).unwrap();
    }

    fn winner(probabilities: &[f32]) -> usize {
        (0..probabilities.len())
            .max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]))
            .unwrap()
    }

    #[test]
    fn learns_from_both_kinds_of_features() {
        let head = fit(&FitOptions::default());
        for (text, vector, class) in sample() {
            assert_eq!(winner(&head.probabilities(text, &vector)), class, "{text}");
        }
        let middle = [0.5, 0.5, 0.5];
        assert_eq!(winner(&head.probabilities("发票", &middle)), 1);
        assert_eq!(winner(&head.probabilities("没见过", &[0.0, 0.1, 0.9])), 2);
    }

    #[test]
    fn probabilities_add_up_for_any_input() {
        let head = fit(&FitOptions::default());
        for (text, vector) in [("", [0.0; 3]), ("退款", [f32::NAN; 3]), ("\"*:", [1e30; 3])] {
            let p = head.probabilities(text, &vector);
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{p:?}");
        }
        assert_eq!(head.probabilities("退款", &[]).len(), 3);
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(fit(&FitOptions::default()), fit(&FitOptions::default()));
        let other = FitOptions { seed: 2, ..FitOptions::default() };
        assert_ne!(fit(&FitOptions::default()), fit(&other));
    }

    #[test]
    fn balance_lifts_the_rare_class() {
        let mut data = sample();
        data.truncate(4);
        let examples: Vec<Example<'_>> = data
            .iter()
            .map(|(text, vector, class)| Example { text, vector, class: *class })
            .collect();
        let rare = |balance| {
            let options = FitOptions { balance, epochs: 5, ..FitOptions::default() };
            Head::fit(&examples, &names(), &options)
                .unwrap()
                .probabilities("发票", &[0.5, 0.5, 0.0])[1]
        };
        assert!(rare(1.0) > rare(0.0) + 0.02, "{} {}", rare(1.0), rare(0.0));
    }

    #[test]
    fn refuses_what_cannot_be_learned() {
        let options = FitOptions::default();
        let one = Example { text: "退款", vector: &[1.0], class: 0 };
        for (examples, classes) in [
            (vec![], names()),
            (vec![one], vec!["refund".to_owned()]),
            (vec![Example { class: 3, ..one }], names()),
            (vec![one, Example { vector: &[1.0, 2.0], ..one }], names()),
        ] {
            let fitted = Head::fit(&examples, &classes, &options);
            assert!(matches!(fitted, Err(SearchError::BadInput(_))));
        }
    }

    #[test]
    fn likeness_counts_as_it_is_weighed() {
        let mut head = fit(&FitOptions::default());
        assert_eq!(head.kin("退款", &[1.0, 0.0, 0.0]), None);
        head.weigh_kin(2.0);
        assert_eq!(head.kin("退款", &[1.0, 0.0, 0.0]), None);
        add_kin(&mut head);
        let once = head.kin("退款", &[1.0, 0.0, 0.0]).unwrap();
        assert_eq!(winner(&once), 0);
        head.weigh_kin(2.0);
        let twice = head.kin("退款", &[1.0, 0.0, 0.0]).unwrap();
        assert!(once.iter().zip(&twice).all(|(a, b)| (2.0 * a - b).abs() < 1e-6));
    }

    #[test]
    fn survives_the_disk_and_refuses_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.bin");
        let mut head = fit(&FitOptions::default());
        head.write(&path).unwrap();
        assert_eq!(Head::read(&path).unwrap(), head);
        add_kin(&mut head);
        head.write(&path).unwrap();
        assert_eq!(Head::read(&path).unwrap(), head);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            assert!(Head::read(&path).is_err(), "byte {at}");
        }
        // A sound envelope around a body that ends too soon.
        let body = FRAME.open(&good, &path).unwrap();
        for keep in [0, 7, 8, 60, body.len() - 4] {
            fs::write(&path, FRAME.seal(&body[..keep])).unwrap();
            let error = Head::read(&path).unwrap_err();
            assert!(matches!(error, SearchError::Corrupt { .. }), "{error}");
        }
    }
}
