//! `eval classify`: how often messages are put into the right class, by what ships or by a
//! classifier fitted on given labels.
//!
//! | task | class | read beside the message | fitted |
//! |---|---|---|---|
//! | `intent` | `label`; `oos` lies outside of all others | | a [`Classifier`] |
//! | `handoff` | `label` | what the rules found | a [`Classifier`] |
//! | `emotion` | `sentiment` | the turns before it in its `dialog` | a [`Head`] whose mood carries on |

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::domain::label::Classed;
use crate::engine::embed::EmbedWorker;
use crate::eval::{EvalError, percentile};
use crate::ingest::read_classed;
use crate::model::Control;
use crate::pipeline::fit::{FitProgress, Stage};
use crate::search::classifier::{Classifier, Options};
use crate::search::head::{Example, FitOptions, Head};
use crate::understand::normalize::normalize;
use crate::understand::{Concern, understand};

/// The label of messages outside of all classes.
pub const OUT_OF_SCOPE: &str = "oos";
/// What a rule's finding counts beside an embedding of length one.
const CONCERN_SCALE: f32 = 0.5;
/// Turns before the message that are embedded with it.
const TURNS_BEFORE: usize = 2;
/// A mood's share that is left at the next turn, and what the moods before a message count.
const MOOD_KEPT: f32 = 0.7;
const MOOD_WEIGHT: f32 = 1.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Handoff,
    Emotion,
    Intent,
}

impl Task {
    /// The field of the rows that names the class.
    fn field(self) -> &'static str {
        match self {
            Self::Handoff | Self::Intent => "label",
            Self::Emotion => "sentiment",
        }
    }
}

/// Files of one evaluation.
#[derive(Clone, Debug)]
pub struct ClassifyInput {
    pub task: Task,
    /// Empty: what ships is tried.
    pub labels: Vec<PathBuf>,
    pub queries: Vec<PathBuf>,
}

/// Keys as scripts know them.
#[derive(Clone, Debug, Serialize)]
pub struct ClassifyReport {
    pub n: usize,
    pub accuracy: f64,
    /// Mean over the classes that are labelled or predicted.
    pub macro_f1: f64,
    /// Right ones among the messages that are not out of scope; a refusal is wrong.
    pub in_scope_accuracy: f64,
    /// `null` when no message is out of scope.
    pub oos_recall: Option<f64>,
    pub per_class: BTreeMap<String, ClassFigures>,
    /// Label, then prediction.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
    /// Per message, beside its embedding: understanding and classifying.
    pub ms_p50: f64,
    pub ms_p99: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Messages with this label.
    pub n: usize,
}

/// The report of one set: with an embedder fitted on the labels, without one by what ships.
///
/// # Errors
/// [`EvalError::Input`] without queries, without labels for a task for which nothing ships, or when
/// the labels hold fewer than two classes; and whatever reading and embedding find.
pub fn run(
    input: &ClassifyInput,
    embedder: Option<&EmbedWorker>,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<ClassifyReport, EvalError> {
    let queries = read_files(&input.queries, input.task)?;
    if queries.is_empty() {
        return Err(EvalError::Input("no queries: nothing to measure".into()));
    }
    let (predicted, times) = match embedder {
        None => shipped(input.task, &queries)?,
        Some(embedder) => {
            let labels = read_files(&input.labels, input.task)?;
            fitted(input.task, &labels, &queries, embedder, progress)?
        }
    };
    let truth: Vec<&str> = queries.iter().map(|row| row.class.as_str()).collect();
    let predicted: Vec<&str> = predicted.iter().map(String::as_str).collect();
    Ok(report(&truth, &predicted, &times))
}

/// Predictions with what each took, milliseconds.
type Predictions = (Vec<String>, Vec<f64>);

/// What the service sees: the rules.
fn shipped(task: Task, queries: &[Classed]) -> Result<Predictions, EvalError> {
    match task {
        Task::Handoff => {}
        Task::Emotion | Task::Intent => {
            let reason = "nothing is shipped for this task: give --labels to fit on";
            return Err(EvalError::Input(reason.into()));
        }
    }
    let timed = |row: &Classed| {
        let watch = Stopwatch::start();
        let concern = understand(&row.text, &[]).signals.concern();
        (concern.to_string(), watch.ms())
    };
    Ok(queries.iter().map(timed).unzip())
}

fn fitted(
    task: Task,
    labels: &[Classed],
    queries: &[Classed],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Predictions, EvalError> {
    let names: BTreeSet<&str> = labels.iter().map(|row| row.class.as_str()).collect();
    if names.len() < 2 {
        return Err(EvalError::Input("the labels are all of one class: nothing to learn".into()));
    }
    let classes: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let rows = views(task, labels, embedder, progress)?;
    let examples: Vec<Example<'_>> = rows
        .iter()
        .zip(labels)
        .map(|(view, row)| Example {
            text: &view.text,
            vector: &view.vector,
            class: classes.binary_search(&row.class).unwrap_or_default(),
        })
        .collect();
    let asked = views(task, queries, embedder, progress)?;
    progress(FitProgress { stage: Stage::FitHead, done: 0, total: 1 });
    let predictions: Predictions = match task {
        Task::Handoff | Task::Intent => {
            let options = Options { ridge: 0.3, balance: 0.0, outside: Some(OUT_OF_SCOPE) };
            let classifier = Classifier::fit(&examples, &classes, options)?;
            asked.iter().map(|view| timed_choice(&classifier, view)).unzip()
        }
        Task::Emotion => {
            let options = FitOptions { strength: 1.0, balance: 1.0, ..FitOptions::default() };
            let head = Head::fit(&examples, &classes, &options)?;
            with_mood(&head, &usual_mood(&head, &rows), queries, &asked)
        }
    };
    progress(FitProgress { stage: Stage::FitHead, done: 1, total: 1 });
    Ok(predictions)
}

fn timed_choice(classifier: &Classifier, view: &View) -> (String, f64) {
    let watch = Stopwatch::start();
    let class = classifier.choose(&classifier.scores(&view.text, &view.vector));
    (classifier.classes()[class].clone(), watch.ms())
}

/// A row as a classifier reads it.
struct View {
    text: String,
    vector: Vec<f32>,
}

fn views(
    task: Task,
    rows: &[Classed],
    embedder: &EmbedWorker,
    progress: &mut dyn FnMut(FitProgress),
) -> Result<Vec<View>, EvalError> {
    let texts: Vec<String> = rows.iter().map(|row| normalize(&row.text)).collect();
    let mut embed = |texts: &[String]| {
        embedder.embed(texts, &Control::default(), &mut |done, total| {
            progress(FitProgress { stage: Stage::EmbedLabels, done, total });
        })
    };
    let mut vectors = embed(&texts)?;
    let beside: Vec<Vec<f32>> = match task {
        Task::Intent => vec![Vec::new(); rows.len()],
        Task::Handoff => rows.iter().map(concern_of).collect(),
        Task::Emotion => embed(&with_turns_before(rows))?,
    };
    for (vector, beside) in vectors.iter_mut().zip(beside) {
        vector.extend(beside);
    }
    Ok(texts.into_iter().zip(vectors).map(|(text, vector)| View { text, vector }).collect())
}

/// What the rules found, one direction for each concern.
fn concern_of(row: &Classed) -> Vec<f32> {
    let found = understand(&row.text, &[]).signals.concern();
    let along = |concern: &Concern| if *concern == found { CONCERN_SCALE } else { 0.0 };
    Concern::ALL.iter().map(along).collect()
}

/// Each message after the turns before it; a stroke where another speaks.
fn with_turns_before(rows: &[Classed]) -> Vec<String> {
    let text_of = |at: usize| {
        let first = (at.saturating_sub(TURNS_BEFORE)..at)
            .find(|&before| rows[before..=at].windows(2).all(|pair| follows(&pair[0], &pair[1])));
        let mut text = String::new();
        for turn in first.unwrap_or(at)..=at {
            if !text.is_empty() {
                let same = rows[turn].said_by() == rows[turn - 1].said_by();
                text.push_str(if same { " " } else { " / " });
            }
            text.push_str(&rows[turn].text);
        }
        normalize(&text)
    };
    (0..rows.len()).map(text_of).collect()
}

/// Whether `row` comes next in the dialogue of `before`.
fn follows(before: &Classed, row: &Classed) -> bool {
    match (&before.said_in, &row.said_in) {
        (Some(one), Some(other)) => one.dialog == other.dialog,
        (None, _) | (_, None) => false,
    }
}

/// How much each class is said on average, as a logarithm.
fn usual_mood(head: &Head, rows: &[View]) -> Vec<f32> {
    let mut usual = vec![0.0_f32; head.classes().len()];
    for row in rows {
        for (sum, own) in usual.iter_mut().zip(said_by_itself(head, row)) {
            *sum += own / rows.len() as f32;
        }
    }
    usual
}

fn said_by_itself(head: &Head, view: &View) -> Vec<f32> {
    let probabilities = head.probabilities(&view.text, &view.vector);
    probabilities.iter().map(|p| p.max(1e-6).ln()).collect()
}

/// A mood carries on: to what a message says for itself is added what the turns before it said, the
/// longer ago the less, each against what is usual.
fn with_mood(head: &Head, usual: &[f32], rows: &[Classed], views: &[View]) -> Predictions {
    let classes = head.classes();
    let mut mood = vec![0.0_f32; classes.len()];
    let mut predicted = Vec::with_capacity(rows.len());
    let mut times = Vec::with_capacity(rows.len());
    for (at, view) in views.iter().enumerate() {
        if at == 0 || !follows(&rows[at - 1], &rows[at]) {
            mood.fill(0.0);
        }
        let watch = Stopwatch::start();
        let own = said_by_itself(head, view);
        let score = |class: usize| own[class] + MOOD_WEIGHT * mood[class];
        let best = (0..classes.len()).max_by(|&a, &b| score(a).total_cmp(&score(b)));
        predicted.push(best.map(|class| classes[class].clone()).unwrap_or_default());
        for ((mood, own), usual) in mood.iter_mut().zip(own).zip(usual) {
            *mood = MOOD_KEPT * (*mood + own - usual);
        }
        times.push(watch.ms());
    }
    (predicted, times)
}

fn read_files(files: &[PathBuf], task: Task) -> Result<Vec<Classed>, EvalError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_classed(file, task.field())?);
    }
    Ok(all)
}

fn report(truth: &[&str], predicted: &[&str], times: &[f64]) -> ClassifyReport {
    let mut confusion: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (truth, predicted) in truth.iter().zip(predicted) {
        let row = confusion.entry((*truth).to_owned()).or_default();
        *row.entry((*predicted).to_owned()).or_default() += 1;
    }
    let classes: BTreeSet<&str> = truth.iter().chain(predicted).copied().collect();
    let pairs = || truth.iter().zip(predicted);
    let share = |right: usize, of: usize| if of == 0 { 0.0 } else { right as f64 / of as f64 };
    let figures = |class: &str| {
        let right = pairs().filter(|(t, p)| **t == class && **p == class).count();
        let n = truth.iter().filter(|t| **t == class).count();
        let named = predicted.iter().filter(|p| **p == class).count();
        ClassFigures {
            precision: share(right, named),
            recall: share(right, n),
            f1: share(2 * right, n + named),
            n,
        }
    };
    let per_class: BTreeMap<String, ClassFigures> =
        classes.iter().map(|class| ((*class).to_owned(), figures(class))).collect();
    let inside = || pairs().filter(|(t, _)| **t != OUT_OF_SCOPE);
    let right = pairs().filter(|(t, p)| t == p).count();
    ClassifyReport {
        n: truth.len(),
        accuracy: share(right, truth.len()),
        macro_f1: per_class.values().map(|c| c.f1).sum::<f64>() / per_class.len() as f64,
        in_scope_accuracy: share(inside().filter(|(t, p)| t == p).count(), inside().count()),
        oos_recall: per_class.get(OUT_OF_SCOPE).filter(|c| c.n > 0).map(|c| c.recall),
        per_class,
        confusion,
        ms_p50: percentile(times, 0.5),
        ms_p99: percentile(times, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::label::SaidIn;

    fn said(dialog: &str, speaker: &str, text: &str) -> Classed {
        let said_in = Some(SaidIn { dialog: dialog.into(), speaker: speaker.into() });
        Classed { text: text.into(), class: "neutral".into(), said_in }
    }

    #[test]
    fn figures_are_those_of_the_confusion() {
        let truth = ["a", "a", "a", "b", "oos", "oos"];
        let predicted = ["a", "a", "oos", "a", "oos", "c"];
        let report = report(&truth, &predicted, &[1.0, 2.0]);
        assert!((report.accuracy - 0.5).abs() < 1e-9);
        assert!((report.in_scope_accuracy - 0.5).abs() < 1e-9);
        assert_eq!(report.oos_recall, Some(0.5));
        let a = report.per_class["a"];
        assert!((a.precision - 2.0 / 3.0).abs() < 1e-9 && (a.f1 - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!((report.per_class["b"].f1, report.per_class["c"].n), (0.0, 0));
        assert!((report.macro_f1 - (2.0 / 3.0 + 0.5) / 4.0).abs() < 1e-9);
        assert_eq!(report.confusion["a"]["oos"], 1);
    }

    #[test]
    fn turns_before_are_those_of_the_same_dialogue() {
        let rows = [
            said("1", "a", "早"),
            said("2", "a", "你来了"),
            said("2", "b", "来了"),
            said("2", "b", "坐吧"),
            said("2", "a", "好"),
        ];
        let texts = with_turns_before(&rows);
        assert_eq!(texts[0], "早");
        assert_eq!(texts[1], "你来了");
        assert_eq!(texts[3], "你来了 / 来了 坐吧");
        assert_eq!(texts[4], "来了 坐吧 / 好");
    }

    #[test]
    fn only_what_ships_can_be_tried_without_labels() {
        let row = |text: &str| Classed { text: text.into(), class: "x".into(), said_in: None };
        let (found, _) = shipped(Task::Handoff, &[row("转人工"), row("可以人工提额吗")]).unwrap();
        assert_eq!(found, ["human_request", "no_request"]);
        assert!(matches!(shipped(Task::Intent, &[row("hi")]), Err(EvalError::Input(_))));
    }

    #[test]
    fn the_rules_hold_on_our_own_messages() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/eval/sets/handoff/messages.jsonl");
        let rows = read_classed(std::path::Path::new(file), "label").unwrap();
        let (predicted, times) = shipped(Task::Handoff, &rows).unwrap();
        let truth: Vec<&str> = rows.iter().map(|row| row.class.as_str()).collect();
        let predicted: Vec<&str> = predicted.iter().map(String::as_str).collect();
        let report = report(&truth, &predicted, &times);
        assert!(report.macro_f1 >= 0.97, "{report:?}");
        assert!(report.per_class["human_request"].recall >= 0.97, "{report:?}");
        for quiet in ["no_request", "routine"] {
            assert_eq!(report.confusion[quiet].get("human_request"), None, "{quiet}");
        }
    }

    #[test]
    fn a_mood_carries_on_within_its_dialogue() {
        let data = [("气", [1.0, 0.0, 0.0], 0), ("好", [0.0, 1.0, 0.0], 1)];
        let examples: Vec<Example<'_>> = data
            .iter()
            .map(|(text, vector, class)| Example { text, vector, class: *class })
            .collect();
        let classes = ["negative".to_owned(), "positive".to_owned()];
        let head = Head::fit(&examples, &classes, &FitOptions::default()).unwrap();
        let view = |vector: [f32; 3]| View { text: String::new(), vector: vector.to_vec() };
        // The third says little by itself, a trifle the other way.
        let angry = [1.0, 0.0, 0.0];
        let views = [angry, angry, [0.49, 0.51, 3.0], angry].map(view);
        let mood_of = |dialogs: [&str; 4]| {
            let rows = dialogs.map(|dialog| said(dialog, "a", ""));
            with_mood(&head, &[0.5_f32.ln(); 2], &rows, &views).0[2].clone()
        };
        assert_eq!(mood_of(["1", "1", "1", "1"]), "negative");
        assert_eq!(mood_of(["1", "1", "2", "2"]), "positive");
    }
}
