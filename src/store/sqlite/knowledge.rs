//! Rows of the knowledge side: entries, their versions, labels, the promise they are fitted to.

use std::borrow::Cow;
use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, params};

use super::ledger::{AuditEvent, audit};
use super::{from_json, governance, to_json};
use crate::base::clock::UnixMs;
use crate::base::digest::sha256_hex;
use crate::base::fault::Fault;
use crate::domain::knowledge::{Change, Entry, EntryId, EntryState, Version, VersionedEntry};
use crate::domain::label::{Labelled, Purpose};
use crate::gate::threshold::Promise;
use crate::store::{Head, Import, ImportOutcome, LabelFile, StoreError};

pub(super) fn import(
    transaction: &Transaction<'_>,
    import: &Import,
    now: UnixMs,
) -> Result<ImportOutcome, StoreError> {
    let Import { entries, document, change } = import;
    let mut outcome = ImportOutcome::default();
    let mut versions = Versions::prepare(transaction, change, now)?;
    let mut held = Vec::new();
    for entry in entries {
        let (kept, put) = versions.put(entry)?;
        match put {
            Put::Added => outcome.added.push(entry.id.clone()),
            Put::Changed => outcome.changed.push(entry.id.clone()),
            Put::Unchanged => outcome.unchanged += 1,
        }
        if put != Put::Unchanged && kept.entry.state == EntryState::Pending {
            outcome.held.push(entry.id.clone());
            held.push(kept);
        }
    }
    if let Some(document) = document {
        let kept: HashSet<&EntryId> = entries.iter().map(|e| &e.id).collect();
        for mut entry in passages(transaction, document)? {
            if !kept.contains(&entry.id) && entry.state != EntryState::Archived {
                entry.state = EntryState::Archived;
                versions.put(&entry)?;
                outcome.archived.push(entry.id);
            }
        }
    }
    Fault::ImportHalfWritten.passes();
    let ImportOutcome { added, changed, archived, held: _, unchanged } = &outcome;
    let [added, changed, archived] = [added, changed, archived].map(Vec::len);
    let event = AuditEvent {
        actor: &change.author,
        action: "kb.import",
        subject: &change.source,
        detail: format!(
            "{added} added, {changed} changed, {archived} archived, {unchanged} unchanged"
        ),
    };
    audit(transaction, &event, now)?;
    for entry in &held {
        governance::log_wait(transaction, &change.author, entry, now)?;
    }
    Ok(outcome)
}

/// What putting an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Added,
    Changed,
    Unchanged,
}

/// Writes entries as new versions of one change.
struct Versions<'t> {
    change: &'t Change,
    now: UnixMs,
    current: Statement<'t>,
    upsert: Statement<'t>,
    remember: Statement<'t>,
}

impl<'t> Versions<'t> {
    fn prepare(
        transaction: &'t Transaction<'_>,
        change: &'t Change,
        now: UnixMs,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            change,
            now,
            current: transaction.prepare("SELECT version, body FROM entries WHERE id = ?1")?,
            upsert: transaction.prepare(
                "INSERT INTO entries (id, version, state, body, changed_at, document)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE
                 SET version = ?2, state = ?3, body = ?4, changed_at = ?5, document = ?6",
            )?,
            remember: transaction.prepare(
                "INSERT INTO entry_versions
                     (entry_id, version, body, changed_at, author, source, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
        })
    }

    /// What the entry is now. An equal one keeps its version; marketing text waits for its release
    /// unless it is what was released.
    fn put(&mut self, entry: &Entry) -> Result<(VersionedEntry, Put), StoreError> {
        let current = self.current(&entry.id)?;
        let kept = match &current {
            Some(current) if current.entry == *entry => Cow::Borrowed(entry),
            Some(_) | None => governance::held(entry),
        };
        let (version, put) = match current {
            Some(current) if current.entry == *kept => return Ok((current, Put::Unchanged)),
            Some(current) => (current.version + 1, Put::Changed),
            None => (1, Put::Added),
        };
        self.write(version, &kept)?;
        Ok((VersionedEntry { version, entry: kept.into_owned() }, put))
    }

    fn current(&mut self, id: &EntryId) -> Result<Option<VersionedEntry>, StoreError> {
        let row: Option<(u32, String)> =
            self.current.query_row([id.as_str()], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        let read = |(version, body): (u32, String)| {
            Ok(VersionedEntry { version, entry: from_json("entry", &body)? })
        };
        row.map(read).transpose()
    }

    fn write(&mut self, version: u32, entry: &Entry) -> Result<(), StoreError> {
        let id = entry.id.as_str();
        let body = to_json("entry", entry)?;
        let document = entry.place.as_ref().map(|p| p.document.as_str());
        let state = entry.state.as_str();
        self.upsert.execute(params![id, version, state, body, self.now, document])?;
        let Change { author, reason, source } = self.change;
        self.remember.execute(params![id, version, body, self.now, author, source, reason])?;
        Ok(())
    }
}

/// Writes the next version of an entry as the release decided it; the number of that version.
pub(super) fn put_released(
    transaction: &Transaction<'_>,
    entry: &Entry,
    change: &Change,
    now: UnixMs,
) -> Result<u32, StoreError> {
    let mut versions = Versions::prepare(transaction, change, now)?;
    let version = versions.current(&entry.id)?.map_or(1, |current| current.version + 1);
    versions.write(version, entry)?;
    Ok(version)
}

/// What was read from a document so far.
fn passages(connection: &Connection, document: &str) -> Result<Vec<Entry>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT body FROM entries WHERE document = ?1 ORDER BY id")?;
    let rows = query.query_map([document], |r| r.get::<_, String>(0))?;
    rows.map(|body| from_json("entry", &body?)).collect()
}

pub(super) fn roll_back(
    transaction: &Transaction<'_>,
    id: &EntryId,
    to: u32,
    change: &Change,
    now: UnixMs,
) -> Result<VersionedEntry, StoreError> {
    let body: Option<String> = transaction
        .prepare("SELECT body FROM entry_versions WHERE entry_id = ?1 AND version = ?2")?
        .query_row(params![id.as_str(), to], |r| r.get(0))
        .optional()?;
    let body = body.ok_or_else(|| StoreError::NoSuchVersion { entry: id.clone(), version: to })?;
    let entry: Entry = from_json("entry", &body)?;
    let (kept, put) = Versions::prepare(transaction, change, now)?.put(&entry)?;
    Fault::RolledBackHalf.passes();
    if put != Put::Unchanged {
        let version = kept.version;
        let event = AuditEvent {
            actor: &change.author,
            action: "kb.rollback",
            subject: id.as_str(),
            detail: format!("version {version} is version {to} again"),
        };
        audit(transaction, &event, now)?;
        if kept.entry.state == EntryState::Pending {
            governance::log_wait(transaction, &change.author, &kept, now)?;
        }
    }
    Ok(kept)
}

pub(super) fn history(connection: &Connection, id: &EntryId) -> Result<Vec<Version>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT version, body, changed_at, author, source, reason FROM entry_versions
         WHERE entry_id = ?1 ORDER BY version",
    )?;
    let rows = query.query_map([id.as_str()], |r| {
        let change = Change { author: r.get(3)?, source: r.get(4)?, reason: r.get(5)? };
        Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?, r.get(2)?, change))
    })?;
    rows.map(|row| {
        let (version, body, at, change) = row?;
        let versioned = VersionedEntry { version, entry: from_json("entry", &body)? };
        Ok(Version { versioned, change, at })
    })
    .collect()
}

pub(super) fn revision(connection: &Connection) -> Result<i64, StoreError> {
    let newest = connection
        .prepare_cached("SELECT coalesce(max(rowid), 0) FROM entry_versions")?
        .query_row([], |r| r.get(0))?;
    Ok(newest)
}

pub(super) fn heads(connection: &Connection) -> Result<Vec<Head>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT id, version, state FROM entries ORDER BY id")?;
    let rows = query.query_map([], |r| {
        Ok((r.get::<_, String>(0)?, r.get::<_, u32>(1)?, r.get::<_, String>(2)?))
    })?;
    rows.map(|row| {
        let (id, version, word) = row?;
        let state = EntryState::parse(&word).ok_or_else(|| StoreError::Corrupt {
            what: "entry",
            reason: format!("unknown state {word:?} of {id}"),
        })?;
        Ok(Head { id: EntryId(id), version, state })
    })
    .collect()
}

pub(super) fn entries_by_id(
    connection: &Connection,
    ids: &[EntryId],
) -> Result<Vec<VersionedEntry>, StoreError> {
    let mut query = connection.prepare_cached("SELECT version, body FROM entries WHERE id = ?1")?;
    let mut found = Vec::new();
    for id in ids {
        let row = query
            .query_row([id.as_str()], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?)))
            .optional()?;
        if let Some((version, body)) = row {
            found.push(VersionedEntry { version, entry: from_json("entry", &body)? });
        }
    }
    Ok(found)
}

pub(super) fn entries(connection: &Connection) -> Result<Vec<VersionedEntry>, StoreError> {
    let mut query = connection.prepare_cached("SELECT version, body FROM entries ORDER BY id")?;
    let rows = query.query_map([], |r| Ok((r.get::<_, u32>(0)?, r.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (version, body) = row?;
        Ok(VersionedEntry { version, entry: from_json("entry", &body)? })
    })
    .collect()
}

pub(super) fn add_labels(
    transaction: &Transaction<'_>,
    file: &LabelFile,
    author: &str,
    now: UnixMs,
) -> Result<usize, StoreError> {
    let LabelFile { source, purpose, labels } = file;
    let mut insert = transaction.prepare(
        "INSERT INTO labels (digest, purpose, text, context, entry_id, source, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (digest) DO NOTHING",
    )?;
    // What was said before, then otherwise, and again is said last.
    let mut superseded = transaction.prepare(
        "DELETE FROM labels WHERE digest = ?1 AND EXISTS (SELECT 1 FROM labels AS later
         WHERE later.text = ?2 AND later.context = ?3 AND later.rowid > labels.rowid
         AND later.entry_id IS NOT labels.entry_id)",
    )?;
    let mut added = 0;
    for label in labels {
        let digest = sha256_hex(to_json("label", &(purpose, label))?.as_bytes());
        let context = to_json("context", &label.context)?;
        let entry = label.answer.as_ref().map(EntryId::as_str);
        superseded.execute(params![digest, label.text, context])?;
        let row = params![digest, purpose.as_str(), label.text, context, entry, source, now];
        added += insert.execute(row)?;
    }
    let event = AuditEvent {
        actor: author,
        action: "labels.add",
        subject: source,
        detail: format!("{added} new of {} for {purpose}", labels.len()),
    };
    audit(transaction, &event, now)?;
    Ok(added)
}

pub(super) fn labels(
    connection: &Connection,
    purpose: Purpose,
) -> Result<Vec<Labelled>, StoreError> {
    let query = "SELECT text, context, last FROM (
         SELECT rowid AS place, purpose, text, context, last_value(entry_id) OVER (
             PARTITION BY text, context ORDER BY rowid
             ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last
         FROM labels) WHERE purpose = ?1 ORDER BY place";
    read_labels(connection, query, params![purpose.as_str()])
}

pub(super) fn labels_since(
    connection: &Connection,
    since: UnixMs,
) -> Result<Vec<Labelled>, StoreError> {
    let query = "SELECT text, context, entry_id FROM labels WHERE created_at >= ?1 ORDER BY rowid";
    read_labels(connection, query, params![since])
}

fn read_labels(
    connection: &Connection,
    query: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Labelled>, StoreError> {
    let mut query = connection.prepare_cached(query)?;
    let rows = query.query_map(params, |r| {
        Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, Option<String>>(2)?))
    })?;
    rows.map(|row| {
        let (text, context, entry) = row?;
        let context = from_json("context", &context)?;
        Ok(Labelled { text, context, answer: entry.map(EntryId) })
    })
    .collect()
}

pub(super) fn set_promise(
    transaction: &Transaction<'_>,
    promise: Promise,
    author: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    let Promise { alpha, confidence } = promise;
    transaction.execute(
        "INSERT INTO promise (id, alpha, confidence, asked_at) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET alpha = ?1, confidence = ?2, asked_at = ?3",
        params![alpha, confidence, now],
    )?;
    let event = AuditEvent {
        actor: author,
        action: "promise.set",
        subject: "gate",
        detail: format!("alpha {alpha}, confidence {confidence}"),
    };
    audit(transaction, &event, now)
}

pub(super) fn promise(connection: &Connection) -> Result<Option<Promise>, StoreError> {
    let row = connection
        .prepare_cached("SELECT alpha, confidence FROM promise")?
        .query_row([], |r| Ok(Promise { alpha: r.get(0)?, confidence: r.get(1)? }))
        .optional()?;
    Ok(row)
}
