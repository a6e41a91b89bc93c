//! Whether a new generation may take the place of the one that serves: not if it puts held-back
//! messages to worse places.

use std::sync::Arc;

use crate::base::clock::UnixMs;
use crate::domain::label::Labelled;
use crate::engine::embed::EmbedWorker;
use crate::pipeline::fit::{FitError, FitProgress, held_back};
use crate::pipeline::generation::Generation;
use crate::pipeline::observe::{Bench, mean_and_error, reciprocal};
use crate::search::layers::Layers;

/// Two generations asked about the same messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Challenge {
    /// Answerable messages that were kept from both heads.
    pub messages: usize,
    /// Mean of one over the place of the right entry among the first ten, of the one that serves …
    pub champion: f64,
    /// … and of the new one.
    pub challenger: f64,
    /// Whether the new one is no worse by more than its standard error.
    pub holds: bool,
}

/// Asks both generations about the held-back part of the labels.
pub fn challenge(
    champion: &Generation,
    challenger: &Generation,
    labels: (&[Labelled], &[Labelled]),
    asking: Asking<'_>,
) -> Result<Challenge, FitError> {
    let (train, calibrate) = labels;
    let mut held = held_back(train, calibrate);
    held.retain(|label| label.answer.is_some());
    let places = |generation: &Generation| reciprocal_places(generation, &held, &asking);
    let (old, new) = (places(champion)?, places(challenger)?);
    let gains: Vec<f64> = new.iter().zip(&old).map(|(new, old)| new - old).collect();
    let (gain, error) = mean_and_error(&gains);
    let mean = |places: &[f64]| mean_and_error(places).0;
    Ok(Challenge {
        messages: held.len(),
        champion: mean(&old),
        challenger: mean(&new),
        holds: gain >= -error,
    })
}

/// With what messages are asked, and when.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub embedder: &'a EmbedWorker,
    pub now: UnixMs,
}

fn reciprocal_places(
    generation: &Generation,
    held: &[Labelled],
    asking: &Asking<'_>,
) -> Result<Vec<f64>, FitError> {
    let Asking { embedder, now } = *asking;
    let knowledge = Layers::of(Arc::clone(&generation.index));
    let mut silent = |_: FitProgress| ();
    let mut bench = Bench { knowledge: &knowledge, embedder, now, progress: &mut silent };
    let messages = bench.messages(held)?;
    let place = |message| Ok(reciprocal(bench.place(message, generation.trained())?));
    messages.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::knowledge::EntryId;
    use crate::model::{Control, Embedder, ModelError, ModelIdentity};
    use crate::pipeline::generation::testing::{QUESTIONS, model, write_at};

    /// Puts every text where the first question is.
    struct Fake(ModelIdentity);

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.0
        }
        fn dim(&self) -> usize {
            2
        }
        fn tokens(&self, _: &str) -> Result<Vec<u32>, ModelError> {
            Ok(vec![1])
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            Ok(texts.iter().map(|_| QUESTIONS[0].1.to_vec()).collect())
        }
    }

    /// A generation that finds the first question where all texts lie, or the second.
    fn generation(finds_first: bool) -> (tempfile::TempDir, Generation) {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = QUESTIONS.map(|(_, vector)| vector);
        let vectors = if finds_first { [first, second] } else { [second, first] };
        write_at(dir.path(), &model("ours"), vectors, None);
        let generation = Generation::open(dir.path()).unwrap();
        (dir, generation)
    }

    #[test]
    fn a_worse_one_does_not_take_the_place_and_an_equal_one_does() {
        let embedder = EmbedWorker::start(Arc::new(Fake(model("ours")))).unwrap();
        let asking = Asking { embedder: &embedder, now: 0 };
        let answer = Some(EntryId(QUESTIONS[0].0.into()));
        let label =
            |n: usize| Labelled {
                text: format!("{n}个"), context: vec![], answer: answer.clone()
            };
        let labels: Vec<Labelled> = (0..9).map(label).collect();
        let ((_a, good), (_b, bad)) = (generation(true), generation(false));
        let held = |champion, challenger, labels: &[Labelled]| {
            challenge(champion, challenger, (labels, &[]), asking).unwrap()
        };
        let worse = held(&good, &bad, &labels);
        assert_eq!((worse.messages, worse.champion, worse.challenger), (3, 1.0, 0.5));
        assert!(!worse.holds);
        assert!(held(&bad, &good, &labels).holds && held(&good, &good, &labels).holds);
        let none = held(&good, &bad, &[]);
        assert_eq!((none.messages, none.holds), (0, true), "nothing speaks against it");
    }
}
