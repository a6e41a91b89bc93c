//! What becomes of a send: begun, settled, and decided about at the next start.

use rusqlite::{Transaction, params};

use super::outbox::{ASKED_AGAIN, NOT_TAKEN, RETRIES_OVER_MS, open_case};
use super::{execute, from_json, queue, to_json, unreadable};
use crate::base::clock::UnixMs;
use crate::base::fault::Fault;
use crate::domain::decision::{Priority, Reason};
use crate::domain::delivery::{Author, DeliveryState};
use crate::domain::outgoing::Outgoing;
use crate::domain::ownership::Owner;
use crate::domain::trace::Trace;
use crate::store::StoreError;
use crate::store::outbox::{OutboxSeq, Resumption, Settled};

/// The platform's last retry comes ten seconds after its first request …
const LAST_RETRY_MS: i64 = 10_000;

pub(super) fn begin(
    transaction: &Transaction<'_>,
    rows: &[OutboxSeq],
    now: UnixMs,
) -> Result<bool, StoreError> {
    let Some(first) = rows.first() else { return Ok(false) };
    let (conversation, author): (String, String) = transaction
        .prepare_cached("SELECT conversation_id, author FROM outbox WHERE seq = ?1")?
        .query_row([first.0], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let waiting = rows.iter().try_fold(true, |all, row| {
        let pending = transaction
            .prepare_cached("SELECT state = 'pending' FROM outbox WHERE seq = ?1")?
            .query_row([row.0], |r| r.get::<_, bool>(0))?;
        Ok::<_, StoreError>(all && pending)
    })?;
    if !waiting {
        return Ok(false);
    }
    let owner = queue::owner(transaction, &conversation)?;
    if author == Author::Bot.as_str() && !owner.is_bot(now) {
        let settled = if transfer_not_taken(transaction, &owner, *first)? {
            Settled::Handed { why: Reason::SendFailed, note: NOT_TAKEN }
        } else {
            Settled::Handed { why: Reason::PersonOwns, note: "person_owns" }
        };
        rows.iter().try_for_each(|row| settle(transaction, *row, settled, now))?;
        return Ok(false);
    }
    for row in rows {
        let sent = Some(now).filter(|_| row == first);
        execute(
            transaction,
            "UPDATE outbox SET state = 'sending', attempts = attempts + 1, sent_at = ?2, joined = ?3
             WHERE seq = ?1",
            params![row.0, sent, first.0],
        )?;
    }
    Fault::SendUncommitted.passes();
    Ok(true)
}

/// Whether it is what gave the conversation to the platform's desk, in an answer that did not leave:
/// the desk is the owner because of it alone, and does not have the customer.
pub(super) fn transfer_not_taken(
    transaction: &Transaction<'_>,
    owner: &Owner,
    row: OutboxSeq,
) -> Result<bool, StoreError> {
    let Owner::Platform { .. } = owner else { return Ok(false) };
    let found = transaction
        .prepare_cached("SELECT payload = ?2 AND note = ?3 FROM outbox WHERE seq = ?1")?
        .query_row(params![row.0, to_json("reply", &Outgoing::Transfer)?, NOT_TAKEN], |r| {
            r.get(0)
        })?;
    Ok(found)
}

pub(super) fn settle(
    transaction: &Transaction<'_>,
    row: OutboxSeq,
    settled: Settled,
    now: UnixMs,
) -> Result<(), StoreError> {
    let courtesy: bool = transaction
        .prepare_cached("SELECT author = 'courtesy' FROM outbox WHERE seq = ?1")?
        .query_row([row.0], |r| r.get(0))?;
    let (state, due, note) = match settled {
        Settled::Handed { note, .. } if courtesy => (DeliveryState::Dropped, now, note),
        Settled::Delivered => (DeliveryState::Delivered, now, ""),
        Settled::Again { at, note, .. } => (DeliveryState::Pending, at, note),
        Settled::Handed { note, .. } => (DeliveryState::Handed, now, note),
        Settled::Dropped { note } => (DeliveryState::Dropped, now, note),
    };
    // What may be there counts as sent, and stays with what it left with; what is not has used
    // nothing up.
    let may_be_there = match settled {
        Settled::Delivered | Settled::Handed { why: Reason::DeliveryUnknown, .. } => true,
        Settled::Again { unclear, .. } => unclear,
        Settled::Handed { .. } | Settled::Dropped { .. } => false,
    };
    let (trace, transfer): (Option<String>, bool) = transaction
        .prepare_cached(
            "UPDATE outbox SET state = ?2, due_at = ?3, note = ?4,
                    sent_at = iif(?5, sent_at, NULL), joined = iif(?5, joined, NULL)
             WHERE seq = ?1 RETURNING trace_id, payload = ?6",
        )?
        .query_row(
            params![
                row.0,
                state.as_str(),
                due,
                note,
                may_be_there,
                to_json("reply", &Outgoing::Transfer)?
            ],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?;
    let in_vain = match settled {
        // Their desk has the conversation: that is why.
        Settled::Handed { why, .. } => why != Reason::PersonOwns,
        Settled::Dropped { .. } => true,
        Settled::Delivered | Settled::Again { .. } => false,
    };
    if transfer && in_vain {
        not_transferred(transaction, row)?;
    }
    if let (Settled::Handed { why, .. }, Some(trace), false) = (settled, trace, courtesy) {
        open_case(transaction, &trace, priority(transaction, &trace)?, Some(why), now)?;
    }
    Ok(())
}

/// Without its trace nobody knows how pressing it was.
fn priority(transaction: &Transaction<'_>, trace: &str) -> Result<Priority, StoreError> {
    let stored: String = transaction
        .prepare_cached("SELECT trace FROM decisions WHERE trace_id = ?1")?
        .query_row([trace], |r| r.get(0))?;
    match from_json::<Trace>("trace", &stored) {
        Ok(read) => Ok(read.decision.priority()),
        Err(error) => {
            unreadable::tell("trace", trace, &error);
            Ok(Priority::High)
        }
    }
}

/// The platform's desk did not get the conversation after all: whoever writes there is heard again.
fn not_transferred(transaction: &Transaction<'_>, row: OutboxSeq) -> Result<(), StoreError> {
    let conversation: String = transaction
        .prepare_cached("SELECT conversation_id FROM outbox WHERE seq = ?1")?
        .query_row([row.0], |r| r.get(0))?;
    match queue::owner(transaction, &conversation)? {
        Owner::Platform { .. } => queue::set_owner(transaction, &conversation, &Owner::Bot),
        Owner::Bot | Owner::Person { .. } => Ok(()),
    }
}

pub(super) fn resume(
    transaction: &Transaction<'_>,
    accounts: &[Resumption],
    now: UnixMs,
) -> Result<(), StoreError> {
    let under_way = transaction
        .prepare_cached(
            "SELECT o.seq, o.account, o.state, min(m.received_at,
                    iif(json_valid(m.inbound), m.inbound ->> 'sent_at', m.received_at))
             FROM outbox o
             LEFT JOIN decisions d USING (trace_id) LEFT JOIN messages m ON m.id = d.message_id
             WHERE o.state IN ('sending', 'offered')",
        )?
        .query_map([], |r| {
            let received: Option<UnixMs> = r.get(3)?;
            Ok((OutboxSeq(r.get(0)?), r.get::<_, String>(1)?, r.get::<_, String>(2)?, received))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let unknown = Settled::Handed { why: Reason::DeliveryUnknown, note: "ended_while_sending" };
    for (seq, account, state, received) in under_way {
        let known = accounts.iter().find(|a| a.account.as_str() == account);
        let asks_again = known.is_some_and(|a| a.asks_again);
        let heard = received.filter(|at| asks_again && now < at + LAST_RETRY_MS);
        match (state.as_str(), heard) {
            ("sending", _) if known.is_some_and(|a| a.repeats) => {
                let again = Settled::Again { at: now, note: "repeated", unclear: true };
                settle(transaction, seq, again, now)?;
            }
            // The platform will ask again unless it has the answer.
            ("offered", Some(received)) => {
                transaction.execute(
                    "UPDATE outbox SET due_at = ?2, note = ?3 WHERE seq = ?1",
                    params![seq.0, received + RETRIES_OVER_MS, ASKED_AGAIN],
                )?;
            }
            _ => settle(transaction, seq, unknown, now)?,
        }
    }
    Ok(())
}
