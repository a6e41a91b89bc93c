//! A suffix automaton over tokens: every place where a run of tokens has occurred, found one token
//! at a time in constant time.
//!
//! Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text": a state is a set
//! of runs that end at the same places; at most two states per token.

use std::collections::HashMap;

/// The state of the empty run.
const ROOT: usize = 0;

#[derive(Debug)]
struct State {
    /// Length of the longest run of this state.
    length: usize,
    /// The state of its longest suffix that ends in more places; none of the root.
    link: Option<usize>,
    next: HashMap<u32, usize>,
    /// Index just after the first place where the runs end.
    end: usize,
}

/// All runs of a text of tokens, extended at its end.
#[derive(Debug)]
pub struct SuffixAutomaton {
    states: Vec<State>,
    last: usize,
    tokens: Vec<u32>,
}

/// The longest run that ends where a reader is and has occurred in the automaton's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    state: usize,
    /// Tokens of the run.
    pub length: usize,
}

impl SuffixAutomaton {
    pub fn new(tokens: &[u32]) -> Self {
        let root = State { length: 0, link: None, next: HashMap::new(), end: 0 };
        let mut automaton = Self { states: vec![root], last: ROOT, tokens: Vec::new() };
        tokens.iter().for_each(|t| automaton.push(*t));
        automaton
    }

    /// Extends the text.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        let length = self.states[self.last].length + 1;
        let new =
            self.add(State { length, link: None, next: HashMap::new(), end: self.tokens.len() });
        let mut at = Some(self.last);
        while let Some(state) = at.filter(|s| !self.states[*s].next.contains_key(&token)) {
            self.states[state].next.insert(token, new);
            at = self.states[state].link;
        }
        let link = at.map_or(ROOT, |state| self.reached(state, token));
        self.states[new].link = Some(link);
        self.last = new;
    }

    /// The state that `token` leads to and that holds no run longer than by one: split off where
    /// there is none.
    fn reached(&mut self, from: usize, token: u32) -> usize {
        let target = self.states[from].next[&token];
        let length = self.states[from].length + 1;
        if self.states[target].length == length {
            return target;
        }
        let State { link, ref next, end, .. } = self.states[target];
        let next = next.clone();
        let split = self.add(State { length, link, next, end });
        self.states[target].link = Some(split);
        let mut at = Some(from);
        while let Some(state) = at.filter(|s| self.states[*s].next.get(&token) == Some(&target)) {
            self.states[state].next.insert(token, split);
            at = self.states[state].link;
        }
        split
    }

    fn add(&mut self, state: State) -> usize {
        self.states.push(state);
        self.states.len() - 1
    }

    /// The match of a reader that was at `at` and reads `token`.
    pub fn step(&self, at: Match, token: u32) -> Match {
        let Match { mut state, mut length } = at;
        loop {
            if let Some(next) = self.states[state].next.get(&token) {
                return Match { state: *next, length: length + 1 };
            }
            let Some(link) = self.states[state].link else { return Match::default() };
            (state, length) = (link, self.states[link].length);
        }
    }

    /// What followed the match where it first occurred, at most `count` tokens.
    pub fn following(&self, at: Match, count: usize) -> &[u32] {
        let end = self.states[at.state].end;
        &self.tokens[end..self.tokens.len().min(end + count)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The longest suffix of `read` in `text`, by trying all.
    fn longest(text: &[u32], read: &[u32]) -> usize {
        let occurs = |n: &usize| *n == 0 || text.windows(*n).any(|w| w == &read[read.len() - n..]);
        (0..=read.len()).rev().find(occurs).unwrap_or(0)
    }

    proptest! {
        #[test]
        fn matches_are_the_longest_and_continue_as_the_text_did(
            text in prop::collection::vec(0_u32..3, 0..40),
            read in prop::collection::vec(0_u32..3, 0..40),
        ) {
            let automaton = SuffixAutomaton::new(&text);
            prop_assert!(automaton.states.len() <= 2 * text.len() + 1);
            let mut at = Match::default();
            for end in 1..=read.len() {
                at = automaton.step(at, read[end - 1]);
                let length = longest(&text, &read[..end]);
                prop_assert_eq!(at.length, length);
                let run = [&read[end - length..end], automaton.following(at, 3)].concat();
                prop_assert!(text.windows(run.len().max(1)).any(|w| w == run) || run.is_empty());
                if length > 0 {
                    let first = text.windows(length).position(|w| w == &read[end - length..end]);
                    let after = first.unwrap() + length;
                    prop_assert_eq!(automaton.following(at, 3), &text[after..text.len().min(after + 3)]);
                }
            }
        }
    }
}
