//! A trained classifier: the class that a message belongs to, or none of them.
//!
//! The classes are voted for by likeness to the labelled messages ([`kin`](crate::search::kin)).
//! Messages outside of all classes may be among the examples under a name of their own. They are a
//! class like the others, and since what lies outside is never shown in full, the classifier also
//! abstains where the best class is hardly ahead of it: as often as that costs one in two hundred of
//! the messages that it would have classified rightly.

use crate::base::random::SplitMix64;
use crate::search::SearchError;
use crate::search::head::{Example, check};
use crate::search::kin::{Kin, Kindred, thinned};

/// Messages whose likenesses to each other are kept while fitting; so many take 512 MB.
const MOST_MESSAGES: usize = 16_000;
/// How fast likeness falls with distance. Classes lie closer together than entries: with half of it,
/// as entries have it, .9285 instead of .9315 of 2001 banking questions were put right.
const SHARPNESS: f32 = 1.0;
/// Share of the examples that are held back to find out when to abstain.
const HELD_SHARE: f32 = 0.2;
/// Share of the rightly classified that abstaining may cost.
const ABSTAINING_COST: f32 = 0.005;
/// Of the order in which examples are held back.
const SEED: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options<'a> {
    /// How little a single label is believed.
    pub ridge: f32,
    /// A class counts (mean class size ÷ own class size) to this power: 0 as often as it was met,
    /// 1 all alike.
    pub balance: f32,
    /// The class of messages outside of all others, if the examples have one.
    pub outside: Option<&'a str>,
}

/// A fitted classifier.
#[derive(Clone, Debug)]
pub struct Classifier {
    classes: Vec<String>,
    kin: Kin,
    /// What each class counts.
    weights: Vec<f32>,
    outside: Option<Outside>,
}

#[derive(Clone, Copy, Debug)]
struct Outside {
    class: usize,
    /// How far ahead of it the best other class must be.
    lead: f32,
}

impl Classifier {
    /// Fits a classifier; of very many examples, on 16,000 of them.
    ///
    /// # Errors
    /// [`SearchError::BadInput`] when there is nothing to learn (fewer than two classes, no
    /// examples) or an example's class or vector does not fit.
    pub fn fit(
        examples: &[Example<'_>],
        classes: &[String],
        options: Options<'_>,
    ) -> Result<Self, SearchError> {
        check(examples, classes.len())?;
        let mut examples = examples.to_vec();
        SplitMix64::new(SEED).shuffle(&mut examples);
        let examples = thinned(&examples, MOST_MESSAGES);
        let kindred = Kindred::of(&examples, options.ridge, SHARPNESS)?;
        let outside = options.outside.and_then(|name| classes.iter().position(|c| c == name));
        let mut classifier = Self {
            classes: classes.to_vec(),
            kin: kindred.vote(&examples, classes.len(), examples.len()),
            weights: weights(&examples, classes.len(), options.balance),
            outside: None,
        };
        if let Some(class) = outside {
            let kept = examples.len() - (examples.len() as f32 * HELD_SHARE) as usize;
            let trial = Self {
                kin: kindred.vote(&examples, classes.len(), kept),
                outside: Some(Outside { class, lead: 0.0 }),
                ..classifier.clone()
            };
            let lead = trial.lead(class, &examples[kept..]);
            classifier.outside = Some(Outside { class, lead });
        }
        Ok(classifier)
    }

    /// Names of the classes, in the order of [`Classifier::scores`].
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// For each class, about its weight where the message is like its messages and about 0
    /// elsewhere; no probabilities.
    pub fn scores(&self, text: &str, vector: &[f32]) -> Vec<f32> {
        let scores = self.kin.scores(text, vector);
        scores.iter().zip(&self.weights).map(|(score, weight)| score * weight).collect()
    }

    /// The class of the best score, or the one outside of all others.
    pub fn choose(&self, scores: &[f32]) -> usize {
        match self.outside {
            None => best(scores, None),
            Some(Outside { class, lead }) => {
                let inside = best(scores, Some(class));
                if scores[inside] - scores[class] < lead { class } else { inside }
            }
        }
    }

    /// How far ahead of the class outside the best one must be: so far that few of the examples
    /// that are rightly classified fall short of it.
    fn lead(&self, outside: usize, examples: &[Example<'_>]) -> f32 {
        let mut leads: Vec<f32> = Vec::new();
        for example in examples {
            let scores = self.scores(example.text, example.vector);
            if best(&scores, Some(outside)) == example.class {
                leads.push(scores[example.class] - scores[outside]);
            }
        }
        leads.sort_by(f32::total_cmp);
        let cost = (leads.len() as f32 * ABSTAINING_COST) as usize;
        leads.get(cost).copied().unwrap_or(0.0).max(0.0)
    }
}

fn best(scores: &[f32], but: Option<usize>) -> usize {
    let others = (0..scores.len()).filter(|class| Some(*class) != but);
    others.max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

fn weights(examples: &[Example<'_>], classes: usize, balance: f32) -> Vec<f32> {
    let mut sizes = vec![0.0_f32; classes];
    examples.iter().for_each(|example| sizes[example.class] += 1.0);
    let mean = examples.len() as f32 / classes as f32;
    sizes.iter().map(|size| (mean / size.max(1.0)).powf(balance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options<'static> = Options { ridge: 0.3, balance: 0.0, outside: None };

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Messages around two directions, and such that lie anywhere.
    fn messages(outside: usize) -> Vec<([f32; 3], usize)> {
        let mut random = SplitMix64::new(7);
        let mut noise = || random.unit() * 2.0 - 1.0;
        let mut all: Vec<([f32; 3], usize)> = Vec::new();
        for at in 0..120 {
            let class = at % 2;
            let axis = [1.0 - class as f32, class as f32, 0.0];
            all.push((axis.map(|x| x + 0.15 * noise()), class));
        }
        all.extend((0..outside).map(|_| ([0.3 * noise(), 0.3 * noise(), -1.0 + 0.2 * noise()], 2)));
        all
    }

    fn fit(data: &[([f32; 3], usize)], classes: &[&str], options: Options<'_>) -> Classifier {
        let examples: Vec<Example<'_>> = data
            .iter()
            .map(|(vector, class)| Example { text: "", vector, class: *class })
            .collect();
        Classifier::fit(&examples, &names(classes), options).unwrap()
    }

    fn class(classifier: &Classifier, vector: [f32; 3]) -> &str {
        &classifier.classes()[classifier.choose(&classifier.scores("", &vector))]
    }

    #[test]
    fn finds_classes_and_what_lies_outside_of_them() {
        let outside = Some("oos");
        let options = Options { outside, ..PLAIN };
        let classifier = fit(&messages(40), &["refund", "invoice", "oos"], options);
        assert_eq!(class(&classifier, [1.0, 0.05, 0.0]), "refund");
        assert_eq!(class(&classifier, [0.0, 0.9, 0.1]), "invoice");
        assert_eq!(class(&classifier, [0.1, 0.0, -1.1]), "oos");
        let lead = classifier.outside.unwrap().lead;
        assert!(lead > 0.0, "{lead}");
        // As likely as not inside: not enough ahead.
        let torn = [0.5 + lead / 3.0, 0.0, 0.5];
        assert_eq!(classifier.choose(&torn), 2);
    }

    #[test]
    fn without_a_class_outside_it_never_abstains() {
        let options = Options { outside: Some("oos"), ..PLAIN };
        let classifier = fit(&messages(0), &["refund", "invoice"], options);
        assert_eq!(class(&classifier, [0.4, 0.3, -1.0]), "refund");
    }

    #[test]
    fn balance_lifts_the_rare_class() {
        let data: Vec<([f32; 3], usize)> =
            messages(0).into_iter().filter(|(v, class)| *class == 0 || v[0] > 0.1).collect();
        let between = [0.6, 0.5, 0.0];
        let ratio = |balance| {
            let scores = fit(&data, &["a", "b"], Options { balance, ..PLAIN });
            let scores = scores.scores("", &between);
            scores[1] / scores[0]
        };
        assert!(ratio(1.0) > 1.5 * ratio(0.0), "{} {}", ratio(1.0), ratio(0.0));
    }

    #[test]
    fn refuses_what_cannot_be_learned() {
        let one = Example { text: "退款", vector: &[1.0], class: 0 };
        for (examples, classes) in [
            (vec![], names(&["a", "b"])),
            (vec![one], names(&["a"])),
            (vec![Example { class: 3, ..one }], names(&["a", "b"])),
            (vec![one, Example { vector: &[1.0, 2.0], ..one }], names(&["a", "b"])),
        ] {
            let fitted = Classifier::fit(&examples, &classes, PLAIN);
            assert!(matches!(fitted, Err(SearchError::BadInput(_))));
        }
    }
}
