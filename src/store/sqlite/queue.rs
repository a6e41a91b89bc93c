//! [`Queue`] on SQLite: cases, their conversations, and who has them.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::ledger::{AuditEvent, audit};
use super::unreadable::{self, Turn};
use super::{SqliteStore, from_json, inbox, knowledge, outbox, to_json};
use crate::base::clock::UnixMs;
use crate::base::digest::sha256_hex;
use crate::base::fault::Fault;
use crate::base::id::{CaseId, ConversationId, OutboxKey, TraceId};
use crate::domain::decision::{Reason, Verdict};
use crate::domain::delivery::{Author, DeliveryState, words_of};
use crate::domain::draft::{Draft, Objection};
use crate::domain::knowledge::Audience;
use crate::domain::label::Purpose;
use crate::domain::message::{AccountName, Inbound};
use crate::domain::outgoing::{Outgoing, Target};
use crate::domain::ownership::{Change, Owner};
use crate::domain::trace::Trace;
use crate::store::outbox::{NewReply, Way};
use crate::store::queue::{Act, OpenCase, Queue, Speaker, Spoken};
use crate::store::{LabelFile, StoreError};

/// Closed cases that the expected wait is taken from.
const RECENT: u32 = 20;
/// Where labels come from that people gave with their cases.
const DESK: &str = "desk";

const CASE: &str = "SELECT c.id, m.conversation_id, c.opened_at, c.closed_at, c.note, d.trace,
                           m.target, r.score
                    FROM cases c JOIN decisions d USING (trace_id)
                    JOIN messages m ON m.id = d.message_id
                    LEFT JOIN ratings r ON r.case_id = c.id";

impl Queue for SqliteStore {
    fn open_cases(&self, limit: u32, now: UnixMs) -> Result<Vec<OpenCase>, StoreError> {
        self.read(|c| {
            let mut query = c.prepare_cached(&format!(
                "{CASE} WHERE c.closed_at IS NULL
                 ORDER BY c.priority DESC, c.opened_at, c.id LIMIT ?1"
            ))?;
            let rows = query.query_map([limit], case_row)?;
            rows.map(|row| complete(c, row?, now)).collect()
        })
    }

    fn unannounced(&self, limit: u32, now: UnixMs) -> Result<Vec<OpenCase>, StoreError> {
        self.read(|c| {
            let mut query = c.prepare_cached(&format!(
                "{CASE} WHERE c.closed_at IS NULL AND c.announced_at IS NULL
                 ORDER BY c.opened_at, c.id LIMIT ?1"
            ))?;
            let rows = query.query_map([limit], case_row)?;
            rows.map(|row| complete(c, row?, now)).collect()
        })
    }

    fn announced(&self, case: &CaseId, now: UnixMs) -> Result<(), StoreError> {
        let case = case.clone();
        self.writer.write(move |t| {
            t.execute(
                "UPDATE cases SET announced_at = ?2 WHERE id = ?1",
                params![case.as_str(), now],
            )?;
            Ok(())
        })
    }

    fn case(&self, id: &CaseId, now: UnixMs) -> Result<Option<OpenCase>, StoreError> {
        self.read(|c| {
            let row = c
                .prepare_cached(&format!("{CASE} WHERE c.id = ?1"))?
                .query_row([id.as_str()], case_row)
                .optional()?;
            row.map(|row| complete(c, row, now)).transpose()
        })
    }

    fn spoken(&self, conversation: &ConversationId, limit: u32) -> Result<Vec<Spoken>, StoreError> {
        self.read(|c| history(c, conversation, limit))
    }

    fn act(&self, case: &CaseId, act: &Act, now: UnixMs) -> Result<Owner, StoreError> {
        let (case, act) = (case.clone(), act.clone());
        self.writer.write(move |t| perform(t, &case, &act, now))
    }

    fn propose(
        &self,
        trace: &TraceId,
        draft: &Draft,
        objections: &[Objection],
    ) -> Result<(), StoreError> {
        let (id, draft, objections) = (trace.clone(), draft.clone(), objections.to_vec());
        self.writer.write(move |t| {
            let stored: String = t
                .prepare_cached("SELECT trace FROM decisions WHERE trace_id = ?1")?
                .query_row([id.as_str()], |r| r.get(0))?;
            let trace: Trace = from_json("trace", &stored)?;
            let trace = to_json("trace", &Trace { draft: Some(draft), objections, ..trace })?;
            t.prepare_cached("UPDATE decisions SET trace = ?2 WHERE trace_id = ?1")?
                .execute([id.as_str(), trace.as_str()])?;
            Ok(())
        })
    }

    fn waiting(&self) -> Result<(u64, Option<Duration>), StoreError> {
        self.read(|c| {
            let open: u32 = c
                .prepare_cached("SELECT count(*) FROM cases WHERE closed_at IS NULL")?
                .query_row([], |r| r.get(0))?;
            let waited: Option<f64> = c
                .prepare_cached(
                    "SELECT avg(waited) FROM (SELECT coalesce(taken_at, closed_at) - opened_at
                     AS waited FROM cases WHERE closed_at IS NOT NULL
                     ORDER BY closed_at DESC LIMIT ?1)",
                )?
                .query_row([RECENT], |r| r.get(0))?;
            let waited = waited.map(|ms| Duration::from_secs_f64((ms / 1e3).max(0.0)));
            Ok((open.into(), waited))
        })
    }

    fn owner(&self, conversation: &ConversationId, now: UnixMs) -> Result<Owner, StoreError> {
        self.read(|c| Ok(owner(c, conversation.as_str())?.at(now)))
    }

    fn audience(&self, conversation: &ConversationId) -> Result<Audience, StoreError> {
        self.read(|c| {
            let found: Option<(String, bool)> = c
                .prepare_cached(
                    "SELECT u.audience, (SELECT count(*) FROM (SELECT 1 FROM messages m
                                         WHERE m.conversation_id = c.id LIMIT 2)) < 2
                     FROM conversations c JOIN customers u ON u.id = c.customer_id
                     WHERE c.id = ?1",
                )?
                .query_row([conversation.as_str()], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?;
            Ok(match found {
                Some((_, true)) | None => Audience::New,
                Some((word, false)) => Audience::parse(&word).unwrap_or(Audience::Normal),
            })
        })
    }

    fn set_audience(
        &self,
        conversation: &ConversationId,
        audience: Audience,
    ) -> Result<(), StoreError> {
        let conversation = conversation.clone();
        self.writer.write(move |t| {
            t.execute(
                "UPDATE customers SET audience = ?2
                 WHERE id = (SELECT customer_id FROM conversations WHERE id = ?1)",
                params![conversation.as_str(), audience.as_str()],
            )?;
            Ok(())
        })
    }
}

/// A case's columns before they are read.
struct CaseRow {
    id: String,
    conversation: String,
    opened_at: UnixMs,
    closed_at: Option<UnixMs>,
    note: Option<String>,
    trace: String,
    target: Option<String>,
    rating: Option<u8>,
}

fn case_row(row: &Row<'_>) -> rusqlite::Result<CaseRow> {
    Ok(CaseRow {
        id: row.get(0)?,
        conversation: row.get(1)?,
        opened_at: row.get(2)?,
        closed_at: row.get(3)?,
        note: row.get(4)?,
        trace: row.get(5)?,
        target: row.get(6)?,
        rating: row.get(7)?,
    })
}

fn complete(connection: &Connection, row: CaseRow, now: UnixMs) -> Result<OpenCase, StoreError> {
    let trace = match from_json("trace", &row.trace) {
        Ok(trace) => trace,
        Err(error) => {
            unreadable::tell("trace of case", &row.id, &error);
            without_trace(connection, &row.id)?
        }
    };
    // Where it cannot be read the customer cannot be reached, and the page says so.
    let target = row.target.and_then(|target| from_json("target", &target).ok());
    Ok(OpenCase {
        id: CaseId::from_text(row.id),
        priority: trace.decision.priority(),
        opened_at: row.opened_at,
        closed_at: row.closed_at,
        note: row.note.as_deref().and_then(Reason::parse),
        owner: owner(connection, &row.conversation)?.at(now),
        trace,
        target,
        contact: outbox::contact(connection, &row.conversation)?,
        conversation: ConversationId::from_text(row.conversation),
        rating: row.rating,
    })
}

/// What a person needs who takes a case whose trace cannot be read.
fn without_trace(connection: &Connection, case: &str) -> Result<Trace, StoreError> {
    let turn = connection
        .prepare_cached(
            "SELECT d.trace_id, m.conversation_id, m.account, m.received_at, m.inbound, d.verdict,
                    d.reply
             FROM cases c JOIN decisions d USING (trace_id) JOIN messages m ON m.id = d.message_id
             WHERE c.id = ?1",
        )?
        .query_row([case], |r| {
            let (inbound, verdict): (String, String) = (r.get(4)?, r.get(5)?);
            Ok(Turn {
                id: TraceId::from_text(r.get::<_, String>(0)?),
                conversation: ConversationId::from_text(r.get::<_, String>(1)?),
                account: AccountName(r.get(2)?),
                received_at: r.get(3)?,
                message: said(&inbound),
                verdict: Verdict::parse(&verdict).unwrap_or(Verdict::Handoff),
                reply: r.get(6)?,
            })
        })?;
    Ok(turn.trace())
}

/// What a customer said, as people are shown it.
fn said(inbound: &str) -> String {
    from_json("message", inbound).map_or_else(|_| "[unreadable]".into(), shown)
}

pub(super) fn owner(connection: &Connection, conversation: &str) -> Result<Owner, StoreError> {
    let found: Option<(String, Option<String>, Option<UnixMs>)> = connection
        .prepare_cached("SELECT owner, operator, owned_until FROM conversations WHERE id = ?1")?
        .query_row([conversation], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let Some((word, operator, until)) = found else { return Ok(Owner::Bot) };
    match (word.as_str(), operator, until) {
        ("bot", _, _) => Ok(Owner::Bot),
        ("person", Some(operator), Some(until)) => Ok(Owner::Person { operator, until }),
        ("platform", _, Some(until)) => Ok(Owner::Platform { until }),
        _ => Err(StoreError::Corrupt { what: "owner", reason: format!("{word:?} is incomplete") }),
    }
}

pub(super) fn set_owner(
    transaction: &Transaction<'_>,
    conversation: &str,
    owner: &Owner,
) -> Result<(), StoreError> {
    let (word, operator, until) = match owner {
        Owner::Bot => ("bot", None, None),
        Owner::Person { operator, until } => ("person", Some(operator), Some(until)),
        Owner::Platform { until } => ("platform", None, Some(until)),
    };
    transaction.execute(
        "UPDATE conversations SET owner = ?2, operator = ?3, owned_until = ?4 WHERE id = ?1",
        params![conversation, word, operator, until],
    )?;
    Ok(())
}

/// What an act needs to know of its case.
struct Here {
    conversation: String,
    account: String,
}

fn perform(
    transaction: &Transaction<'_>,
    case: &CaseId,
    act: &Act,
    now: UnixMs,
) -> Result<Owner, StoreError> {
    let here = transaction
        .prepare_cached(
            "SELECT m.conversation_id, m.account FROM cases c
             JOIN decisions d USING (trace_id) JOIN messages m ON m.id = d.message_id
             WHERE c.id = ?1 AND c.closed_at IS NULL",
        )?
        .query_row([case.as_str()], |r| Ok(Here { conversation: r.get(0)?, account: r.get(1)? }))
        .optional()?
        .ok_or_else(|| StoreError::NoSuchCase(case.to_string()))?;
    let before = owner(transaction, &here.conversation)?;
    let (operator, action) = match act {
        Act::Claim { operator, .. } => (operator, "case.claim"),
        Act::Reply { operator, .. } => (operator, "case.reply"),
        Act::HandBack { operator } => (operator, "case.hand_back"),
        Act::Resolve { operator, .. } => (operator, "case.resolve"),
    };
    let take = |until: UnixMs| Change::Take { operator: operator.clone(), until };
    let after = match act {
        Act::Claim { until, .. } => before.after(take(*until), now)?,
        Act::Reply { until, payload, key, .. } => {
            let after = before.after(take(*until), now)?;
            let key = key.as_ref().map(|key| reply_key(case, key));
            if let Some(key) = &key
                && said_before(transaction, key, payload)?
            {
                return Ok(after);
            }
            say(transaction, case, &here, (payload, key), now)?;
            after
        }
        Act::HandBack { operator } => {
            before.after(Change::HandBack { operator: operator.clone() }, now)?
        }
        Act::Resolve { operator, survey, label } => {
            // Whoever closes it must be able to have it: nobody closes another's conversation.
            let held =
                before.after(Change::Take { operator: operator.clone(), until: now + 1 }, now)?;
            close(transaction, &here, operator, now)?;
            if let Some(label) = label {
                let (source, purpose) = (DESK.to_owned(), Purpose::Train);
                let labels = LabelFile { source, purpose, labels: vec![label.clone()] };
                knowledge::add_labels(transaction, &labels, operator, now)?;
            }
            if let Some(survey) = survey {
                ask(transaction, case, &here, survey, now)?;
            }
            held.after(Change::HandBack { operator: operator.clone() }, now)?
        }
    };
    if matches!(act, Act::Claim { .. } | Act::Reply { .. }) {
        transaction.execute(
            "UPDATE cases SET taken_at = coalesce(taken_at, ?2), operator = ?3 WHERE id = ?1",
            params![case.as_str(), now, operator],
        )?;
    }
    set_owner(transaction, &here.conversation, &after)?;
    let event = AuditEvent {
        actor: operator,
        action,
        subject: case.as_str(),
        detail: here.conversation.clone(),
    };
    audit(transaction, &event, now)?;
    Fault::ActUncommitted.passes();
    Ok(after)
}

/// A caller's key as the outbox and the platform know it.
fn reply_key(case: &CaseId, key: &str) -> OutboxKey {
    let digest = sha256_hex(format!("{case}\n{key}").as_bytes());
    OutboxKey::from_text(&digest[..32])
}

/// Whether this very reply was asked for under the key already.
fn said_before(
    transaction: &Transaction<'_>,
    key: &OutboxKey,
    payload: &Outgoing,
) -> Result<bool, StoreError> {
    let known: Option<String> = transaction
        .prepare_cached("SELECT payload FROM outbox WHERE key = ?1")?
        .query_row([key.as_str()], |r| r.get(0))
        .optional()?;
    match known {
        None => Ok(false),
        Some(known) if from_json::<Outgoing>("reply", &known)? == *payload => Ok(true),
        Some(_) => Err(StoreError::KeyUsed),
    }
}

fn say(
    transaction: &Transaction<'_>,
    case: &CaseId,
    here: &Here,
    (payload, key): (&Outgoing, Option<OutboxKey>),
    now: UnixMs,
) -> Result<(), StoreError> {
    let target = latest(transaction, case, here)?.ok_or(StoreError::NoWayToCustomer)?;
    let reply =
        NewReply { author: Author::Person, target, payload: payload.clone(), way: Way::Send };
    queue_row(transaction, case, here, (&reply, key), now)
}

/// Asks only where the customer can be asked.
fn ask(
    transaction: &Transaction<'_>,
    case: &CaseId,
    here: &Here,
    survey: &Outgoing,
    now: UnixMs,
) -> Result<(), StoreError> {
    let Some(target) = latest(transaction, case, here)? else { return Ok(()) };
    let reply =
        NewReply { author: Author::Courtesy, target, payload: survey.clone(), way: Way::Send };
    queue_row(transaction, case, here, (&reply, None), now)
}

/// Of the newest message of the conversation: platforms that answer a message want that one's id. An
/// event (Douyin's entering) opens less, and for seconds: only where nothing was written. In the
/// case's own thread: a customer of two desks (微信客服) is answered at the one where it was asked.
fn latest(
    transaction: &Transaction<'_>,
    case: &CaseId,
    here: &Here,
) -> Result<Option<Target>, StoreError> {
    let newest: Option<Option<String>> = transaction
        .prepare_cached(
            "SELECT m.target FROM messages m,
                    (SELECT iif(json_valid(own.target), own.target, NULL) AS target
                     FROM cases c JOIN decisions d USING (trace_id)
                     JOIN messages own ON own.id = d.message_id WHERE c.id = ?2) asked
             WHERE m.conversation_id = ?1 AND (m.target IS NULL OR json_valid(m.target))
               AND (asked.target IS NULL
                    OR iif(json_valid(m.target), m.target ->> '$.thread', NULL)
                       IS asked.target ->> '$.thread')
             ORDER BY iif(json_valid(m.inbound), m.inbound ->> '$.content.kind', '') = 'event',
                      m.id DESC LIMIT 1",
        )?
        .query_row(params![here.conversation, case.as_str()], |r| r.get(0))
        .optional()?;
    newest.flatten().map(|target| from_json("target", &target)).transpose()
}

fn queue_row(
    transaction: &Transaction<'_>,
    case: &CaseId,
    here: &Here,
    (reply, key): (&NewReply, Option<OutboxKey>),
    now: UnixMs,
) -> Result<(), StoreError> {
    let trace: String = transaction
        .prepare_cached("SELECT trace_id FROM cases WHERE id = ?1")?
        .query_row([case.as_str()], |r| r.get(0))?;
    let row = outbox::NewRow {
        conversation: &here.conversation,
        trace: Some(&crate::base::id::TraceId::from_text(trace)),
        account: &AccountName(here.account.clone()),
        reply,
        key,
    };
    outbox::insert(transaction, &row, now).map(|_| ())
}

fn close(
    transaction: &Transaction<'_>,
    here: &Here,
    operator: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    transaction.execute(
        "UPDATE cases SET closed_at = ?2, operator = coalesce(operator, ?3)
         WHERE closed_at IS NULL AND trace_id IN (
            SELECT d.trace_id FROM decisions d JOIN messages m ON m.id = d.message_id
            WHERE m.conversation_id = ?1)",
        params![here.conversation, now, operator],
    )?;
    Ok(())
}

fn history(
    connection: &Connection,
    conversation: &ConversationId,
    limit: u32,
) -> Result<Vec<Spoken>, StoreError> {
    // Replies without a row in the outbox were shown at once (the chat page).
    let mut query = connection.prepare_cached(
        "SELECT m.received_at AS at, m.id * 4 AS place, m.inbound, NULL, NULL, NULL
         FROM messages m WHERE m.conversation_id = ?1
         UNION ALL
         SELECT d.decided_at, m.id * 4 + 1, NULL, d.reply, 'bot', NULL
         FROM messages m JOIN decisions d ON d.message_id = m.id
         WHERE m.conversation_id = ?1 AND d.reply <> ''
           AND NOT EXISTS (SELECT 1 FROM outbox o
                           WHERE o.trace_id = d.trace_id AND o.author = 'bot')
         UNION ALL
         SELECT o.created_at, coalesce(m.id, 0) * 4 + 2, NULL, o.payload, o.author, o.state
         FROM outbox o LEFT JOIN decisions d USING (trace_id)
         LEFT JOIN messages m ON m.id = d.message_id WHERE o.conversation_id = ?1
         ORDER BY at DESC, place DESC LIMIT ?2",
    )?;
    let rows = query.query_map(params![conversation.as_str(), limit], |r| {
        let text = |n| r.get::<_, Option<String>>(n);
        Ok((r.get(0)?, text(2)?, text(3)?, text(4)?, text(5)?))
    })?;
    let mut lines = Vec::new();
    for row in rows {
        let (at, inbound, said, author, state) = row?;
        let (speaker, text) = match (inbound, said) {
            (Some(inbound), _) => (Speaker::Customer, self::said(&inbound)),
            (None, said) => {
                let author = author.as_deref().and_then(Author::parse).unwrap_or(Author::Bot);
                let said = said.unwrap_or_default();
                let text = match &state {
                    Some(_) => from_json("reply", &said)
                        .map_or_else(|_| "[unreadable]".into(), |said| words_of(&said).to_owned()),
                    None => said,
                };
                (Speaker::Us(author), text)
            }
        };
        let state = state.as_deref().and_then(DeliveryState::parse);
        lines.push(Spoken { speaker, text, at, state });
    }
    lines.reverse();
    Ok(lines)
}

/// What is not words is named in brackets.
fn shown(inbound: Inbound) -> String {
    use crate::domain::message::Content;
    match inbound.content {
        Content::Attachment { what, reference } => {
            format!("[{what}] {}", reference.unwrap_or_default()).trim_end().to_owned()
        }
        Content::Event { name, .. } => format!("[{name}]"),
        Content::Unknown { what } => format!("[{what}]"),
        Content::Voice { transcript: None } => "[voice]".into(),
        content @ (Content::Text(_) | Content::Choice { .. } | Content::Voice { .. }) => {
            inbox::spoken(content).unwrap_or_default()
        }
    }
}
