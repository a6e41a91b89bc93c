//! Floor 2: the gate. Decides whether a reply goes out by itself, is proposed, or is left to a person.
//!
//! [`decide`] walks the stages in their order; each can only make the decision more careful.

pub mod binomial;
pub mod calibrate;
pub mod compliance;
pub mod drift;
pub mod facts;
pub mod features;
pub mod grounding;
mod input;
pub mod judge;
pub mod logistic;
pub mod metrics;
pub mod model;
pub mod observation;
pub mod reranker;
pub mod strata;
pub mod threshold;
pub mod trees;

#[cfg(test)]
mod tests_support;

use crate::base::clock::UnixMs;
use crate::domain::decision::{Decision, Reason, Verdict};
use crate::domain::draft::{Draft, DraftMode, Objection};
use crate::domain::evidence::Evidence;
use crate::domain::qualification::{Lack, Register};
use crate::domain::variables;
use crate::gate::compliance::{Action, Hit};
use crate::gate::grounding::Violation;

/// Below this the best evidence is more likely wrong than right: a draft would mislead the person
/// who reads it more often than it would help, so none is shown.
pub const WORTH_SHOWING: f32 = 0.5;

/// All that the stages found out about one turn.
#[derive(Clone, Copy, Debug)]
pub struct GateInput<'a> {
    /// Hard signals with the ids of the rules that raised them, most pressing first.
    pub signals: &'a [(Reason, String)],
    /// Best first.
    pub evidence: &'a [Evidence],
    /// Calibrated probability that the best evidence answers the message.
    pub confidence: f32,
    /// True when the fitted threshold lets this confidence out.
    pub admitted: bool,
    /// True when the message asks for more than this evidence answers, so that an answer from it would
    /// leave the rest out.
    pub asks_more: bool,
    pub draft: Option<&'a Draft>,
    /// What keeps the evidence from answering, see [`lacks`].
    pub lacks: &'a [Lack],
    pub violations: &'a [Violation],
    pub hits: &'a [Hit],
}

/// The verdict for one turn, with every reason that was met on the way, most pressing first.
pub fn decide(input: &GateInput<'_>) -> Decision {
    let mut findings = Findings::default();
    for (reason, rule) in input.signals {
        findings.raise(Verdict::Handoff, *reason, Some(rule));
    }
    answerable(input, &mut findings);
    sayable(input, &mut findings);
    if findings.reasons.is_empty() {
        findings.reasons.push(Reason::ConfidenceReached);
    }
    Decision {
        verdict: findings.verdict,
        reasons: findings.reasons,
        confidence: input.confidence,
        rules: findings.rules,
    }
}

/// Is there evidence that may answer, and is it likely enough to be the right one?
fn answerable(input: &GateInput<'_>, findings: &mut Findings) {
    let Some(best) = input.evidence.first() else {
        findings.raise(Verdict::Handoff, Reason::NoEvidence, None);
        return;
    };
    let unapproved = input.draft.filter(|draft| !is_approved_text(draft, best));
    let regulated = |draft: &Draft| {
        best.domain.is_regulated()
            || cited(draft, input.evidence).any(|evidence| evidence.domain.is_regulated())
    };
    if best.answer.is_none() || unapproved.is_some_and(regulated) {
        findings.raise(Verdict::Handoff, Reason::NoApprovedAnswer, None);
    }
    // The confidence is the best evidence's: of a reply that says nothing of it, it says nothing.
    if input.draft.is_some_and(|draft| !draft.citations().contains(&&best.id)) {
        findings.raise(Verdict::Suggest, Reason::LowConfidence, Some("draft.without_best"));
    }
    if input.asks_more {
        findings.raise(Verdict::Suggest, Reason::LowConfidence, Some("question.two_matters"));
    }
    for lack in input.lacks {
        findings.raise(Verdict::Handoff, Reason::Unqualified, Some(&lack.rule()));
    }
    if !input.admitted {
        let likely = input.confidence >= WORTH_SHOWING;
        let verdict = if likely { Verdict::Suggest } else { Verdict::Handoff };
        findings.raise(verdict, Reason::LowConfidence, None);
    }
}

/// May the draft be said as it stands?
fn sayable(input: &GateInput<'_>, findings: &mut Findings) {
    if let (None, Some(best)) = (input.draft, input.evidence.first()) {
        // An answer that makes no draft is one that the channel cannot carry, or a passage, which is
        // nobody's answer as it stands.
        let long = best.answer.is_some() && best.place.is_none();
        let reason = if long { Reason::AnswerTooLong } else { Reason::NoApprovedAnswer };
        findings.raise(Verdict::Handoff, reason, None);
    }
    let text = input.draft.map(Draft::text).unwrap_or_default();
    for variable in variables::open_in(&text) {
        let rule = format!("variable.{variable}");
        findings.raise(Verdict::Suggest, Reason::VariableOpen, Some(&rule));
    }
    for violation in input.violations {
        findings.raise(Verdict::Suggest, Reason::Ungrounded, Some(violation.rule));
    }
    for hit in input.hits {
        match hit.action {
            Action::Block => {
                findings.raise(Verdict::Suggest, Reason::Noncompliant, Some(&hit.rule));
            }
            Action::Review => findings.note(&hit.rule),
        }
    }
}

/// What keeps the best evidence and what the draft cites from answering at this moment.
pub fn lacks(
    evidence: &[Evidence],
    draft: Option<&Draft>,
    register: &Register,
    now: UnixMs,
) -> Vec<Lack> {
    let cited = draft.map(Draft::citations).unwrap_or_default();
    let used = evidence.iter().enumerate().filter(|(at, e)| *at == 0 || cited.contains(&&e.id));
    used.filter_map(|(_, e)| register.lack(e.domain, &e.qualifications, now)).collect()
}

fn cited<'a>(draft: &Draft, evidence: &'a [Evidence]) -> impl Iterator<Item = &'a Evidence> {
    let ids = draft.citations().into_iter().cloned().collect::<Vec<_>>();
    evidence.iter().filter(move |evidence| ids.contains(&evidence.id))
}

/// The words behind violations and hits, for the person who sees the draft.
pub fn objections(violations: &[Violation], hits: &[Hit]) -> Vec<Objection> {
    let ungrounded = violations.iter().map(|violation| Objection {
        rule: violation.rule.to_owned(),
        words: violation.claim.clone(),
        message_zh: String::new(),
        message_en: violation.what.clone(),
        instead: None,
    });
    let blocking = hits.iter().filter(|hit| hit.action == Action::Block);
    let noncompliant = blocking.map(|hit| Objection {
        rule: hit.rule.clone(),
        words: hit.found.clone(),
        message_zh: hit.message_zh.clone(),
        message_en: hit.message_en.clone(),
        instead: hit.instead.clone(),
    });
    ungrounded.chain(noncompliant).collect()
}

fn is_approved_text(draft: &Draft, best: &Evidence) -> bool {
    draft.mode == DraftMode::Verbatim
        && draft.citations() == [&best.id]
        && best.answer.as_deref() == Some(draft.text().as_str())
}

struct Findings {
    verdict: Verdict,
    reasons: Vec<Reason>,
    rules: Vec<String>,
}

impl Default for Findings {
    fn default() -> Self {
        Self { verdict: Verdict::AutoReply, reasons: Vec::new(), rules: Vec::new() }
    }
}

impl Findings {
    /// The more careful verdict stays.
    fn raise(&mut self, verdict: Verdict, reason: Reason, rule: Option<&str>) {
        self.verdict = more_careful(self.verdict, verdict);
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
        if let Some(rule) = rule {
            self.note(rule);
        }
    }

    fn note(&mut self, rule: &str) {
        if !self.rules.iter().any(|r| r == rule) {
            self.rules.push(rule.to_owned());
        }
    }
}

fn more_careful(a: Verdict, b: Verdict) -> Verdict {
    match (a, b) {
        (Verdict::Handoff, _) | (_, Verdict::Handoff) => Verdict::Handoff,
        (Verdict::Suggest, _) | (_, Verdict::Suggest) => Verdict::Suggest,
        (Verdict::AutoReply, Verdict::AutoReply) => Verdict::AutoReply,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::evidence::Scores;
    use crate::domain::knowledge::{Domain, Place};
    use crate::domain::qualification::QualificationId;
    use crate::gate::tests_support::evidence_with;

    fn rank(verdict: Verdict) -> usize {
        match verdict {
            Verdict::AutoReply => 0,
            Verdict::Suggest => 1,
            Verdict::Handoff => 2,
        }
    }

    fn hit(action: Action) -> Hit {
        Hit {
            rule: "adlaw.rank".into(),
            action,
            found: "顶级".into(),
            law: "law".into(),
            message_zh: "m".into(),
            message_en: "m".into(),
            owner: "legal".into(),
            instead: None,
        }
    }

    fn violation() -> Violation {
        Violation { rule: "grounding.number", claim: "3天".into(), what: "not there".into() }
    }

    /// What a turn may look like; every part can make the decision more careful.
    #[derive(Clone, Debug)]
    struct Turn {
        signals: Vec<(Reason, String)>,
        evidence: Vec<Evidence>,
        confidence: f32,
        admitted: bool,
        asks_more: bool,
        draft: Option<Draft>,
        lacks: Vec<Lack>,
        violations: Vec<Violation>,
        hits: Vec<Hit>,
    }

    impl Turn {
        fn good() -> Self {
            let evidence = vec![evidence_with("e", Some("可以。"), Scores::default())];
            let draft = Some(Draft::verbatim(evidence[0].id.clone(), "可以。".into()));
            Self {
                signals: vec![],
                evidence,
                confidence: 0.99,
                admitted: true,
                asks_more: false,
                draft,
                lacks: vec![],
                violations: vec![],
                hits: vec![],
            }
        }

        fn decide(&self) -> Decision {
            decide(&GateInput {
                signals: &self.signals,
                evidence: &self.evidence,
                confidence: self.confidence,
                admitted: self.admitted,
                asks_more: self.asks_more,
                draft: self.draft.as_ref(),
                lacks: &self.lacks,
                violations: &self.violations,
                hits: &self.hits,
            })
        }

        /// The `i`-th way in which a turn can be worse.
        fn spoil(&mut self, i: usize) {
            match i {
                0 => self.signals.push((Reason::HumanRequest, "human.request".into())),
                1 => self.evidence.clear(),
                2 => self.evidence.iter_mut().for_each(|e| e.answer = None),
                3 => self.evidence.iter_mut().for_each(|e| e.domain = Domain::Medical),
                4 => self.admitted = false,
                5 => (self.admitted, self.confidence) = (false, 0.1),
                6 => self.violations.push(violation()),
                7 => self.hits.push(hit(Action::Block)),
                8 => self.hits.push(hit(Action::Review)),
                10 => self.lacks.push(Lack::Uncited),
                11 => self.asks_more = true,
                _ => self.draft = None,
            }
        }
    }

    #[test]
    fn a_clean_turn_goes_out() {
        let decision = Turn::good().decide();
        assert_eq!(decision.verdict, Verdict::AutoReply);
        assert_eq!(decision.reasons, [Reason::ConfidenceReached]);
        assert!(decision.rules.is_empty());
    }

    #[test]
    fn each_stage_has_its_verdict_and_reason() {
        for (spoiled, verdict, reason) in [
            (0, Verdict::Handoff, Reason::HumanRequest),
            (1, Verdict::Handoff, Reason::NoEvidence),
            (2, Verdict::Handoff, Reason::NoApprovedAnswer),
            (4, Verdict::Suggest, Reason::LowConfidence),
            (5, Verdict::Handoff, Reason::LowConfidence),
            (6, Verdict::Suggest, Reason::Ungrounded),
            (7, Verdict::Suggest, Reason::Noncompliant),
            (9, Verdict::Handoff, Reason::AnswerTooLong),
            (10, Verdict::Handoff, Reason::Unqualified),
            (11, Verdict::Suggest, Reason::LowConfidence),
        ] {
            let mut turn = Turn::good();
            turn.spoil(spoiled);
            let decision = turn.decide();
            assert_eq!((decision.verdict, decision.reasons[0]), (verdict, reason), "{spoiled}");
        }
    }

    #[test]
    fn a_reviewed_domain_says_only_the_approved_text() {
        let mut turn = Turn::good();
        turn.spoil(3);
        assert_eq!(turn.decide().verdict, Verdict::AutoReply);
        if let Some(draft) = &mut turn.draft {
            draft.mode = DraftMode::Composed;
        }
        assert_eq!(turn.decide().reasons, [Reason::NoApprovedAnswer]);
        turn.draft = Some(Draft::verbatim(turn.evidence[0].id.clone(), "可以的。".into()));
        assert_eq!(turn.decide().verdict, Verdict::Handoff);
        turn.draft = None;
        assert_eq!(turn.decide().reasons, [Reason::AnswerTooLong]);
    }

    #[test]
    fn what_the_draft_draws_from_must_be_entitled_and_nothing_else() {
        let mut evidence: Vec<Evidence> =
            ["a", "b", "c"].map(|id| evidence_with(id, Some("可以。"), Scores::default())).into();
        evidence[1].domain = Domain::Finance;
        evidence[2].qualifications = [QualificationId("lapsed".into())].into();
        let register = Register::default();
        let lacks = |draft: Option<&Draft>| lacks(&evidence, draft, &register, 7);
        assert_eq!(lacks(None), []);
        let draft = |at: usize| Draft::verbatim(evidence[at].id.clone(), "可以。".into());
        assert_eq!(lacks(Some(&draft(0))), []);
        assert_eq!(lacks(Some(&draft(1))), [Lack::Uncited]);
        assert_eq!(lacks(Some(&draft(2))), [Lack::Unknown(QualificationId("lapsed".into()))]);
    }

    #[test]
    fn what_is_left_open_is_for_a_person_to_fill() {
        let answer = "{nickname}您好，可以。";
        let mut turn = Turn::good();
        turn.evidence = vec![evidence_with("e", Some(answer), Scores::default())];
        turn.draft = Some(Draft::verbatim(turn.evidence[0].id.clone(), answer.into()));
        let decision = turn.decide();
        assert_eq!(
            (decision.verdict, decision.reasons),
            (Verdict::Suggest, vec![Reason::VariableOpen])
        );
        assert_eq!(decision.rules, ["variable.nickname"]);
    }

    #[test]
    fn a_passage_is_no_answer_as_it_stands() {
        let mut turn = Turn::good();
        let place = Place { document: "g.md".into(), headings: vec![], page: None, range: [0, 3] };
        turn.evidence[0].place = Some(place);
        turn.draft = None;
        assert_eq!(turn.decide().reasons, [Reason::NoApprovedAnswer]);
    }

    #[test]
    fn the_offending_words_are_named() {
        let better = Hit { instead: Some("优质".into()), ..hit(Action::Block) };
        let named: Vec<_> = objections(&[violation()], &[better])
            .into_iter()
            .map(|o| (o.rule, o.words, o.instead))
            .collect();
        assert_eq!(named[0], ("grounding.number".into(), "3天".into(), None));
        assert_eq!(named[1], ("adlaw.rank".into(), "顶级".into(), Some("优质".into())));
    }

    #[test]
    fn a_review_hit_is_noted_and_goes_out() {
        let mut turn = Turn::good();
        turn.spoil(8);
        let decision = turn.decide();
        assert_eq!(decision.verdict, Verdict::AutoReply);
        assert_eq!(decision.rules, ["adlaw.rank"]);
    }

    #[test]
    fn the_most_pressing_reason_comes_first_and_none_twice() {
        let mut turn = Turn::good();
        for i in [7, 6, 6, 4, 0] {
            turn.spoil(i);
        }
        let decision = turn.decide();
        let wanted =
            [Reason::HumanRequest, Reason::LowConfidence, Reason::Ungrounded, Reason::Noncompliant];
        assert_eq!(decision.reasons, wanted);
        assert_eq!(decision.rules, ["human.request", "grounding.number", "adlaw.rank"]);
    }

    proptest! {
        #[test]
        fn one_more_finding_never_loosens(
            before in proptest::collection::vec(0..12_usize, 0..6),
            more in 0..12_usize,
        ) {
            let mut turn = Turn::good();
            before.iter().for_each(|i| turn.spoil(*i));
            let first = turn.decide();
            turn.spoil(more);
            let second = turn.decide();
            prop_assert!(rank(second.verdict) >= rank(first.verdict));
            prop_assert!(!second.reasons.is_empty());
            prop_assert!(second.priority() >= first.priority());
        }
    }
}
