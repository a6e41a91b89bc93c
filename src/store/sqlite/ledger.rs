//! Rows that people look at: traces, the human queue, the audit log.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{from_json, to_json};
use crate::base::clock::UnixMs;
use crate::base::digest::sha256_hex;
use crate::base::id::TraceId;
use crate::domain::trace::Trace;
use crate::store::{AuditState, StoreError};

pub(super) fn trace(connection: &Connection, id: &TraceId) -> Result<Option<Trace>, StoreError> {
    let body: Option<String> = connection
        .prepare_cached("SELECT trace FROM decisions WHERE trace_id = ?1")?
        .query_row([id.as_str()], |r| r.get(0))
        .optional()?;
    body.map(|body| from_json("trace", &body)).transpose()
}

pub(super) fn visit_recent_traces(
    connection: &Connection,
    limit: u32,
    each: &mut dyn FnMut(Trace),
) -> Result<(), StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT trace FROM decisions ORDER BY decided_at DESC, trace_id DESC LIMIT ?1",
    )?;
    for body in query.query_map([limit], |r| r.get::<_, String>(0))? {
        each(from_json("trace", &body?)?);
    }
    Ok(())
}

/// Who did what; written in the transaction that does it, so that neither stands without the other.
pub(super) struct AuditEvent<'a> {
    pub(super) actor: &'a str,
    pub(super) action: &'static str,
    pub(super) subject: &'a str,
    pub(super) detail: String,
}

pub(super) fn audit(
    transaction: &Transaction<'_>,
    event: &AuditEvent<'_>,
    now: UnixMs,
) -> Result<(), StoreError> {
    let before: Option<String> = transaction
        .query_row("SELECT hash FROM audit_log ORDER BY seq DESC LIMIT 1", [], |r| r.get(0))
        .optional()?;
    let hash =
        chain(before.as_deref(), now, event.actor, event.action, event.subject, &event.detail)?;
    transaction.execute(
        "INSERT INTO audit_log (at, actor, action, subject, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![now, event.actor, event.action, event.subject, event.detail, hash],
    )?;
    Ok(())
}

/// SHA-256 over the previous row's hash and this row's fields as a JSON array, so that no two
/// different rows can have the same bytes.
fn chain(
    before: Option<&str>,
    at: UnixMs,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &str,
) -> Result<String, StoreError> {
    let fields = to_json("audit row", &(before, at, actor, action, subject, detail))?;
    Ok(sha256_hex(fields.as_bytes()))
}

pub(super) fn verify_audit(connection: &Connection) -> Result<AuditState, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT seq, at, actor, action, subject, detail, hash FROM audit_log ORDER BY seq",
    )?;
    let mut rows = query.query([])?;
    let mut before: Option<String> = None;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let field = |n| row.get::<_, String>(n);
        let expected =
            chain(before.as_deref(), row.get(1)?, &field(2)?, &field(3)?, &field(4)?, &field(5)?)?;
        let found = field(6)?;
        count += 1;
        // A gap in the numbers is a row that someone removed.
        if found != expected || seq != count {
            return Ok(AuditState::BrokenAt { seq });
        }
        before = Some(found);
    }
    Ok(AuditState::Intact { rows: count })
}
