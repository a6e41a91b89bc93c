//! The embedder's thread: jobs that wait together are embedded together, up to a token budget.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

use super::EngineError;
use crate::model::{Control, Embedder, ModelError, ModelIdentity};

/// Jobs that may wait; one more is refused.
const QUEUE: usize = 256;
/// Tokens of one batch: at a few thousand the matrices are large enough, and a lone message
/// behind a full batch still waits well under a second.
const BATCH_TOKENS: usize = 2_048;

struct Job {
    texts: Vec<String>,
    control: Control,
    answer: Sender<Result<Vec<Vec<f32>>, EngineError>>,
}

/// Handle to the thread; dropping the last one ends it.
pub struct EmbedWorker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    embedder: Arc<dyn Embedder>,
}

impl EmbedWorker {
    pub fn start(embedder: Arc<dyn Embedder>) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let model = Arc::clone(&embedder);
        let thread = std::thread::Builder::new()
            .name("embedder".into())
            .spawn(move || run(model.as_ref(), &inbox))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), embedder })
    }

    pub fn identity(&self) -> &ModelIdentity {
        self.embedder.identity()
    }

    pub fn dim(&self) -> usize {
        self.embedder.dim()
    }

    pub fn count_tokens(&self, text: &str) -> usize {
        self.embedder.count_tokens(text)
    }

    /// Blocks until the vectors are there. Refuses at once when the queue is full.
    pub fn embed(
        &self,
        texts: Vec<String>,
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let (answer, wait) = channel();
        let job = Job { texts, control: control.clone(), answer };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Overloaded("embedding"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        wait.recv().map_err(|_| gone())?
    }

    /// One text, one vector.
    pub fn embed_one(&self, text: &str, control: &Control) -> Result<Vec<f32>, EngineError> {
        self.embed(vec![text.to_owned()], control)?.pop().ok_or_else(gone)
    }
}

impl Drop for EmbedWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught per batch; nothing is left to report here.
            let _ = thread.join();
        }
    }
}

fn gone() -> EngineError {
    EngineError::Unavailable { model: "embedder", reason: "its thread has ended".into() }
}

fn run(model: &dyn Embedder, inbox: &Receiver<Job>) {
    let mut held: Option<Job> = None;
    while let Some(first) = held.take().or_else(|| inbox.recv().ok()) {
        let mut budget = BATCH_TOKENS.saturating_sub(tokens(model, &first));
        let mut batch = vec![first];
        while let Ok(next) = inbox.try_recv() {
            let cost = tokens(model, &next);
            if cost > budget {
                held = Some(next);
                break;
            }
            budget -= cost;
            batch.push(next);
        }
        serve(model, batch);
    }
}

fn tokens(model: &dyn Embedder, job: &Job) -> usize {
    let count = || job.texts.iter().map(|t| model.count_tokens(t)).sum();
    // A text that cannot be counted gets a batch to itself, and fails there alone.
    catch_unwind(AssertUnwindSafe(count)).unwrap_or(BATCH_TOKENS)
}

/// A job whose caller gave up is skipped; a panic ends this batch, not the thread.
fn serve(model: &dyn Embedder, batch: Vec<Job>) {
    let (live, late): (Vec<Job>, Vec<Job>) =
        batch.into_iter().partition(|job| job.control.check().is_ok());
    for job in late {
        let error = job.control.check().err().unwrap_or(ModelError::DeadlinePassed);
        let _ = job.answer.send(Err(error.into()));
    }
    if live.is_empty() {
        return;
    }
    // A batch of one keeps its own deadline; a shared one must not die of its neighbour's.
    let control =
        if let [only] = live.as_slice() { only.control.clone() } else { Control::default() };
    let texts: Vec<String> = live.iter().flat_map(|job| job.texts.iter().cloned()).collect();
    let done = catch_unwind(AssertUnwindSafe(|| model.embed(&texts, &control)))
        .unwrap_or_else(|_| Err(ModelError::Inference("the embedder panicked".into())));
    match done {
        Ok(vectors) => {
            let mut vectors = vectors.into_iter();
            for job in live {
                let own = vectors.by_ref().take(job.texts.len()).collect();
                let _ = job.answer.send(Ok(own));
            }
        }
        Err(error) => {
            for job in live {
                let _ = job.answer.send(Err(error.again().into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Vectors are text lengths; remembers batch sizes; can be held, and panics on "boom".
    struct Fake {
        identity: ModelIdentity,
        batches: Mutex<Vec<usize>>,
        hold: AtomicBool,
    }

    impl Embedder for Fake {
        fn identity(&self) -> &ModelIdentity {
            &self.identity
        }
        fn dim(&self) -> usize {
            1
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.len()
        }
        fn embed(&self, texts: &[String], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            while self.hold.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            self.batches.lock().unwrap().push(texts.len());
            assert!(!texts.iter().any(|t| t == "boom"), "as asked");
            Ok(texts.iter().map(|t| vec![t.len() as f32]).collect())
        }
    }

    fn worker(hold: bool) -> (Arc<Fake>, Arc<EmbedWorker>) {
        let identity = ModelIdentity { name: "fake".into(), sha256: "0".into() };
        let fake = Arc::new(Fake { identity, batches: Mutex::default(), hold: hold.into() });
        let model: Arc<dyn Embedder> = fake.clone();
        (fake, Arc::new(EmbedWorker::start(model).unwrap()))
    }

    #[test]
    fn jobs_that_wait_together_share_a_batch_and_get_their_own_vectors() {
        let (fake, worker) = worker(true);
        let ask = |text: String| {
            let worker = Arc::clone(&worker);
            std::thread::spawn(move || worker.embed_one(&text, &Control::default()).unwrap()[0])
        };
        let threads: Vec<_> = (1..=8).map(|n| ask("x".repeat(n))).collect();
        std::thread::sleep(std::time::Duration::from_millis(200));
        fake.hold.store(false, Ordering::SeqCst);
        let lengths: Vec<f32> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(lengths, (1..=8).map(|n| n as f32).collect::<Vec<_>>());
        assert!(fake.batches.lock().unwrap().len() < 8, "some jobs shared a batch");
    }

    #[test]
    fn a_panic_ends_the_batch_not_the_thread() {
        let (_fake, worker) = worker(false);
        assert!(worker.embed_one("boom", &Control::default()).is_err());
        assert_eq!(worker.embed_one("ok", &Control::default()).unwrap(), [2.0]);
    }

    #[test]
    fn a_cancelled_job_is_not_computed() {
        let (fake, worker) = worker(false);
        let control = Control::default();
        control.cancel();
        let refused = worker.embed_one("late", &control);
        assert!(matches!(refused, Err(EngineError::Model(ModelError::Cancelled))));
        assert!(fake.batches.lock().unwrap().is_empty());
    }
}
