//! Proposals of scene and tone for entries that say nothing of them, with how often such proposals
//! were right: for a person to accept, never facts.
//!
//! Learned from the project's own knowledge and from the entries that do say something. A level is
//! not proposed: in a trial beside this code, on the project's own knowledge, wording told primary
//! entries from secondary ones no better than a coin (.48 of 223 phrasings of entries that were not
//! learned from), and the nearest primary entry was the right parent of 49 in 100.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::domain::knowledge::{Entry, EntryId, EntryState, Level, Scene, Tone};
use crate::engine::EngineError;
use crate::engine::embed::EmbedWorker;
use crate::model::Control;
use crate::pipeline::fit::{FitProgress, Stage};
use crate::search::SearchError;
use crate::search::classifier::{Classifier, Options};
use crate::search::head::Example;
use crate::understand::normalize::normalize;

/// Entries that the project wrote, with their dimensions.
const OWN: &str = include_str!("../../eval/sets/demo/kb.jsonl");
/// Parts of the lessons that are asked about in turn by what learned from the others.
const FOLDS: usize = 5;
/// Beside the usual value, all others are rare.
const OPTIONS: Options<'static> = Options { ridge: 0.3, balance: 0.5, outside: None };
/// Phrasings of an entry that are read.
const MOST_PHRASINGS: usize = 10;

/// One value for one dimension of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub entry: EntryId,
    pub question: String,
    pub value: Value,
    /// Share of the lessons that were put so, at least as clearly, and rightly, while they were not
    /// learned from.
    pub confidence: f32,
}

/// What is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Scene(Scene),
    Tone(Tone),
}

impl Value {
    /// The dimension's name in files.
    pub fn field(self) -> &'static str {
        match self {
            Self::Scene(_) => "scene",
            Self::Tone(_) => "tone",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scene(scene) => scene.as_str(),
            Self::Tone(tone) => tone.as_str(),
        }
    }

    /// The entry with this value.
    pub fn on(self, entry: Entry) -> Entry {
        match self {
            Self::Scene(scene) => Entry { scene, ..entry },
            Self::Tone(tone) => Entry { tone, ..entry },
        }
    }

    /// What an entry has that says nothing.
    fn is_usual(self) -> bool {
        matches!(self, Self::Scene(Scene::Inquiry) | Self::Tone(Tone::Neutral))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("the knowledge that ships cannot be read: {0}")]
    Own(#[from] serde_json::Error),
}

/// What there is to learn from an entry.
#[derive(Deserialize)]
struct Lesson {
    question: String,
    similar_questions: Vec<String>,
    scene: Scene,
    tone: Tone,
}

impl Lesson {
    fn of(entry: &Entry) -> Self {
        Self {
            question: entry.question.clone(),
            similar_questions: entry.similar_questions.clone(),
            scene: entry.scene,
            tone: entry.tone,
        }
    }

    fn texts(&self) -> impl Iterator<Item = String> + '_ {
        let phrasings = std::iter::once(&self.question).chain(&self.similar_questions);
        phrasings.take(MOST_PHRASINGS).map(|text| normalize(text))
    }
}

/// An entry as a classifier reads it.
struct View {
    text: String,
    vector: Vec<f32>,
}

/// Whether nobody gave the entry any dimension: then it has the usual ones.
fn says_nothing(entry: &Entry) -> bool {
    let Entry { scene, level, parent, tone, .. } = entry;
    Value::Scene(*scene).is_usual()
        && Value::Tone(*tone).is_usual()
        && *level == Level::Primary
        && parent.is_none()
}

/// Other than usual values for entries that say nothing, the surest first. Passages of documents and
/// archived entries are left alone.
pub fn propose(
    entries: &[Entry],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Vec<Proposal>, ProposeError> {
    let considered = |e: &&Entry| e.place.is_none() && e.state != EntryState::Archived;
    let (asked, told): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().filter(considered).partition(|entry| says_nothing(entry));
    let mut lessons: Vec<Lesson> = told.into_iter().map(Lesson::of).collect();
    for line in OWN.lines() {
        lessons.push(serde_json::from_str(line)?);
    }
    let asked_as: Vec<Lesson> = asked.iter().map(|entry| Lesson::of(entry)).collect();
    let mut embed = |texts: &[String]| {
        embedder.embed(texts, &Control::default(), &mut |done, total| {
            progress(FitProgress { stage: Stage::EmbedKnowledge, done, total });
        })
    };
    let (known, views) = (views(&lessons, &mut embed)?, views(&asked_as, &mut embed)?);
    let scenes: Vec<Value> = lessons.iter().map(|lesson| Value::Scene(lesson.scene)).collect();
    let tones: Vec<Value> = lessons.iter().map(|lesson| Value::Tone(lesson.tone)).collect();
    let mut proposals = Vec::new();
    for values in [scenes, tones] {
        let judge = Judge::fit(&known, &values)?;
        for (entry, view) in asked.iter().zip(&views) {
            let (value, lead) = judge.choose(view);
            let confidence = judge.confidence(value, lead);
            let (entry, question) = (entry.id.clone(), entry.question.clone());
            proposals.push(Proposal { entry, question, value, confidence });
        }
    }
    proposals.retain(|proposal| !proposal.value.is_usual());
    proposals.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.entry.cmp(&b.entry)));
    Ok(proposals)
}

type Embedded = Result<Vec<Vec<f32>>, EngineError>;

/// Each entry's phrasings as one text and one vector.
fn views(
    lessons: &[Lesson],
    embed: &mut dyn FnMut(&[String]) -> Embedded,
) -> Result<Vec<View>, EngineError> {
    let texts: Vec<Vec<String>> = lessons.iter().map(|lesson| lesson.texts().collect()).collect();
    let mut vectors = embed(&texts.concat())?.into_iter();
    let view = |texts: Vec<String>| {
        let mut mean: Vec<f32> = Vec::new();
        for vector in vectors.by_ref().take(texts.len()) {
            mean.resize(vector.len(), 0.0);
            mean.iter_mut().zip(&vector).for_each(|(sum, x)| *sum += x / texts.len() as f32);
        }
        View { text: texts.join(" "), vector: mean }
    };
    Ok(texts.into_iter().map(view).collect())
}

/// A classifier for one dimension that knows how far to trust itself.
struct Judge {
    classifier: Classifier,
    values: Vec<Value>,
    /// Of each lesson, while it was not learned from: what it was put as, how clearly, and whether
    /// rightly.
    trials: Vec<(Value, f32, bool)>,
}

impl Judge {
    fn fit(views: &[View], given: &[Value]) -> Result<Self, SearchError> {
        let values: Vec<Value> =
            given.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let names: Vec<String> = values.iter().map(|value| value.as_str().to_owned()).collect();
        let fitted = |is_shown: &dyn Fn(usize) -> bool| {
            let shown = (0..views.len()).filter(|at| is_shown(*at));
            let examples: Vec<Example<'_>> = shown
                .map(|at| Example {
                    text: &views[at].text,
                    vector: &views[at].vector,
                    class: values.binary_search(&given[at]).unwrap_or_default(),
                })
                .collect();
            Classifier::fit(&examples, &names, OPTIONS)
        };
        let mut judge =
            Self { classifier: fitted(&|_| true)?, values: values.clone(), trials: Vec::new() };
        for fold in 0..FOLDS {
            let trial = Self {
                classifier: fitted(&|at| at % FOLDS != fold)?,
                values: values.clone(),
                trials: Vec::new(),
            };
            for at in (fold..views.len()).step_by(FOLDS) {
                let (value, lead) = trial.choose(&views[at]);
                judge.trials.push((value, lead, value == given[at]));
            }
        }
        Ok(judge)
    }

    /// The likeliest value, and how far it is ahead of the next.
    fn choose(&self, view: &View) -> (Value, f32) {
        let scores = self.classifier.scores(&view.text, &view.vector);
        let best = self.classifier.choose(&scores);
        let others = (0..scores.len()).filter(|at| *at != best).map(|at| scores[at]);
        (self.values[best], scores[best] - others.fold(f32::NEG_INFINITY, f32::max))
    }

    /// By the rule of succession, so that a few lucky trials are no certainty.
    fn confidence(&self, value: Value, lead: f32) -> f32 {
        let alike =
            self.trials.iter().filter(|(put, clearly, _)| *put == value && *clearly >= lead);
        let (mut right, mut all) = (0, 0);
        for (_, _, rightly) in alike {
            all += 1;
            right += usize::from(*rightly);
        }
        (right as f32 + 1.0) / (all as f32 + 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knowledge_that_ships_is_read_and_tells_both_dimensions() {
        let lessons: Vec<Lesson> =
            OWN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lessons.len() > 100);
        assert!(lessons.iter().any(|l| l.scene == Scene::Fault && l.tone == Tone::Urgent));
    }

    #[test]
    fn only_an_entry_with_the_usual_dimensions_says_nothing() {
        let entry = Entry::new(EntryId("a".into()), "怎么退款".into());
        assert!(says_nothing(&entry));
        for value in [Value::Scene(Scene::Fault), Value::Tone(Tone::Urgent)] {
            assert!(!says_nothing(&value.on(entry.clone())), "{value:?}");
        }
        assert!(!says_nothing(&Entry { parent: Some(EntryId("b".into())), ..entry }));
    }

    /// Complaints along one axis, inquiries along the other, a few between.
    fn lessons() -> (Vec<View>, Vec<Value>) {
        let lesson = |at: usize| {
            let is_complaint = at.is_multiple_of(3);
            let noise = (at % 7) as f32 / 10.0;
            let vector = if is_complaint { vec![1.0, noise, 0.2] } else { vec![noise, 1.0, 0.2] };
            let scene = if is_complaint { Scene::Complaint } else { Scene::Inquiry };
            (View { text: String::new(), vector }, Value::Scene(scene))
        };
        (0..60).map(lesson).unzip()
    }

    #[test]
    fn confidence_is_what_came_out_on_lessons_that_were_not_learned_from() {
        let (views, values) = lessons();
        let judge = Judge::fit(&views, &values).unwrap();
        assert_eq!(judge.trials.len(), 60);
        let clear = View { text: String::new(), vector: vec![1.0, 0.0, 0.2] };
        let (value, lead) = judge.choose(&clear);
        assert_eq!(value, Value::Scene(Scene::Complaint));
        assert!(lead > 0.0);
        let sure = judge.confidence(value, 0.0);
        assert!(sure > 0.8 && sure < 1.0, "{sure}");
        assert_eq!(judge.confidence(value, f32::INFINITY), 0.5, "nothing was ever so clear");
    }
}
