//! [`Outbox`] on SQLite: replies, the cases that failed ones open, what may be sent now.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{SqliteStore, execute, from_json, pages, sends, to_json, unreadable};
use crate::base::clock::UnixMs;
use crate::base::fault::Fault;
use crate::base::id::{CaseId, ConversationId, OutboxKey, TraceId};
use crate::domain::decision::{Priority, Reason};
use crate::domain::delivery::{Author, DeliveryState, Occasion};
use crate::domain::message::AccountName;
use crate::domain::ownership::Owner;
use crate::domain::trace::Trace;
use crate::store::durable::Durable;
use crate::store::outbox::{
    Contact, Cursor, Decided, DueLine, NewReply, Outbox, OutboxCounts, OutboxSeq, Page, Queued,
    Resumption, Settled, Way,
};
use crate::store::sqlite::queue;
use crate::store::{Accepted, Arrival, MessageRow, StoreError};

/// Sends that are looked back at: no platform allows more in one window.
const SENDS: u32 = 20;
/// Replies of one conversation that are looked at together.
const LINE: u32 = 12;
/// … and has been heard by then.
pub(super) const RETRIES_OVER_MS: i64 = 16_000;

impl Outbox for SqliteStore {
    fn decide(
        &self,
        message: MessageRow,
        decided: &Decided,
        now: UnixMs,
    ) -> Result<Option<Queued>, StoreError> {
        let record = |(row, trace): &(_, _)| Record::of(*row, trace);
        let own = Record::of(message, &decided.trace)?;
        let joined = decided.joined.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let with = With {
            for_person: decided.for_person,
            replies: decided.replies.clone(),
            transferred_until: decided.transferred_until,
            accepted: decided.accepted.clone(),
        };
        self.writer.write(move |t| decide(t, &own, &joined, &with, now))
    }

    fn offer_again(&self, message: MessageRow, now: UnixMs) -> Result<Option<Queued>, StoreError> {
        self.writer.write(move |t| {
            // One that left in an answer is given again: the platform asks because it got none.
            let found = t
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM outbox o JOIN decisions d USING (trace_id)
                     WHERE d.message_id = ?1 AND author = 'bot'
                       AND (state IN ('pending', 'offered', 'kept')
                            OR (state = 'delivered' AND passive = 1)) ORDER BY seq LIMIT 1"
                ))?
                .query_row([message.0], queued)
                .optional()?;
            let Some(found) = found.transpose()? else { return Ok(None) };
            let may = match found.state {
                DeliveryState::Pending => may_be_said_now(t, &found, now)?,
                // The answer with the link to it never came.
                DeliveryState::Kept => may_be_fetched(t, &found, now)?,
                DeliveryState::Offered
                | DeliveryState::Sending
                | DeliveryState::Delivered
                | DeliveryState::Handed
                | DeliveryState::Dropped => true,
            };
            if may { offer(t, found, now).map(Some) } else { Ok(None) }
        })
    }

    fn fetch_kept(
        &self,
        message: MessageRow,
        conversation: &ConversationId,
        now: UnixMs,
    ) -> Result<Option<Queued>, StoreError> {
        let conversation = conversation.clone();
        self.writer.write(move |t| {
            let found = t
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM outbox WHERE conversation_id = ?2 AND trace_id =
                       (SELECT coalesce(json_extract(trace, '$.answered_by'), trace_id)
                        FROM decisions WHERE message_id = ?1)
                     AND (state = 'kept' OR (passive = 1 AND state <> 'handed'))
                     ORDER BY seq LIMIT 1"
                ))?
                .query_row(params![message.0, conversation.as_str()], queued)
                .optional()?;
            let Some(found) = found.transpose()? else { return Ok(None) };
            if found.state == DeliveryState::Kept && !may_be_fetched(t, &found, now)? {
                return Ok(None);
            }
            offer(t, found, now).map(Some)
        })
    }

    fn confirm(&self, seq: OutboxSeq) -> Result<(), StoreError> {
        // Where it is not known that an answer left, the platform asks again: that can wait.
        self.writer.write_some_time(move |t| {
            execute(
                t,
                "UPDATE outbox SET state = 'delivered' WHERE seq = ?1 AND state = 'offered'",
                [seq.0],
            )?;
            Ok(())
        })
    }

    fn retract(&self, seq: OutboxSeq, due: UnixMs) -> Result<(), StoreError> {
        self.writer.write(move |t| {
            t.execute(
                "UPDATE outbox SET state = 'pending', passive = 0, due_at = ?2, note = ?3
                 WHERE seq = ?1 AND state = 'offered'",
                params![seq.0, due, NOT_TAKEN],
            )?;
            Ok(())
        })
    }

    fn due(&self, now: UnixMs, limit: u32) -> Result<Vec<DueLine>, StoreError> {
        let (lines, unreadable) = self.read(|c| due(c, now, limit))?;
        for (row, error) in unreadable {
            unreadable::tell("reply", row.0, &error);
            let handed = Settled::Handed { why: Reason::SendFailed, note: "unreadable" };
            if let Err(error) = self.settle(&[row], handed, now) {
                tracing::error!(row = row.0, %error, "no case of a reply could be opened");
            }
        }
        Ok(lines)
    }

    fn begin_send(&self, rows: &[OutboxSeq], now: UnixMs) -> Result<bool, StoreError> {
        let rows = rows.to_vec();
        self.writer.write(move |t| sends::begin(t, &rows, now))
    }

    fn settle(&self, rows: &[OutboxSeq], settled: Settled, now: UnixMs) -> Result<(), StoreError> {
        let rows = rows.to_vec();
        self.writer
            .write(move |t| rows.iter().try_for_each(|row| sends::settle(t, *row, settled, now)))
    }

    fn transferred(&self, conversation: &ConversationId, until: UnixMs) -> Result<(), StoreError> {
        let conversation = conversation.clone();
        self.writer
            .write(move |t| queue::set_owner(t, conversation.as_str(), &Owner::Platform { until }))
    }

    fn expire(&self, now: UnixMs) -> Result<usize, StoreError> {
        let waits = format!(
            "SELECT seq, state, note FROM outbox
             WHERE {OPEN} AND state IN ('offered', 'kept') AND {DUE}"
        );
        // Looked at first by a reader: mostly there is none, and a write costs a commit.
        let any: bool = self.read(|c| {
            Ok(c.prepare_cached(&format!("SELECT EXISTS ({waits})"))?
                .query_row([now], |r| r.get(0))?)
        })?;
        if !any {
            return Ok(0);
        }
        self.writer.write(move |t| {
            let over = t
                .prepare_cached(&waits)?
                .query_map([now], |r| {
                    Ok((OutboxSeq(r.get(0)?), r.get::<_, String>(1)?, r.get::<_, String>(2)?))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            for (seq, state, note) in &over {
                let settled = match (state.as_str(), note.as_str()) {
                    ("kept", _) => Settled::Handed { why: Reason::NotFetched, note: "not_fetched" },
                    (_, ASKED_AGAIN) => Settled::Delivered,
                    _ => Settled::Handed { why: Reason::DeliveryUnknown, note: "unconfirmed" },
                };
                sends::settle(t, *seq, settled, now)?;
            }
            Ok(over.len())
        })
    }

    fn resume(&self, accounts: &[Resumption], now: UnixMs) -> Result<(), StoreError> {
        let accounts = accounts.to_vec();
        self.writer.write(move |t| sends::resume(t, &accounts, now))
    }

    fn undelivered(&self, limit: u32) -> Result<Vec<Queued>, StoreError> {
        self.read(|c| {
            let mut query = c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM outbox WHERE state IN ('handed', 'dropped')
                 ORDER BY seq DESC LIMIT ?1"
            ))?;
            // What cannot be read has its case.
            let rows = query.query_map([limit], queued)?.filter_map(|row| match row {
                Ok(read) => read.ok().map(Ok),
                Err(error) => Some(Err(error.into())),
            });
            rows.collect()
        })
    }

    fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        self.read(|c| {
            let counts = c
                .prepare_cached(&format!(
                    "SELECT (SELECT count(*) FROM outbox WHERE {OPEN}),
                            (SELECT count(*) FROM outbox
                             WHERE state IN ('handed', 'dropped') AND state = 'handed'),
                            (SELECT min(created_at) FROM outbox WHERE {OPEN}),
                            (SELECT count(*) FROM work)"
                ))?
                .query_row([], |r| {
                    Ok(OutboxCounts {
                        waiting: r.get::<_, u32>(0)?.into(),
                        handed: r.get::<_, u32>(1)?.into(),
                        oldest_waiting: r.get(2)?,
                        work: r.get::<_, u32>(3)?.into(),
                    })
                })?;
            Ok(counts)
        })
    }

    fn contact(&self, conversation: &ConversationId) -> Result<Contact, StoreError> {
        self.read(|c| contact(c, conversation.as_str()))
    }

    fn want_fetch(
        &self,
        account: &AccountName,
        thread: &str,
        token: &str,
    ) -> Result<(), StoreError> {
        let (account, thread, token) = (account.clone(), thread.to_owned(), token.to_owned());
        self.writer.write(move |t| pages::want(t, &account, &thread, &token))
    }

    fn want_all(&self) -> Result<(), StoreError> {
        self.writer.write(pages::want_all)
    }

    fn to_fetch(&self) -> Result<Vec<Cursor>, StoreError> {
        self.read(pages::wanted)
    }

    fn take_page(
        &self,
        account: &AccountName,
        thread: &str,
        page: &Page,
        now: UnixMs,
    ) -> Result<Vec<(Arrival, Accepted)>, StoreError> {
        let (account, thread, page) = (account.clone(), thread.to_owned(), page.clone());
        self.writer.write(move |t| pages::take(t, &account, &thread, &page, now))
    }

    fn open_survey(
        &self,
        conversation: &ConversationId,
        since: UnixMs,
    ) -> Result<Option<CaseId>, StoreError> {
        self.read(|c| {
            let found: Option<String> = c
                .prepare_cached(
                    "SELECT c.id FROM outbox o JOIN cases c USING (trace_id)
                     WHERE o.conversation_id = ?1 AND o.author = 'courtesy' AND o.created_at >= ?2
                       AND o.state = 'delivered'
                       AND NOT EXISTS (SELECT 1 FROM ratings r WHERE r.case_id = c.id)
                     ORDER BY o.seq DESC LIMIT 1",
                )?
                .query_row(params![conversation.as_str(), since], |r| r.get(0))
                .optional()?;
            Ok(found.map(CaseId::from_text))
        })
    }

    fn rate(
        &self,
        case: &CaseId,
        conversation: &ConversationId,
        score: u8,
        now: UnixMs,
    ) -> Result<bool, StoreError> {
        let (case, conversation) = (case.clone(), conversation.clone());
        self.writer.write(move |t| {
            let added = t.execute(
                "INSERT INTO ratings (case_id, score, operator, created_at)
                 SELECT c.id, ?2, c.operator, ?3 FROM cases c JOIN decisions d USING (trace_id)
                 JOIN messages m ON m.id = d.message_id WHERE c.id = ?1 AND m.conversation_id = ?4
                 ON CONFLICT (case_id) DO NOTHING",
                params![case.as_str(), score, now, conversation.as_str()],
            )?;
            Ok(added == 1)
        })
    }
}

/// Not at its end; in these words, so that the index of those is used.
const OPEN: &str = "state IN ('pending', 'offered', 'kept', 'sending')";

/// Whose moment has come at `?1`. Only an answer behind a link waits for ten minutes or more: any
/// other wait that long was set before the clock was put back.
const DUE: &str = "(due_at <= ?1 OR (due_at > ?1 + 600000 AND state <> 'kept'))";

/// The note of an offered reply whose platform would have asked again if it had got no answer.
pub(super) const ASKED_AGAIN: &str = "asks_again";

/// The note of a reply that stood in an answer which did not leave.
pub(super) const NOT_TAKEN: &str = "not_taken";

pub(super) const COLUMNS: &str = "seq, key, conversation_id, trace_id, account, author, target, \
                                  payload, state, attempts, created_at, note, joined";

pub(super) fn queued(row: &Row<'_>) -> rusqlite::Result<Result<Queued, StoreError>> {
    let text = |n| row.get::<_, String>(n);
    let (author, target, payload, state) = (text(5)?, text(6)?, text(7)?, text(8)?);
    let (seq, key, conversation) = (OutboxSeq(row.get(0)?), text(1)?, text(2)?);
    let (trace, account): (Option<String>, _) = (row.get(3)?, text(4)?);
    let (attempts, created_at, note) = (row.get(9)?, row.get(10)?, text(11)?);
    let left_with = row.get::<_, Option<i64>>(12)?.map(OutboxSeq);
    let read = || {
        let unknown = |what, word: &str| StoreError::Corrupt {
            what,
            reason: format!("unknown word {word:?}"),
        };
        Ok(Queued {
            seq,
            key,
            conversation: ConversationId::from_text(conversation),
            trace: trace.map(TraceId::from_text),
            account: AccountName(account),
            author: Author::parse(&author).ok_or_else(|| unknown("author", &author))?,
            target: from_json("target", &target)?,
            payload: from_json("reply", &payload)?,
            state: DeliveryState::parse(&state).ok_or_else(|| unknown("delivery state", &state))?,
            attempts,
            created_at,
            note,
            left_with,
        })
    };
    Ok(read())
}

/// A turn as it is written down, made beside the one thread that writes.
struct Record {
    message: MessageRow,
    trace: Trace,
    json: String,
}

impl Record {
    fn of(message: MessageRow, trace: &Trace) -> Result<Self, StoreError> {
        Ok(Self { message, trace: trace.clone(), json: to_json("trace", trace)? })
    }
}

/// What a decision brings with it beside its record.
struct With {
    for_person: bool,
    replies: Vec<NewReply>,
    transferred_until: Option<UnixMs>,
    accepted: Vec<Durable>,
}

fn decide(
    transaction: &Transaction<'_>,
    own: &Record,
    joined: &[Record],
    with: &With,
    now: UnixMs,
) -> Result<Option<Queued>, StoreError> {
    let With { for_person, replies, transferred_until, accepted } = with;
    // Known by now: what was accepted before this is in this transaction or its end has been told.
    // The row of a message that was lost may be another's.
    accepted.iter().try_for_each(Durable::check)?;
    let trace = &own.trace;
    let conversation = trace.conversation.as_str();
    record(transaction, own, now)?;
    if !replies.is_empty() && !queue::owner(transaction, conversation)?.is_bot(now) {
        return Err(StoreError::NotTheBots(own.message.0));
    }
    if *for_person {
        open_case(transaction, trace.id.as_str(), trace.decision.priority(), None, now)?;
    }
    if let Some(until) = transferred_until {
        queue::set_owner(transaction, conversation, &Owner::Platform { until: *until })?;
    }
    Fault::DecidedHalf.passes();
    joined.iter().try_for_each(|earlier| record(transaction, earlier, now))?;
    for Record { message, .. } in joined.iter().chain([own]) {
        execute(transaction, "DELETE FROM work WHERE message_id = ?1", [message.0])?;
    }
    let mut first = None;
    for reply in replies {
        let trace_id = Some(&trace.id);
        let account = &trace.account;
        let new = NewRow { conversation, trace: trace_id, account, reply, key: None };
        let queued = insert(transaction, &new, now)?;
        first.get_or_insert(queued);
    }
    Ok(first)
}

/// Ends a message's work with a case for a person, and with nothing said.
pub(super) fn hand_over(
    transaction: &Transaction<'_>,
    message: MessageRow,
    trace: &Trace,
    now: UnixMs,
) -> Result<(), StoreError> {
    let with =
        With { for_person: true, replies: vec![], transferred_until: None, accepted: vec![] };
    decide(transaction, &Record::of(message, trace)?, &[], &with, now).map(drop)
}

fn record(transaction: &Transaction<'_>, turn: &Record, now: UnixMs) -> Result<(), StoreError> {
    let Record { message, trace, json } = turn;
    let added = execute(
        transaction,
        "INSERT INTO decisions (trace_id, message_id, verdict, confidence, reply, trace, decided_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (message_id) DO NOTHING",
        params![
            trace.id.as_str(),
            message.0,
            trace.decision.verdict.as_str(),
            f64::from(trace.decision.confidence),
            trace.reply,
            json,
            now
        ],
    )?;
    if added == 0 {
        return Err(StoreError::AlreadyDecided(message.0));
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO evidence (trace_id, rank, entry_id, version, score) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (found, rank) in trace.evidence.iter().zip(0_u32..) {
        let score = f64::from(found.scores.fused);
        let (trace, entry) = (trace.id.as_str(), found.id.as_str());
        insert.execute(params![trace, rank, entry, found.version, score])?;
    }
    Ok(())
}

/// Opens the case of a turn, or opens it again: a message has one case at most.
pub(super) fn open_case(
    transaction: &Transaction<'_>,
    trace: &str,
    priority: Priority,
    note: Option<Reason>,
    now: UnixMs,
) -> Result<(), StoreError> {
    execute(
        transaction,
        "INSERT INTO cases (id, trace_id, priority, opened_at, note) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (trace_id) DO UPDATE SET closed_at = NULL, announced_at = NULL, note = ?5",
        params![CaseId::generate().as_str(), trace, priority as u8, now, note.map(Reason::as_str)],
    )?;
    Ok(())
}

pub(super) struct NewRow<'a> {
    pub(super) conversation: &'a str,
    pub(super) trace: Option<&'a TraceId>,
    pub(super) account: &'a AccountName,
    pub(super) reply: &'a NewReply,
    /// One that is known already; otherwise it gets a new one.
    pub(super) key: Option<OutboxKey>,
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    new: &NewRow<'_>,
    now: UnixMs,
) -> Result<Queued, StoreError> {
    let (state, due) = match new.reply.way {
        // Behind what has not left yet, so that answers come in the order of the questions.
        Way::Offer { may_send: true } if unsent(transaction, new.conversation)? => {
            (DeliveryState::Pending, now)
        }
        Way::Offer { .. } => (DeliveryState::Offered, now + RETRIES_OVER_MS),
        Way::Send => (DeliveryState::Pending, now),
        Way::Keep { until } => (DeliveryState::Kept, until),
    };
    transaction
        .prepare_cached(&format!(
            "INSERT INTO outbox (key, conversation_id, trace_id, account, author, target, payload,
                                 state, passive, due_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING {COLUMNS}"
        ))?
        .query_row(
            params![
                new.key.clone().unwrap_or_else(OutboxKey::generate).as_str(),
                new.conversation,
                new.trace.map(TraceId::as_str),
                new.account.as_str(),
                new.reply.author.as_str(),
                to_json("target", &new.reply.target)?,
                to_json("reply", &new.reply.payload)?,
                state.as_str(),
                state == DeliveryState::Offered,
                due,
                now
            ],
            queued,
        )?
}

fn unsent(transaction: &Transaction<'_>, conversation: &str) -> Result<bool, StoreError> {
    let found = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM outbox
             WHERE conversation_id = ?1 AND state IN ('pending', 'sending'))",
        )?
        .query_row([conversation], |r| r.get(0))?;
    Ok(found)
}

/// Whether a reply that waits to be sent may be said in an answer instead: nobody else has the
/// conversation, and nothing is before it.
fn may_be_said_now(
    transaction: &Transaction<'_>,
    reply: &Queued,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let conversation = reply.conversation.as_str();
    let is_first: bool = transaction
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE conversation_id = ?1 AND seq < ?2
                                AND state IN ('pending', 'offered', 'sending'))",
        )?
        .query_row(params![conversation, reply.seq.0], |r| r.get(0))?;
    let owner = queue::owner(transaction, conversation)?;
    // The platform's desk has it by what this one is to say.
    let may_speak = owner.is_bot(now) || sends::transfer_not_taken(transaction, &owner, reply.seq)?;
    Ok(is_first && may_speak)
}

/// Whether an answer behind a link may be said: nobody else has the conversation.
fn may_be_fetched(
    transaction: &Transaction<'_>,
    reply: &Queued,
    now: UnixMs,
) -> Result<bool, StoreError> {
    Ok(queue::owner(transaction, reply.conversation.as_str())?.is_bot(now))
}

fn offer(transaction: &Transaction<'_>, found: Queued, now: UnixMs) -> Result<Queued, StoreError> {
    if found.state != DeliveryState::Delivered {
        transaction
            .prepare_cached(
                "UPDATE outbox SET state = 'offered', passive = 1, due_at = ?2, note = ''
                 WHERE seq = ?1",
            )?
            .execute(params![found.seq.0, now + RETRIES_OVER_MS])?;
    }
    Ok(Queued { state: DeliveryState::Offered, ..found })
}

/// Conversations whose first reply may be sent, the longest due first. Where they are too many, the
/// first of every account comes before the second of any.
fn ready(connection: &Connection, now: UnixMs, limit: u32) -> Result<Vec<String>, StoreError> {
    let first = format!(
        "{OPEN} AND state = 'pending' AND {DUE}
         AND NOT EXISTS (SELECT 1 FROM outbox p WHERE p.conversation_id = o.conversation_id
                         AND (p.state IN ('offered', 'sending')
                              OR (p.state = 'pending' AND p.seq < o.seq)))"
    );
    let find = |sql: String| -> Result<Vec<String>, StoreError> {
        let mut query = connection.prepare_cached(&sql)?;
        let rows = query.query_map(params![now, limit], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let oldest = find(format!(
        "SELECT conversation_id FROM outbox o WHERE {first} ORDER BY due_at, seq LIMIT ?2"
    ))?;
    if oldest.len() < limit as usize {
        return Ok(oldest);
    }
    // A platform that is silent has many, and hides nobody behind them. This reads all of them, so
    // it is done only then.
    find(format!(
        "WITH accounts AS MATERIALIZED (SELECT DISTINCT account FROM outbox WHERE {OPEN})
         SELECT r.conversation_id FROM accounts a JOIN outbox r ON r.seq IN
           (SELECT seq FROM outbox o WHERE account = a.account AND {first}
            ORDER BY due_at, seq LIMIT ?2)
         ORDER BY row_number() OVER (PARTITION BY r.account ORDER BY r.due_at, r.seq),
                  r.due_at, r.seq LIMIT ?2"
    ))
}

/// A reply that cannot be read, and why.
type Unreadable = (OutboxSeq, StoreError);

fn due(
    connection: &Connection,
    now: UnixMs,
    limit: u32,
) -> Result<(Vec<DueLine>, Vec<Unreadable>), StoreError> {
    let (mut lines, mut unreadable) = (Vec::new(), Vec::new());
    for conversation in ready(connection, now, limit)? {
        let mut query = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM outbox
             WHERE conversation_id = ?1 AND state = 'pending' ORDER BY seq LIMIT ?2"
        ))?;
        let found = query
            .query_map(params![conversation, LINE], |r| Ok((OutboxSeq(r.get(0)?), queued(r)?)))?;
        let mut rows = Vec::new();
        for row in found {
            match row? {
                (_, Ok(reply)) => rows.push(reply),
                (seq, Err(error)) => unreadable.push((seq, error)),
            }
        }
        if !rows.is_empty() {
            lines.push(DueLine { rows, contact: contact(connection, &conversation)? });
        }
    }
    Ok((lines, unreadable))
}

pub(super) fn contact(connection: &Connection, conversation: &str) -> Result<Contact, StoreError> {
    let occasions = connection
        .prepare_cached("SELECT occasion, at FROM occasions WHERE conversation_id = ?1")?
        .query_map([conversation], |r| Ok((r.get::<_, String>(0)?, r.get(1)?)))?
        .map(|row| {
            let (word, at) = row?;
            // A word of a newer build opens nothing.
            Ok(Occasion::parse(&word).map(|occasion| (occasion, at)))
        })
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, StoreError>>()?;
    let sent = connection
        .prepare_cached(
            "SELECT sent_at FROM outbox WHERE conversation_id = ?1 AND sent_at IS NOT NULL
             ORDER BY sent_at DESC LIMIT ?2",
        )?
        .query_map(params![conversation, SENDS], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(Contact { occasions, sent })
}
