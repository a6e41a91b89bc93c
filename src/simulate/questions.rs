//! What simulated customers ask: the knowledge's own questions, and pairs of them for the generator.

use crate::base::random::SplitMix64;
use crate::domain::knowledge::{EntryState, VersionedEntry};

/// Questions by what they ask of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// An approved answer is there as it stands.
    pub known: Vec<String>,
    /// Two matters in one message: several pieces of evidence compete.
    pub drafted: Vec<String>,
}

impl Questions {
    /// Every phrasing of what is published, shuffled by `seed`; `None` where nothing is.
    pub fn of(entries: &[VersionedEntry], seed: u64) -> Option<Self> {
        let published =
            entries.iter().map(|v| &v.entry).filter(|e| e.state == EntryState::Published);
        let phrasings = |(entry, at): (_, usize)| {
            let entry: &crate::domain::knowledge::Entry = entry;
            let all = std::iter::once(&entry.question).chain(&entry.similar_questions);
            all.map(|text| (at, text.clone())).collect::<Vec<_>>()
        };
        let mut known: Vec<(usize, String)> = published.zip(0..).flat_map(phrasings).collect();
        SplitMix64::new(seed).shuffle(&mut known);
        let pairs = known.iter().zip(known.iter().skip(1)).filter(|(a, b)| a.0 != b.0);
        let drafted: Vec<String> =
            pairs.map(|((_, a), (_, b))| format!("{a}？还有，{b}")).collect();
        let known: Vec<String> = known.into_iter().map(|(_, text)| text).collect();
        (!drafted.is_empty()).then_some(Self { known, drafted })
    }
}
