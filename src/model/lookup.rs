//! Drafts of what a reply may say next, copied from where its prompt went on after the same words
//! (Saxena 2023, "Prompt Lookup Decoding").

use crate::model::suffix::{Match, SuffixAutomaton};

/// Longest draft. A pass over a few rows costs little more than over one as long as it waits for
/// memory; with the token before it, this many are one tile of the narrowest kernel.
const MOST_DRAFTED: usize = 5;
/// Words that must agree before what followed them is tried.
const LEAST_MATCH: usize = 2;

/// Drafts from the prompt.
pub(crate) struct Lookup {
    prompt: SuffixAutomaton,
    place: Match,
    draft: Vec<u32>,
    /// How long the next draft may be: longer after one that held, shorter after one that did not.
    room: usize,
}

impl Lookup {
    pub(crate) fn new(prompt: &[u32]) -> Self {
        let prompt = SuffixAutomaton::new(prompt);
        Self { prompt, place: Match::default(), draft: Vec::new(), room: MOST_DRAFTED / 2 }
    }

    /// What may come next; empty when nothing in the prompt tells.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Learns what came next and how much of the draft held, then drafts anew.
    pub(crate) fn follow(&mut self, chosen: &[u32], accepted: usize, most: usize) {
        for token in chosen {
            self.place = self.prompt.step(self.place, *token);
        }
        if !self.draft.is_empty() {
            let held = accepted == self.draft.len();
            self.room = if held { 2 * self.room } else { self.room.min(accepted + 1) };
            self.room = self.room.clamp(1, MOST_DRAFTED);
        }
        self.draft.clear();
        if self.place.length >= LEAST_MATCH {
            self.draft.extend(self.prompt.following(self.place, self.room.min(most)));
        }
    }
}
