//! The one thread that writes: jobs that arrive together share a commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::base::fault::Fault;
use crate::store::StoreError;

/// Most jobs in one commit: bounds how long the first of them waits.
const GROUP: usize = 64;
/// Jobs that may wait; beyond it callers block, which slows intake instead of growing memory.
const QUEUE: usize = 256;

/// Runs a job inside the transaction and returns what to call once the commit is durable.
type Job = Box<dyn FnOnce(&Transaction<'_>) -> Completion + Send>;
type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(connection, &inbox))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` on the writer thread; returns after its commit reached the disk.
    pub(super) fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, wait): (Sender<Result<T, StoreError>>, _) = channel();
        let job: Job = Box::new(move |transaction| {
            let done = in_savepoint(transaction, work);
            Box::new(move |committed| {
                // The caller may have given up; its answer is then of no use to anyone.
                let _ = answer.send(committed.and(done));
            })
        });
        let gone = || StoreError::Unavailable("the writer has stopped".into());
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
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

fn run(mut connection: Connection, inbox: &Receiver<Job>) {
    while let Ok(first) = inbox.recv() {
        let mut completions = Vec::new();
        let committed = commit_group(&mut connection, first, inbox, &mut completions);
        for complete in completions {
            complete(match &committed {
                Ok(()) => Ok(()),
                Err(e) => Err(StoreError::Unavailable(e.to_string())),
            });
        }
    }
}

fn commit_group(
    connection: &mut Connection,
    first: Job,
    inbox: &Receiver<Job>,
    completions: &mut Vec<Completion>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    completions.push(first(&transaction));
    while completions.len() < GROUP {
        let Ok(job) = inbox.try_recv() else { break };
        completions.push(job(&transaction));
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
    transaction.execute_batch("SAVEPOINT job").map_err(unavailable)?;
    let done = catch_unwind(AssertUnwindSafe(|| work(transaction)))
        .unwrap_or_else(|_| Err(StoreError::Unavailable("a write panicked".into())));
    let end = if done.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    transaction.execute_batch(end).map_err(unavailable)?;
    done
}
