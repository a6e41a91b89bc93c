//! Rows of the message side: who wrote, what came in, what was decided.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::unreadable::Turn;
use super::{execute, from_json, outbox, to_json};
use crate::base::clock::UnixMs;
use crate::base::fault::Fault;
use crate::base::id::{ConversationId, TraceId};
use crate::domain::decision::Verdict;
use crate::domain::delivery::words_of;
use crate::domain::draft::DraftMode;
use crate::domain::message::{AccountName, Content, Inbound, Role, Utterance};
use crate::domain::outgoing::Outgoing;
use crate::store::{
    Accepted, AcceptedState, Arrival, Before, Decided, Fate, MessageRow, StoreError, Unfinished,
};

/// Platforms keep what was not fetched for three days; a message that says it is older has no time.
const OLDEST_MS: i64 = 4 * 24 * 3_600_000;

pub(super) fn accept(
    transaction: &Transaction<'_>,
    arrival: &Arrival,
    now: UnixMs,
) -> Result<Accepted, StoreError> {
    let Arrival { inbound, target, occasion, sealed } = arrival;
    if let Some(known) = find(transaction, inbound)? {
        return Ok(known);
    }
    let customer = customer(transaction, inbound, now)?;
    let conversation = conversation(transaction, inbound, customer, now)?;
    execute(
        transaction,
        "INSERT INTO messages (conversation_id, account, sender, dedupe_key, inbound, target,
                               received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            conversation.as_str(),
            inbound.account.as_str(),
            inbound.sender,
            inbound.dedupe_key,
            to_json("message", inbound)?,
            target.as_ref().map(|target| to_json("target", target)).transpose()?,
            now
        ],
    )?;
    let message = MessageRow(transaction.last_insert_rowid());
    Fault::AcceptedHalf.passes();
    execute(transaction, "INSERT INTO work (message_id) VALUES (?1)", [message.0])?;
    if let Some(sealed) = sealed {
        transaction.execute(
            "INSERT INTO vault (message_id, sealed) VALUES (?1, ?2)",
            params![message.0, sealed],
        )?;
    }
    if let Some(occasion) = occasion {
        // Platforms count from what the customer did, which may have been fetched much later.
        let at = if inbound.sent_at > now - OLDEST_MS { inbound.sent_at.min(now) } else { now };
        execute(
            transaction,
            "INSERT INTO occasions (conversation_id, occasion, at) VALUES (?1, ?2, ?3)
             ON CONFLICT (conversation_id, occasion) DO UPDATE SET at = max(at, ?3)",
            params![conversation.as_str(), occasion.as_str(), at],
        )?;
    }
    Ok(Accepted { message, conversation, state: AcceptedState::New })
}

fn find(transaction: &Transaction<'_>, inbound: &Inbound) -> Result<Option<Accepted>, StoreError> {
    let row = transaction
        .prepare_cached(
            "SELECT m.id, m.conversation_id, d.trace_id, d.verdict, d.reply
             FROM messages m LEFT JOIN decisions d ON d.message_id = m.id
             WHERE m.account = ?1 AND m.sender = ?2 AND m.dedupe_key = ?3",
        )?
        .query_row(params![inbound.account.as_str(), inbound.sender, inbound.dedupe_key], |r| {
            let decided: Option<String> = r.get(2)?;
            let verdict: Option<String> = r.get(3)?;
            let reply: Option<String> = r.get(4)?;
            Ok((r.get(0)?, r.get::<_, String>(1)?, decided.zip(verdict).zip(reply)))
        })
        .optional()?;
    let Some((id, conversation, decided)) = row else { return Ok(None) };
    let state = match decided {
        None => AcceptedState::Undecided,
        Some(((trace, verdict), reply)) => AcceptedState::Decided {
            trace: TraceId::from_text(trace),
            verdict: known_verdict(&verdict)?,
            reply,
        },
    };
    let conversation = ConversationId::from_text(conversation);
    Ok(Some(Accepted { message: MessageRow(id), conversation, state }))
}

fn customer(
    transaction: &Transaction<'_>,
    inbound: &Inbound,
    now: UnixMs,
) -> Result<i64, StoreError> {
    let key = params![inbound.platform.as_str(), inbound.account.as_str(), inbound.sender];
    let known = transaction
        .prepare_cached(
            "SELECT customer_id FROM identities
             WHERE platform = ?1 AND account = ?2 AND external_id = ?3",
        )?
        .query_row(key, |r| r.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    execute(transaction, "INSERT INTO customers (created_at) VALUES (?1)", [now])?;
    let id = transaction.last_insert_rowid();
    execute(
        transaction,
        "INSERT INTO identities (platform, account, external_id, customer_id)
         VALUES (?1, ?2, ?3, ?4)",
        params![inbound.platform.as_str(), inbound.account.as_str(), inbound.sender, id],
    )?;
    Ok(id)
}

fn conversation(
    transaction: &Transaction<'_>,
    inbound: &Inbound,
    customer: i64,
    now: UnixMs,
) -> Result<ConversationId, StoreError> {
    let id = transaction
        .prepare_cached(
            "INSERT INTO conversations (id, account, customer_id, updated_at)
             VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (account, customer_id) DO UPDATE SET updated_at = ?4 RETURNING id",
        )?
        .query_row(
            params![ConversationId::generate().as_str(), inbound.account.as_str(), customer, now],
            |r| r.get::<_, String>(0),
        )?;
    Ok(ConversationId::from_text(id))
}

pub(super) fn context(
    connection: &Connection,
    before: &Before<'_>,
) -> Result<Vec<Utterance>, StoreError> {
    let Before { conversation, message, received_at, since, limit } = *before;
    // What persons said stands between the messages by its time.
    let mut query = connection.prepare_cached(
        "SELECT m.inbound, d.reply, NULL, m.received_at AS at, m.id AS row
         FROM messages m LEFT JOIN decisions d ON d.message_id = m.id
         WHERE m.conversation_id = ?1 AND m.id < ?2 AND m.received_at >= ?4
         UNION ALL
         SELECT NULL, NULL, o.payload, o.created_at AS at, 0 AS row
         FROM outbox o
         WHERE o.conversation_id = ?1 AND o.author = 'person' AND o.created_at BETWEEN ?4 AND ?3
         ORDER BY at DESC, row DESC LIMIT ?5",
    )?;
    let key = params![conversation.as_str(), message.0, received_at, since, limit];
    let rows = query.query_map(key, |r| {
        let text = |n| r.get::<_, Option<String>>(n);
        Ok((text(0)?, text(1)?, text(2)?))
    })?;
    let mut newest_first = Vec::new();
    for row in rows {
        let (inbound, reply, person) = row?;
        let said = person.and_then(|payload| from_json::<Outgoing>("reply", &payload).ok());
        if let Some(said) = said {
            newest_first.push(Utterance { role: Role::Agent, text: words_of(&said).to_owned() });
        }
        // A silent event was decided without a word.
        if let Some(text) = reply.filter(|text| !text.is_empty()) {
            newest_first.push(Utterance { role: Role::Agent, text });
        }
        // What cannot be read was told elsewhere; the conversation goes on without it.
        let inbound = inbound.and_then(|inbound| from_json::<Inbound>("message", &inbound).ok());
        if let Some(text) = inbound.and_then(|inbound| spoken(inbound.content)) {
            newest_first.push(Utterance { role: Role::Customer, text });
        }
    }
    newest_first.truncate(limit as usize);
    newest_first.reverse();
    Ok(newest_first)
}

pub(super) fn spoken(content: Content) -> Option<String> {
    match content {
        Content::Text(text) | Content::Choice { text, .. } => Some(text),
        Content::Voice { transcript } => transcript,
        Content::Attachment { .. } | Content::Event { .. } | Content::Unknown { .. } => None,
    }
}

/// A message that cannot be read, and why.
type Unreadable = (MessageRow, StoreError);

pub(super) fn unfinished(
    connection: &Connection,
) -> Result<(Vec<Unfinished>, Vec<Unreadable>), StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT m.id, m.conversation_id, m.inbound, m.target, m.received_at, w.tries
         FROM work w JOIN messages m ON m.id = w.message_id ORDER BY m.id",
    )?;
    let rows = query.query_map([], |r| {
        let target: Option<String> = r.get(3)?;
        let (id, received_at, tries) = (r.get(0)?, r.get(4)?, r.get(5)?);
        Ok((id, r.get::<_, String>(1)?, r.get::<_, String>(2)?, target, received_at, tries))
    })?;
    let (mut left, mut unreadable) = (Vec::new(), Vec::new());
    for row in rows {
        let (id, conversation, inbound, target, received_at, tries) = row?;
        let message = MessageRow(id);
        let conversation = ConversationId::from_text(conversation);
        match arrival(&inbound, target.as_deref()) {
            Ok(arrival) => {
                left.push(Unfinished { message, conversation, arrival, received_at, tries });
            }
            Err(error) => unreadable.push((message, error)),
        }
    }
    Ok((left, unreadable))
}

fn arrival(inbound: &str, target: Option<&str>) -> Result<Arrival, StoreError> {
    let inbound = from_json("message", inbound)?;
    let target = target.map(|target| from_json("target", target)).transpose()?;
    Ok(Arrival { inbound, target, occasion: None, sealed: None })
}

/// Ends the work on a message that cannot be read with a case for a person, as of its coming.
pub(super) fn give_up(
    transaction: &Transaction<'_>,
    message: MessageRow,
) -> Result<(), StoreError> {
    let turn = transaction
        .prepare_cached("SELECT conversation_id, account, received_at FROM messages WHERE id = ?1")?
        .query_row([message.0], |r| {
            Ok(Turn {
                id: TraceId::generate(),
                conversation: ConversationId::from_text(r.get::<_, String>(0)?),
                account: AccountName(r.get(1)?),
                received_at: r.get(2)?,
                message: String::new(),
                verdict: Verdict::Handoff,
                reply: String::new(),
            })
        })?;
    let at = turn.received_at;
    outbox::hand_over(transaction, message, &turn.trace(), at)
}

pub(super) fn taken_up(
    transaction: &Transaction<'_>,
    messages: &[MessageRow],
) -> Result<(), StoreError> {
    let mut query =
        transaction.prepare_cached("UPDATE work SET tries = tries + 1 WHERE message_id = ?1")?;
    for message in messages {
        query.execute([message.0])?;
    }
    Ok(())
}

pub(super) fn fates(
    connection: &Connection,
    account: &AccountName,
    since: UnixMs,
) -> Result<Vec<Fate>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT m.sender, m.dedupe_key, d.verdict, d.reply, json_extract(d.trace, '$.draft.mode'),
                EXISTS (SELECT 1 FROM cases c WHERE c.trace_id = d.trace_id),
                json_extract(d.trace, '$.answered_by') IS NOT NULL
         FROM messages m LEFT JOIN decisions d ON d.message_id = m.id
         WHERE m.account = ?1 AND m.received_at >= ?2 ORDER BY m.id",
    )?;
    let mut rows = query.query(params![account.as_str(), since])?;
    let mut fates = Vec::new();
    while let Some(row) = rows.next()? {
        let decided = match row.get::<_, Option<String>>(2)? {
            None => None,
            Some(verdict) => Some(Decided {
                verdict: known_verdict(&verdict)?,
                reply: row.get(3)?,
                draft: row.get::<_, Option<String>>(4)?.as_deref().and_then(DraftMode::parse),
                for_person: row.get(5)?,
                joined: row.get(6)?,
            }),
        };
        fates.push(Fate { sender: row.get(0)?, dedupe_key: row.get(1)?, decided });
    }
    Ok(fates)
}

fn known_verdict(word: &str) -> Result<Verdict, StoreError> {
    Verdict::parse(word).ok_or_else(|| StoreError::Corrupt {
        what: "verdict",
        reason: format!("unknown word {word:?}"),
    })
}
