//! Composing a reply: whole units of the evidence are chosen and ordered, so nothing else can be said.
//!
//! A unit is judged by how much likelier the question makes it: its log-likelihood as the reply to
//! the question, less that as the reply to a mere greeting. The difference is the pointwise mutual
//! information of unit and question in nats; the subtraction takes out how fluent and how long the
//! unit is, which would otherwise decide. The evidence is not in the prompt: a model that sees the
//! sentences copies any of them gladly, and they would differ by their first token only. Whole
//! units are judged, all in one pass behind a shared prompt; nothing is decoded.

use crate::base::text::{is_han, joined};
use crate::model::{ChatMessage, Chosen, ComposeRequest, ModelError, Written};

/// A unit joins the reply while its score is at most this far below the best one's, nats.
const MARGIN: f32 = 4.0;
/// Of the answer that was written for the question, a unit joins also when the question makes it
/// likelier by this much: only courtesies and other matters stay away. Nats.
const BELONGS: f32 = 2.0;
/// A sentence of the message asks for something of its own if its best unit scores at least this
/// share of what the best unit of any sentence scores; others are courtesies.
const ASKING: f32 = 0.4;
/// Shortest sentence that is a question of its own, characters; shorter ones lean on another.
const OWN_QUESTION_CHARS: usize = 5;

/// What has to be judged for a reply, and what to make of it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where each unit comes from.
    places: Vec<Chosen>,
    /// Of each source.
    written: Vec<Written>,
    /// The units as the evidence has them, and alone, as they are judged.
    units: Vec<String>,
    texts: Vec<String>,
    /// What the customer said in each prompt; a mere greeting comes first.
    said: Vec<String>,
    wording: &'static Wording,
    max_chars: usize,
}

impl Plan {
    /// # Errors
    /// `BadRequest` for an empty question, or when no unit fits into `max_chars`.
    pub(crate) fn new(request: &ComposeRequest) -> Result<Self, ModelError> {
        if request.question.trim().is_empty() {
            return Err(ModelError::BadRequest("there is no question to compose for".into()));
        }
        let Fitting { places, units, texts } = fitting_units(request);
        if texts.is_empty() {
            let reason = format!("no unit of the evidence fits {} characters", request.max_chars);
            return Err(ModelError::BadRequest(reason));
        }
        let wording = Wording::of(&request.question);
        let said = [wording.greeting].into_iter().chain(questions(&request.question));
        let said = said.map(str::to_owned).collect();
        let written = request.sources.iter().map(|source| source.written).collect();
        Ok(Self { places, written, units, texts, said, wording, max_chars: request.max_chars })
    }

    /// The units; each is judged after each of the prompts.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn prompts(&self) -> impl Iterator<Item = [ChatMessage; 2]> {
        self.said.iter().map(|said| self.wording.messages(said))
    }

    /// The units to say, in order, and how sure their choice was (see
    /// [`crate::model::Composed::mean_logprob`]). `nats` holds for each prompt the log-probability
    /// of each text right after it, natural, summed over its tokens.
    pub(crate) fn choose(&self, nats: &[&[f32]]) -> (Vec<Chosen>, f32) {
        let Some((greeted, asked)) = nats.split_first() else { return (Vec::new(), 0.0) };
        let above = |asked: &&[f32]| {
            asked.iter().zip(*greeted).map(|(asked, greeted)| asked - greeted).collect()
        };
        let scores: Vec<Vec<f32>> = asked.iter().map(above).collect();
        let (picked, mean_logprob) = self.pick(&gaps(&scores), &best_scores(&scores));
        (picked.into_iter().map(|i| self.places[i]).collect(), mean_logprob)
    }

    /// Indices of the units to say, in the order to say them, and the mean log-probability of the
    /// choices, each among the units then left.
    fn pick(&self, gaps: &[f32], scores: &[f32]) -> (Vec<usize>, f32) {
        let mut ranked: Vec<usize> = (0..self.texts.len()).collect();
        ranked.sort_by(|&a, &b| gaps[b].total_cmp(&gaps[a]).then(a.cmp(&b)));
        let source = |i: usize| self.places[i].source;
        let first = ranked.first().map(|&i| source(i));
        let answer = first.filter(|&source| self.written[source] == Written::ToAnswer);
        let joins =
            |i: usize| gaps[i] >= -MARGIN || (Some(source(i)) == answer && scores[i] >= BELONGS);
        let mut picked: Vec<usize> = Vec::new();
        let mut logprobs = 0.0;
        for (at, &next) in ranked.iter().enumerate().filter(|&(_, &i)| joins(i)) {
            picked.push(next);
            if self.chars(&picked) > self.max_chars {
                picked.pop();
                continue;
            }
            let left: f32 = ranked[at..].iter().map(|&i| (gaps[i] - gaps[next]).exp()).sum();
            logprobs -= left.ln();
        }
        let mean = logprobs / picked.len().max(1) as f32;
        (self.in_reading_order(&picked), mean)
    }

    /// Length of the reply that these units would be.
    fn chars(&self, picked: &[usize]) -> usize {
        let ordered = self.in_reading_order(picked);
        joined(ordered.iter().map(|&i| self.units[i].as_str())).chars().count()
    }

    /// Sources in the order of their best unit; within a source the order of the text, which its
    /// author chose so that it can be followed.
    fn in_reading_order(&self, picked: &[usize]) -> Vec<usize> {
        let source = |i: usize| self.places[i].source;
        let rank = |s: usize| picked.iter().position(|&i| source(i) == s);
        let mut ordered = picked.to_vec();
        ordered.sort_by_key(|&i| (rank(source(i)), self.places[i].unit));
        ordered
    }
}

/// The sentences of a message, those too short to be understood alone left with their neighbour.
fn questions(message: &str) -> Vec<&str> {
    let message = message.trim();
    let mut questions = Vec::new();
    let mut start = 0;
    for (at, mark) in message.match_indices(['？', '?', '！', '!', '。']) {
        let end = at + mark.len();
        let long = |text: &str| text.chars().count() >= OWN_QUESTION_CHARS;
        if long(&message[start..end]) && (end == message.len() || long(&message[end..])) {
            questions.push(&message[start..end]);
            start = end;
        }
    }
    if start < message.len() {
        questions.push(&message[start..]);
    }
    questions
}

/// How far each unit is behind the best one for the question that it answers best; at most 0.
/// `scores` holds one row of all units per question.
fn gaps(scores: &[Vec<f32>]) -> Vec<f32> {
    let best = |row: &Vec<f32>| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = scores.iter().map(best).fold(f32::NEG_INFINITY, f32::max);
    // When even the best score is negative, its own row still has to pass.
    let asking = scores.iter().filter(|row| best(row) >= most.min(most * ASKING));
    let mut nearest = vec![f32::NEG_INFINITY; scores.first().map_or(0, Vec::len)];
    for row in asking {
        let best = best(row);
        for (nearest, score) in nearest.iter_mut().zip(row) {
            *nearest = nearest.max(score - best);
        }
    }
    nearest
}

/// Of each unit its score for the question that it answers best.
fn best_scores(scores: &[Vec<f32>]) -> Vec<f32> {
    let mut best = vec![f32::NEG_INFINITY; scores.first().map_or(0, Vec::len)];
    for row in scores {
        best.iter_mut().zip(row).for_each(|(best, score)| *best = best.max(*score));
    }
    best
}

/// See [`Plan`].
#[derive(Default)]
struct Fitting {
    places: Vec<Chosen>,
    units: Vec<String>,
    texts: Vec<String>,
}

/// Units with text, short enough, each text once.
fn fitting_units(request: &ComposeRequest) -> Fitting {
    let mut fitting = Fitting::default();
    for (source, evidence) in request.sources.iter().enumerate() {
        for (at, unit) in evidence.units.iter().enumerate() {
            let text = joined([unit.as_str()]);
            let fits = !text.is_empty() && text.chars().count() <= request.max_chars;
            if fits && !fitting.texts.contains(&text) {
                fitting.places.push(Chosen { source, unit: at });
                fitting.units.push(unit.clone());
                fitting.texts.push(text);
            }
        }
    }
    fitting
}

/// The prompt's words in the question's language.
#[derive(Debug)]
struct Wording {
    task: &'static str,
    /// A message that asks for nothing.
    greeting: &'static str,
}

const CHINESE: Wording =
    Wording { task: "你是客服，用一句话回答顾客。", greeting: "你好。" };
const ENGLISH: Wording =
    Wording { task: "You are a support agent. Answer in one sentence.", greeting: "Hello." };

/// What the model is told, in each language.
pub(super) fn tasks() -> [&'static str; 2] {
    [CHINESE.task, ENGLISH.task]
}

impl Wording {
    fn of(question: &str) -> &'static Self {
        if question.chars().any(is_han) { &CHINESE } else { &ENGLISH }
    }

    fn messages(&self, said: &str) -> [ChatMessage; 2] {
        let message = |role, text: &str| ChatMessage { role, content: text.to_owned() };
        [message("system", self.task), message("user", said)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ComposeSource;
    use proptest::prelude::*;

    /// What is chosen when every question gives the units these likelihoods and a greeting none.
    fn compose(scores: &[f32], request: &ComposeRequest) -> Result<(Vec<Chosen>, f32), ModelError> {
        let plan = Plan::new(request)?;
        let asked: Vec<f32> = scores.iter().copied().cycle().take(plan.texts().len()).collect();
        let greeted = vec![0.0; asked.len()];
        let nats = [vec![greeted.as_slice()], vec![&asked; plan.prompts().count() - 1]].concat();
        Ok(plan.choose(&nats))
    }

    fn request(sources: &[&[&str]], max_chars: usize) -> ComposeRequest {
        let source = |units: &&[&str]| ComposeSource {
            written: Written::AtLarge,
            units: units.iter().map(|u| (*u).to_owned()).collect(),
        };
        let sources = sources.iter().map(source).collect();
        ComposeRequest { question: "退款多久？".to_owned(), sources, max_chars }
    }

    fn chosen(scores: &[f32], sources: &[&[&str]], max_chars: usize) -> Vec<(usize, usize)> {
        let (chosen, _) = compose(scores, &request(sources, max_chars)).unwrap();
        chosen.iter().map(|c| (c.source, c.unit)).collect()
    }

    #[test]
    fn takes_what_is_near_the_best_in_reading_order() {
        let sources: &[&[&str]] = &[&["甲。", "乙。"], &["丙。", "丁。"]];
        assert_eq!(chosen(&[0.0, 9.0, -3.0, 4.0], sources, 90), [(0, 1)]);
        // The second source holds the best unit, so it speaks first, and in its own order.
        assert_eq!(chosen(&[6.2, 0.0, 6.1, 8.0], sources, 90), [(1, 0), (1, 1), (0, 0)]);
    }

    #[test]
    fn of_the_answer_only_what_the_question_does_not_touch_is_left_out() {
        let sources: &[&[&str]] = &[&["您好，", "甲。", "乙。"], &["丙。"]];
        let picked = |written, max_chars| {
            let mut request = request(sources, max_chars);
            request.sources[0].written = written;
            let (chosen, _) = compose(&[-9.0, 20.0, 5.0, 6.0], &request).unwrap();
            chosen.iter().map(|c| (c.source, c.unit)).collect::<Vec<_>>()
        };
        assert_eq!(picked(Written::AtLarge, 90), [(0, 1)]);
        assert_eq!(picked(Written::ToAnswer, 90), [(0, 1), (0, 2)]);
        assert_eq!(picked(Written::ToAnswer, 3), [(0, 1)], "room is kept");
    }

    #[test]
    fn room_is_kept_and_one_unit_always_speaks() {
        let sources: &[&[&str]] = &[&["一二三四五", "六七八九十", "短"]];
        assert_eq!(chosen(&[5.0, 4.9, 4.8], sources, 6), [(0, 0), (0, 2)]);
        assert_eq!(chosen(&[-50.0, -90.0, -99.0], sources, 6), [(0, 0)]);
        let too_small = request(&[&["一二三四五"]], 4);
        assert!(matches!(compose(&[1.0], &too_small), Err(ModelError::BadRequest(_))));
    }

    #[test]
    fn what_is_counted_is_what_is_said() {
        // The space between the two is said as well …
        let english: &[&[&str]] = &[&["Tap Orders."], &["Free of charge."]];
        assert_eq!(chosen(&[5.0, 4.9], english, 27), [(0, 0), (1, 0)]);
        assert_eq!(chosen(&[5.0, 4.9], english, 26), [(0, 0)]);
        // … and what stands after a unit, unless the reply ends there.
        let spaced: &[&[&str]] = &[&["一二。\n\n", "三。\n\n"]];
        assert_eq!(chosen(&[5.0, 4.9], spaced, 7), [(0, 0), (0, 1)]);
        assert_eq!(chosen(&[5.0, 4.9], spaced, 6), [(0, 0)]);
    }

    #[test]
    fn repeated_and_empty_units_are_said_at_most_once() {
        let sources: &[&[&str]] = &[&["三天到账。", " "], &["三天到账。"]];
        assert_eq!(chosen(&[1.0], sources, 90), [(0, 0)]);
    }

    #[test]
    fn each_question_of_a_message_gets_its_answer() {
        // Each unit answers one of two questions.
        assert_eq!(gaps(&[vec![30.0, 9.0], vec![7.0, 20.0]]), [0.0, 0.0]);
        // Nothing tells about the second sentence, so the first decides alone …
        assert_eq!(gaps(&[vec![30.0, 9.0], vec![2.0, 8.0]]), [0.0, -21.0]);
        // … but when nothing tells about anything the best still stands.
        assert_eq!(gaps(&[vec![-7.0, -9.0], vec![-8.0, -5.0]]), [-3.0, 0.0]);
    }

    #[test]
    fn messages_are_cut_into_questions_that_stand_alone() {
        assert_eq!(questions("最多能借多少？利息高不高？"), ["最多能借多少？", "利息高不高？"]);
        assert_eq!(questions("发票能开公司抬头吗？怎么开？"), ["发票能开公司抬头吗？怎么开？"]);
        assert_eq!(questions("你好！退款多久到账"), ["你好！退款多久到账"]);
        assert_eq!(questions(" 退款多久到账 "), ["退款多久到账"]);
        assert_eq!(questions("吗？"), ["吗？"]);
    }

    #[test]
    fn the_share_of_a_choice_is_told() {
        let request = request(&[&["甲。", "乙。"]], 90);
        let (_, even) = compose(&[1.0, 1.0], &request).unwrap();
        // First one of two, then one of one: (ln ½ + ln 1) / 2.
        assert!((even - 0.5_f32.ln() / 2.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn only_given_units_come_out_each_once_and_in_bounds(
            units in prop::collection::vec(prop::collection::vec("[一-三]{0,5}|[ab]{1,3} ?", 0..5), 1..4),
            scores in prop::collection::vec(-30.0_f32..30.0, 1..12),
            max_chars in 1_usize..20,
        ) {
            let sources: Vec<Vec<&str>> =
                units.iter().map(|s| s.iter().map(String::as_str).collect()).collect();
            let slices: Vec<&[&str]> = sources.iter().map(Vec::as_slice).collect();
            let request = request(&slices, max_chars);
            let Ok((chosen, mean_logprob)) = compose(&scores, &request) else {
                let fits = |u: &String| !u.is_empty() && u.trim().chars().count() <= max_chars;
                prop_assert!(!units.iter().flatten().any(fits));
                return Ok(());
            };
            prop_assert!(!chosen.is_empty());
            let said: Vec<&str> =
                chosen.iter().map(|c| units[c.source][c.unit].as_str()).collect();
            prop_assert!(joined(said.iter().copied()).chars().count() <= max_chars);
            let mut once: Vec<&str> = said.iter().map(|u| u.trim()).collect();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), said.len());
            prop_assert!(mean_logprob <= 0.0);
            prop_assert_eq!(compose(&scores, &request).unwrap(), (chosen, mean_logprob));
        }
    }
}
