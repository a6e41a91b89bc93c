//! The generator's thread: loads the model in the background, then composes one reply at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

use super::EngineError;
use crate::model::{ComposeRequest, Composed, Control, Generator, ModelError};

/// Drafts that may wait: with a few seconds each, more would all miss their deadline.
const QUEUE: usize = 2;

struct Job {
    request: ComposeRequest,
    control: Control,
    answer: Sender<Result<Composed, EngineError>>,
}

/// Handle to the thread; dropping the last one ends it.
pub struct ComposeWorker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl ComposeWorker {
    /// `open` runs on the new thread, so that the service starts while weights are read.
    pub fn start(
        open: impl FnOnce() -> Result<Box<dyn Generator>, ModelError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("generator".into()).spawn(move || match open() {
                Ok(model) => run(model, &inbox),
                Err(error) => refuse(&error, &inbox),
            })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Blocks until the reply is composed. Refuses at once when the queue is full.
    pub fn compose(
        &self,
        request: ComposeRequest,
        control: &Control,
    ) -> Result<Composed, EngineError> {
        let (answer, wait) = channel();
        let job = Job { request, control: control.clone(), answer };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Overloaded("drafting"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        wait.recv().map_err(|_| gone())?
    }
}

impl Drop for ComposeWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught per job; nothing is left to report here.
            let _ = thread.join();
        }
    }
}

fn gone() -> EngineError {
    EngineError::Unavailable { model: "generator", reason: "its thread has ended".into() }
}

fn run(mut model: Box<dyn Generator>, inbox: &Receiver<Job>) {
    while let Ok(Job { request, control, answer }) = inbox.recv() {
        let done = control.check().and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| model.compose(&request, &control)))
                .unwrap_or_else(|_| Err(ModelError::Inference("the generator panicked".into())))
        });
        // The caller may have left in the meantime.
        let _ = answer.send(done.map_err(EngineError::from));
    }
}

fn refuse(error: &ModelError, inbox: &Receiver<Job>) {
    tracing::error!(%error, "the generator could not be loaded; drafts fall back to approved answers");
    while let Ok(job) = inbox.recv() {
        let reason = error.to_string();
        let _ = job.answer.send(Err(EngineError::Unavailable { model: "generator", reason }));
    }
}
