//! [`Store`] on SQLite: WAL, one writer thread with group commit, a few readers beside it.

mod checkpoint;
pub mod file;
mod governance;
pub mod hold;
mod inbox;
mod knowledge;
mod ledger;
mod outbox;
mod pages;
mod personal;
mod queue;
mod schema;
mod sends;
mod unreadable;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::checkpoint::Checkpoints;
use self::hold::Hold;
use self::ledger::AuditEvent;
pub use self::schema::Migrated;
use self::writer::Writer;
use crate::base::clock::UnixMs;
use crate::base::id::TraceId;
use crate::domain::knowledge::{Change, EntryId, Version, VersionedEntry};
use crate::domain::label::{Labelled, Purpose};
use crate::domain::message::{AccountName, Utterance};
use crate::domain::trace::Trace;
use crate::gate::threshold::Promise;
use crate::store::durable::Durable;
use crate::store::{
    Accepted, Arrival, AuditState, Before, Fate, Head, Import, ImportOutcome, LabelFile,
    MessageRow, Store, StoreError, Unfinished,
};

const READERS: usize = 2;
/// Statements that a connection keeps compiled: all that messages need.
const STATEMENTS: usize = 64;
/// Another process (an import beside the service) may hold the write lock this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

pub struct SqliteStore {
    writer: Writer,
    _checkpoints: Checkpoints,
    readers: Vec<Mutex<Connection>>,
    _hold: Hold,
}

impl SqliteStore {
    /// Opens or creates the file and brings it to this build's schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let tell =
            |e: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: {e}", path.display()));
        let hold = Hold::shared(path)?;
        let mut connection = open_writer(path).map_err(|e| tell(&e))?;
        schema::migrate(&mut connection)?;
        let readers = (0..READERS)
            .map(|_| open_reader(path))
            .collect::<Result<_, _>>()
            .map_err(|e| tell(&e))?;
        let commits = Arc::default();
        let log = open_writer(path).map_err(|e| tell(&e))?;
        let checkpoints = Checkpoints::start(log, Arc::clone(&commits)).map_err(|e| tell(&e))?;
        let writer = Writer::start(connection, commits).map_err(|e| tell(&e))?;
        Ok(Self { writer, _checkpoints: checkpoints, readers, _hold: hold })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let free = self.readers.iter().find_map(|r| r.try_lock().ok());
        let connection = match free {
            Some(connection) => connection,
            // A reader holds no state between queries, so one that panicked is still good.
            None => self.readers[0].lock().unwrap_or_else(PoisonError::into_inner),
        };
        query(&connection)
    }
}

fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: a commit that was reported has reached the disk, also after a power cut.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA wal_autocheckpoint = 0;",
    )?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

fn open_reader(path: &Path) -> rusqlite::Result<Mutex<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(Mutex::new(connection))
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Runs a statement that is run for every message, compiled once.
fn execute(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}

impl Store for SqliteStore {
    fn import_entries(&self, import: &Import, now: UnixMs) -> Result<ImportOutcome, StoreError> {
        let import = import.clone();
        self.writer.write(move |t| knowledge::import(t, &import, now))
    }

    fn entries(&self) -> Result<Vec<VersionedEntry>, StoreError> {
        self.read(knowledge::entries)
    }

    fn entries_by_id(&self, ids: &[EntryId]) -> Result<Vec<VersionedEntry>, StoreError> {
        self.read(|c| knowledge::entries_by_id(c, ids))
    }

    fn revision(&self) -> Result<i64, StoreError> {
        self.read(knowledge::revision)
    }

    fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.read(knowledge::heads)
    }

    fn history(&self, id: &EntryId) -> Result<Vec<Version>, StoreError> {
        self.read(|c| knowledge::history(c, id))
    }

    fn roll_back(
        &self,
        id: &EntryId,
        to: u32,
        change: &Change,
        now: UnixMs,
    ) -> Result<VersionedEntry, StoreError> {
        let (id, change) = (id.clone(), change.clone());
        self.writer.write(move |t| knowledge::roll_back(t, &id, to, &change, now))
    }

    fn add_labels(
        &self,
        files: &[LabelFile],
        author: &str,
        now: UnixMs,
    ) -> Result<Vec<usize>, StoreError> {
        let (files, author) = (files.to_vec(), author.to_owned());
        self.writer.write(move |t| {
            files.iter().map(|file| knowledge::add_labels(t, file, &author, now)).collect()
        })
    }

    fn labels(&self, purpose: Purpose) -> Result<Vec<Labelled>, StoreError> {
        self.read(|c| knowledge::labels(c, purpose))
    }

    fn labels_since(&self, since: UnixMs) -> Result<Vec<Labelled>, StoreError> {
        self.read(|c| knowledge::labels_since(c, since))
    }

    fn note_training(
        &self,
        generation: &str,
        outcome: &str,
        author: &str,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let [generation, outcome, author] = [generation, outcome, author].map(str::to_owned);
        self.writer.write(move |t| {
            let event = AuditEvent {
                actor: &author,
                action: "training.end",
                subject: &generation,
                detail: outcome.clone(),
            };
            ledger::audit(t, &event, now)
        })
    }

    fn set_promise(&self, promise: Promise, author: &str, now: UnixMs) -> Result<(), StoreError> {
        let author = author.to_owned();
        self.writer.write(move |t| knowledge::set_promise(t, promise, &author, now))
    }

    fn promise(&self) -> Result<Option<Promise>, StoreError> {
        self.read(knowledge::promise)
    }

    fn accept_ahead(
        &self,
        arrival: &Arrival,
        now: UnixMs,
    ) -> Result<(Accepted, Durable), StoreError> {
        let arrival = arrival.clone();
        self.writer.write_ahead(move |t| inbox::accept(t, &arrival, now))
    }

    fn context(&self, before: &Before<'_>) -> Result<Vec<Utterance>, StoreError> {
        self.read(|c| inbox::context(c, before))
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let (left, unreadable) = self.read(inbox::unfinished)?;
        for (message, error) in unreadable {
            unreadable::tell("message", message.0, &error);
            // Nobody can answer it, and nobody need wait for it.
            if let Err(error) = self.writer.write(move |t| inbox::give_up(t, message)) {
                tracing::error!(row = message.0, %error, "no case of a message could be opened");
            }
        }
        Ok(left)
    }

    fn taken_up(&self, messages: &[MessageRow]) -> Result<(), StoreError> {
        let messages = messages.to_vec();
        self.writer.write(move |t| inbox::taken_up(t, &messages))
    }

    fn fates(&self, account: &AccountName, since: UnixMs) -> Result<Vec<Fate>, StoreError> {
        self.read(|connection| inbox::fates(connection, account, since))
    }

    fn trace(&self, id: &TraceId) -> Result<Option<Trace>, StoreError> {
        self.read(|c| ledger::trace(c, id))
    }

    fn visit_recent_traces(
        &self,
        limit: u32,
        each: &mut dyn FnMut(Trace),
    ) -> Result<(), StoreError> {
        self.read(|c| ledger::visit_recent_traces(c, limit, each))
    }

    fn verify_audit(&self) -> Result<AuditState, StoreError> {
        self.read(ledger::verify_audit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decision::{Reason, Verdict};
    use crate::store::contract;
    use crate::store::outbox::{Decided, Outbox, Way};
    use crate::store::queue::Queue;

    fn fresh() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
        (dir, store)
    }

    #[test]
    fn keeps_the_contract() {
        for case in contract::CASES.iter().chain(contract::delivery::CASES) {
            let (_dir, store) = fresh();
            case(&store);
        }
    }

    #[test]
    fn what_was_written_survives_reopening() {
        let (dir, store) = fresh();
        contract::import_one(&store, "shop.a", "怎么退货");
        drop(store);
        let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
        assert_eq!(store.entries().unwrap().len(), 1);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let (dir, store) = fresh();
        drop(store);
        let path = dir.path().join("huida.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::TooNew { found: 999, .. })));
    }

    #[test]
    fn a_changed_audit_row_is_found() {
        let (dir, store) = fresh();
        for id in ["a", "b", "c"] {
            contract::import_one(&store, id, "怎么退货");
        }
        assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 3 });
        let raw = Connection::open(dir.path().join("huida.db")).unwrap();
        assert!(raw.execute("UPDATE audit_log SET subject = 'x' WHERE seq = 2", []).is_err());
        raw.execute_batch("DROP TRIGGER audit_log_keeps_text").unwrap();
        raw.execute("UPDATE audit_log SET subject = 'x' WHERE seq = 2", []).unwrap();
        assert_eq!(store.verify_audit().unwrap(), AuditState::BrokenAt { seq: 2 });
    }

    #[test]
    fn nothing_is_taken_without_its_line_in_the_audit_log() {
        let (dir, store) = fresh();
        let raw = Connection::open(dir.path().join("huida.db")).unwrap();
        raw.execute_batch(
            "CREATE TRIGGER log_is_full BEFORE INSERT ON audit_log
             BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
        assert!(store.import_entries(&contract::import("a", "q"), 1).is_err());
        assert!(store.add_labels(&contract::label_files(), "cli", 1).is_err());
        assert_eq!(store.entries().unwrap(), []);
        assert_eq!(store.labels(Purpose::Train).unwrap(), []);
        raw.execute_batch("DROP TRIGGER log_is_full").unwrap();
        store.add_labels(&contract::label_files(), "cli", 1).unwrap();
        assert_eq!(store.verify_audit().unwrap(), AuditState::Intact { rows: 2 });
    }

    #[test]
    fn a_message_and_its_decision_share_a_commit_and_the_loss_of_it() {
        let (_dir, store) = fresh();
        let (accepted, durable) =
            store.accept_ahead(&contract::arrival("anna", "7", "在吗"), 1).unwrap();
        let trace =
            contract::turn(&accepted, Verdict::AutoReply, Reason::ConfidenceReached, "在的。");
        let decided =
            Decided { accepted: vec![durable.clone()], ..contract::decided(trace, false) };
        store.decide(accepted.message, &decided, 2).unwrap();
        assert!(durable.check().is_ok() && durable.wait().is_ok());
        assert_eq!(store.unfinished().unwrap(), []);
    }

    /// As an earlier or a later build, or a fault, may leave it.
    fn damage(dir: &tempfile::TempDir, table: &str, column: &str, row: &str) {
        let raw = Connection::open(dir.path().join("huida.db")).unwrap();
        let changed = raw
            .execute(&format!("UPDATE {table} SET {column} = 'damaged' WHERE {row}"), [])
            .unwrap();
        assert_eq!(changed, 1);
    }

    #[test]
    fn a_message_that_cannot_be_read_is_a_persons_and_the_others_go_on() {
        let (dir, store) = fresh();
        let [_, broken, _] = ["anna", "ben", "cleo"]
            .map(|sender| store.accept(&contract::arrival(sender, "1", "在吗"), 5).unwrap());
        damage(&dir, "messages", "inbound", &format!("id = {}", broken.message.0));
        let left = || -> Vec<String> {
            let left = store.unfinished().unwrap();
            left.into_iter().map(|item| item.arrival.inbound.sender).collect()
        };
        assert_eq!(left(), ["anna", "cleo"]);
        assert_eq!(left(), ["anna", "cleo"]);
        let cases = store.open_cases(9, 6).unwrap();
        assert_eq!(cases.len(), 1, "once");
        assert_eq!(cases[0].conversation, broken.conversation);
        let shown = store.spoken(&broken.conversation, 9).unwrap();
        assert_eq!(shown[0].text, "[unreadable]");
    }

    #[test]
    fn a_reply_that_cannot_be_read_is_a_persons_and_the_others_go_on() {
        let (dir, store) = fresh();
        let [first, broken, last] = ["anna", "ben", "cleo"]
            .map(|sender| contract::delivery::answered(&store, sender, "1", Way::Send).1);
        damage(&dir, "outbox", "payload", &format!("seq = {}", broken.seq.0));
        let due = || -> Vec<_> {
            let lines = store.due(3, 9).unwrap();
            lines.iter().flat_map(|line| &line.rows).map(|row| row.seq).collect()
        };
        assert_eq!(due(), [first.seq, last.seq]);
        assert_eq!(due(), [first.seq, last.seq]);
        let cases = store.open_cases(9, 4).unwrap();
        assert_eq!((cases.len(), cases[0].note), (1, Some(Reason::SendFailed)));
        assert_eq!(store.outbox_counts().unwrap().waiting, 2);
        assert_eq!(store.undelivered(9).unwrap(), [], "the list can be read without it");
    }

    #[test]
    fn a_reply_whose_trace_cannot_be_read_ends_as_the_others_do() {
        let (dir, store) = fresh();
        let kept = Way::Keep { until: 50 };
        let [_, broken, _] = ["anna", "ben", "cleo"]
            .map(|sender| contract::delivery::answered(&store, sender, "1", kept).1);
        let trace = broken.trace.unwrap();
        damage(&dir, "decisions", "trace", &format!("trace_id = '{trace}'"));
        assert_eq!(store.expire(50).unwrap(), 3);
        assert_eq!(store.expire(51).unwrap(), 0);
        let cases = store.open_cases(9, 51).unwrap();
        assert_eq!(cases.len(), 3);
        let without = cases.iter().find(|case| case.trace.id == trace).unwrap();
        assert_eq!(without.note, Some(Reason::NotFetched));
        assert_eq!((&*without.trace.message, &*without.trace.reply), ("怎么退货", "七天内。"));
        assert_eq!(store.unannounced(9, 51).unwrap().len(), 3);
    }

    #[test]
    fn what_is_lost_on_its_way_is_not_decided() {
        let (_dir, store) = fresh();
        let accepted = store.accept(&contract::arrival("anna", "7", "在吗"), 1).unwrap();
        let trace =
            contract::turn(&accepted, Verdict::AutoReply, Reason::ConfidenceReached, "在的。");
        let (lost, promise) = Durable::promised();
        drop(promise);
        let decided = Decided { accepted: vec![lost], ..contract::decided(trace, false) };
        assert!(store.decide(accepted.message, &decided, 2).is_err());
        assert_eq!(store.unfinished().unwrap().len(), 1);
    }

    #[test]
    fn a_panicking_write_leaves_the_writer_alive() {
        let (_dir, store) = fresh();
        let failed: Result<(), _> = store.writer.write(|t| {
            t.execute("INSERT INTO customers (created_at) VALUES (1)", [])?;
            panic!("boom")
        });
        assert!(failed.is_err());
        let left: i64 = store
            .read(|c| Ok(c.query_row("SELECT count(*) FROM customers", [], |r| r.get(0))?))
            .unwrap();
        assert_eq!(left, 0);
        contract::import_one(&store, "shop.a", "怎么退货");
    }
}
