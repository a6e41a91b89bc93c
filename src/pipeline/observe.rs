//! What the head and the gate learn from: messages looked up as the service would look them up, by
//! heads that have not seen them.
//!
//! Whatever is asked here is kept from the head that answers. Labels are parted in folds; phrasings,
//! where labels are few, as well; and messages that nothing answers are made by taking parts of the
//! knowledge away, with all that the head knows of them, and asking for what they answer.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::thread;

use crate::base::clock::UnixMs;
use crate::domain::label::Labelled;
use crate::engine::embed::EmbedWorker;
use crate::gate::model::MIN_LABELS_FOR_ALL;
use crate::gate::observation::{Kind, Leaves, Observation};
use crate::gate::reranker::Reranker;
use crate::model::Control;
use crate::pipeline::draft;
use crate::pipeline::fit::{FitError, FitProgress, Stage};
use crate::pipeline::ranking::{self, Asked, Ranking};
use crate::pipeline::retrieve::{
    Found, OUT_OF_SCOPE, Question, Retrieved, Scope, Trained, look_up, seek,
};
use crate::search::SearchError;
use crate::search::head::{self, Example, Head};
use crate::search::index::{Exclude, KnowledgeIndex};
use crate::search::layers::Layers;
use crate::understand::normalize::normalize;
use crate::understand::readability::Readability;
use crate::understand::{Understood, understand};

/// Questions of another world: no company's knowledge answers them, unless a label says so.
const OPEN_DOMAIN: &str = include_str!("../../eval/sets/open_domain.jsonl");
/// Parts of labels, and of phrasings, that are asked of a head which did not see them.
const FOLDS: usize = 4;
/// Parts of the knowledge that are taken away in turn.
const PARTS: usize = 5;
/// Phrasings that are asked about; more would only repeat what these say.
const MOST_PHRASINGS: usize = 2_000;
/// Beyond this many entries a head costs more than it tells: labels per entry become few.
const MOST_CLASSES: usize = 500;
/// Without labels, a head needs so many phrasings in all to learn from ...
const LEAST_PHRASINGS: usize = 250;
/// ... and so many of an entry: one alone says no more than the lists do.
const PHRASINGS_PER_ENTRY: usize = 2;
/// Phrasings times entries beyond which training it over and over takes minutes.
const MOST_UNLABELLED_WORK: usize = 250_000;
/// What the vote by likeness may count in the sum of the lists; it runs from 0 to 1.
const KIN_WEIGHTS: [f32; 3] = [2.5, 5.0, 10.0];
/// What it counts while labels are too few to find out. In a trial beside this code, a bank's 63
/// entries put 3172 customer questions right to .829 without a head and to .844 with one of their
/// 280 phrasings, and the cold gate answered .62 instead of .52 of them at precision .95.
const UNTRIED_KIN_WEIGHT: f32 = 5.0;
/// The same beside lists that see vectors through a map, which know most of what it knows: there, in
/// that trial, weights of 0, 1, 2 and 5 gave .868, .868, .866 and .855.
const UNTRIED_BESIDE_MAP: f32 = 1.0;
/// Labels of which fewer are unanswerable do not show what the gate must keep out.
const TELLING_SHARE: f64 = 0.05;
/// Every so many calibration messages one is also asked without its entry, so that a fifth of all
/// is unanswerable.
pub const ASK_WITHOUT: usize = 4;

/// A labelled message as the service would search for it.
#[derive(Clone, Debug)]
pub struct Message {
    pub question: String,
    pub vector: Vec<f32>,
    pub rewritten: bool,
    /// Ordinal of the entry that answers; `None` when none does.
    pub answer: Option<u32>,
    /// False for messages that never reach the gate's threshold: a hard rule, a greeting or
    /// noise decides them.
    pub gated: bool,
}

/// Index, embedder and clock, as fitting and evaluation ask them about messages.
pub struct Bench<'a> {
    pub knowledge: &'a Layers,
    pub embedder: &'a EmbedWorker,
    pub now: UnixMs,
    pub progress: &'a mut dyn FnMut(FitProgress),
}

impl Bench<'_> {
    fn index(&self) -> &KnowledgeIndex {
        self.knowledge.base()
    }

    fn scope(&self, exclude: Exclude) -> Scope<'static> {
        Scope { exclude, asker: None, now: self.now }
    }

    pub(super) fn tell(&mut self, stage: Stage, done: usize, total: usize) {
        (self.progress)(FitProgress { stage, done, total });
    }

    /// Understands and embeds labelled messages. A label of an entry that this index does not
    /// hold says that the message cannot be answered from it.
    pub fn messages(&mut self, labels: &[Labelled]) -> Result<Vec<Message>, FitError> {
        let understood: Vec<_> = labels.iter().map(|l| understand(&l.text, &l.context)).collect();
        let unified = |u: &Understood| self.knowledge.unify(&u.question);
        let questions: Vec<String> = understood.iter().map(unified).collect();
        let progress = &mut *self.progress;
        let vectors =
            self.embedder.embed(&questions, &Control::default(), &mut |done, total| {
                progress(FitProgress { stage: Stage::EmbedLabels, done, total });
            })?;
        let rows = labels.iter().zip(understood).zip(questions.into_iter().zip(vectors));
        let messages = rows.map(|((label, understood), (question, vector))| Message {
            gated: understood.signals.hard_reasons().is_empty()
                && understood.greeting.is_none()
                && understood.readability == Readability::Readable,
            question,
            rewritten: understood.rewritten_by.is_some(),
            answer: label.answer.as_ref().and_then(|id| self.index().ordinal(id)),
            vector,
        });
        Ok(messages.collect())
    }

    /// Trains what finds, without a gate.
    pub fn train(&mut self, labels: &[Message]) -> Result<Ranking, FitError> {
        let lesson = self.lesson(labels)?;
        let CrossFitted { kin, reranker, .. } = self.cross_fit(&lesson)?;
        let head = self.fit_head(&lesson, &lesson.said, kin, &|_, _| true)?;
        Ok(Ranking { head, reranker })
    }

    /// Trains the head on knowledge and labels, and tells what the gate would see of each message
    /// that the head had not seen. `calibrate` is only asked whether it tells what is unanswerable.
    pub fn learn(
        &mut self,
        labels: &[Message],
        calibrate: &[Message],
    ) -> Result<Learned, FitError> {
        let lesson = self.lesson(labels)?;
        let CrossFitted { kin, reranker, mut observations } = self.cross_fit(&lesson)?;
        let asked = if lesson.is_short() { self.sampled_phrasings()? } else { Vec::new() };
        observations.extend(self.left_out(&lesson, &asked, kin)?);
        let mut parts = Vec::new();
        if !observations.iter().any(|o| o.correct) {
            // Entries of one phrasing each, and no labels: no gate can be fitted, whatever else is
            // asked, and among very many entries asking takes minutes.
            let head = self.fit_head(&lesson, &lesson.said, kin, &|_, _| true)?;
            let ranking = Ranking { head, reranker };
            return Ok(Learned { ranking, observations, parts });
        }
        let told = !lesson.is_short() && tells_unanswerable(labels);
        if !told || !tells_unanswerable(calibrate) {
            parts = self.parts(&lesson, kin)?;
        }
        if told {
            observations.retain(|o| o.kind != Kind::Far);
        } else {
            let phrasings = asked.iter().map(|(_, message)| message);
            let answerable: Vec<&Message> = labels.iter().chain(phrasings).collect();
            for (at, part) in parts.iter().enumerate() {
                self.tell(Stage::AskKnowledge, FOLDS + at, FOLDS + PARTS);
                let part = std::slice::from_ref(part);
                let without = self.without_parts(part, reranker.as_ref(), &answerable)?;
                observations.extend(without.into_iter().map(|(_, observation)| observation));
            }
            self.tell(Stage::AskKnowledge, FOLDS + PARTS, FOLDS + PARTS);
        }
        let head = self.fit_head(&lesson, &lesson.said, kin, &|_, _| true)?;
        Ok(Learned { ranking: Ranking { head, reranker }, observations, parts })
    }

    /// What the gate sees of calibration messages. Where their labels do not tell what is
    /// unanswerable, some are asked once more without their entry.
    ///
    /// The promise is about replies that leave: what would be handed over whatever its confidence,
    /// because nothing of its evidence can go out, says nothing for or against it.
    pub fn calibration(
        &self,
        messages: &[Message],
        learned: &Learned,
    ) -> Result<Vec<Observation>, FitError> {
        let trained = learned.ranking.trained();
        let mut observations = self.observe(messages, trained)?;
        if !tells_unanswerable(messages) {
            let answerable = messages.iter().filter(|m| m.gated && m.answer.is_some());
            let some: Vec<&Message> = answerable.step_by(ASK_WITHOUT).collect();
            let without = self.without_answer(learned, &some)?;
            observations.extend(without.into_iter().map(|(_, observation)| observation));
        }
        observations.retain(|o| o.leaves != Leaves::Never);
        Ok(observations)
    }

    fn lesson(&mut self, labels: &[Message]) -> Result<Lesson, FitError> {
        let far = self.far()?;
        let entries = self.index().entries().len();
        let phrasings = self.phrasings().count();
        let telling = phrasings >= LEAST_PHRASINGS.max(PHRASINGS_PER_ENTRY * entries)
            && phrasings * entries <= MOST_UNLABELLED_WORK;
        Ok(Lesson {
            said: labels.iter().chain(&far).cloned().collect(),
            labels: labels.len(),
            teaches: entries <= MOST_CLASSES && (labels.len() >= MIN_LABELS_FOR_ALL || telling),
        })
    }

    /// The weight of the vote by likeness, a re-ranker, and what the gate would see of each message
    /// under a head and a re-ranker that were trained without it.
    fn cross_fit(&mut self, lesson: &Lesson) -> Result<CrossFitted, FitError> {
        let untried = if lesson.is_short() { untried_kin(self.knowledge) } else { 0.0 };
        let mut folds = Vec::new();
        for fold in 0..FOLDS {
            self.tell(Stage::FitHead, fold, FOLDS);
            let (held, seen): (Vec<_>, Vec<_>) =
                lesson.said.iter().enumerate().partition(|(at, _)| at % FOLDS == fold);
            let head = self.fit_head(lesson, &owned(seen), Some(untried), &|_, _| true)?;
            let (near, far): (Vec<_>, Vec<_>) =
                held.into_iter().partition(|(at, _)| *at < lesson.labels);
            folds.push(Fold { head, held: owned(near), far: owned(far) });
        }
        self.tell(Stage::FitHead, FOLDS, FOLDS);
        let kin = if lesson.is_short() { Some(untried) } else { self.weigh_kin(&mut folds)? };
        let mut held: Vec<(&Message, Found<'_>)> = Vec::new();
        for fold in &folds {
            let asked: Vec<Asked<'_>> = fold.held.iter().map(Asked::of).collect();
            let found = self.seek_all(self.knowledge, fold.head.as_ref(), &asked)?;
            held.extend(fold.held.iter().zip(found));
        }
        let index = self.index();
        let rerankers = if lesson.is_short() { None } else { ranking::rerankers(index, &held) };
        let mut observations = Vec::new();
        for (at, (message, found)) in held.into_iter().enumerate() {
            let found = found.ordered(rerankers.as_ref().map(|r| r.unaware_of(at)));
            if message.gated {
                observations.extend(self.judged(found, message.answer, Kind::Labelled));
            }
        }
        let reranker = rerankers.map(|rerankers| rerankers.whole);
        for fold in &folds {
            let trained = Trained { head: fold.head.as_ref(), reranker: reranker.as_ref() };
            let far = self.observe(&fold.far, trained)?;
            observations.extend(far.into_iter().map(|o| Observation { kind: Kind::Far, ..o }));
        }
        Ok(CrossFitted { kin, reranker, observations })
    }

    /// Gives the vote by likeness the weight that ranks the held-back labels best, and returns it;
    /// `None` when no weight is better than none by more than its own standard error.
    fn weigh_kin(&self, folds: &mut [Fold]) -> Result<Option<f32>, FitError> {
        let without = self.reciprocal_ranks(folds, 0.0)?;
        let mut best: Option<(f32, f64)> = None;
        for weight in KIN_WEIGHTS {
            let with = self.reciprocal_ranks(folds, weight)?;
            let gains: Vec<f64> = with.iter().zip(&without).map(|(w, o)| w - o).collect();
            let (mean, error) = mean_and_error(&gains);
            if mean > error && best.is_none_or(|(_, most)| mean > most) {
                best = Some((weight, mean));
            }
        }
        let weight = best.map(|(weight, _)| weight);
        folds.iter_mut().for_each(|fold| fold.weigh_kin(weight.unwrap_or(0.0)));
        Ok(weight)
    }

    /// Of each answerable held-back message, one over the place of its entry.
    fn reciprocal_ranks(&self, folds: &mut [Fold], kin: f32) -> Result<Vec<f64>, FitError> {
        let mut ranks = Vec::new();
        for fold in folds {
            fold.weigh_kin(kin);
            for message in &fold.held {
                if message.answer.is_some() {
                    let trained = Trained { head: fold.head.as_ref(), reranker: None };
                    ranks.push(reciprocal(self.place(message, trained)?));
                }
            }
        }
        Ok(ranks)
    }

    /// Of each message, and where labels are few of phrasings taken out of their entries, one over the
    /// place of the right entry in this knowledge and in `other`, both asked with a head that has not
    /// seen it. What was `seen` elsewhere is not asked.
    pub(super) fn compare(
        &mut self,
        labels: &[Message],
        other: &Layers,
        seen: &HashSet<&str>,
    ) -> Result<[Vec<f64>; 2], FitError> {
        let lesson = self.lesson(labels)?;
        let mut asked = if lesson.is_short() { self.sampled_phrasings()? } else { Vec::new() };
        asked.retain(|(_, message)| !seen.contains(message.question.as_str()));
        let mut ranks = [Vec::new(), Vec::new()];
        for fold in 0..FOLDS {
            self.tell(Stage::TryAdapter, fold, FOLDS);
            let (held, kept): (Vec<_>, Vec<_>) =
                lesson.said.iter().enumerate().partition(|(at, _)| at % FOLDS == fold);
            let fold_of = |number: u32| number as usize % FOLDS;
            let shown = |_, number| !lesson.is_short() || fold_of(number) != fold;
            let kin = Some(UNTRIED_KIN_WEIGHT);
            let mut head = self.fit_head(&lesson, &owned(kept), kin, &shown)?;
            let labelled =
                held.into_iter().map(|(_, m)| Asked { message: m, exclude: Exclude::None });
            let others =
                |m: &Message| m.answer.map_or(0, |a| self.index().phrasings_of(a).len()) > 1;
            let left_out = asked.iter().filter(|(number, m)| fold_of(*number) == fold && others(m));
            let left_out = left_out
                .map(|(number, message)| Asked { message, exclude: Exclude::Phrasing(*number) });
            let answers = |m: &Message| m.answer.is_some();
            let all: Vec<Asked<'_>> =
                labelled.chain(left_out).filter(|asked| answers(asked.message)).collect();
            for (knowledge, ranks) in [self.knowledge, other].into_iter().zip(&mut ranks) {
                if let Some(head) = head.as_mut().filter(|_| lesson.is_short()) {
                    head.weigh_kin(untried_kin(knowledge));
                }
                let trained = Trained { head: head.as_ref(), reranker: None };
                let found = self.look_up_all(knowledge, trained, &all)?;
                ranks.extend(found.iter().zip(&all).map(|(found, Asked { message, .. })| {
                    let right = |id| message.answer.is_some_and(|a| self.index().answers(id, a));
                    reciprocal(found.evidence.iter().position(|e| right(&e.id)))
                }));
            }
        }
        self.tell(Stage::TryAdapter, FOLDS, FOLDS);
        Ok(ranks)
    }

    /// Phrasings, each asked while it is missing from its entry and from the head.
    fn left_out(
        &mut self,
        lesson: &Lesson,
        asked: &[(u32, Message)],
        kin: Option<f32>,
    ) -> Result<Vec<Observation>, FitError> {
        let mut observations = Vec::new();
        if asked.is_empty() {
            return Ok(observations);
        }
        let fold_of = |number: u32| number as usize % FOLDS;
        for fold in 0..FOLDS {
            self.tell(Stage::AskKnowledge, fold, FOLDS + PARTS);
            let shown = |_: u32, number: u32| fold_of(number) != fold;
            let head = self.fit_head(lesson, &lesson.said, kin, &shown)?;
            let left_out = asked.iter().filter(|(number, message)| {
                let entry = message.answer.unwrap_or_default();
                fold_of(*number) == fold && self.index().phrasings_of(entry).len() > 1
            });
            let asked: Vec<Asked<'_>> = left_out
                .map(|(number, message)| Asked { message, exclude: Exclude::Phrasing(*number) })
                .collect();
            let trained = Trained { head: head.as_ref(), reranker: None };
            let found = self.look_up_all(self.knowledge, trained, &asked)?;
            for (found, Asked { message, .. }) in found.into_iter().zip(&asked) {
                observations.extend(self.judged(found, message.answer, Kind::LeftOut));
            }
        }
        Ok(observations)
    }

    /// The knowledge, each time without some of its entries.
    fn parts(&self, lesson: &Lesson, kin: Option<f32>) -> Result<Vec<Part>, FitError> {
        let entries = self.index().entries().len() as u32;
        let mut parts = Vec::new();
        for part in 0..PARTS as u32 {
            let gone: HashSet<u32> = (0..entries).filter(|e| e % PARTS as u32 == part).collect();
            let is_left = |m: &&Message| m.answer.is_none_or(|answer| !gone.contains(&answer));
            let left: Vec<Message> = lesson.said.iter().filter(is_left).cloned().collect();
            let shown = |entry: u32, _: u32| !gone.contains(&entry);
            let head = self.fit_head(lesson, &left, kin, &shown)?;
            parts.push(Part { gone, head });
        }
        Ok(parts)
    }

    /// Each message asked of the knowledge without its entry, with its place among the messages.
    pub fn without_answer(
        &self,
        learned: &Learned,
        messages: &[&Message],
    ) -> Result<Vec<(usize, Observation)>, FitError> {
        self.without_parts(&learned.parts, learned.ranking.reranker.as_ref(), messages)
    }

    fn without_parts(
        &self,
        parts: &[Part],
        reranker: Option<&Reranker>,
        messages: &[&Message],
    ) -> Result<Vec<(usize, Observation)>, FitError> {
        let mut observations = Vec::new();
        for part in parts {
            let layers = self.knowledge.with(part.gone.clone(), None);
            let is_gone = |m: &Message| m.answer.is_some_and(|answer| part.gone.contains(&answer));
            let (places, asked): (Vec<usize>, Vec<Asked<'_>>) = messages
                .iter()
                .enumerate()
                .filter(|(_, message)| message.gated && is_gone(message))
                .map(|(at, message)| (at, Asked::of(message)))
                .unzip();
            let found =
                self.look_up_all(&layers, Trained { head: part.head.as_ref(), reranker }, &asked)?;
            for (at, found) in places.into_iter().zip(found) {
                let judged = self.judged(found, None, Kind::EntryRemoved);
                observations.extend(judged.map(|observation| (at, observation)));
            }
        }
        Ok(observations)
    }

    /// Messages and the knowledge's own phrasings are one training set; with a weight for it, a vote
    /// by likeness is fitted as well. `shown` says of an entry and the number of its phrasing whether
    /// it is part of the lesson. `None` where there is too little to learn from.
    fn fit_head(
        &self,
        lesson: &Lesson,
        said: &[Message],
        kin: Option<f32>,
        shown: &dyn Fn(u32, u32) -> bool,
    ) -> Result<Option<Head>, FitError> {
        if !lesson.teaches {
            return Ok(None);
        }
        let ids = self.index().entries().iter().map(|e| e.entry.id.0.clone());
        let classes: Vec<String> = ids.chain([OUT_OF_SCOPE.to_owned()]).collect();
        let out_of_scope = classes.len() - 1;
        let vectors = self.index().phrasing_vectors()?;
        let phrasings: Vec<(String, u32, u32)> =
            self.phrasings().filter(|(_, entry, number)| shown(*entry, *number)).collect();
        let known = phrasings.iter().map(|(text, entry, number)| Example {
            text,
            vector: vectors.row(*number as usize),
            class: *entry as usize,
        });
        let said = said.iter().map(|m| Example {
            text: &m.question,
            vector: &m.vector,
            class: m.answer.map_or(out_of_scope, |a| a as usize),
        });
        let examples: Vec<Example<'_>> = known.chain(said).collect();
        let mut head = Head::fit(&examples, &classes, &head::FitOptions::default())?;
        if let Some(weight) = kin {
            head.add_kin(&examples, weight)?;
        }
        Ok(Some(head))
    }

    /// Text as it was embedded, entry ordinal and number of every phrasing.
    fn phrasings(&self) -> impl Iterator<Item = (String, u32, u32)> + '_ {
        let index = self.index();
        let texts = (0..).zip(index.entries()).flat_map(move |(at, versioned)| {
            versioned.entry.phrasings().map(move |p| (index.unify(&normalize(p)), at))
        });
        (0..).zip(texts).map(|(number, (text, entry))| (text, entry, number))
    }

    /// Some phrasings as messages, with their numbers.
    fn sampled_phrasings(&self) -> Result<Vec<(u32, Message)>, FitError> {
        let vectors = self.index().phrasing_vectors()?;
        let stride = self.phrasings().count().div_ceil(MOST_PHRASINGS).max(1);
        let message = |(question, entry, number): (String, u32, u32)| {
            let vector = vectors.row(number as usize).to_vec();
            let answer = Some(entry);
            (number, Message { question, vector, rewritten: false, answer, gated: true })
        };
        Ok(self.phrasings().step_by(stride).map(message).collect())
    }

    /// What the service would find for the message.
    pub fn find(&self, message: &Message, trained: Trained<'_>) -> Result<Retrieved, SearchError> {
        look_up(self.knowledge, trained, message.into(), self.scope(Exclude::None))
    }

    /// Where the right entry stands in what the service would find, from 0; `None` where it is not
    /// found or none answers.
    pub fn place(
        &self,
        message: &Message,
        trained: Trained<'_>,
    ) -> Result<Option<usize>, SearchError> {
        let Some(answer) = message.answer else { return Ok(None) };
        let found = self.find(message, trained)?.evidence;
        Ok(found.iter().position(|e| self.index().answers(&e.id, answer)))
    }

    /// What the gate would see of each message, and whether the best evidence is right.
    pub fn observe(
        &self,
        messages: &[Message],
        trained: Trained<'_>,
    ) -> Result<Vec<Observation>, FitError> {
        let gated = messages.iter().filter(|message| message.gated);
        let asked: Vec<Asked<'_>> = gated.map(Asked::of).collect();
        let found = self.look_up_all(self.knowledge, trained, &asked)?;
        let judged = found.into_iter().zip(&asked).filter_map(|(found, Asked { message, .. })| {
            self.judged(found, message.answer, Kind::Labelled)
        });
        Ok(judged.collect())
    }

    /// What each message finds, in their order.
    fn look_up_all(
        &self,
        knowledge: &Layers,
        trained: Trained<'_>,
        asked: &[Asked<'_>],
    ) -> Result<Vec<Retrieved>, SearchError> {
        let found = self.seek_all(knowledge, trained.head, asked)?;
        Ok(found.into_iter().map(|found| found.ordered(trained.reranker)).collect())
    }

    /// What the lists find for each message, in their order, on all processors.
    fn seek_all<'m>(
        &self,
        knowledge: &Layers,
        head: Option<&Head>,
        asked: &[Asked<'m>],
    ) -> Result<Vec<Found<'m>>, SearchError> {
        let now = self.now;
        let find = |asked: &Asked<'m>| {
            let scope = Scope { exclude: asked.exclude, asker: None, now };
            seek(knowledge, head, asked.message.into(), scope)
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = asked.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let begin = |share| {
                let all = move || <[Asked<'m>]>::iter(share).map(find).collect();
                scope.spawn::<_, Result<Vec<Found<'m>>, SearchError>>(all)
            };
            let shares: Vec<_> = asked.chunks(share).map(begin).collect();
            let mut all = Vec::with_capacity(asked.len());
            for share in shares {
                all.extend(share.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    fn judged(&self, found: Retrieved, answer: Option<u32>, kind: Kind) -> Option<Observation> {
        let best = found.evidence.first()?;
        let correct = answer.is_some_and(|answer| self.index().answers(&best.id, answer));
        let (domain, leaves) = (best.domain, draft::leaves(best));
        found.features.map(|features| Observation { features, correct, kind, domain, leaves })
    }

    fn far(&mut self) -> Result<Vec<Message>, FitError> {
        let lines = OPEN_DOMAIN.lines().filter_map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(Labelled {
                text: object.get("text")?.as_str()?.to_owned(),
                context: Vec::new(),
                answer: None,
            })
        });
        self.messages(&lines.collect::<Vec<_>>())
    }
}

/// What fitting knows, and what it saw on the way.
pub struct Learned {
    pub ranking: Ranking,
    pub observations: Vec<Observation>,
    /// Empty where labels tell what is unanswerable.
    pub parts: Vec<Part>,
}

struct CrossFitted {
    kin: Option<f32>,
    reranker: Option<Reranker>,
    observations: Vec<Observation>,
}

/// The knowledge without some entries, with a head that never heard of them.
pub struct Part {
    gone: HashSet<u32>,
    head: Option<Head>,
}

/// What there is to learn from beside the knowledge.
struct Lesson {
    /// Labelled messages, then questions of another world.
    said: Vec<Message>,
    /// How many of them are labelled.
    labels: usize,
    /// Whether there is enough for a head.
    teaches: bool,
}

impl Lesson {
    /// Too few labels to rely on them alone.
    fn is_short(&self) -> bool {
        self.labels < MIN_LABELS_FOR_ALL
    }
}

/// A head and the messages that were kept from it.
struct Fold {
    head: Option<Head>,
    held: Vec<Message>,
    far: Vec<Message>,
}

impl Fold {
    fn weigh_kin(&mut self, weight: f32) {
        if let Some(head) = &mut self.head {
            head.weigh_kin(weight);
        }
    }
}

impl<'a> From<&'a Message> for Question<'a> {
    fn from(message: &'a Message) -> Self {
        Self { text: &message.question, vector: &message.vector, rewritten: message.rewritten }
    }
}

fn owned(messages: Vec<(usize, &Message)>) -> Vec<Message> {
    messages.into_iter().map(|(_, message)| message.clone()).collect()
}

/// Whether enough of the messages that reach the gate are unanswerable to show what it must keep
/// out; a greeting without an entry shows nothing.
pub fn tells_unanswerable(messages: &[Message]) -> bool {
    let gated = || messages.iter().filter(|m| m.gated);
    let unanswerable = gated().filter(|m| m.answer.is_none()).count();
    unanswerable > 0 && unanswerable as f64 >= TELLING_SHARE * gated().count() as f64
}

/// What a vote by likeness counts that cannot be tried.
fn untried_kin(knowledge: &Layers) -> f32 {
    if knowledge.base().is_adapted() { UNTRIED_BESIDE_MAP } else { UNTRIED_KIN_WEIGHT }
}

/// One over the place, counted from 1; 0 for what was not found.
pub(super) fn reciprocal(place: Option<usize>) -> f64 {
    place.map_or(0.0, |place| 1.0 / (place as f64 + 1.0))
}

/// Of some values the mean, and its standard error.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_questions_are_read() {
        let parsed = OPEN_DOMAIN.lines().filter(|l| l.contains("\"text\"")).count();
        assert!(parsed >= 200 && OPEN_DOMAIN.lines().count() == parsed);
    }

    #[test]
    fn a_twentieth_tells_what_is_unanswerable() {
        let message = |answer| Message {
            question: String::new(),
            vector: vec![],
            rewritten: false,
            answer,
            gated: true,
        };
        let with = |unanswerable: usize| -> Vec<Message> {
            (0..40).map(|at| message((at >= unanswerable).then_some(0))).collect()
        };
        assert!(!tells_unanswerable(&with(1)) && tells_unanswerable(&with(2)));
        let mut courtesies = with(8);
        courtesies[..8].iter_mut().for_each(|m| m.gated = false);
        assert!(!tells_unanswerable(&courtesies), "the gate never sees these");
        assert!(!tells_unanswerable(&[]));
    }
}
