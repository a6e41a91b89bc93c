//! What a reply may consist of, and which tokens that leaves at each place.
//!
//! A reply is a row of whole pieces. A piece is held as the tokens that it has when tokenised alone,
//! so the next one always begins with a token of its own: whatever a tokenizer would make of the
//! joined text, what comes out spells whole pieces and nothing else. Since a piece of evidence may
//! only be entered at its beginning and left at its end, the walks through it are the prefixes of
//! its tokens; pieces lie sorted, so those that begin as the reply goes on are a range of them.

use std::ops::Range;

use crate::model::ModelError;

/// Readings kept of what was said so far. More than one needs pieces that begin with other pieces;
/// each is a valid one, so dropping the rest forbids something and allows nothing.
const MOST_READINGS: usize = 16;

/// What a reply may consist of; a text that its tokens do not spell exactly is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// One of these texts, whole.
    Choices(Vec<String>),
    /// Units of evidence, each whole and at most once; a phrase may stand before each of them.
    Copy { units: Vec<String>, phrases: Vec<String> },
}

impl Constraint {
    /// The texts that answer something, then those that only connect.
    pub(crate) fn texts(&self) -> (&[String], &[String]) {
        match self {
            Self::Choices(choices) => (choices, &[]),
            Self::Copy { units, phrases } => (units, phrases),
        }
    }

    fn one_only(&self) -> bool {
        match self {
            Self::Choices(_) => true,
            Self::Copy { .. } => false,
        }
    }
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// One of these tokens, ascending; those that end the reply are among them where it may end.
    Among(&'a [u32]),
    /// No other token.
    Only(u32),
    /// Nothing more.
    End,
}

/// A constraint over tokens, and where in it a reply is.
#[derive(Debug)]
pub struct Mask {
    units: Vec<Vec<u32>>,
    phrases: Vec<Vec<u32>>,
    one_only: bool,
    /// Tokens that end a reply.
    ends: Vec<u32>,
    /// Tokens that may yet be said.
    left: usize,
    readings: Vec<Reading>,
    may_end: bool,
    allowed: Vec<u32>,
}

/// One way to cut into pieces what was said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    /// Whether the last piece is a phrase.
    phrase: bool,
    /// The pieces that begin as the last one does, and how many of their tokens were said.
    range: Range<usize>,
    depth: usize,
    /// Units said, ascending; the last piece joins them when it is whole.
    said: Vec<usize>,
}

impl Mask {
    /// `units` and `phrases` are the tokens of the constraint's texts; at most `left` tokens are
    /// said, and a piece that does not fit them is not begun.
    ///
    /// # Errors
    /// `BadRequest` when not a single unit fits.
    pub fn new(
        constraint: &Constraint,
        [units, phrases]: [Vec<Vec<u32>>; 2],
        ends: &[u32],
        left: usize,
    ) -> Result<Self, ModelError> {
        let sorted = |mut pieces: Vec<Vec<u32>>| {
            pieces.retain(|piece| !piece.is_empty());
            pieces.sort_unstable();
            pieces.dedup();
            pieces
        };
        let mut mask = Self {
            units: sorted(units),
            phrases: sorted(phrases),
            one_only: constraint.one_only(),
            ends: ends.to_vec(),
            left,
            readings: Vec::new(),
            may_end: false,
            allowed: Vec::new(),
        };
        mask.readings = mask.openings(&[], true);
        mask.refresh();
        if mask.allowed.is_empty() {
            let reason = format!("none of the allowed texts fits into {left} tokens: allow more");
            return Err(ModelError::BadRequest(reason));
        }
        Ok(mask)
    }

    pub fn next(&self) -> Next<'_> {
        match self.allowed.as_slice() {
            [only] if !self.may_end => Next::Only(*only),
            allowed if self.may_end && allowed.len() == self.ends.len() => Next::End,
            allowed => Next::Among(allowed),
        }
    }

    /// Goes on with an allowed token that does not end the reply.
    pub fn step(&mut self, token: u32) {
        self.left = self.left.saturating_sub(1);
        let mut readings = Vec::with_capacity(self.readings.len());
        self.may_end = false;
        for reading in &self.readings {
            let Some(gone_on) = self.go_on(reading, token) else { continue };
            self.may_end |= self.close(&gone_on, &mut readings);
            readings.push(gone_on);
        }
        self.readings.clear();
        for reading in readings {
            let open = self.pieces(&reading).next().is_some();
            if open && self.readings.len() < MOST_READINGS && !self.readings.contains(&reading) {
                self.readings.push(reading);
            }
        }
        self.refresh();
    }

    /// `reading` after one more token of its last piece.
    fn go_on(&self, reading: &Reading, token: u32) -> Option<Reading> {
        let list = self.list(reading.phrase);
        let at = |piece: &Vec<u32>| piece.get(reading.depth).copied();
        let within = &list[reading.range.clone()];
        let first = within.partition_point(|piece| at(piece) < Some(token));
        let count = within[first..].partition_point(|piece| at(piece) == Some(token));
        let start = reading.range.start + first;
        let range = start..start + count;
        (count > 0).then(|| Reading { range, depth: reading.depth + 1, ..reading.clone() })
    }

    /// Adds how the reply may go on after the last piece of `reading` when that is whole; tells
    /// whether the reply may end there.
    fn close(&self, reading: &Reading, readings: &mut Vec<Reading>) -> bool {
        // Pieces lie sorted and are distinct: only the first can be as short as what was said.
        let whole = self.list(reading.phrase)[reading.range.start].len() == reading.depth;
        if !whole || (!reading.phrase && reading.said.contains(&reading.range.start)) {
            return false;
        }
        if reading.phrase {
            readings.extend(self.openings(&reading.said, false));
            return false;
        }
        if !self.one_only {
            // In order, so that two readings that leave the same to be said are equal.
            let mut said = [reading.said.as_slice(), &[reading.range.start]].concat();
            said.sort_unstable();
            readings.extend(self.openings(&said, true));
        }
        true
    }

    /// The beginnings of the next piece.
    fn openings(&self, said: &[usize], phrase_too: bool) -> Vec<Reading> {
        let opening = |phrase| Reading {
            phrase,
            range: 0..self.list(phrase).len(),
            depth: 0,
            said: said.to_vec(),
        };
        let mut openings = vec![opening(false)];
        openings.extend(phrase_too.then(|| opening(true)));
        openings
    }

    fn list(&self, phrase: bool) -> &[Vec<u32>] {
        if phrase { &self.phrases } else { &self.units }
    }

    /// The pieces that `reading` can still finish, after a phrase together with a unit.
    fn pieces<'a>(&'a self, reading: &'a Reading) -> impl Iterator<Item = &'a [u32]> {
        let unsaid = |at: &usize| !reading.said.contains(at);
        let after = if reading.phrase {
            (0..self.units.len()).filter(unsaid).map(|at| self.units[at].len()).min()
        } else {
            Some(0)
        };
        let room = after.and_then(|after| (self.left + reading.depth).checked_sub(after));
        let open = move |at: &usize| reading.phrase || !reading.said.contains(at);
        let pieces = reading.range.clone().filter(open).map(|at| &*self.list(reading.phrase)[at]);
        pieces.filter(move |p| p.len() > reading.depth && room.is_some_and(|room| p.len() <= room))
    }

    fn refresh(&mut self) {
        let mut allowed: Vec<u32> = Vec::new();
        for reading in &self.readings {
            allowed.extend(self.pieces(reading).map(|piece| piece[reading.depth]));
        }
        if self.may_end {
            allowed.extend(&self.ends);
        }
        allowed.sort_unstable();
        allowed.dedup();
        self.allowed = allowed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::SplitMix64;
    use proptest::prelude::*;

    const END: u32 = 99;

    fn copy(units: &[&[u32]], phrases: &[&[u32]], left: usize) -> Result<Mask, ModelError> {
        let owned = |pieces: &[&[u32]]| pieces.iter().map(|p| p.to_vec()).collect();
        let constraint = Constraint::Copy { units: Vec::new(), phrases: Vec::new() };
        Mask::new(&constraint, [owned(units), owned(phrases)], &[END], left)
    }

    /// Chooses at random among what is allowed until the end.
    fn walk(mask: &mut Mask, random: &mut SplitMix64) -> Vec<u32> {
        let mut said = Vec::new();
        loop {
            let token = match mask.next() {
                Next::End => return said,
                Next::Only(token) => token,
                Next::Among(tokens) => tokens[random.bits() as usize % tokens.len()],
            };
            if token == END {
                return said;
            }
            said.push(token);
            mask.step(token);
        }
    }

    /// Whether `said` is a row of units, each at most once, with at most one phrase before each.
    fn is_row(said: &[u32], units: &[Vec<u32>], phrases: &[Vec<u32>], used: &[usize]) -> bool {
        let starts = |rest: &[u32]| {
            units.iter().enumerate().any(|(at, unit)| {
                // The same text twice is one unit.
                let fresh = used.iter().all(|u| units[*u] != *unit) && !unit.is_empty();
                let tail = rest.strip_prefix(unit.as_slice()).filter(|_| fresh);
                let used = [used, &[at]].concat();
                tail.is_some_and(|tail| tail.is_empty() || is_row(tail, units, phrases, &used))
            })
        };
        let opened = |p: &Vec<u32>| said.strip_prefix(p.as_slice()).is_some_and(starts);
        starts(said) || phrases.iter().any(opened)
    }

    #[test]
    fn what_is_begun_is_finished_and_said_once() {
        let mut mask = copy(&[&[1, 2, 3], &[1, 2, 4], &[5]], &[&[7]], 9).unwrap();
        assert_eq!(mask.next(), Next::Among(&[1, 5, 7]));
        mask.step(1);
        assert_eq!(mask.next(), Next::Only(2));
        mask.step(2);
        assert_eq!(mask.next(), Next::Among(&[3, 4]));
        mask.step(4);
        assert_eq!(mask.next(), Next::Among(&[1, 5, 7, END]));
        mask.step(7);
        assert_eq!(mask.next(), Next::Among(&[1, 5]), "a phrase ends nothing and leads to a unit");
        mask.step(5);
        mask.step(1);
        mask.step(2);
        assert_eq!(mask.next(), Next::Only(3), "the other was said");
        mask.step(3);
        assert_eq!(mask.next(), Next::End);
    }

    #[test]
    fn nothing_is_begun_that_does_not_fit() {
        let mut mask = copy(&[&[1, 2, 3], &[5, 6]], &[&[7]], 4).unwrap();
        assert_eq!(mask.next(), Next::Among(&[1, 5, 7]));
        mask.step(5);
        mask.step(6);
        assert_eq!(mask.next(), Next::End, "three tokens do not fit into the two that are left");
        let refused = copy(&[&[1, 2, 3]], &[&[7]], 2);
        assert!(matches!(refused, Err(ModelError::BadRequest(_))));
    }

    #[test]
    fn a_unit_that_begins_with_another_is_read_both_ways() {
        let mut mask = copy(&[&[1], &[1, 2], &[2, 3]], &[], 9).unwrap();
        mask.step(1);
        assert_eq!(mask.next(), Next::Among(&[1, 2, END]));
        mask.step(2);
        // Either the second unit is whole, or the first is and the third has begun.
        assert_eq!(mask.next(), Next::Among(&[1, 2, 3, END]));
        mask.step(3);
        assert_eq!(mask.next(), Next::Among(&[1, END]));
    }

    fn pieces(most: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0_u32..3, 0..5), 0..most)
    }

    proptest! {
        #[test]
        fn a_copied_reply_is_a_row_of_whole_pieces(
            units in pieces(6), phrases in pieces(3), left in 0_usize..14, seed: u64,
        ) {
            let constraint = Constraint::Copy { units: Vec::new(), phrases: Vec::new() };
            let phrases: Vec<Vec<u32>> = phrases.into_iter().filter(|p| !p.is_empty()).collect();
            let fits = units.iter().any(|u| !u.is_empty() && u.len() <= left);
            let mask = Mask::new(&constraint, [units.clone(), phrases.clone()], &[END], left);
            prop_assert_eq!(mask.is_ok(), fits);
            let Ok(mut mask) = mask else { return Ok(()) };
            let said = walk(&mut mask, &mut SplitMix64::new(seed));
            prop_assert!(said.len() <= left);
            prop_assert!(is_row(&said, &units, &phrases, &[]), "{:?}", said);
        }

        #[test]
        fn a_closed_choice_is_one_of_the_choices(
            choices in pieces(6), left in 0_usize..6, seed: u64,
        ) {
            let constraint = Constraint::Choices(Vec::new());
            let mask = Mask::new(&constraint, [choices.clone(), Vec::new()], &[END], left);
            let Ok(mut mask) = mask else { return Ok(()) };
            let said = walk(&mut mask, &mut SplitMix64::new(seed));
            prop_assert!(said.len() <= left && choices.contains(&said), "{:?}", said);
        }
    }
}
