//! Composing a reply: whole units of the evidence are chosen and ordered, so nothing else can be said.
//!
//! A unit is judged by how much likelier the question makes it: its log-likelihood as the reply to
//! the question, less that as the reply to a mere greeting. The difference is the pointwise mutual
//! information of unit and question in nats; the subtraction takes out how fluent and how long the
//! unit is, which would otherwise decide. The evidence is not in the prompt: a model that sees the
//! sentences copies any of them gladly, and they would differ by their first token only. Whole
//! units are judged, all in one pass behind a shared prompt; nothing is decoded.

use crate::base::text::is_han;
use crate::model::{ChatMessage, Chosen, ComposeRequest, Composed, Control, ModelError};

/// A unit joins the reply while its score is at most this far below the best one's, nats.
const MARGIN: f32 = 4.0;
/// A sentence of the message asks for something of its own if its best unit scores at least this
/// share of what the best unit of any sentence scores; others are courtesies.
const ASKING: f32 = 0.4;
/// Shortest sentence that is a question of its own, characters; shorter ones lean on another.
const OWN_QUESTION_CHARS: usize = 5;

/// What composing needs of a language model.
pub(crate) trait TextJudge {
    /// See [`crate::model::Generator::chat_prompt`].
    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError>;

    /// The log-probability (natural, summed over its tokens) of each text right after `prompt`.
    /// Special tokens are honoured in the prompt only.
    fn log_likelihoods(
        &mut self,
        prompt: &str,
        texts: &[&str],
        control: &Control,
    ) -> Result<Likelihoods, ModelError>;
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Likelihoods {
    /// One per text, in order.
    pub(crate) nats: Vec<f32>,
    /// Tokens read.
    pub(crate) tokens: usize,
}

/// Chooses units for a reply to `request.question`.
///
/// # Errors
/// `BadRequest` when no unit fits into `max_chars`; otherwise what the model reports.
pub(crate) fn compose(
    model: &mut impl TextJudge,
    request: &ComposeRequest,
    control: &Control,
) -> Result<Composed, ModelError> {
    let units = fitting_units(request);
    if units.is_empty() {
        let reason = format!("no unit of the evidence fits {} characters", request.max_chars);
        return Err(ModelError::BadRequest(reason));
    }
    let texts: Vec<&str> = units.iter().map(|u| u.text).collect();
    let wording = Wording::of(&request.question);
    let mut prompt_tokens = 0;
    let mut judge = |message: &str| {
        let prompt = model.chat_prompt(&wording.messages(message))?;
        let judged = model.log_likelihoods(&prompt, &texts, control)?;
        prompt_tokens += judged.tokens;
        Ok::<_, ModelError>(judged.nats)
    };
    let greeted = judge(wording.greeting)?;
    let mut scores = Vec::new();
    for question in questions(&request.question) {
        let asked = judge(question)?;
        scores.push(asked.iter().zip(&greeted).map(|(asked, greeted)| asked - greeted).collect());
    }
    let (picked, mean_logprob) = pick(&units, &gaps(&scores), request.max_chars);
    let chosen = picked.into_iter().map(|i| units[i].place).collect();
    Ok(Composed { chosen, prompt_tokens, mean_logprob })
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

/// A unit that may be said.
struct Unit<'a> {
    place: Chosen,
    text: &'a str,
    chars: usize,
}

/// Units with text, short enough, each text once.
fn fitting_units(request: &ComposeRequest) -> Vec<Unit<'_>> {
    let mut units: Vec<Unit<'_>> = Vec::new();
    for (source, evidence) in request.sources.iter().enumerate() {
        for (unit, text) in evidence.units.iter().enumerate() {
            let (text, chars) = (text.trim(), text.chars().count());
            let known = units.iter().any(|u| u.text == text);
            if !text.is_empty() && !known && chars <= request.max_chars {
                units.push(Unit { place: Chosen { source, unit }, text, chars });
            }
        }
    }
    units
}

/// Indices of the units to say, in the order to say them, and the mean log-probability of the
/// choices, each among the units then left.
fn pick(units: &[Unit<'_>], gaps: &[f32], max_chars: usize) -> (Vec<usize>, f32) {
    let mut ranked: Vec<usize> = (0..units.len()).collect();
    ranked.sort_by(|&a, &b| gaps[b].total_cmp(&gaps[a]).then(a.cmp(&b)));
    let mut picked: Vec<usize> = Vec::new();
    let (mut chars, mut logprobs) = (0, 0.0);
    for (at, &next) in ranked.iter().enumerate().take_while(|&(_, &i)| gaps[i] >= -MARGIN) {
        if chars + units[next].chars <= max_chars {
            chars += units[next].chars;
            let left: f32 = ranked[at..].iter().map(|&i| (gaps[i] - gaps[next]).exp()).sum();
            logprobs -= left.ln();
            picked.push(next);
        }
    }
    let mean = logprobs / picked.len().max(1) as f32;
    (in_reading_order(units, picked), mean)
}

/// Sources in the order of their best unit; within a source the order of the text, which its
/// author chose so that it can be followed.
fn in_reading_order(units: &[Unit<'_>], picked: Vec<usize>) -> Vec<usize> {
    let rank = |source: usize| picked.iter().position(|&i| units[i].place.source == source);
    let mut ordered = picked.clone();
    ordered.sort_by_key(|&i| (rank(units[i].place.source), units[i].place.unit));
    ordered
}

/// The prompt's words in the question's language.
struct Wording {
    task: &'static str,
    /// A message that asks for nothing.
    greeting: &'static str,
}

const CHINESE: Wording =
    Wording { task: "你是客服，用一句话回答顾客。", greeting: "你好。" };
const ENGLISH: Wording =
    Wording { task: "You are a support agent. Answer in one sentence.", greeting: "Hello." };

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

    /// Likelihoods by table; after the greeting they are 0.
    struct Table(Vec<f32>);

    impl TextJudge for Table {
        fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
            Ok(messages.iter().map(|m| m.content.as_str()).collect())
        }

        fn log_likelihoods(
            &mut self,
            prompt: &str,
            texts: &[&str],
            control: &Control,
        ) -> Result<Likelihoods, ModelError> {
            control.check()?;
            let greeted = prompt.ends_with(CHINESE.greeting);
            let nats = |i| if greeted { 0.0 } else { self.0[i % self.0.len()] };
            Ok(Likelihoods { nats: (0..texts.len()).map(nats).collect(), tokens: texts.len() })
        }
    }

    fn request(sources: &[&[&str]], max_chars: usize) -> ComposeRequest {
        let source = |units: &&[&str]| ComposeSource {
            question: String::new(),
            units: units.iter().map(|u| (*u).to_owned()).collect(),
        };
        let sources = sources.iter().map(source).collect();
        ComposeRequest { question: "退款多久？".to_owned(), sources, max_chars }
    }

    fn chosen(scores: &[f32], sources: &[&[&str]], max_chars: usize) -> Vec<(usize, usize)> {
        let request = request(sources, max_chars);
        let composed = compose(&mut Table(scores.to_vec()), &request, &Control::default()).unwrap();
        composed.chosen.iter().map(|c| (c.source, c.unit)).collect()
    }

    #[test]
    fn takes_what_is_near_the_best_in_reading_order() {
        let sources: &[&[&str]] = &[&["甲。", "乙。"], &["丙。", "丁。"]];
        assert_eq!(chosen(&[0.0, 9.0, -3.0, 4.0], sources, 90), [(0, 1)]);
        // The second source holds the best unit, so it speaks first, and in its own order.
        assert_eq!(chosen(&[6.2, 0.0, 6.1, 8.0], sources, 90), [(1, 0), (1, 1), (0, 0)]);
    }

    #[test]
    fn room_is_kept_and_one_unit_always_speaks() {
        let sources: &[&[&str]] = &[&["一二三四五", "六七八九十", "短"]];
        assert_eq!(chosen(&[5.0, 4.9, 4.8], sources, 6), [(0, 0), (0, 2)]);
        assert_eq!(chosen(&[-50.0, -90.0, -99.0], sources, 6), [(0, 0)]);
        let too_small = request(&[&["一二三四五"]], 4);
        let error = compose(&mut Table(vec![1.0]), &too_small, &Control::default()).unwrap_err();
        assert!(matches!(error, ModelError::BadRequest(_)));
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
        let even = compose(&mut Table(vec![1.0, 1.0]), &request, &Control::default()).unwrap();
        // First one of two, then one of one: (ln ½ + ln 1) / 2.
        assert!((even.mean_logprob - 0.5_f32.ln() / 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_cancelled_request_chooses_nothing() {
        let control = Control::default();
        control.cancel();
        let error =
            compose(&mut Table(vec![1.0]), &request(&[&["甲。"]], 90), &control).unwrap_err();
        assert!(matches!(error, ModelError::Cancelled));
    }

    proptest! {
        #[test]
        fn only_given_units_come_out_each_once_and_in_bounds(
            units in prop::collection::vec(prop::collection::vec("[一-三]{0,5}", 0..5), 1..4),
            scores in prop::collection::vec(-30.0_f32..30.0, 1..12),
            max_chars in 1_usize..20,
        ) {
            let sources: Vec<Vec<&str>> =
                units.iter().map(|s| s.iter().map(String::as_str).collect()).collect();
            let slices: Vec<&[&str]> = sources.iter().map(Vec::as_slice).collect();
            let request = request(&slices, max_chars);
            let Ok(first) = compose(&mut Table(scores.clone()), &request, &Control::default()) else {
                prop_assert!(units.iter().flatten().all(|u| u.is_empty() || u.chars().count() > max_chars));
                return Ok(());
            };
            prop_assert!(!first.chosen.is_empty());
            let said: Vec<&str> =
                first.chosen.iter().map(|c| units[c.source][c.unit].as_str()).collect();
            prop_assert!(said.iter().map(|u| u.chars().count()).sum::<usize>() <= max_chars);
            let mut once = said.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), said.len());
            prop_assert!(first.mean_logprob <= 0.0);
            let again = compose(&mut Table(scores), &request, &Control::default()).unwrap();
            prop_assert_eq!(again, first);
        }
    }
}
