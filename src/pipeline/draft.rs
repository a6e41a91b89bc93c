//! The draft step: the approved answer as it stands, else clauses of the evidence, never words of our own.

use crate::domain::draft::{Draft, DraftMode, Span};
use crate::domain::evidence::Evidence;
use crate::engine::EngineError;
use crate::engine::generate::GenerateWorker;
use crate::model::{ComposeRequest, ComposeSource, Composed, Control};
use crate::understand::clauses::units;

/// Pieces of evidence that a composed reply may draw from.
const SOURCES: usize = 3;
/// A piece joins only with at least this share of the best one's score.
const JOINS_FROM: f32 = 0.75;

/// How the reply may be made.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Longest composed reply, characters.
    pub draft_chars: usize,
    /// Longest text the channel carries, bytes.
    pub channel_bytes: usize,
}

/// The approved answer of the best evidence, if it has one and the channel can carry it. A passage
/// of a document answers nothing by itself: sentences are chosen from it.
pub fn verbatim(best: &Evidence, room: Room) -> Option<Draft> {
    if best.place.is_some() {
        return None;
    }
    let answer = best.answer.as_ref().filter(|a| a.len() <= room.channel_bytes)?;
    Some(Draft::verbatim(best.id.clone(), answer.clone()))
}

/// Chooses and orders units of the best pieces of evidence; no other word can come out.
pub fn compose(
    composer: &GenerateWorker,
    question: &str,
    evidence: &[Evidence],
    room: Room,
    control: &Control,
) -> Result<Option<Draft>, EngineError> {
    let chosen = sources(evidence);
    let sources: Vec<ComposeSource> = chosen
        .iter()
        .map(|(found, answer)| ComposeSource {
            question: found.question.clone(),
            units: units(answer).into_iter().map(|u| u.text).collect(),
        })
        .collect();
    if sources.iter().all(|s| s.units.is_empty()) {
        return Ok(None);
    }
    let request = ComposeRequest {
        question: question.to_owned(),
        sources: sources.clone(),
        max_chars: room.draft_chars,
    };
    let composed = composer.compose(request, control)?;
    Ok(join(&chosen, &sources, &composed))
}

/// How many pieces of evidence a composed reply would draw from.
pub fn pieces(evidence: &[Evidence]) -> usize {
    sources(evidence).len()
}

fn sources(evidence: &[Evidence]) -> Vec<(&Evidence, &str)> {
    let top = evidence.first().map_or(0.0, |e| e.scores.fused);
    evidence
        .iter()
        .take(SOURCES)
        .filter(|e| e.scores.fused >= top * JOINS_FROM)
        .filter_map(|e| Some((e, e.answer.as_deref()?)))
        .collect()
}

fn join(
    chosen: &[(&Evidence, &str)],
    sources: &[ComposeSource],
    composed: &Composed,
) -> Option<Draft> {
    let spans: Vec<Span> = composed
        .chosen
        .iter()
        .filter_map(|pick| {
            let text = sources.get(pick.source)?.units.get(pick.unit)?.clone();
            Some(Span { text, source: Some(chosen.get(pick.source)?.0.id.clone()) })
        })
        .collect();
    (!spans.is_empty()).then_some(Draft { mode: DraftMode::Composed, spans })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::Scores;
    use crate::domain::knowledge::{Domain, EntryId, Scene};
    use crate::model::Chosen;

    fn evidence(id: &str, answer: &str) -> Evidence {
        Evidence {
            id: EntryId(id.into()),
            version: 1,
            question: "怎么退款".into(),
            answer: Some(answer.into()),
            scene: Scene::Inquiry,
            domain: Domain::General,
            phrasing: "怎么退款".into(),
            place: None,
            scores: Scores::default(),
        }
    }

    #[test]
    fn an_answer_goes_out_whole_or_not_at_all() {
        let mut best = evidence("a", "三天内。");
        let room = |channel_bytes| Room { draft_chars: 300, channel_bytes };
        assert_eq!(verbatim(&best, room(12)).unwrap().text(), "三天内。");
        assert_eq!(verbatim(&best, room(11)), None);
        best.answer = None;
        assert_eq!(verbatim(&best, room(12)), None);
    }

    #[test]
    fn a_composed_reply_reads_as_its_language_is_written_and_cites_every_unit() {
        let found = [evidence("a", "Tap Orders. Choose one."), evidence("b", "It is free.")];
        let chosen: Vec<_> = found.iter().map(|e| (e, e.answer.as_deref().unwrap())).collect();
        let source = |(_, answer): &(&Evidence, &str)| ComposeSource {
            question: String::new(),
            units: units(answer).into_iter().map(|unit| unit.text).collect(),
        };
        let sources: Vec<ComposeSource> = chosen.iter().map(source).collect();
        let places = [(0, 1), (1, 0)].map(|(source, unit)| Chosen { source, unit });
        let composed = Composed { chosen: places.to_vec(), ..Composed::default() };
        let draft = join(&chosen, &sources, &composed).unwrap();
        assert_eq!(draft.text(), "Choose one. It is free.");
        assert_eq!(draft.citations(), [&found[0].id, &found[1].id]);
        assert_eq!(crate::gate::grounding::check(&draft, &found), []);
    }
}
