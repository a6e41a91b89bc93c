//! [`Governance`] on SQLite.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::ledger::{AuditEvent, audit};
use super::{SqliteStore, from_json, knowledge};
use crate::base::clock::UnixMs;
use crate::domain::knowledge::{Change, Entry, EntryId, EntryState, Validity, VersionedEntry};
use crate::domain::qualification::{Qualification, QualificationId, Register};
use crate::domain::release::{Consent, Role, Step, Vote, step};
use crate::gate::compliance::is_marketing;
use crate::store::StoreError;
use crate::store::governance::{Governance, Voted, Waiting};

impl Governance for SqliteStore {
    fn unreleased(&self) -> Result<Vec<Waiting>, StoreError> {
        self.read(|c| {
            let mut query = c.prepare_cached(
                "SELECT e.version, e.body, v.author, v.reason, v.source
                 FROM entries e JOIN entry_versions v ON v.entry_id = e.id AND v.version = e.version
                 WHERE e.state = ?1 ORDER BY e.id",
            )?;
            let rows = query.query_map([EntryState::Pending.as_str()], |r| {
                let change = Change { author: r.get(2)?, reason: r.get(3)?, source: r.get(4)? };
                Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?, change))
            })?;
            rows.map(|row| {
                let (version, body, change) = row?;
                let entry: Entry = from_json("entry", &body)?;
                let consents = consents(c, &entry.id, version)?;
                Ok(Waiting { entry: VersionedEntry { version, entry }, change, consents })
            })
            .collect()
        })
    }

    fn vote(
        &self,
        id: &EntryId,
        version: Option<u32>,
        vote: &Vote,
        now: UnixMs,
    ) -> Result<Voted, StoreError> {
        let (id, vote) = (id.clone(), vote.clone());
        self.writer.write(move |t| cast(t, &id, version, &vote, now))
    }

    fn file(&self, document: &Qualification, by: &str, now: UnixMs) -> Result<(), StoreError> {
        let (document, by) = (document.clone(), by.to_owned());
        self.writer.write(move |t| file(t, &document, &by, now))
    }

    fn register(&self) -> Result<Register, StoreError> {
        self.read(|c| {
            let mut query = c.prepare_cached(
                "SELECT id, name, valid_from, valid_until FROM qualifications ORDER BY id",
            )?;
            let rows = query.query_map([], |r| {
                let validity = Validity { from: r.get(2)?, until: r.get(3)? };
                Ok(Qualification { id: QualificationId(r.get(0)?), name: r.get(1)?, validity })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

/// The entry as it is kept: marketing text that is to be published waits for its release.
pub(super) fn held(entry: &Entry) -> Cow<'_, Entry> {
    if entry.state == EntryState::Published && is_marketing(entry) {
        Cow::Owned(Entry { state: EntryState::Pending, ..entry.clone() })
    } else {
        Cow::Borrowed(entry)
    }
}

/// The line in the audit log of an entry that begins to wait.
pub(super) fn log_wait(
    transaction: &Transaction<'_>,
    by: &str,
    VersionedEntry { version, entry }: &VersionedEntry,
    now: UnixMs,
) -> Result<(), StoreError> {
    let event = AuditEvent {
        actor: by,
        action: "release.wait",
        subject: entry.id.as_str(),
        detail: format!("version {version} waits for {} and {}", Role::Legal, Role::Brand),
    };
    audit(transaction, &event, now)
}

fn cast(
    transaction: &Transaction<'_>,
    id: &EntryId,
    read: Option<u32>,
    vote: &Vote,
    now: UnixMs,
) -> Result<Voted, StoreError> {
    let current = knowledge::entries_by_id(transaction, std::slice::from_ref(id))?.pop();
    let waits = current.filter(|e| e.entry.state == EntryState::Pending);
    let VersionedEntry { version: on, entry } =
        waits.ok_or_else(|| StoreError::NotWaiting(id.clone()))?;
    if let Some(read) = read.filter(|read| *read != on) {
        return Err(StoreError::OtherVersion { entry: id.clone(), read, waiting: on });
    }
    let mut given = consents(transaction, id, on)?;
    let step = step(&given, vote)?;
    let event = AuditEvent {
        actor: &vote.person,
        action: match step {
            Step::Waits(_) | Step::Released => "release.approve",
            Step::Rejected => "release.reject",
        },
        subject: id.as_str(),
        detail: format!("version {on} for {}: {}", vote.role, vote.reason),
    };
    audit(transaction, &event, now)?;
    if step == Step::Rejected {
        let change = change(&vote.person, &vote.reason, on);
        let draft = Entry { state: EntryState::Draft, ..entry };
        let version = knowledge::put_released(transaction, &draft, &change, now)?;
        return Ok(Voted { on, step, version });
    }
    let Vote { role, person, reason, .. } = vote;
    transaction.execute(
        "INSERT INTO consents (entry_id, version, role, person, reason, given_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![id.as_str(), on, role.as_str(), person, reason, now],
    )?;
    given.push(Consent { role: *role, person: person.clone(), reason: reason.clone() });
    let version =
        if step == Step::Released { publish(transaction, entry, on, &given, now)? } else { on };
    Ok(Voted { on, step, version })
}

/// The released version as a new one, so that whoever follows the knowledge sees it.
fn publish(
    transaction: &Transaction<'_>,
    entry: Entry,
    on: u32,
    given: &[Consent],
    now: UnixMs,
) -> Result<u32, StoreError> {
    let by: Vec<_> = given.iter().map(|c| format!("{} ({})", c.person, c.role)).collect();
    let by = by.join(", ");
    let reasons: Vec<_> =
        given.iter().map(|c| c.reason.as_str()).filter(|r| !r.is_empty()).collect();
    let published = Entry { state: EntryState::Published, ..entry };
    let change = change(&by, &reasons.join("; "), on);
    let version = knowledge::put_released(transaction, &published, &change, now)?;
    let event = AuditEvent {
        actor: &by,
        action: "release.publish",
        subject: published.id.as_str(),
        detail: format!("version {version} is version {on}, published"),
    };
    audit(transaction, &event, now)?;
    Ok(version)
}

fn change(author: &str, reason: &str, on: u32) -> Change {
    Change {
        author: author.into(),
        reason: reason.into(),
        source: format!("release of version {on}"),
    }
}

fn consents(
    connection: &Connection,
    id: &EntryId,
    version: u32,
) -> Result<Vec<Consent>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT role, person, reason FROM consents WHERE entry_id = ?1 AND version = ?2
         ORDER BY given_at, role",
    )?;
    let rows = query.query_map(params![id.as_str(), version], |r| {
        Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?))
    })?;
    rows.map(|row| {
        let (word, person, reason) = row?;
        let unknown = || StoreError::Corrupt { what: "consent", reason: format!("role {word:?}") };
        Ok(Consent { role: Role::parse(&word).ok_or_else(unknown)?, person, reason })
    })
    .collect()
}

fn file(
    transaction: &Transaction<'_>,
    document: &Qualification,
    by: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    let Qualification { id, name, validity } = document;
    let known: Option<i64> = transaction
        .query_row("SELECT 1 FROM qualifications WHERE id = ?1", [id.as_str()], |r| r.get(0))
        .optional()?;
    transaction.execute(
        "INSERT INTO qualifications (id, name, valid_from, valid_until, filed_by, filed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE
         SET name = ?2, valid_from = ?3, valid_until = ?4, filed_by = ?5, filed_at = ?6",
        params![id.as_str(), name, validity.from, validity.until, by, now],
    )?;
    let Validity { from, until } = validity;
    let event = AuditEvent {
        actor: by,
        action: if known.is_some() { "qualification.replace" } else { "qualification.add" },
        subject: id.as_str(),
        detail: format!("{name}, from {from:?} until {until:?}"),
    };
    audit(transaction, &event, now)
}

#[cfg(test)]
mod tests;
