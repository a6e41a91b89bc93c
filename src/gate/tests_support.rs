//! Evidence made in one line, for the tests of this floor.

use crate::domain::evidence::{Evidence, Scores};
use crate::domain::knowledge::{Domain, EntryId, Scene};

pub(crate) fn evidence(id: &str, scores: Scores) -> Evidence {
    evidence_with(id, Some("好的。"), scores)
}

pub(crate) fn evidence_with(id: &str, answer: Option<&str>, scores: Scores) -> Evidence {
    Evidence {
        id: EntryId(id.to_owned()),
        version: 1,
        question: "怎么退款".to_owned(),
        answer: answer.map(str::to_owned),
        scene: Scene::Inquiry,
        domain: Domain::General,
        qualifications: Default::default(),
        phrasing: "怎么退款".to_owned(),
        place: None,
        scores,
    }
}
