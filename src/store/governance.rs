//! The port for what people answer for: releases of marketing text, and documents on file.

use crate::base::clock::UnixMs;
use crate::domain::knowledge::{Change, EntryId, VersionedEntry};
use crate::domain::qualification::{Qualification, Register};
use crate::domain::release::{Consent, Step, Vote};
use crate::store::StoreError;

/// An entry that does not answer before two people have let it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub entry: VersionedEntry,
    /// How its version came about.
    pub change: Change,
    pub consents: Vec<Consent>,
}

/// What a vote did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voted {
    /// The version that was voted on.
    pub on: u32,
    pub step: Step,
    /// The version that the entry is at now.
    pub version: u32,
}

pub trait Governance {
    /// Entries that wait for their release, by id.
    fn unreleased(&self) -> Result<Vec<Waiting>, StoreError>;

    /// One person's word on the version that waits, with its line in the audit log. The second
    /// approval publishes the version as a new one, a rejection makes a draft of it. `version`: the
    /// one that was read; another is not voted on.
    fn vote(
        &self,
        id: &EntryId,
        version: Option<u32>,
        vote: &Vote,
        now: UnixMs,
    ) -> Result<Voted, StoreError>;

    /// Files a document, or replaces one of the same id, with its line in the audit log.
    fn file(&self, document: &Qualification, by: &str, now: UnixMs) -> Result<(), StoreError>;

    /// Every document on file.
    fn register(&self) -> Result<Register, StoreError>;
}
