//! A trace in words, as pages and the chat's event stream show it.

use serde::Serialize;

use crate::base::clock::format_local;
use crate::domain::decision::Priority;
use crate::domain::draft::{DraftMode, Objection};
use crate::domain::evidence::Evidence;
use crate::domain::texts::{Lang, Text, reason_text, verdict_text};
use crate::domain::trace::Trace;

#[derive(Serialize)]
pub(super) struct TraceView {
    id: String,
    time: String,
    account: String,
    message: String,
    context: Vec<Said>,
    question: String,
    rewritten: bool,
    signals: Vec<String>,
    personal_data: Vec<String>,
    /// Code for styling: `auto_reply`, `suggest`, `handoff`.
    verdict: &'static str,
    verdict_text: &'static str,
    reasons: Vec<&'static str>,
    rules: Vec<String>,
    /// Percent with one decimal.
    confidence: String,
    draft: Option<DraftView>,
    objections: Vec<Objection>,
    reply: String,
    /// Id of the trace in which it was answered together with a later message.
    answered_by: Option<String>,
    evidence: Vec<EvidenceView>,
    timings: Vec<Timing>,
    generation: String,
}

#[derive(Serialize)]
struct Said {
    role: &'static str,
    text: String,
}

#[derive(Serialize)]
struct DraftView {
    mode: &'static str,
    text: String,
    citations: Vec<String>,
}

#[derive(Serialize)]
struct EvidenceView {
    id: String,
    version: u32,
    question: String,
    answer: Option<String>,
    score: String,
}

#[derive(Serialize)]
struct Timing {
    step: &'static str,
    ms: String,
}

pub(super) fn trace_view(trace: &Trace, lang: Lang) -> TraceView {
    let decision = &trace.decision;
    TraceView {
        id: trace.id.to_string(),
        time: format_local(trace.received_at),
        account: trace.account.to_string(),
        message: trace.message.clone(),
        context: trace
            .context
            .iter()
            .map(|u| Said { role: u.role.as_str(), text: u.text.clone() })
            .collect(),
        question: trace.understanding.question.clone(),
        rewritten: trace.understanding.rewritten,
        signals: trace.understanding.signals.clone(),
        personal_data: trace.understanding.personal_data.clone(),
        verdict: decision.verdict.as_str(),
        verdict_text: verdict_text(decision.verdict).get(lang),
        reasons: decision.reasons.iter().map(|r| reason_text(*r).get(lang)).collect(),
        rules: decision.rules.clone(),
        confidence: format!("{:.1}%", decision.confidence * 100.0),
        draft: trace.draft.as_ref().map(|draft| DraftView {
            mode: mode_text(draft.mode).map_or("", |text| text.get(lang)),
            text: draft.text(),
            citations: draft.citations().iter().map(ToString::to_string).collect(),
        }),
        objections: trace.objections.clone(),
        reply: trace.reply.clone(),
        answered_by: trace.answered_by.as_ref().map(ToString::to_string),
        evidence: trace.evidence.iter().map(evidence_view).collect(),
        timings: timings(trace, lang),
        generation: trace.generation.clone(),
    }
}

/// The steps in the order in which they are taken.
fn timings(trace: &Trace, lang: Lang) -> Vec<Timing> {
    let known = STEPS.iter().filter_map(|(step, text)| {
        let ms = trace.timings_ms.get(*step)?;
        Some(Timing { step: text.get(lang), ms: format!("{ms:.1}") })
    });
    known.collect()
}

const STEPS: [(&str, Text); 5] = [
    ("understand", Text::StepUnderstand),
    ("embed", Text::StepEmbed),
    ("retrieve", Text::StepRetrieve),
    ("compose", Text::StepCompose),
    ("gate", Text::StepGate),
];

/// A step in words; steps without words are shown by their code.
pub(super) fn step_text(step: &str, lang: Lang) -> Option<&'static str> {
    STEPS.iter().find(|(code, _)| *code == step).map(|(_, text)| text.get(lang))
}

fn mode_text(mode: DraftMode) -> Option<Text> {
    match mode {
        DraftMode::Verbatim => Some(Text::DraftVerbatim),
        DraftMode::Composed => Some(Text::DraftComposed),
        DraftMode::Notice => None,
    }
}

fn evidence_view(found: &Evidence) -> EvidenceView {
    EvidenceView {
        id: found.id.to_string(),
        version: found.version,
        question: found.question.clone(),
        answer: found.answer.clone(),
        score: format!("{:.3}", found.scores.fused),
    }
}

pub(super) fn priority_text(priority: Priority) -> Text {
    match priority {
        Priority::Normal => Text::PriorityNormal,
        Priority::High => Text::PriorityHigh,
        Priority::Urgent => Text::PriorityUrgent,
    }
}
