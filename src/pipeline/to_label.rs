//! Which messages to ask people about first: those on record whose labels open the gate soonest.

use std::collections::HashSet;

use crate::domain::decision::Verdict;
use crate::domain::knowledge::EntryId;
use crate::domain::label::Labelled;
use crate::domain::message::Utterance;
use crate::domain::trace::Trace;
use crate::engine::embed::EmbedWorker;
use crate::model::Control;
use crate::pipeline::fit::FitError;
use crate::search::index::KnowledgeIndex;
use crate::search::telling;

/// A message that waits for its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToLabel {
    pub text: String,
    pub context: Vec<Utterance>,
    /// The entry that came nearest: a guess to begin with.
    pub nearest: Option<EntryId>,
    /// Drawn by lot, and so like the messages to come: its label is for the threshold.
    pub drawn: bool,
}

/// At most `count` of the messages in `traces` that no label speaks of, those to ask about first
/// coming first.
pub fn first(
    traces: &[Trace],
    labels: &[Labelled],
    index: &KnowledgeIndex,
    embedder: &EmbedWorker,
    count: usize,
) -> Result<Vec<ToLabel>, FitError> {
    let open = unlabelled(traces, labels);
    let questions: Vec<String> = open.iter().map(|t| t.understanding.question.clone()).collect();
    let vectors = embedder.embed(&questions, &Control::default(), &mut |_, _| ())?;
    let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
    let order = telling::first(&vectors, &index.phrasing_vectors()?, count)?;
    let to_label = |asked: &telling::Asked| {
        let trace = open[asked.message];
        ToLabel {
            text: trace.message.clone(),
            context: trace.context.clone(),
            nearest: trace.evidence.first().map(|best| best.id.clone()),
            drawn: asked.drawn,
        }
    };
    Ok(order.iter().map(to_label).collect())
}

/// One trace of each message that was looked up and has no label.
fn unlabelled<'a>(traces: &'a [Trace], labels: &'a [Labelled]) -> Vec<&'a Trace> {
    let mut known: HashSet<(&str, &[Utterance])> =
        labels.iter().map(|l| (l.text.as_str(), l.context.as_slice())).collect();
    let looked_up = |t: &&Trace| !t.evidence.is_empty() || t.decision.verdict != Verdict::AutoReply;
    traces
        .iter()
        .filter(|t| !t.understanding.question.is_empty())
        .filter(looked_up)
        .filter(|t| known.insert((t.message.as_str(), t.context.as_slice())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConversationId, TraceId};
    use crate::domain::decision::{Decision, Reason};
    use crate::domain::message::AccountName;
    use crate::domain::trace::Understanding;

    fn trace(message: &str, verdict: Verdict) -> Trace {
        Trace {
            id: TraceId::generate(),
            conversation: ConversationId::generate(),
            account: AccountName("web".into()),
            received_at: 0,
            message: message.into(),
            context: Vec::new(),
            generation: "g1".into(),
            understanding: Understanding { question: message.into(), ..Understanding::default() },
            evidence: Vec::new(),
            draft: None,
            objections: Vec::new(),
            decision: Decision {
                verdict,
                reasons: vec![Reason::LowConfidence],
                confidence: 0.1,
                rules: Vec::new(),
            },
            reply: String::new(),
            answered_by: None,
            timings_ms: Default::default(),
        }
    }

    #[test]
    fn a_message_is_asked_about_once_and_not_when_its_label_is_there() {
        let traces = [
            trace("怎么退款", Verdict::Handoff),
            trace("怎么退款", Verdict::Suggest),
            trace("怎么开票", Verdict::Handoff),
            trace("你好", Verdict::AutoReply),
        ];
        let label = Labelled { text: "怎么开票".into(), context: Vec::new(), answer: None };
        let left = unlabelled(&traces, std::slice::from_ref(&label));
        assert_eq!(left.iter().map(|t| t.message.as_str()).collect::<Vec<_>>(), ["怎么退款"]);
    }
}
