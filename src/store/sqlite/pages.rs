//! Threads that are fetched page by page: what is wanted, and a page with its cursor.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::inbox;
use crate::base::clock::UnixMs;
use crate::base::fault::Fault;
use crate::domain::message::AccountName;
use crate::domain::ownership::{Change, Owner};
use crate::store::outbox::{Cursor, OutboxSeq, Page, Settled};
use crate::store::sqlite::{queue, sends};
use crate::store::{Accepted, Arrival, StoreError};

pub(super) fn want(
    transaction: &Transaction<'_>,
    account: &AccountName,
    thread: &str,
    token: &str,
) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO cursors (account, thread, token, wanted) VALUES (?1, ?2, ?3, 1)
         ON CONFLICT (account, thread) DO UPDATE SET token = ?3, wanted = wanted + 1",
        params![account.as_str(), thread, token],
    )?;
    Ok(())
}

/// Everything known once more, without the tokens of callbacks, which expire.
pub(super) fn want_all(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.execute("UPDATE cursors SET token = '', wanted = wanted + 1", [])?;
    Ok(())
}

pub(super) fn wanted(connection: &Connection) -> Result<Vec<Cursor>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT account, thread, cursor, token, wanted FROM cursors WHERE wanted > fetched",
    )?;
    let rows = query.query_map([], |r| {
        Ok(Cursor {
            account: AccountName(r.get(0)?),
            thread: r.get(1)?,
            cursor: r.get(2)?,
            token: r.get(3)?,
            wanted: r.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn take(
    transaction: &Transaction<'_>,
    account: &AccountName,
    thread: &str,
    page: &Page,
    now: UnixMs,
) -> Result<Vec<(Arrival, Accepted)>, StoreError> {
    let mut accepted = Vec::with_capacity(page.messages.len());
    for arrival in &page.messages {
        accepted.push((arrival.clone(), inbox::accept(transaction, arrival, now)?));
    }
    for (key, why) in &page.failures {
        // Also what was joined to it. A key of another installation is none of ours.
        let rows = transaction
            .prepare_cached(
                "SELECT o.seq FROM outbox o JOIN outbox first
                 ON first.key = ?1 AND (o.seq = first.seq OR o.joined = first.seq)
                 WHERE o.account = ?2",
            )?
            .query_map(params![key, account.as_str()], |r| Ok(OutboxSeq(r.get(0)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        let settled = Settled::Handed { why: *why, note: "reported_undelivered" };
        rows.into_iter().try_for_each(|row| sends::settle(transaction, row, settled, now))?;
    }
    for (customer, until) in &page.sessions {
        session(transaction, account, customer, *until, now)?;
    }
    Fault::PageHalf.passes();
    transaction.execute(
        "UPDATE cursors SET cursor = ?3, fetched = max(fetched, coalesce(?4, 0))
         WHERE account = ?1 AND thread = ?2",
        params![account.as_str(), thread, page.next, page.complete],
    )?;
    Ok(accepted)
}

fn session(
    transaction: &Transaction<'_>,
    account: &AccountName,
    customer: &str,
    until: Option<UnixMs>,
    now: UnixMs,
) -> Result<(), StoreError> {
    let conversation: Option<String> = transaction
        .prepare_cached(
            "SELECT c.id FROM identities i JOIN conversations c
             ON c.customer_id = i.customer_id AND c.account = i.account
             WHERE i.account = ?1 AND i.external_id = ?2",
        )?
        .query_row(params![account.as_str(), customer], |r| r.get(0))
        .optional()?;
    let Some(conversation) = conversation else { return Ok(()) };
    let change = until.map_or(Change::SessionEnded, |until| Change::Transfer { until });
    let owner: Owner = queue::owner(transaction, &conversation)?.after(change, now)?;
    queue::set_owner(transaction, &conversation, &owner)
}
