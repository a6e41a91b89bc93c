//! Rows of the knowledge side: entries, their versions, labels, the promise they are fitted to.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::ledger::{AuditEvent, audit};
use super::{from_json, to_json};
use crate::base::clock::UnixMs;
use crate::base::digest::sha256_hex;
use crate::base::fault::Fault;
use crate::domain::knowledge::{Entry, EntryId, VersionedEntry};
use crate::domain::label::{Labelled, Purpose};
use crate::gate::threshold::Promise;
use crate::store::{ImportOutcome, LabelFile, StoreError};

pub(super) fn import(
    transaction: &Transaction<'_>,
    entries: &[Entry],
    source: &str,
    author: &str,
    now: UnixMs,
) -> Result<ImportOutcome, StoreError> {
    let mut outcome = ImportOutcome::default();
    let mut current = transaction.prepare("SELECT version, body FROM entries WHERE id = ?1")?;
    let mut upsert = transaction.prepare(
        "INSERT INTO entries (id, version, state, body, changed_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET version = ?2, state = ?3, body = ?4, changed_at = ?5",
    )?;
    let mut remember = transaction.prepare(
        "INSERT INTO entry_versions (entry_id, version, body, changed_at, author, source)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for entry in entries {
        let id = entry.id.as_str();
        let row: Option<(u32, String)> =
            current.query_row([id], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        let version = match row {
            Some((_, body)) if from_json::<Entry>("entry", &body)? == *entry => {
                outcome.unchanged += 1;
                continue;
            }
            Some((version, _)) => {
                outcome.changed.push(entry.id.clone());
                version + 1
            }
            None => {
                outcome.added.push(entry.id.clone());
                1
            }
        };
        let body = to_json("entry", entry)?;
        upsert.execute(params![id, version, entry.state.as_str(), body, now])?;
        remember.execute(params![id, version, body, now, author, source])?;
    }
    Fault::ImportHalfWritten.passes();
    let ImportOutcome { added, changed, unchanged } = &outcome;
    let event = AuditEvent {
        actor: author,
        action: "kb.import",
        subject: source,
        detail: format!("{} added, {} changed, {unchanged} unchanged", added.len(), changed.len()),
    };
    audit(transaction, &event, now)?;
    Ok(outcome)
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
    let mut added = 0;
    for label in labels {
        let digest = sha256_hex(to_json("label", &(purpose, label))?.as_bytes());
        let context = to_json("context", &label.context)?;
        let entry = label.answer.as_ref().map(EntryId::as_str);
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
    let mut query = connection.prepare_cached(
        "SELECT text, context, entry_id FROM labels WHERE purpose = ?1 ORDER BY rowid",
    )?;
    let rows = query.query_map([purpose.as_str()], |r| {
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
