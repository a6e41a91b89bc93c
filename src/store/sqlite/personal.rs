//! [`Personal`] on SQLite: rows of `vault`, and the audit line of whoever had them opened.

use rusqlite::{Connection, params};

use super::ledger::{AuditEvent, audit};
use super::{SqliteStore, from_json};
use crate::base::clock::UnixMs;
use crate::store::personal::{Kept, MESSAGES, Personal, Whose};
use crate::store::{MessageRow, StoreError};

impl Personal for SqliteStore {
    fn kept(&self, whose: &Whose) -> Result<Vec<Kept>, StoreError> {
        self.read(|c| kept(c, whose))
    }

    fn note_shown(
        &self,
        whose: &Whose,
        messages: &[MessageRow],
        by: &str,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let (subject, by) = (id(whose).to_owned(), by.to_owned());
        let rows: Vec<_> = messages.iter().map(|row| row.0.to_string()).collect();
        let detail = format!("messages {}", rows.join(", "));
        self.writer.write(move |t| {
            let event = AuditEvent {
                actor: &by,
                action: "personal.show",
                subject: &subject,
                detail: detail.clone(),
            };
            audit(t, &event, now)
        })
    }
}

fn id(whose: &Whose) -> &str {
    match whose {
        Whose::Turn(trace) => trace.as_str(),
        Whose::Case(case) => case.as_str(),
    }
}

fn kept(connection: &Connection, whose: &Whose) -> Result<Vec<Kept>, StoreError> {
    let of = match whose {
        Whose::Turn(_) => "m.id = (SELECT message_id FROM decisions WHERE trace_id = ?1)",
        Whose::Case(_) => {
            "m.conversation_id = (SELECT asked.conversation_id FROM cases c
             JOIN decisions d USING (trace_id) JOIN messages asked ON asked.id = d.message_id
             WHERE c.id = ?1)"
        }
    };
    let mut query = connection.prepare_cached(&format!(
        "SELECT m.id, m.inbound, m.received_at, v.sealed
         FROM messages m JOIN vault v ON v.message_id = m.id
         WHERE {of} ORDER BY m.id DESC LIMIT ?2"
    ))?;
    let rows = query.query_map(params![id(whose), MESSAGES], |r| {
        Ok((MessageRow(r.get(0)?), r.get::<_, String>(1)?, r.get(2)?, r.get(3)?))
    })?;
    let mut newest_first = Vec::new();
    for row in rows {
        let (message, inbound, received_at, sealed) = row?;
        let inbound = from_json("message", &inbound)?;
        newest_first.push(Kept { message, inbound, received_at, sealed });
    }
    newest_first.reverse();
    Ok(newest_first)
}
