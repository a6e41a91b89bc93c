//! Checks a draft against the answers it cites, knowing nothing of how the draft was made.
//!
//! Both are cut into sentences and clauses. Every clause of the draft must be carried by one
//! clause of the cited answer (or one run of its clauses): nearly the same wording, no fact that
//! the clause does not hold, the same negations, conditions and promises. A clause that an answer
//! ties to a condition before it or an exception behind it may not come without them.

use std::collections::HashSet;

use crate::base::text::joined;
use crate::domain::draft::{Draft, DraftMode, Span};
use crate::domain::evidence::Evidence;
use crate::gate::facts::{self, FactKind, Facts};

/// One thing the evidence does not bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Stable id (`grounding.number`).
    pub rule: &'static str,
    /// The clause of the draft, folded.
    pub claim: String,
    /// What is wrong with it, for the person who sees the draft.
    pub what: String,
}

/// Share of a clause's character bigrams that its evidence clause must hold. A copied clause has
/// 1; the room is for punctuation and for a connective that the draft glued on.
pub const NEAR_ENOUGH: f64 = 0.8;
/// A run of several evidence clauses must in turn be held by the draft's clause to this share,
/// so that "5天退款" is not read out of "3天退款，5天换货".
const RUN_HELD: f64 = 0.6;
/// Longest connective or courtesy that may stand without a source, characters.
const UNSOURCED_CHARS: usize = 30;

const NEGATIONS: &[&str] =
    &["不", "没", "未", "无", "非", "勿", "别", "莫", "禁", "拒", "not ", "n't", "never ", "no "];
const CONDITIONS: &[&str] = &[
    "如果", "若", "如已", "如需", "如有", "假如", "只要", "只有", "只能", "只限", "仅", "除非",
    "除外", "除了", "限", "以上", "以下", "以内", "之内", "以前", "之前", "以后", "之后", "前提",
    "至少", "最多", "超过", "不满", "需", "须", "可能", "一般", "通常", "为准", "部分", "首次",
    "if ", "unless ", "only ", "except ",
];
const PROMISES: &[&str] = &[
    "保证",
    "一定",
    "承诺",
    "免费",
    "赔偿",
    "赔付",
    "补偿",
    "必定",
    "必然",
    "肯定",
    "绝对",
    "永久",
    "终身",
    "立即",
    "马上",
    "包退",
    "包换",
    "包赔",
    "全额",
    "guarantee",
    "promise",
    "free of charge",
    "compensat",
];
/// A clause that begins or ends like this limits the clause behind it.
const LIMITS_NEXT_START: &[&str] = &[
    "如", "若", "假如", "只要", "只有", "当", "凡", "除非", "除了", "在", "对于", "未", "仅",
    "if ", "unless ", "when ", "for ",
];
const LIMITS_NEXT_END: &[&str] =
    &["时", "的", "后", "前", "前提下", "情况下", "的话", "内", "期间"];
/// A clause that begins like this limits the clause before it.
const LIMITS_PREVIOUS_START: &[&str] = &[
    "但",
    "不过",
    "除",
    "仅",
    "只",
    "且",
    "并且",
    "否则",
    "不含",
    "不包括",
    "逾期",
    "超过",
    "unless ",
    "except ",
    "but ",
    "only ",
];
/// A sentence with one of these takes something out of what the sentence before it grants.
const TAKES_OUT: &[&str] = &[
    "除外",
    "例外",
    "不在此列",
    "不在此限",
    "不参与",
    "不参加",
    "不适用",
    "不享受",
    "不包括",
    "不含",
    "暂停",
    "excluded",
    "not apply",
    "not included",
    "not eligible",
];

/// Everything in the draft that the cited answers do not bear; empty when it may go out.
///
/// A whole approved answer passes, and so does a notice: notices are fixed texts of the service.
pub fn check(draft: &Draft, evidence: &[Evidence]) -> Vec<Violation> {
    match draft.mode {
        DraftMode::Notice => return Vec::new(),
        DraftMode::Verbatim if is_whole_answer(draft, evidence) => return Vec::new(),
        DraftMode::Verbatim | DraftMode::Composed => {}
    }
    let said: Vec<String> = clauses_of(&draft.text()).into_iter().flatten().collect();
    let mut violations = Vec::new();
    for part in same_source_runs(&draft.spans) {
        let text = joined(part.iter().map(|s| s.text.as_str()));
        match part.first().and_then(|s| s.source.as_ref()) {
            None => violations.extend(check_unsourced(&text)),
            Some(id) => {
                let cited = evidence.iter().find(|e| e.id == *id);
                let answer = cited.and_then(|e| e.answer.as_deref()).unwrap_or_default();
                violations.extend(check_part(&text, answer, &said));
            }
        }
    }
    violations
}

fn is_whole_answer(draft: &Draft, evidence: &[Evidence]) -> bool {
    let [span] = draft.spans.as_slice() else { return false };
    let cited = evidence.iter().find(|e| Some(&e.id) == span.source.as_ref());
    cited.and_then(|e| e.answer.as_deref()) == Some(span.text.as_str())
}

fn same_source_runs(spans: &[Span]) -> impl Iterator<Item = &[Span]> {
    spans.chunk_by(|a, b| a.source == b.source)
}

/// A connective or courtesy may not say anything that would need a source.
fn check_unsourced(text: &str) -> Option<Violation> {
    let claim = facts::fold(text);
    let speaks = Clause::new(&claim);
    let hard = !speaks.facts.is_empty()
        || !speaks.promises.is_empty()
        || claim.chars().count() > UNSOURCED_CHARS;
    hard.then(|| Violation {
        rule: "grounding.unsourced",
        claim,
        what: "stands in no cited answer".to_owned(),
    })
}

/// Checks what a draft took from one answer; `said` are all clauses of the draft.
fn check_part(text: &str, answer: &str, said: &[String]) -> Vec<Violation> {
    let source = Source::new(answer);
    let mut violations = Vec::new();
    for claim in clauses_of(text).into_iter().flatten() {
        match source.bearer(&Clause::new(&claim)) {
            Ok(bearer) => violations.extend(source.missing_tie(&claim, bearer, said)),
            Err((rule, what)) => violations.push(Violation { rule, claim, what }),
        }
    }
    violations
}

/// A clause and all that must not change in it.
struct Clause {
    text: String,
    /// Of the words only: facts are compared by value, however they are spelled.
    bigrams: HashSet<(char, char)>,
    facts: Facts,
    negations: usize,
    conditions: Vec<&'static str>,
    promises: Vec<&'static str>,
}

impl Clause {
    /// `text` is folded.
    fn new(text: &str) -> Self {
        let (facts, words) = facts::split(text);
        let letters: Vec<char> = words.chars().filter(|c| c.is_alphanumeric()).collect();
        // A one-letter clause still has something to be compared by.
        let mut bigrams: HashSet<(char, char)> = letters.windows(2).map(|w| (w[0], w[1])).collect();
        if let [only] = letters.as_slice() {
            bigrams.insert((*only, *only));
        }
        let present = |words: &'static [&'static str]| -> Vec<&'static str> {
            words.iter().copied().filter(|w| text.contains(w)).collect()
        };
        Self {
            text: text.to_owned(),
            bigrams,
            facts,
            negations: NEGATIONS.iter().map(|w| text.matches(w).count()).sum(),
            conditions: present(CONDITIONS),
            promises: present(PROMISES),
        }
    }

    /// Share of this clause's bigrams that `other` holds; 1 for a clause without letters.
    fn held_by(&self, other: &Self) -> f64 {
        if self.bigrams.is_empty() {
            return 1.0;
        }
        let shared = self.bigrams.intersection(&other.bigrams).count();
        shared as f64 / self.bigrams.len() as f64
    }

    /// The first thing in which this claim says other than `bearer`.
    fn difference(&self, bearer: &Self) -> Option<(&'static str, String)> {
        if let Some(fact) = self.facts.difference(&bearer.facts).next() {
            return Some((rule_of(fact.kind), format!("`{}` is not in the source", fact.value)));
        }
        // A claim may say less than its source, but what it says must keep its facts:
        // a dropped amount or term changes the clause.
        if let Some(fact) = bearer.facts.difference(&self.facts).next() {
            return Some((rule_of(fact.kind), format!("`{}` of the source is lost", fact.value)));
        }
        if self.negations != bearer.negations {
            return Some(("grounding.negation", format!("the source says: {}", bearer.text)));
        }
        if self.conditions != bearer.conditions {
            return Some(("grounding.condition", format!("the source says: {}", bearer.text)));
        }
        if self.promises != bearer.promises {
            return Some(("grounding.promise", format!("the source says: {}", bearer.text)));
        }
        None
    }
}

fn rule_of(kind: FactKind) -> &'static str {
    match kind {
        FactKind::Number => "grounding.number",
        FactKind::Date => "grounding.date",
        FactKind::Time => "grounding.time",
        FactKind::Contact => "grounding.contact",
        FactKind::Link => "grounding.link",
        FactKind::Name => "grounding.name",
    }
}

/// A cited answer, cut up.
struct Source {
    sentences: Vec<Vec<String>>,
}

/// Clauses `first..=last` of a sentence.
#[derive(Clone, Copy)]
struct Bearer {
    sentence: usize,
    first: usize,
    last: usize,
}

impl Source {
    fn new(answer: &str) -> Self {
        Self { sentences: clauses_of(answer) }
    }

    /// Where the claim is said; otherwise what is wrong with the nearest place.
    fn bearer(&self, claim: &Clause) -> Result<Bearer, (&'static str, String)> {
        let mut nearest: Option<(f64, (&'static str, String))> = None;
        for (place, text) in self.runs() {
            let source = Clause::new(&text);
            let near = claim.held_by(&source);
            let one_clause = place.first == place.last;
            if near < NEAR_ENOUGH || (!one_clause && source.held_by(claim) < RUN_HELD) {
                continue;
            }
            let Some(difference) = claim.difference(&source) else { return Ok(place) };
            if nearest.as_ref().is_none_or(|(best, _)| near > *best) {
                nearest = Some((near, difference));
            }
        }
        let far = || self.far(claim);
        Err(nearest.map_or_else(far, |(_, difference)| difference))
    }

    /// A changed word breaks bigrams too; name the fact or promise that stands nowhere.
    fn far(&self, claim: &Clause) -> (&'static str, String) {
        let all: Facts = self.runs().flat_map(|(_, text)| facts::extract(&text)).collect();
        if let Some(fact) = claim.facts.difference(&all).next() {
            return (rule_of(fact.kind), format!("`{}` is not in the source", fact.value));
        }
        let nowhere = |word: &&&str| !self.sentences.iter().flatten().any(|c| c.contains(**word));
        match claim.promises.iter().find(nowhere) {
            Some(word) => ("grounding.promise", format!("`{word}` is not in the source")),
            None => ("grounding.source", "no sentence of the source says this".to_owned()),
        }
    }

    /// Every run of neighbouring clauses within a sentence, short runs first.
    fn runs(&self) -> impl Iterator<Item = (Bearer, String)> + '_ {
        self.sentences.iter().enumerate().flat_map(|(sentence, clauses)| {
            (1..=clauses.len()).flat_map(move |length| {
                clauses.windows(length).enumerate().map(move |(first, run)| {
                    (Bearer { sentence, first, last: first + length - 1 }, run.concat())
                })
            })
        })
    }

    /// A condition before the bearer, or an exception behind it, that the draft leaves out.
    fn missing_tie(&self, claim: &str, at: Bearer, said: &[String]) -> Option<Violation> {
        let clauses = &self.sentences[at.sentence];
        let before = clauses[..at.first].iter().rev().take_while(|c| limits_next(c));
        let behind = clauses[at.last + 1..].iter().take_while(|c| limits_previous(c));
        let later = self.sentences[at.sentence + 1..].iter().take_while(|s| takes_back(s));
        let ties = before.chain(behind).chain(later.flatten());
        let missing = ties.into_iter().find(|tie| !is_said(tie, said))?;
        Some(Violation {
            rule: "grounding.condition",
            claim: claim.to_owned(),
            what: format!("the source ties it to: {missing}"),
        })
    }
}

fn limits_next(clause: &str) -> bool {
    let bare = clause.trim_end_matches(|c: char| !c.is_alphanumeric());
    LIMITS_NEXT_START.iter().any(|w| clause.starts_with(w))
        || LIMITS_NEXT_END.iter().any(|w| bare.ends_with(w))
}

fn limits_previous(clause: &str) -> bool {
    LIMITS_PREVIOUS_START.iter().any(|w| clause.starts_with(w))
}

/// Whether a sentence limits the one before it.
fn takes_back(sentence: &[String]) -> bool {
    let begins = sentence.first().is_some_and(|clause| limits_previous(clause));
    begins || sentence.iter().any(|clause| TAKES_OUT.iter().any(|w| clause.contains(w)))
}

fn is_said(tie: &str, said: &[String]) -> bool {
    let tie = Clause::new(tie);
    said.iter().any(|clause| tie.held_by(&Clause::new(clause)) >= NEAR_ENOUGH)
}

/// Folded clauses, sentence by sentence, each with the mark that ends it.
fn clauses_of(text: &str) -> Vec<Vec<String>> {
    let folded = facts::fold(text);
    let chars: Vec<char> = folded.chars().collect();
    let mut sentences = vec![vec![String::new()]];
    for (i, &c) in chars.iter().enumerate() {
        let Some(sentence) = sentences.last_mut() else { break };
        let Some(clause) = sentence.last_mut() else { break };
        clause.push(c);
        let before = i.checked_sub(1).map(|j| chars[j]);
        match mark(before, c, chars.get(i + 1).copied()) {
            Mark::Sentence => sentences.push(vec![String::new()]),
            Mark::Clause => sentence.push(String::new()),
            Mark::None => {}
        }
    }
    for sentence in &mut sentences {
        sentence.retain(|clause| clause.chars().any(char::is_alphanumeric));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

enum Mark {
    None,
    Clause,
    Sentence,
}

/// ASCII marks end something only where no number or address goes on behind them.
fn mark(before: Option<char>, c: char, after: Option<char>) -> Mark {
    let goes_on = after.is_some_and(|c| c.is_ascii_alphanumeric());
    let between_digits = goes_on
        && before.is_some_and(|c| c.is_ascii_digit())
        && after.is_some_and(|c| c.is_ascii_digit());
    match c {
        '。' | '\n' | ';' => Mark::Sentence,
        '!' | '?' | '.' if !goes_on => Mark::Sentence,
        ',' if !between_digits => Mark::Clause,
        _ => Mark::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::evidence::Scores;
    use crate::domain::knowledge::EntryId;
    use crate::gate::tests_support::evidence_with;

    const ANSWER: &str = "未拆封的商品，签收后7天内可以退货，但定制商品除外。退款通常在3-5个工作日内原路退回；\
        如果超过5个工作日没有收到，请拨打400-800-1234。运费由买家承担，质量问题的运费由我们承担。\
        提前还款不收取手续费。会员满200元免费配送。";

    fn composed(pieces: &[&str]) -> Draft {
        let span = |p: &&str| Span { text: (*p).to_owned(), source: Some(EntryId("e".into())) };
        Draft { mode: DraftMode::Composed, spans: pieces.iter().map(span).collect() }
    }

    fn rules(pieces: &[&str]) -> Vec<&'static str> {
        let list = [evidence_with("e", Some(ANSWER), Scores::default())];
        check(&composed(pieces), &list).into_iter().map(|v| v.rule).collect()
    }

    fn sentences() -> Vec<&'static str> {
        ANSWER.split_inclusive(['。', '；']).map(str::trim).collect()
    }

    #[test]
    fn whole_answers_pass() {
        let list = [evidence_with("e", Some(ANSWER), Scores::default())];
        let draft = Draft::verbatim(EntryId("e".into()), ANSWER.to_owned());
        assert!(check(&draft, &list).is_empty());
        assert!(rules(&[ANSWER]).is_empty());
        assert!(check(&Draft::notice("人工客服9:00上班".into()), &[]).is_empty());
    }

    #[test]
    fn a_verbatim_draft_that_is_not_the_answer_is_checked() {
        let list = [evidence_with("e", Some(ANSWER), Scores::default())];
        let draft = Draft::verbatim(EntryId("e".into()), "退款通常在1个工作日内原路退回。".into());
        assert_eq!(check(&draft, &list)[0].rule, "grounding.number");
        let uncited = Draft::verbatim(EntryId("other".into()), ANSWER.to_owned());
        assert!(!check(&uncited, &list).is_empty());
    }

    #[test]
    fn changed_facts_are_named() {
        for (text, rule) in [
            ("退款通常在1个工作日内原路退回。", "grounding.number"),
            ("退款通常在3-5天内原路退回。", "grounding.number"),
            ("退款通常在工作日内原路退回。", "grounding.source"),
            ("会员免费配送。", "grounding.number"),
            ("会员满20元免费配送。", "grounding.number"),
            ("如果超过5个工作日没有收到，请拨打400-800-9999。", "grounding.contact"),
        ] {
            assert_eq!(rules(&[text]), [rule], "{text}");
        }
    }

    #[test]
    fn a_sentence_that_takes_something_out_comes_along() {
        for (answer, said) in [
            ("支持7天无理由退货。生鲜商品除外。", "支持7天无理由退货。"),
            ("会员享受9折优惠。特价款不参与。发票在订单页。", "会员享受9折优惠。"),
            ("Returns are free. Sale items are excluded.", "Returns are free."),
        ] {
            let list = [evidence_with("e", Some(answer), Scores::default())];
            let found = check(&composed(&[said]), &list);
            assert_eq!(found.iter().map(|v| v.rule).collect::<Vec<_>>(), ["grounding.condition"]);
            assert!(check(&composed(&[answer]), &list).is_empty(), "{answer}");
        }
        let list = [evidence_with("e", Some("发票在订单页。生鲜除外。"), Scores::default())];
        assert!(check(&composed(&["发票在订单页。生鲜除外。"]), &list).is_empty());
    }

    #[test]
    fn the_same_number_in_another_spelling_passes() {
        assert!(rules(&["退款通常在三到五个工作日内原路退回。"]).is_empty());
        assert!(rules(&["会员满２００元免费配送。"]).is_empty());
    }

    #[test]
    fn lost_negations_and_conditions_are_seen() {
        assert_eq!(rules(&["提前还款收取手续费。"]), ["grounding.negation"]);
        assert_eq!(rules(&["退款在3-5个工作日内原路退回。"]), ["grounding.condition"]);
        // The clause alone loses what stands before and behind it.
        assert_eq!(rules(&["签收后7天内可以退货。"]), ["grounding.condition"]);
        assert_eq!(rules(&["未拆封的商品，签收后7天内可以退货。"]), ["grounding.condition"]);
        assert_eq!(rules(&["请拨打400-800-1234。"]), ["grounding.condition"]);
        let unsealed = [evidence_with("e", Some("未拆封可退。"), Scores::default())];
        assert_eq!(check(&composed(&["可退。"]), &unsealed)[0].rule, "grounding.negation");
        let reason = [evidence_with("e", Some("支持七天无理由退货。"), Scores::default())];
        assert!(!check(&composed(&["支持七天无条件退货。"]), &reason).is_empty());
    }

    #[test]
    fn a_term_does_not_move_to_another_matter() {
        let list = [evidence_with("e", Some("3天退款，5天换货。"), Scores::default())];
        assert!(!check(&composed(&["5天退款。"]), &list).is_empty());
        assert!(check(&composed(&["3天退款。"]), &list).is_empty());
    }

    #[test]
    fn inventions_are_seen() {
        assert_eq!(rules(&["我们会给您上门取件。"]), ["grounding.source"]);
        assert_eq!(rules(&["会员满200元免费配送，并赔偿损失。"]), ["grounding.promise"]);
        assert_eq!(rules(&["提前还款一定不收取手续费。"]), ["grounding.promise"]);
    }

    #[test]
    fn connectives_may_stand_alone_and_claims_may_not() {
        let list = [evidence_with("e", Some(ANSWER), Scores::default())];
        let with = |text: &str| {
            let mut draft = composed(&["提前还款不收取手续费。"]);
            draft.spans.insert(0, Span { text: text.to_owned(), source: None });
            check(&draft, &list).len()
        };
        assert_eq!(with("您好，关于您的问题："), 0);
        assert_eq!(with("这边帮您看一下，"), 0);
        assert_eq!(with("保证退款，"), 1);
        assert_eq!(with("30分钟内回电，"), 1);
    }

    #[test]
    fn english_works_the_same_way() {
        let answer = "Refunds arrive within 5 days. Sealed goods cannot be exchanged.";
        let list = [evidence_with("e", Some(answer), Scores::default())];
        assert!(check(&composed(&[answer]), &list).is_empty());
        let changed = composed(&["Refunds arrive within 2 days."]);
        assert_eq!(check(&changed, &list)[0].rule, "grounding.number");
    }

    proptest! {
        #[test]
        fn any_choice_of_whole_sentences_passes(order in proptest::collection::vec(0..6_usize, 1..8)) {
            let all = sentences();
            let pieces: Vec<&str> = order.iter().map(|i| all[i % all.len()]).collect();
            prop_assert!(rules(&pieces).is_empty(), "{pieces:?}: {:?}", rules(&pieces));
        }

        #[test]
        fn a_changed_number_or_negation_fails(which in 0..4_usize, digit in 1..9_u32) {
            let (from, to) = [
                ("7天", format!("{}天", 10 + digit)),
                ("3-5个", format!("{digit}-9{digit}个")),
                ("200元", format!("2{digit}00元")),
                ("不收取", "收取".to_owned()),
            ][which].clone();
            prop_assert!(!rules(&[&ANSWER.replace(from, &to)]).is_empty());
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}", answer in "\\PC{0,60}") {
            let list = [evidence_with("e", Some(&answer), Scores::default())];
            let _ = check(&composed(&[&text]), &list);
        }
    }
}
