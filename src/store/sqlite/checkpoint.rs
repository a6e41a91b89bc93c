//! Brings what is in the log into the database, beside the one thread that writes.
//!
//! SQLite does it within a commit by itself, and one message in thirty then waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::base::clock::Stopwatch;

const LOOK: Duration = Duration::from_millis(250);
/// Commits after which it is time; each leaves some ten pages in the log.
const MANY: u64 = 1_000;
/// After so long, fewer will do.
const LONG: Duration = Duration::from_secs(10);
/// How long those who write may be kept waiting for those who read.
const PATIENCE: Duration = Duration::from_millis(10);
/// After so many looks in vain, some five minutes, it is told that the log grows.
const TELL: u32 = 1_200;

/// A thread that does it while the store is open.
pub(super) struct Checkpoints {
    close: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// `commits` counts those of the writer, whose connection must leave the log alone.
    pub(super) fn start(connection: Connection, commits: Arc<AtomicU64>) -> std::io::Result<Self> {
        let (close, closed) = channel();
        let thread = std::thread::Builder::new()
            .name("store-log".into())
            .spawn(move || run(&connection, &commits, &closed))?;
        Ok(Self { close: Some(close), thread: Some(thread) })
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.close = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by the panic hook; the log is whole without it.
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, commits: &AtomicU64, closed: &Receiver<()>) {
    let (mut done, mut last, mut in_vain) = (0, Stopwatch::start(), 0_u32);
    while let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(LOOK) {
        let made = commits.load(Ordering::Relaxed);
        let due = made - done >= MANY || (made > done && last.elapsed() >= LONG);
        if due || in_vain > 0 {
            in_vain = match checkpoint(connection) {
                Ok(Log::BeginsAnew) => 0,
                Ok(Log::InUse) => in_vain + 1,
                Err(error) => {
                    tracing::warn!(%error, "the database's log could not be brought in; it grows");
                    0
                }
            };
            (done, last) = (made, Stopwatch::start());
        }
        if in_vain > 0 && in_vain.is_multiple_of(TELL) {
            tracing::warn!(in_vain, "the database's log is in use all the time; it grows");
        }
    }
}

/// What the next commit finds.
#[derive(Debug, PartialEq, Eq)]
enum Log {
    /// All of it is in the database, and it is written from its start.
    BeginsAnew,
    /// Someone reads, or wrote meanwhile: it is written on at its end.
    InUse,
}

/// Most of it while others write; then what they have added, so that the log begins anew. For that
/// it takes the lock of those who write and waits, holding it, until nobody reads in the log: it must
/// give up soon, since a backup reads for minutes.
fn checkpoint(connection: &Connection) -> rusqlite::Result<Log> {
    connection.busy_timeout(PATIENCE)?;
    let run = |sql| connection.query_row(sql, [], |row| row.get::<_, bool>(0));
    run("PRAGMA wal_checkpoint(PASSIVE)")?;
    let busy = run("PRAGMA wal_checkpoint(RESTART)")?;
    Ok(if busy { Log::InUse } else { Log::BeginsAnew })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "test.db";

    fn open(dir: &std::path::Path) -> Connection {
        let connection = Connection::open(dir.join(FILE)).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;")
            .unwrap();
        connection
    }

    #[test]
    fn the_log_is_brought_in_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (writes, checkpoints) = (open(dir.path()), open(dir.path()));
        let fill = "INSERT INTO t SELECT randomblob(1000000)";
        writes.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        writes.execute_batch(fill).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 100_000, "it is in the log only");
        assert_eq!(checkpoint(&checkpoints).unwrap(), Log::BeginsAnew);
        assert!(std::fs::metadata(&path).unwrap().len() > 1_000_000);
        let log = dir.path().join("test.db-wal");
        let length = std::fs::metadata(&log).unwrap().len();
        writes.execute_batch(fill).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), length, "it is written from its start");
    }

    #[test]
    fn nobody_who_writes_waits_for_somebody_who_reads() {
        let dir = tempfile::tempdir().unwrap();
        let [writes, reads, checkpoints] = [(); 3].map(|()| open(dir.path()));
        let add = "INSERT INTO t SELECT randomblob(100)";
        writes.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        reads.execute_batch("BEGIN").unwrap();
        let count = |_: &rusqlite::Row<'_>| Ok(());
        reads.query_row("SELECT count(*) FROM t", [], count).unwrap();
        writes.execute_batch(add).unwrap();
        std::thread::scope(|scope| {
            let tried = scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(checkpoint(&checkpoints).unwrap(), Log::InUse);
                }
            });
            while !tried.is_finished() {
                let waited = Stopwatch::start();
                writes.execute_batch(add).unwrap();
                assert!(waited.elapsed() < Duration::from_secs(2), "{:?}", waited.elapsed());
            }
        });
    }
}
