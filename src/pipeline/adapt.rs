//! A trained map of the embedding space for a generation: fitted from pairs that ask the same, tried on
//! messages whose entry is known, and left out unless it wins.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;
use crate::domain::label::{Labelled, QuestionPair};
use crate::gate::model::MIN_LABELS_FOR_ALL;
use crate::pipeline::embedding::Embedding;
use crate::pipeline::fit::{FitError, FitProgress, Stage, message, split};
use crate::pipeline::observe::{Bench, mean_and_error};
use crate::search::adapter::{Adapter, Partners, SamePair};
use crate::search::index::KnowledgeIndex;
use crate::search::layers::Layers;
use crate::understand::normalize::normalize;

const SEED: u64 = 1;

/// What there is to learn a map from, and to try it on.
#[derive(Clone, Copy)]
pub struct Lessons<'a> {
    pub pairs: &'a [QuestionPair],
    pub train: &'a [Labelled],
    pub calibrate: &'a [Labelled],
    pub now: UnixMs,
}

/// An index as it is best searched.
pub struct Adapted {
    pub index: Arc<KnowledgeIndex>,
    /// `None`: without a map.
    pub adapter: Option<Adapter>,
    /// `None` where no map could be fitted.
    pub trial: Option<Trial>,
}

/// How a map did on messages that it was not fitted from, asked of heads that had not seen them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// How many pairs the map was fitted from.
    pub pairs: usize,
    /// How many messages, or where labels are few also phrasings taken out of their entries, were asked.
    pub messages: usize,
    /// Mean of one over the place of the right entry, without the map …
    pub mrr_without: f64,
    /// … and with it.
    pub mrr: f64,
    pub recall_at_1_without: f64,
    pub recall_at_1: f64,
    /// Pairs kept from a first map: mean of one over the place of the partner, without and with it.
    pub held_pairs: usize,
    pub partner_mrr_without: f64,
    pub partner_mrr: f64,
    pub promoted: bool,
}

/// What a map was asked: of each, one over the place of what is right, without it and with it.
struct Asked {
    without: Vec<f64>,
    with: Vec<f64>,
    /// Whether labels, and enough of them, are what was asked.
    labelled: bool,
}

impl Trial {
    /// With labels the map is promoted if the mean gain on them is more than its own standard error.
    /// An entry's phrasings are as like each other as whoever wrote them made them, and show little
    /// of what a map brings customers: where there is nothing else they must not speak against it, and
    /// held-back pairs must speak for it.
    fn of(pairs: usize, asked: &Asked, partners: &Partners) -> Self {
        let Asked { without, with, labelled } = asked;
        let gain = |without: &[f64], with: &[f64]| {
            let gains: Vec<f64> = with.iter().zip(without).map(|(w, o)| w - o).collect();
            mean_and_error(&gains)
        };
        let (gained, error) = gain(without, with);
        let (closer, doubt) = gain(&partners.without, &partners.with);
        let promoted = if *labelled {
            gained > error
        } else {
            !with.is_empty() && gained >= -error && closer > doubt
        };
        let mean = |ranks: &[f64]| mean_and_error(ranks).0;
        let first = |ranks: &[f64]| {
            ranks.iter().filter(|rank| **rank == 1.0).count() as f64 / ranks.len().max(1) as f64
        };
        Self {
            pairs,
            messages: with.len(),
            mrr_without: mean(without),
            mrr: mean(with),
            recall_at_1_without: first(without),
            recall_at_1: first(with),
            held_pairs: partners.with.len(),
            partner_mrr_without: mean(&partners.without),
            partner_mrr: mean(&partners.with),
            promoted,
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.promoted { "promoted" } else { "tried, not promoted" };
        write!(
            f,
            "adapter from {} pairs {outcome}: of {} held-back messages MRR {:.4} against {:.4}, \
             recall at 1 {:.4} against {:.4}; partners of {} held-back pairs MRR {:.4} against {:.4}",
            self.pairs,
            self.messages,
            self.mrr,
            self.mrr_without,
            self.recall_at_1,
            self.recall_at_1_without,
            self.held_pairs,
            self.partner_mrr,
            self.partner_mrr_without
        )
    }
}

/// Fits a map for the index in `dir`, and lays it under the index if it wins.
pub fn adapt(
    dir: &Path,
    index: KnowledgeIndex,
    lessons: Lessons<'_>,
    embedding: &mut Embedding<'_>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Adapted, FitError> {
    let plain = Layers::of(Arc::new(index));
    let unchanged = |trial| Adapted { index: Arc::clone(plain.base()), adapter: None, trial };
    let texts = same_questions(&lessons, &plain);
    if texts.is_empty() {
        return Ok(unchanged(None));
    }
    let (adapter, partners) = fit(&texts, embedding, progress)?;
    let adapted = Arc::new(KnowledgeIndex::open_adapted(dir, adapter.clone())?);
    let (embedder, now) = (embedding.embedder(), lessons.now);
    let mut bench = Bench { knowledge: &plain, embedder, now, progress };
    let messages = bench.messages(&split(lessons.train, lessons.calibrate).0)?;
    let seen: HashSet<&str> = texts.iter().flatten().map(String::as_str).collect();
    let [without, with] = bench.compare(&messages, &Layers::of(Arc::clone(&adapted)), &seen)?;
    let asked = Asked { without, with, labelled: messages.len() >= MIN_LABELS_FOR_ALL };
    let trial = Trial::of(texts.len(), &asked, &partners);
    if !trial.promoted {
        return Ok(unchanged(Some(trial)));
    }
    Ok(Adapted { index: adapted, adapter: Some(adapter), trial: Some(trial) })
}

/// The texts of pairs that ask the same, as they are embedded. A pair with a labelled message in it is
/// left out: labels say what the map is worth and how sure the gate may be.
fn same_questions(lessons: &Lessons<'_>, knowledge: &Layers) -> Vec<[String; 2]> {
    let labels = lessons.train.iter().chain(lessons.calibrate);
    let labelled: HashSet<String> = labels.map(|label| message(label).0).collect();
    let mut known = HashSet::new();
    let same = lessons.pairs.iter().filter(|pair| pair.same);
    let texts = same.map(|pair| [normalize(&pair.one), normalize(&pair.other)]);
    texts
        .filter(|[one, other]| one != other && !labelled.contains(one) && !labelled.contains(other))
        .map(|pair| pair.map(|text| knowledge.unify(&text)))
        .filter(|pair| known.insert(pair.clone()))
        .collect()
}

fn fit(
    texts: &[[String; 2]],
    embedding: &mut Embedding<'_>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<(Adapter, Partners), FitError> {
    let flat: Vec<String> = texts.iter().flatten().cloned().collect();
    let vectors = embedding.vectors(&flat, &mut |done, total| {
        progress(FitProgress { stage: Stage::EmbedPairs, done, total });
    })?;
    let (sides, _) = vectors.as_chunks::<2>();
    let pairs: Vec<SamePair<'_>> = sides
        .iter()
        .zip(groups(texts))
        .map(|([one, other], group)| SamePair { one, other, group })
        .collect();
    progress(FitProgress { stage: Stage::FitAdapter, done: 0, total: 1 });
    let fitted = Adapter::fit(&pairs, SEED)?;
    progress(FitProgress { stage: Stage::FitAdapter, done: 1, total: 1 });
    Ok(fitted)
}

/// For each pair the group that it belongs to: what asks the same as one text asks the same as others.
fn groups(texts: &[[String; 2]]) -> Vec<usize> {
    let mut numbers = HashMap::new();
    let mut parents: Vec<usize> = Vec::new();
    let mut roots = Vec::with_capacity(texts.len());
    for pair in texts {
        let [one, other] = pair.each_ref().map(|text| {
            let number = *numbers.entry(text.as_str()).or_insert(parents.len());
            if number == parents.len() {
                parents.push(number);
            }
            root(&mut parents, number)
        });
        parents[one] = other;
        roots.push(other);
    }
    roots.into_iter().map(|group| root(&mut parents, group)).collect()
}

/// Halves the way on the way up (Tarjan & van Leeuwen 1984).
fn root(parents: &mut [usize], mut at: usize) -> usize {
    while parents[at] != at {
        parents[at] = parents[parents[at]];
        at = parents[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::EntryId;
    use crate::engine::embed::EmbedWorker;
    use crate::model::{Control, Embedder, ModelError, ModelIdentity};
    use crate::pipeline::generation::testing::{QUESTIONS, model, write_at};

    fn pair(one: &str, other: &str, same: bool) -> QuestionPair {
        QuestionPair { one: one.into(), other: other.into(), same }
    }

    #[test]
    fn what_is_joined_by_others_is_one_group() {
        let texts = [("a", "b"), ("c", "d"), ("e", "f"), ("b", "c")];
        let texts = texts.map(|(one, other)| [one.to_owned(), other.to_owned()]);
        let groups = groups(&texts);
        assert_eq!([groups[1], groups[3]], [groups[0]; 2]);
        assert_ne!(groups[2], groups[0]);
    }

    /// Puts texts anywhere, equal ones at the same place.
    struct Fake(ModelIdentity);

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.0
        }
        fn dim(&self) -> usize {
            2
        }
        fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            let vector = |text: &Vec<u32>| {
                let sum: u32 = text.iter().sum();
                vec![(sum % 7) as f32 - 3.0, (sum % 11) as f32 - 5.0]
            };
            Ok(texts.iter().map(vector).collect())
        }
    }

    fn adapted(lessons: Lessons<'_>) -> Adapted {
        let dir = tempfile::tempdir().unwrap();
        write_at(dir.path(), &model("ours"), QUESTIONS.map(|(_, vector)| vector), None);
        let embedder = EmbedWorker::start(Arc::new(Fake(model("ours")))).unwrap();
        let mut embedding = Embedding::new(&embedder, Vec::new());
        let index = KnowledgeIndex::open(dir.path()).unwrap();
        adapt(dir.path(), index, lessons, &mut embedding, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_map_that_brings_nothing_is_tried_and_left_out() {
        let pairs: Vec<QuestionPair> =
            (0..30).map(|n| pair(&format!("{n}个"), &format!("第{n}"), true)).collect();
        let answer = Some(EntryId(QUESTIONS[0].0.into()));
        let label =
            |text: &str| Labelled { text: text.into(), context: vec![], answer: answer.clone() };
        let train = [QUESTIONS[0].0, "怎么退款呀"].map(label);
        let lessons = Lessons { pairs: &pairs, train: &train, calibrate: &[], now: 0 };
        let Adapted { adapter, trial, .. } = adapted(lessons);
        let trial = trial.unwrap();
        assert!(!trial.promoted && adapter.is_none());
        assert_eq!((trial.pairs, trial.messages), (30, 2));
        assert!(trial.to_string().contains("tried, not promoted"), "{trial}");
        let none = adapted(Lessons { pairs: &[], ..lessons });
        assert!(none.trial.is_none());
    }

    #[test]
    fn nothing_is_fitted_from_labelled_messages_or_from_what_differs() {
        let label = Labelled { text: "ＡＢ".into(), context: vec![], answer: None };
        let pairs = [
            pair("ab", "怎么退", true),
            pair("几天到", "什么时候到", false),
            pair("一样", "一样", true),
            pair("退钱", "退款", true),
            pair("退钱", "退款", true),
        ];
        let dir = tempfile::tempdir().unwrap();
        write_at(dir.path(), &model("ours"), QUESTIONS.map(|(_, vector)| vector), None);
        let knowledge = Layers::of(Arc::new(KnowledgeIndex::open(dir.path()).unwrap()));
        let lessons = Lessons { pairs: &pairs, train: &[], calibrate: &[label], now: 0 };
        let texts = same_questions(&lessons, &knowledge);
        assert_eq!(texts, [["退钱".to_owned(), "退款".to_owned()]]);
    }

    #[test]
    fn a_gain_within_its_own_error_is_none() {
        let trial = |labelled, with: &[f64], closer: f64| {
            let asked = Asked { without: vec![0.5; with.len()], with: with.to_vec(), labelled };
            let partners = Partners { without: vec![0.5; 4], with: vec![closer; 4] };
            Trial::of(1, &asked, &partners).promoted
        };
        assert!(trial(true, &[1.0, 1.0, 1.0, 0.5], 0.5));
        assert!(!trial(true, &[1.0, 0.5, 0.5, 0.25], 1.0) && !trial(true, &[0.5; 4], 1.0));
        // Phrasings alone need not gain where pairs do, but must not lose.
        assert!(trial(false, &[0.5; 4], 1.0) && !trial(false, &[0.5; 4], 0.5));
        assert!(!trial(false, &[0.25, 0.25, 0.25, 0.5], 1.0));
        assert!(!trial(true, &[], 1.0) && !trial(false, &[], 1.0), "nothing to try it on");
    }
}
