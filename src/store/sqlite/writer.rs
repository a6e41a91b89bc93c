//! The one thread that writes: jobs that arrive together share a commit, and some wait for company.
//!
//! A commit costs a flush of the disk, which on many machines takes longer than all else about a
//! message. What nobody is answered by therefore waits a little for a job that somebody waits for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::base::clock::Deadline;
use crate::base::fault::Fault;
use crate::store::StoreError;
use crate::store::durable::Durable;

/// Most jobs in one commit: bounds how long the first of them waits.
const GROUP: usize = 64;
/// Jobs that may wait; beyond it callers block, which slows intake instead of growing memory.
const QUEUE: usize = 256;
/// How long what is written ahead waits for what follows from it: a known question is decided sooner.
const AHEAD: Duration = Duration::from_millis(20);
/// How long what nobody waits for does.
const SOME_TIME: Duration = Duration::from_millis(100);

/// What is to be done inside the transaction; returns what to call once the commit is durable.
type Work = Box<dyn FnOnce(&Transaction<'_>) -> Completion + Send>;
/// Is given the reason of a commit that failed.
type Completion = Box<dyn FnOnce(&Result<(), String>) + Send>;

struct Job {
    work: Work,
    /// Until when the commit may wait for others; none that comes later keeps it longer.
    until: Deadline,
}

pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `commits` counts what was committed.
    pub(super) fn start(connection: Connection, commits: Arc<AtomicU64>) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(connection, &inbox, &commits))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` on the writer thread; returns after its commit reached the disk.
    pub(super) fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_within(Duration::ZERO, work)
    }

    /// The same for what nobody waits for: the commit waits for another job, though not for long.
    pub(super) fn write_some_time<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_within(SOME_TIME, work)
    }

    /// Returns as soon as `work` is done, before it reached the disk. What is written next follows it
    /// there, or shares its commit.
    pub(super) fn write_ahead<T, F>(&self, work: F) -> Result<(T, Durable), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, wait): (Sender<Result<T, StoreError>>, _) = channel();
        let (durable, promise) = Durable::promised();
        let work: Work = Box::new(move |transaction| {
            // The caller may have given up; its answer is then of no use to anyone.
            let _ = answer.send(in_savepoint(transaction, work));
            Box::new(move |committed| promise.keep(committed))
        });
        self.send(Job { work, until: Deadline::after(AHEAD) })?;
        Ok((wait.recv().map_err(|_| gone())??, durable))
    }

    fn write_within<T, F>(&self, patience: Duration, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, wait): (Sender<Result<T, StoreError>>, _) = channel();
        let work: Work = Box::new(move |transaction| {
            let done = in_savepoint(transaction, work);
            Box::new(move |committed| {
                let committed = committed.clone().map_err(StoreError::Unavailable);
                // As above.
                let _ = answer.send(committed.and(done));
            })
        });
        self.send(Job { work, until: Deadline::after(patience) })?;
        wait.recv().map_err(|_| gone())?
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was already told to the callers that waited for it.
            let _ = thread.join();
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has stopped".into())
}

fn run(mut connection: Connection, inbox: &Receiver<Job>, commits: &AtomicU64) {
    while let Ok(first) = inbox.recv() {
        let mut completions = Vec::new();
        let committed = commit_group(&mut connection, first, inbox, &mut completions);
        let committed = committed.map_err(|e| e.to_string());
        commits.fetch_add(1, Ordering::Relaxed);
        completions.into_iter().for_each(|complete| complete(&committed));
    }
}

fn commit_group(
    connection: &mut Connection,
    first: Job,
    inbox: &Receiver<Job>,
    completions: &mut Vec<Completion>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut until = first.until;
    completions.push((first.work)(&transaction));
    while completions.len() < GROUP {
        // Without time left it takes what is there.
        match inbox.recv_timeout(until.remaining()) {
            Ok(job) => {
                until = until.min(job.until);
                completions.push((job.work)(&transaction));
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Fault::StoreUncommitted.passes();
    transaction.commit()?;
    Fault::StoreCommitted.passes();
    Ok(())
}

/// A failing job undoes its own rows and leaves its neighbours' alone.
fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let unavailable = |e: rusqlite::Error| StoreError::Unavailable(e.to_string());
    let run = |sql| transaction.prepare_cached(sql).and_then(|mut s| s.execute([]).map(|_| ()));
    run("SAVEPOINT job").map_err(unavailable)?;
    let done = catch_unwind(AssertUnwindSafe(|| work(transaction)))
        .unwrap_or_else(|_| Err(StoreError::Unavailable("a write panicked".into())));
    if done.is_err() {
        run("ROLLBACK TO job").map_err(unavailable)?;
    }
    run("RELEASE job").map_err(unavailable)?;
    done
}
