//! The generator's thread: loads the model in the background, then advances several tasks together.
//!
//! Between two passes new tasks join, and what was cancelled or is late leaves. Drafting and
//! composing share the passes: whoever is speaking gets its next token in every pass, and the rest
//! of the pass goes to prompts and judged units in the order in which their tasks came, so that the
//! first ends first. Waiting is bounded: in number, and by a guess at how long it takes, so that who
//! would wait in vain is told at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{
    Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{EngineError, answer_in_time, gone};
use crate::base::clock::Stopwatch;
use crate::model::{
    ComposeRequest, Composed, Control, Done, GenerateRequest, Generated, Generator, ModelError,
    Task, Work, step_back,
};

/// Tasks that advance together: each holds keys and values, and beyond a few the rows of a pass cost
/// as much as the passes that they save.
const TOGETHER: usize = 4;
/// Tasks that may wait to join.
const QUEUE: usize = 8;
/// What a new token costs, as bytes of a prompt that are read in the same time.
const TOKEN_COST: usize = 28;
/// Weight of what was measured before, whenever another task ends.
const MEMORY: f64 = 0.9;
/// What remains of the seconds measured before whenever they alone are why a task is refused.
const DOUBT: f64 = 0.9;

const NAME: &str = "generator";

struct Job {
    task: Task,
    control: Control,
    answer: Sender<Result<Done, EngineError>>,
    booking: Booking,
}

/// Handle to the thread; dropping the last one ends it.
pub struct GenerateWorker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    load: Arc<Load>,
}

impl GenerateWorker {
    /// `open` runs on the new thread, so that the service starts while weights are read.
    pub fn start<G: Generator>(
        open: impl FnOnce() -> Result<G, ModelError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let load = Arc::new(Load::default());
        let measured = Arc::clone(&load);
        let serve = move || {
            // A reply that takes seconds must not delay those that take milliseconds.
            step_back();
            match open() {
                Ok(model) => {
                    Crew { model, work: Vec::new(), members: Vec::new() }.run(&inbox, &measured);
                }
                Err(error) => refuse(&error, &inbox),
            }
        };
        let thread = std::thread::Builder::new().name(NAME.into()).spawn(serve)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), load })
    }

    /// Blocks until the reply is composed, or its deadline has passed. Refuses at once when it
    /// would have to wait too long; calls `begun` when it does not.
    pub fn compose(
        &self,
        request: ComposeRequest,
        control: &Control,
        begun: &mut dyn FnMut(),
    ) -> Result<Composed, EngineError> {
        match self.run(Task::Compose(request), control, begun)? {
            Done::Composed(composed) => Ok(composed),
            Done::Generated(_) => Err(mixed_up()),
        }
    }

    /// The same for a reply in the model's own words, or in those that its constraint allows.
    pub fn generate(
        &self,
        request: GenerateRequest,
        control: &Control,
    ) -> Result<Generated, EngineError> {
        match self.run(Task::Generate(request), control, &mut || ())? {
            Done::Generated(generated) => Ok(generated),
            Done::Composed(_) => Err(mixed_up()),
        }
    }

    fn run(
        &self,
        task: Task,
        control: &Control,
        begun: &mut dyn FnMut(),
    ) -> Result<Done, EngineError> {
        let (answer, wait) = channel();
        let booking = Load::book(&self.load, cost(&task), control)?;
        let job = Job { task, control: control.clone(), answer, booking };
        let jobs = self.jobs.as_ref().ok_or_else(|| gone(NAME))?;
        jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => EngineError::Overloaded("drafting"),
            TrySendError::Disconnected(_) => gone(NAME),
        })?;
        begun();
        answer_in_time(&wait, control, NAME)
    }
}

impl Drop for GenerateWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught per pass; nothing is left to report here.
            let _ = thread.join();
        }
    }
}

fn mixed_up() -> EngineError {
    ModelError::Inference("a reply of another kind than was asked for".into()).into()
}

/// How much a task makes the model do, in bytes of text read.
fn cost(task: &Task) -> usize {
    match task {
        Task::Generate(request) => request.prompt.len() + TOKEN_COST * request.max_tokens,
        Task::Compose(request) => {
            let units = request.sources.iter().flat_map(|source| &source.units);
            request.question.len() + units.map(String::len).sum::<usize>()
        }
    }
}

/// What is waiting and under way, and how fast it gets done.
#[derive(Default)]
struct Load(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// Costs of tasks that have not ended.
    open: usize,
    /// Costs of tasks that ended, and the seconds they took; what is long ago weighs less.
    done: f64,
    busy_s: f64,
}

/// A task's share of the load, given back when the task ends in whatever way.
struct Booking {
    load: Arc<Load>,
    cost: usize,
}

impl Load {
    fn book(load: &Arc<Self>, cost: usize, control: &Control) -> Result<Booking, EngineError> {
        let mut counts = load.counts();
        if let Some(deadline) = control.deadline.filter(|_| counts.done > 0.0) {
            let seconds = (counts.open + cost) as f64 * counts.busy_s / counts.done;
            if seconds > deadline.remaining().as_secs_f64() {
                // Nobody to wait for, only slowness of old: the machine may be faster now, and
                // only who tries finds out.
                if counts.open == 0 {
                    counts.busy_s *= DOUBT;
                }
                return Err(EngineError::Overloaded("drafting"));
            }
        }
        counts.open += cost;
        Ok(Booking { load: Arc::clone(load), cost })
    }

    /// A task of `cost` was done, `busy_s` seconds of work after the one before.
    fn learn(&self, cost: usize, busy_s: f64) {
        let mut counts = self.counts();
        counts.done = MEMORY * counts.done + cost as f64;
        counts.busy_s = MEMORY * counts.busy_s + busy_s;
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Numbers that a panic leaves behind are at worst a worse guess.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        let mut counts = self.load.counts();
        counts.open = counts.open.saturating_sub(self.cost);
    }
}

/// Who waits for a task under way.
struct Member {
    answer: Sender<Result<Done, EngineError>>,
    booking: Booking,
}

impl Member {
    /// The load goes down first, so that who is answered can ask again.
    fn answer(self, done: Result<Done, ModelError>) {
        drop(self.booking);
        // The caller may have left in the meantime.
        let _ = self.answer.send(done.map_err(EngineError::from));
    }
}

/// The model and the tasks that advance together; `members[i]` waits for `work[i]`.
struct Crew<G: Generator> {
    model: G,
    work: Vec<G::Work>,
    members: Vec<Member>,
}

impl<G: Generator> Crew<G> {
    /// Until all handles are gone and nothing is left to do.
    fn run(mut self, inbox: &Receiver<Job>, load: &Load) {
        let mut busy_s = 0.0;
        while self.take_in(inbox) {
            let watch = Stopwatch::start();
            let stepped = catch_unwind(AssertUnwindSafe(|| self.model.step(&mut self.work)))
                .unwrap_or_else(|_| Err(ModelError::Inference("the generator panicked".into())));
            busy_s += watch.elapsed().as_secs_f64();
            match stepped {
                Ok(()) => self.let_go(load, &mut busy_s),
                Err(error) => self.give_up(&error),
            }
        }
    }

    /// Lets waiting tasks join; waits for one when there is nothing else to do. False when none
    /// will come any more.
    fn take_in(&mut self, inbox: &Receiver<Job>) -> bool {
        while self.work.len() < TOGETHER {
            let job = if self.work.is_empty() {
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                inbox.try_recv()
            };
            match job {
                Ok(job) => self.begin(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.work.is_empty(),
            }
        }
        true
    }

    fn begin(&mut self, Job { task, control, answer, booking }: Job) {
        let member = Member { answer, booking };
        let begun = control.check().and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| self.model.begin(&task, &control)))
                .unwrap_or_else(|_| Err(ModelError::Inference("the generator panicked".into())))
        });
        match begun {
            Ok(work) => {
                self.work.push(work);
                self.members.push(member);
            }
            Err(error) => member.answer(Err(error)),
        }
    }

    /// Answers for all work that has ended.
    fn let_go(&mut self, load: &Load, busy_s: &mut f64) {
        for at in (0..self.work.len()).rev().filter(|at| self.work[*at].ended()).collect::<Vec<_>>()
        {
            // The others keep their order: who came first is served first.
            let (work, member) = (self.work.remove(at), self.members.remove(at));
            let done = work.finish();
            // One that ran out of time was not done in it: its rate is a bound, which teaches, too.
            if matches!(done, Ok(_) | Err(ModelError::DeadlinePassed)) {
                load.learn(member.booking.cost, std::mem::take(busy_s));
            }
            member.answer(done);
        }
    }

    /// Ends all tasks under way; the thread lives on.
    fn give_up(&mut self, error: &ModelError) {
        self.work.clear();
        for member in self.members.drain(..) {
            member.answer(Err(ModelError::Inference(error.to_string())));
        }
    }
}

fn refuse(error: &ModelError, inbox: &Receiver<Job>) {
    tracing::error!(%error, "the generator could not be loaded; drafts fall back to approved answers");
    while let Ok(job) = inbox.recv() {
        let reason = error.to_string();
        let _ = job.answer.send(Err(EngineError::Unavailable { model: NAME, reason }));
    }
}

#[cfg(test)]
mod tests;
