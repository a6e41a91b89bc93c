//! What the gate saw of one message while it was fitted, and how much that counts.

use serde::{Deserialize, Serialize};

use crate::domain::knowledge::Domain;
use crate::gate::features::Features;

/// Total weight of the two made-up unanswerable kinds, as shares of the left-out phrasings: most
/// real messages are answerable, and a gate fitted on equal parts hardly opens.
const ENTRY_REMOVED_SHARE: f64 = 0.25;
const FAR_SHARE: f64 = 0.1;

/// How an observation was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A person said which entry answers the message, or that none does.
    Labelled,
    /// A phrasing of the knowledge, searched for while it was left out of its entry.
    LeftOut,
    /// A phrasing or a labelled message, searched for while its whole entry was taken out.
    EntryRemoved,
    /// A question of another world.
    Far,
}

/// What the gate saw for one message, and whether the best evidence answered it.
///
/// Features must look as they will in service: a head that was trained on a message must not
/// score that message here, or the gate learns to trust it too much. Score training labels with
/// heads that were fitted without them (cross-fitting).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    pub features: Features,
    pub correct: bool,
    pub kind: Kind,
    /// Of the best evidence.
    pub domain: Domain,
    pub leaves: Leaves,
}

/// How a reply from some evidence goes out once the gate admits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaves {
    /// The approved answer as it stands.
    Approved,
    /// Clauses of a passage, if a generator is there and is done in time. Labels name evidence and
    /// judge no such words, so that nothing is promised of them.
    Composed,
    /// It goes to a person.
    Never,
}

/// How many rows of each sort went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub labelled: usize,
    pub left_out: usize,
    pub entry_removed: usize,
    pub far: usize,
    pub calibration: usize,
    /// Among the calibration rows: messages whose entry was taken out, since no label says of a
    /// message that no entry answers it. The promise then rests on their share.
    #[serde(default)]
    pub calibration_removed: usize,
}

impl Counts {
    pub(super) fn of(observations: &[Observation], calibration: &[Observation]) -> Self {
        let count = |kind| observations.iter().filter(|o| o.kind == kind).count();
        Self {
            labelled: count(Kind::Labelled),
            left_out: count(Kind::LeftOut),
            entry_removed: count(Kind::EntryRemoved),
            far: count(Kind::Far),
            calibration: calibration.len(),
            calibration_removed: calibration
                .iter()
                .filter(|o| o.kind == Kind::EntryRemoved)
                .count(),
        }
    }

    /// How much one observation of a kind counts.
    pub(super) fn weight(&self, kind: Kind) -> f64 {
        let answerable = (self.left_out + self.labelled) as f64;
        let shared = |share: f64, n: usize| (share * answerable / n as f64).min(1.0);
        match kind {
            Kind::Labelled | Kind::LeftOut => 1.0,
            Kind::EntryRemoved => shared(ENTRY_REMOVED_SHARE, self.entry_removed),
            Kind::Far => shared(FAR_SHARE, self.far),
        }
    }
}
