//! Composing a reply: whole units of the evidence are chosen and ordered, so nothing else can be said.
//!
//! A unit is judged by how well it explains the question: the likelihood of the customer's words
//! after "the agent says: *unit*; the customer asked:", against their likelihood after an empty
//! statement. The difference is the pointwise mutual information of unit and question in nats.
//! Small models rank far better this way round than by the likelihood of the unit after the
//! question, where the fluency and length of the unit drown its meaning (Sachan et al. 2022,
//! "Improving Passage Retrieval with Zero-Shot Question Generation", make the same observation).
//!
//! All units are read in one pass behind a shared prompt, so a reply costs about as many tokens as
//! its evidence holds, plus the question once per unit, and decodes none.

use crate::base::text::is_han;
use crate::model::{ChatMessage, Chosen, ComposeRequest, Composed, Control, ModelError};

/// A unit joins the reply while its score is at most this far below the best one's, nats.
const MARGIN: f32 = 1.5;
/// Where the rendered chat prompt is cut in two; a private-use character that no text contains.
const SLOT: char = '\u{E000}';

/// A prompt with one open place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) before: String,
    pub(crate) after: String,
}

/// Text to be judged, and what stands in the frame before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial<'a> {
    pub(crate) given: &'a str,
    pub(crate) text: &'a str,
}

/// What composing needs of a language model.
pub(crate) trait TextJudge {
    /// See [`crate::model::Generator::chat_prompt`].
    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError>;

    /// The log-probability (natural, summed over its tokens) of each trial's text after the frame
    /// with the trial's given text in it. Special tokens are honoured in the frame only.
    fn log_likelihoods(
        &mut self,
        frame: &Frame,
        trials: &[Trial<'_>],
        control: &Control,
    ) -> Result<Likelihoods, ModelError>;
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Likelihoods {
    /// One per trial, in order.
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
    let wording = Wording::of(&request.question);
    let frame = wording.frame(model)?;
    let statements = units.iter().map(|u| u.text).chain([wording.nothing]);
    let text = request.question.trim();
    let trials: Vec<Trial<'_>> = statements.map(|given| Trial { given, text }).collect();
    let judged = model.log_likelihoods(&frame, &trials, control)?;
    let Some((nothing, scores)) = judged.nats.split_last() else {
        return Err(ModelError::Inference("no unit was judged".to_owned()));
    };
    let scores: Vec<f32> = scores.iter().map(|nats| nats - nothing).collect();
    let (picked, mean_logprob) = pick(&units, &scores, request.max_chars);
    let chosen = picked.into_iter().map(|i| units[i].place).collect();
    Ok(Composed { chosen, prompt_tokens: judged.tokens, mean_logprob })
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
fn pick(units: &[Unit<'_>], scores: &[f32], max_chars: usize) -> (Vec<usize>, f32) {
    let mut left: Vec<usize> = (0..units.len()).collect();
    left.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut picked: Vec<usize> = Vec::new();
    let (mut chars, mut logprobs) = (0, 0.0);
    let floor = left.first().map_or(0.0, |&best| scores[best] - MARGIN);
    while let Some(&next) = left.first().filter(|&&i| scores[i] >= floor) {
        if chars + units[next].chars <= max_chars {
            chars += units[next].chars;
            let total: f32 = left.iter().map(|&i| (scores[i] - scores[next]).exp()).sum();
            logprobs -= total.ln();
            picked.push(next);
        }
        left.remove(0);
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
    example: [&'static str; 2],
    statement: &'static str,
    question: &'static str,
    /// A statement that says nothing.
    nothing: &'static str,
}

const CHINESE: Wording = Wording {
    task: "写出顾客可能会问的问题。",
    example: ["本店营业时间为早九点到晚九点。", "你们几点关门啊？"],
    statement: "客服答：",
    question: "顾客问：",
    nothing: "……",
};

const ENGLISH: Wording = Wording {
    task: "Write the question that the customer asked.",
    example: ["We are open from nine to nine.", "When do you close?"],
    statement: "Agent says: ",
    question: "Customer asked: ",
    nothing: "…",
};

impl Wording {
    fn of(question: &str) -> &'static Self {
        if question.chars().any(is_han) { &CHINESE } else { &ENGLISH }
    }

    fn frame(&self, model: &impl TextJudge) -> Result<Frame, ModelError> {
        let message = |role, content: String| ChatMessage { role, content };
        let [statement, question] = self.example;
        let prompt = model.chat_prompt(&[
            message("system", self.task.to_owned()),
            message("user", format!("{}{statement}", self.statement)),
            message("assistant", format!("{}{question}", self.question)),
            message("user", format!("{}{SLOT}", self.statement)),
        ])?;
        let Some((before, after)) = prompt.split_once(SLOT) else {
            let reason = "the chat template drops the user's message";
            return Err(ModelError::BadRequest(reason.to_owned()));
        };
        Ok(Frame { before: before.to_owned(), after: format!("{after}{}", self.question) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ComposeSource;
    use proptest::prelude::*;

    /// Likelihoods by table; the empty statement has 0.
    struct Table(Vec<f32>);

    impl TextJudge for Table {
        fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
            Ok(messages.iter().map(|m| m.content.as_str()).collect())
        }

        fn log_likelihoods(
            &mut self,
            frame: &Frame,
            trials: &[Trial<'_>],
            control: &Control,
        ) -> Result<Likelihoods, ModelError> {
            control.check()?;
            assert!(!frame.before.contains(SLOT) && !frame.after.contains(SLOT));
            let last = trials.len() - 1;
            let nats = |i| if i == last { 0.0 } else { self.0[i % self.0.len()] };
            Ok(Likelihoods { nats: (0..=last).map(nats).collect(), tokens: last })
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
        assert_eq!(chosen(&[0.0, 4.0, -3.0, 1.0], sources, 90), [(0, 1)]);
        // The second source holds the best unit, so it speaks first, and in its own order.
        assert_eq!(chosen(&[4.5, 0.0, 4.2, 5.0], sources, 90), [(1, 0), (1, 1), (0, 0)]);
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
