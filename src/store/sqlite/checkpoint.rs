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
    let (mut done, mut last) = (0, Stopwatch::start());
    while let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(LOOK) {
        let made = commits.load(Ordering::Relaxed);
        if made - done >= MANY || (made > done && last.elapsed() >= LONG) {
            if let Err(error) = checkpoint(connection) {
                tracing::warn!(%error, "the database's log could not be brought in; it grows");
            }
            (done, last) = (made, Stopwatch::start());
        }
    }
}

/// Most of it while others write; then what they have added, so that the log begins anew.
fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    let run = |sql| connection.query_row(sql, [], |_| Ok(()));
    run("PRAGMA wal_checkpoint(PASSIVE)")?;
    run("PRAGMA wal_checkpoint(RESTART)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_brought_in_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let open = || {
            let connection = Connection::open(&path).unwrap();
            connection
                .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;")
                .unwrap();
            connection
        };
        let (writes, checkpoints) = (open(), open());
        let fill = "INSERT INTO t SELECT randomblob(1000000)";
        writes.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        writes.execute_batch(fill).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 100_000, "it is in the log only");
        checkpoint(&checkpoints).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 1_000_000);
        let log = dir.path().join("test.db-wal");
        let length = std::fs::metadata(&log).unwrap().len();
        writes.execute_batch(fill).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), length, "it is written from its start");
    }
}
