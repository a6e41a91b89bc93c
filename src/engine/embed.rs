//! The embedder's thread: jobs that wait together are embedded together, up to a token budget; a
//! lone one is embedded at once. Whoever asks tokenises on its own thread, beside the passes, and
//! sends tokens.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

use super::{EngineError, answer_in_time, gone};
use crate::model::{BATCH_TOKENS, Control, Embedder, ModelError, ModelIdentity};

/// Of the thread, and of the model in errors.
const NAME: &str = "embedder";
/// Jobs that may wait; one more is refused.
const QUEUE: usize = 256;
/// Batches of one caller that wait while another is embedded: with one the thread never idles, and
/// a message that comes in between stands behind no more.
const AHEAD: usize = 1;

type Answer = Result<Vec<Vec<f32>>, EngineError>;

struct Job {
    sequences: Vec<Vec<u32>>,
    control: Control,
    answer: Sender<Answer>,
}

impl Job {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
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
            .name(NAME.into())
            .spawn(move || run(model.as_ref(), &inbox))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), embedder })
    }

    pub fn identity(&self) -> &ModelIdentity {
        self.embedder.identity()
    }

    pub fn dim(&self) -> usize {
        self.embedder.dim()
    }

    /// The text as the embedder reads it.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(self.embedder.tokens(text)?)
    }

    /// One vector per text, in order; blocks until all are there. The texts go in batches, and
    /// while one is embedded the next is tokenised. `progress` is told how many are done of how
    /// many. Refuses at once when the queue is full.
    pub fn embed(
        &self,
        texts: &[String],
        control: &Control,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Answer {
        let mut vectors = Vec::with_capacity(texts.len());
        let mut sent: VecDeque<Receiver<Answer>> = VecDeque::new();
        let (mut batch, mut room) = (Vec::new(), BATCH_TOKENS);
        for text in texts {
            let tokens = self.tokens(text)?;
            if tokens.len() > room && !batch.is_empty() {
                if sent.len() > AHEAD {
                    progress(vectors.len(), texts.len());
                    vectors.extend(receive(&mut sent, control)?);
                }
                sent.push_back(self.send(std::mem::take(&mut batch), control)?);
                room = BATCH_TOKENS;
            }
            room = room.saturating_sub(tokens.len());
            batch.push(tokens);
        }
        if !batch.is_empty() {
            sent.push_back(self.send(batch, control)?);
        }
        while !sent.is_empty() {
            progress(vectors.len(), texts.len());
            vectors.extend(receive(&mut sent, control)?);
        }
        progress(texts.len(), texts.len());
        Ok(vectors)
    }

    /// One text, one vector.
    pub fn embed_one(&self, text: &str, control: &Control) -> Result<Vec<f32>, EngineError> {
        let answer = self.send(vec![self.tokens(text)?], control)?;
        receive(&mut VecDeque::from([answer]), control)?.pop().ok_or_else(|| gone(NAME))
    }

    fn send(
        &self,
        sequences: Vec<Vec<u32>>,
        control: &Control,
    ) -> Result<Receiver<Answer>, EngineError> {
        let (answer, wait) = channel();
        let job = Job { sequences, control: control.clone(), answer };
        let jobs = self.jobs.as_ref().ok_or_else(|| gone(NAME))?;
        jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Overloaded("embedding"),
            TrySendError::Disconnected(_) => gone(NAME),
        })?;
        Ok(wait)
    }
}

/// The answer to what was sent first.
fn receive(sent: &mut VecDeque<Receiver<Answer>>, control: &Control) -> Answer {
    let first = sent.pop_front().ok_or_else(|| gone(NAME))?;
    answer_in_time(&first, control, NAME)
}

impl Drop for EmbedWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught; nothing is left to report here.
            let _ = thread.join();
        }
    }
}

fn run(model: &dyn Embedder, inbox: &Receiver<Job>) {
    let mut held: Option<Job> = None;
    while let Some(first) = held.take().or_else(|| inbox.recv().ok()) {
        let mut budget = BATCH_TOKENS.saturating_sub(first.tokens());
        let mut batch = vec![first];
        while let Ok(next) = inbox.try_recv() {
            let cost = next.tokens();
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

/// A job whose caller gave up is skipped. A panic ends a job, not the thread; and where jobs share a
/// batch, what is wrong with one text is no fault of the others: each is then tried alone.
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
    let sequences: Vec<Vec<u32>> = live.iter().flat_map(|job| &job.sequences).cloned().collect();
    let done = catch_unwind(AssertUnwindSafe(|| model.embed(&sequences, &control)))
        .unwrap_or_else(|_| Err(ModelError::Inference("the embedder panicked".into())));
    match done {
        Ok(vectors) => {
            let mut vectors = vectors.into_iter();
            for job in live {
                let own = vectors.by_ref().take(job.sequences.len()).collect();
                let _ = job.answer.send(Ok(own));
            }
        }
        Err(ModelError::Inference(_) | ModelError::BadRequest(_)) if live.len() > 1 => {
            live.into_iter().for_each(|job| serve(model, vec![job]));
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
    use crate::base::clock::Deadline;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::ThreadId;

    /// Tokens are bytes and vectors are lengths; remembers batches and who tokenised; can be held,
    /// and panics on "boom".
    struct Fake {
        identity: ModelIdentity,
        tokenisers: Mutex<Vec<ThreadId>>,
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
        fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
            self.tokenisers.lock().unwrap().push(std::thread::current().id());
            Ok(text.bytes().map(u32::from).collect())
        }
        fn embed(&self, texts: &[Vec<u32>], _: &Control) -> Result<Vec<Vec<f32>>, ModelError> {
            while self.hold.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            self.batches.lock().unwrap().push(texts.len());
            let boom = [98, 111, 111, 109];
            assert!(!texts.iter().any(|t| *t == boom), "as asked");
            Ok(texts.iter().map(|t| vec![t.len() as f32]).collect())
        }
    }

    fn worker(hold: bool) -> (Arc<Fake>, Arc<EmbedWorker>) {
        let identity = ModelIdentity { name: "fake".into(), sha256: "0".into() };
        let fake = Arc::new(Fake {
            identity,
            tokenisers: Mutex::default(),
            batches: Mutex::default(),
            hold: hold.into(),
        });
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
    fn many_texts_go_in_batches_and_are_tokenised_once_by_who_asks() {
        let (fake, worker) = worker(false);
        let texts: Vec<String> = (0..400).map(|n| "x".repeat(1 + n % 50)).collect();
        let mut told = Vec::new();
        let mut tell = |done, total| told.push((done, total));
        let vectors = worker.embed(&texts, &Control::default(), &mut tell).unwrap();
        let lengths: Vec<usize> = vectors.iter().map(|v| v[0] as usize).collect();
        assert_eq!(lengths, texts.iter().map(String::len).collect::<Vec<_>>());
        assert_eq!(*fake.tokenisers.lock().unwrap(), vec![std::thread::current().id(); 400]);
        let batches = fake.batches.lock().unwrap();
        // 400 texts of 25.5 tokens on average.
        assert!(batches.len() >= 5 && batches.iter().all(|n| *n < 200), "{batches:?}");
        assert_eq!(told.last(), Some(&(400, 400)));
        assert!(told.is_sorted() && told.len() > 5);
        assert!(worker.embed(&[], &Control::default(), &mut |_, _| ()).unwrap().is_empty());
    }

    #[test]
    fn a_panic_costs_only_the_job_whose_text_it_is() {
        let (fake, worker) = worker(true);
        let ask = |text: &'static str| {
            let worker = Arc::clone(&worker);
            let asked =
                std::thread::spawn(move || worker.embed_one(text, &Control::default()).ok());
            std::thread::sleep(std::time::Duration::from_millis(100));
            asked
        };
        // While the first is held, the others come together.
        let asked = ["first", "a", "boom", "abc"].map(ask);
        fake.hold.store(false, Ordering::SeqCst);
        let vectors = asked.map(|asked| asked.join().unwrap());
        assert_eq!(vectors, [Some(vec![5.0]), Some(vec![1.0]), None, Some(vec![3.0])]);
        assert_eq!(*fake.batches.lock().unwrap(), [1, 3, 1, 1, 1]);
        assert_eq!(worker.embed_one("ok", &Control::default()).unwrap(), [2.0]);
    }

    #[test]
    fn a_late_one_is_told_so_while_the_pass_goes_on() {
        let (fake, worker) = worker(true);
        let soon = Deadline::after(std::time::Duration::from_millis(50));
        let late = worker.embed_one("late", &Control::with_deadline(soon));
        assert!(matches!(late, Err(EngineError::Model(ModelError::DeadlinePassed))));
        fake.hold.store(false, Ordering::SeqCst);
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
