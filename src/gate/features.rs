//! What the gate looks at: one candidate list turned into named numbers.

use serde::{Deserialize, Serialize};

use crate::base::numerals;
use crate::domain::evidence::{Evidence, Scores};

/// Number of features.
pub const COUNT: usize = 38;

/// Names in the order of [`Features::values`], as they appear in traces and fitted models.
pub const NAMES: [&str; COUNT] = [
    "fused_top",
    "fused_margin",
    "fused_ratio",
    "fused_lead_over_five",
    "single_candidate",
    "dense_missing",
    "dense_chosen",
    "dense_margin",
    "lexical_missing",
    "lexical_chosen",
    "lexical_margin",
    "lists_agree",
    "head_missing",
    "head_log_odds",
    "head_margin",
    "head_entropy",
    "head_elsewhere",
    "head_agrees",
    "head_outside",
    "kin_chosen",
    "kin_margin",
    "kin_agrees",
    "kin_total",
    "kin_outside",
    "profile_chosen",
    "profile_margin",
    "answer_dense_chosen",
    "answer_dense_margin",
    "answer_lexical_chosen",
    "answer_lexical_margin",
    "reranked_chosen",
    "reranked_margin",
    "numbers_shared",
    "phrasing_log_ratio",
    "question_log_chars",
    "question_short",
    "question_long",
    "question_rewritten",
];

/// What is known of the message besides its candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts<'a> {
    /// What was searched for, normalised.
    pub question: &'a str,
    /// True when the conversation was needed to make it stand alone.
    pub rewritten: bool,
    /// The trained head's probability that no entry answers.
    pub head_outside: Option<f32>,
    /// What the vote by likeness gives to that.
    pub kin_outside: Option<f32>,
}

/// One number per name; `None` where its list did not score the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Option<f32>>", into = "Vec<Option<f32>>")]
pub struct Features {
    pub values: [Option<f32>; COUNT],
}

impl From<Features> for Vec<Option<f32>> {
    fn from(features: Features) -> Self {
        features.values.to_vec()
    }
}

impl TryFrom<Vec<Option<f32>>> for Features {
    type Error = String;

    /// Refuses what another build, with other features, has written.
    fn try_from(values: Vec<Option<f32>>) -> Result<Self, String> {
        let count = values.len();
        let values =
            values.try_into().map_err(|_| format!("{count} features instead of {COUNT}"))?;
        Ok(Self { values })
    }
}

impl Features {
    /// `None` without any candidate: there is nothing whose answer could be right.
    ///
    /// A margin is the chosen candidate's score minus the best score of any other, so it is
    /// negative where a list would have chosen differently.
    pub fn extract(evidence: &[Evidence], facts: Facts<'_>) -> Option<Self> {
        Self::of_candidate(evidence, 0, facts)
    }

    /// What would be looked at were the candidate in this place the chosen one.
    pub fn of_candidate(evidence: &[Evidence], place: usize, facts: Facts<'_>) -> Option<Self> {
        let chosen = evidence.get(place)?;
        let mut scores: Vec<Scores> = evidence.iter().map(|e| e.scores).collect();
        scores[..=place].rotate_right(1);
        let top = scores.first()?.fused;
        let second = scores.get(1).map(|s| s.fused);
        let dense = List::of(&scores, |s| s.dense);
        let lexical = List::of(&scores, |s| s.lexical);
        let head = List::of(&scores, |s| s.head);
        let kin = List::of(&scores, |s| s.kin);
        let profile = List::of(&scores, |s| s.profile);
        let answer_dense = List::of(&scores, |s| s.answer_dense);
        let answer_lexical = List::of(&scores, |s| s.answer_lexical);
        let reranked = List::of(&scores, |s| s.reranked);
        let chars = facts.question.chars().count() as f32;
        let lists_agree = dense.best.zip(lexical.best).map(|(d, l)| flag(d == l));
        let values = [
            Some(top),
            second.map(|s| top - s),
            second.filter(|_| top > 0.0).map(|s| s / top),
            mean_fused(&scores[1..]).map(|mean| top - mean),
            Some(flag(second.is_none())),
            Some(flag(dense.best.is_none())),
            dense.chosen,
            dense.margin,
            Some(flag(lexical.best.is_none())),
            lexical.chosen,
            lexical.margin,
            lists_agree,
            Some(flag(head.best.is_none())),
            head.chosen.map(log_odds),
            head.margin,
            head.best.map(|_| entropy(&scores)),
            head.best.map(|_| elsewhere(&scores)),
            head.best.map(|best| flag(best == 0)),
            facts.head_outside,
            kin.chosen,
            kin.margin,
            kin.best.map(|best| flag(best == 0)),
            kin.best.map(|_| scores.iter().filter_map(|s| s.kin).sum()),
            facts.kin_outside,
            profile.chosen,
            profile.margin,
            answer_dense.chosen,
            answer_dense.margin,
            answer_lexical.chosen,
            answer_lexical.margin,
            reranked.chosen,
            reranked.margin,
            numbers_shared(facts.question, &chosen.phrasing),
            Some(((1.0 + chosen.phrasing.chars().count() as f32) / (1.0 + chars)).ln()),
            Some((1.0 + chars).ln()),
            Some(flag(chars <= 4.0)),
            Some(flag(chars > 25.0)),
            Some(flag(facts.rewritten)),
        ];
        Some(Self { values: values.map(|v| v.filter(|x| x.is_finite())) })
    }

    /// The named value; `None` for a missing one and for a name that does not exist.
    pub fn get(&self, name: &str) -> Option<f32> {
        NAMES.iter().position(|n| *n == name).and_then(|i| self.values[i])
    }

    /// Name and value of those that are there, for the trace.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f32)> + '_ {
        NAMES.iter().zip(&self.values).filter_map(|(name, value)| Some((*name, (*value)?)))
    }
}

/// How one list saw the candidates. The candidate at index 0 is the chosen one.
struct List {
    /// Index of the list's own first.
    best: Option<usize>,
    /// Its score for the chosen candidate.
    chosen: Option<f32>,
    margin: Option<f32>,
}

impl List {
    fn of(scores: &[Scores], score: impl Fn(&Scores) -> Option<f32>) -> Self {
        let mut best: Option<(usize, f32)> = None;
        let mut other: Option<f32> = None;
        for (i, value) in scores.iter().enumerate().filter_map(|(i, s)| Some((i, score(s)?))) {
            if best.is_none_or(|(_, b)| value > b) {
                best = Some((i, value));
            }
            if i > 0 && other.is_none_or(|o| value > o) {
                other = Some(value);
            }
        }
        let chosen = scores.first().and_then(score);
        let margin = chosen.zip(other).map(|(c, o)| c - o);
        Self { best: best.map(|(i, _)| i), chosen, margin }
    }
}

fn flag(yes: bool) -> f32 {
    f32::from(u8::from(yes))
}

/// Share of the question's numbers that the phrasing names as well; `None` for a question without.
fn numbers_shared(question: &str, phrasing: &str) -> Option<f32> {
    let asked = numbers(question);
    let known = numbers(phrasing);
    let shared = asked.iter().filter(|number| known.contains(number)).count();
    (!asked.is_empty()).then(|| shared as f32 / asked.len() as f32)
}

/// Numerals by value; a single Chinese character is none, since 一 is mostly part of a word.
fn numbers(text: &str) -> Vec<String> {
    let part = |c: char| c.is_ascii_digit() || c == '.' || numerals::is_chinese_numeral(c);
    let runs = text.split(|c| !part(c)).map(|run| run.trim_matches('.'));
    let said = |run: &&str| run.len() > '一'.len_utf8() || run.starts_with(|c: char| c.is_ascii());
    runs.filter(said).filter_map(numerals::canonical).collect()
}

/// Mean of up to four candidates behind the first.
fn mean_fused(rest: &[Scores]) -> Option<f32> {
    let rest = &rest[..rest.len().min(4)];
    (!rest.is_empty()).then(|| rest.iter().map(|s| s.fused).sum::<f32>() / rest.len() as f32)
}

/// Kept within ±8 so that a probability rounded to 0 or 1 stays a number.
fn log_odds(p: f32) -> f32 {
    (p.ln() - (1.0 - p).ln()).clamp(-8.0, 8.0)
}

/// Probability that the head gives to no candidate: entries not found, or out of scope.
fn elsewhere(scores: &[Scores]) -> f32 {
    (1.0 - scores.iter().filter_map(|s| s.head).sum::<f32>()).clamp(0.0, 1.0)
}

/// Entropy of the head in nats, all that is elsewhere taken as one class.
fn entropy(scores: &[Scores]) -> f32 {
    let shares = scores.iter().filter_map(|s| s.head).chain([elsewhere(scores)]);
    shares.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests_support::evidence;

    const FACTS: Facts<'_> =
        Facts { question: "怎么退钱", rewritten: false, head_outside: None, kin_outside: None };

    fn scores(fused: f32, dense: f32, lexical: Option<f32>, head: Option<f32>) -> Scores {
        Scores { fused, dense: Some(dense), lexical, head, ..Scores::default() }
    }

    #[test]
    fn nothing_found_has_no_features() {
        assert_eq!(Features::extract(&[], FACTS), None);
    }

    #[test]
    fn margins_are_seen_from_the_chosen_candidate() {
        let list = [
            evidence("a", scores(1.2, 0.6, Some(0.5), Some(0.7))),
            evidence("b", scores(1.0, 0.8, Some(0.1), Some(0.2))),
        ];
        let f = Features::extract(&list, FACTS).expect("two candidates");
        let close = |name: &str, wanted: f32| {
            let got = f.get(name).expect(name);
            assert!((got - wanted).abs() < 1e-5, "{name}: {got}");
        };
        close("fused_margin", 0.2);
        close("dense_margin", -0.2);
        close("lexical_margin", 0.4);
        close("lists_agree", 0.0);
        close("head_agrees", 1.0);
        close("head_log_odds", (0.7_f32 / 0.3).ln());
        close("head_elsewhere", 0.1);
        let h = -(0.7 * 0.7_f32.ln() + 0.2 * 0.2_f32.ln() + 0.1 * 0.1_f32.ln());
        close("head_entropy", h);
        close("question_short", 1.0);
    }

    #[test]
    fn a_missing_list_is_said_and_not_invented() {
        let list = [evidence("a", Scores { fused: 0.4, ..Scores::default() })];
        let f = Features::extract(&list, FACTS).expect("one candidate");
        for name in ["dense_missing", "lexical_missing", "head_missing", "single_candidate"] {
            assert_eq!(f.get(name), Some(1.0), "{name}");
        }
        for name in ["dense_chosen", "fused_margin", "head_entropy", "lists_agree"] {
            assert_eq!(f.get(name), None, "{name}");
        }
        assert!(f.named().all(|(name, _)| NAMES.contains(&name)));
    }

    #[test]
    fn another_candidate_is_seen_as_if_it_were_chosen() {
        let list = [
            evidence("a", scores(1.2, 0.6, Some(0.5), None)),
            evidence("b", scores(1.0, 0.8, Some(0.1), None)),
        ];
        let second = Features::of_candidate(&list, 1, FACTS).expect("two candidates");
        assert!((second.get("dense_margin").expect("both scored") - 0.2).abs() < 1e-5);
        assert_eq!(second.get("dense_chosen"), Some(0.8));
        assert_eq!(Features::of_candidate(&list, 2, FACTS), None);
    }

    #[test]
    fn numbers_agree_by_value() {
        assert_eq!(numbers_shared("能贷两万吗", "额度20000"), Some(1.0));
        assert_eq!(numbers_shared("分12期还3000", "可以分十二期"), Some(0.5));
        assert_eq!(numbers_shared("一直没到账", "1天到账"), None);
    }

    #[test]
    fn certain_heads_and_broken_scores_stay_numbers() {
        let list = [
            evidence("a", scores(f32::NAN, 0.6, None, Some(1.0))),
            evidence("b", scores(1.0, f32::INFINITY, None, Some(0.0))),
        ];
        let f = Features::extract(&list, FACTS).expect("two candidates");
        assert!(f.named().all(|(_, value)| value.is_finite()));
        assert_eq!(f.get("head_log_odds"), Some(8.0));
        assert_eq!(f.get("fused_top"), None);
    }

    #[test]
    fn json_keeps_the_holes() {
        let list = [evidence("a", Scores { fused: 0.4, ..Scores::default() })];
        let f = Features::extract(&list, FACTS).expect("one candidate");
        let text = serde_json::to_string(&f).expect("plain numbers");
        assert_eq!(serde_json::from_str::<Features>(&text).expect("own output"), f);
    }
}
