//! The threads that share a kernel's work: parallel regions of numbered tasks, started and ended
//! within microseconds.
//!
//! A forward pass is a few hundred regions of some 10 to 500 µs each, so handing one over must cost
//! no more than a few cache misses: idle threads spin briefly before they park. Tasks are drawn
//! from a counter, so a thread that the machine takes away delays one task and not its share.
//! A caller that finds the pool in use does its region alone instead of waiting.
//!
//! There are two pools: one for threads that somebody waits for, and one for those that step back.
//! They share the processors and not their turns: the system decides between them, and during a
//! pass that is over in milliseconds those that step back pause, since two threads of one core slow
//! each other down whatever their priorities.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::Duration;

use super::activations::{ActivationRow, Activations};

/// Rounds an idle thread spins before it parks: about as long as the work between two regions.
const SPINS_BEFORE_PARK: usize = 20_000;
/// Rounds the caller spins before it lets others on its core while it waits for the last task.
const SPINS_BEFORE_YIELD: usize = 2_000;

/// `state` counts regions above this bit …
const ROUND: u64 = 1 << 32;
/// … says whether the current one may still be joined …
const OPEN: u64 = 1 << 31;
/// … and counts the threads inside below it.
const JOINED: u64 = OPEN - 1;

/// How far threads that step back do so, of 19: a reply that takes milliseconds goes before one that
/// takes seconds, and the latter still gets a tenth of a processor that others fill.
const BACK: i32 = 10;

type Task = dyn Fn(usize) + Sync;

/// How long a thread that steps back pauses at a time …
const PAUSE: Duration = Duration::from_micros(200);
/// … and how often between two of its tasks if short passes never cease, so that it gets on.
const PAUSES: usize = 50;

/// Short passes under way.
static SHORT_PASSES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STEPPED_BACK: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread's kernels, and its work between them, give way to everybody else's.
pub(crate) fn step_back() {
    STEPPED_BACK.set(true);
    // Only there does it mean this thread and not the whole process.
    #[cfg(target_os = "linux")]
    // Without the right to do so it works as fast as the others.
    let _ = rustix::process::nice(BACK);
}

/// A region as its threads see it.
#[derive(Clone, Copy)]
struct Region {
    task: *const Task,
    tasks: usize,
}

struct Shared {
    state: AtomicU64,
    next: AtomicUsize,
    region: UnsafeCell<Option<Region>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Set by a thread before it parks, so that a region without sleepers costs no system call.
    asleep: Vec<AtomicBool>,
}

// SAFETY: `region` is written only by the holder of the pool's turn while no thread is inside and
// the region is closed, and read only by threads that joined an open region; joining and closing
// are atomic operations on `state` that order both. The task it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is dereferenced only while its region runs.
unsafe impl Send for Shared {}

/// A fixed set of threads besides the caller's own.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    /// Held by the caller whose region the threads work on.
    turn: Mutex<()>,
}

/// Held during a pass that is over in milliseconds and that somebody waits for.
pub(crate) struct ShortPass(());

impl ShortPass {
    pub(crate) fn begin() -> Self {
        SHORT_PASSES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for ShortPass {
    fn drop(&mut self) {
        SHORT_PASSES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Before each task: a thread that steps back waits for short passes to end.
fn give_way() {
    if STEPPED_BACK.get() {
        let mut pauses = 0;
        while pauses < PAUSES && SHORT_PASSES.load(Ordering::Relaxed) > 0 {
            thread::sleep(PAUSE);
            pauses += 1;
        }
    }
}

impl Pool {
    /// The calling thread's. One thread fewer than the machine offers: the caller is the last one.
    pub(crate) fn own() -> &'static Self {
        static FRONT: OnceLock<Pool> = OnceLock::new();
        static BEHIND: OnceLock<Pool> = OnceLock::new();
        let back = STEPPED_BACK.get();
        let pool = if back { &BEHIND } else { &FRONT };
        pool.get_or_init(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            Self::start(cores - 1, back)
        })
    }

    /// A pool whose regions run on the caller's thread.
    pub(crate) fn alone() -> Self {
        Self::start(0, false)
    }

    /// A machine that gives no thread gives a pool without helpers: slow, not broken.
    fn start(helpers: usize, back: bool) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            region: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |at: usize| {
            let shared = Arc::clone(&shared);
            let helper = thread::Builder::new().name(format!("kernel-{at}"));
            let help = move || {
                // How far its caller stepped back, the thread has inherited.
                STEPPED_BACK.set(back);
                shared.help(at);
            };
            helper.spawn(help).ok().map(|h| h.thread().clone())
        };
        let threads = (0..helpers).map_while(start).collect();
        Self { shared, threads, turn: Mutex::new(()) }
    }

    /// Threads that work on a region, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `task` once with every number below `tasks`, on any thread and in any order, and
    /// returns when all are done.
    ///
    /// # Panics
    /// When a task does; tasks not yet drawn are then left out.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            Ok(turn) if tasks > 1 && !self.threads.is_empty() => Some(turn),
            // A panic of an earlier region left nothing half-done in the pool itself.
            Err(TryLockError::Poisoned(turn)) if tasks > 1 => Some(turn.into_inner()),
            Ok(_) | Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => None,
        };
        if turn.is_none() {
            return (0..tasks).for_each(|at| {
                give_way();
                task(at);
            });
        }
        let panicked = self.shared.run(&self.threads, tasks, task);
        drop(turn);
        assert!(!panicked, "a kernel task panicked on another thread");
    }
}

/// Gives every part to one call of `work`, on any thread.
pub(crate) fn over_parts<T: Send>(parts: Vec<T>, work: impl Fn(usize, T) + Sync) {
    let parts: Vec<Mutex<Option<T>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
    Pool::own().run(parts.len(), &|at| {
        let part = parts[at].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            work(at, part);
        }
    });
}

/// Gives every row of `x` with its row of `inputs` to one call of `work`, on any thread.
pub(crate) fn over_rows(
    x: &mut [f32],
    inputs: &mut Activations,
    work: impl Fn(usize, &mut [f32], &mut ActivationRow<'_>) + Sync,
) {
    let (rows, width) = (inputs.rows, inputs.width);
    // A few tasks per thread: one may be held up.
    let per_task = rows.div_ceil(4 * Pool::own().threads()).max(1);
    let mut both = x.chunks_exact_mut(width).zip(inputs.rows_mut()).enumerate();
    let tasks = (0..rows.div_ceil(per_task)).map(|_| both.by_ref().take(per_task).collect());
    over_parts(tasks.collect::<Vec<Vec<_>>>(), |_, task| {
        for (at, (x, mut inputs)) in task {
            work(at, x, &mut inputs);
        }
    });
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(Thread::unpark);
    }
}

impl Shared {
    /// The caller's side of a region; the pool's turn is held. Says whether a helper panicked.
    fn run(&self, helpers: &[Thread], tasks: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
        // What an earlier region's caller left behind when it panicked itself.
        self.panicked.store(false, Ordering::Relaxed);
        // SAFETY: only the lifetime is changed. The region is closed and empty again before this
        // function returns or unwinds (`Closing`), so nobody calls the task after its borrow ends.
        let task: *const Task = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        // SAFETY: the turn is held and the last region is closed and empty: nobody reads the cell.
        unsafe { *self.region.get() = Some(Region { task, tasks }) };
        self.next.store(0, Ordering::Relaxed);
        let round = (self.state.load(Ordering::Relaxed) & !(OPEN | JOINED)).wrapping_add(ROUND);
        self.state.store(round | OPEN, Ordering::SeqCst);
        for (asleep, thread) in self.asleep.iter().zip(helpers) {
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let closing = Closing(self);
        self.work(Region { task, tasks });
        drop(closing);
        self.panicked.load(Ordering::Relaxed)
    }

    /// A helper's life.
    fn help(&self, at: usize) {
        let mut last = 0;
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(round) = self.join(last) {
                (last, spins) = (round, 0);
                // SAFETY: joined, so the region is written and its caller waits for us.
                if let Some(region) = unsafe { *self.region.get() } {
                    let work = AssertUnwindSafe(|| self.work(region));
                    if catch_unwind(work).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                }
                self.state.fetch_sub(1, Ordering::Release);
                continue;
            }
            spins += 1;
            if spins < SPINS_BEFORE_PARK {
                std::hint::spin_loop();
                continue;
            }
            self.asleep[at].store(true, Ordering::SeqCst);
            // Looked at again after the flag is up: a caller either sees it or is seen here.
            let state = self.state.load(Ordering::SeqCst);
            let nothing = state & OPEN == 0 || state / ROUND == last;
            if nothing && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            self.asleep[at].store(false, Ordering::SeqCst);
            spins = 0;
        }
    }

    /// Enters the current region if it is open and not round `last`; its round.
    fn join(&self, last: u64) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        let round = state / ROUND;
        if state & OPEN == 0 || round == last {
            return None;
        }
        let entered =
            self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
        entered.ok().map(|_| round)
    }

    fn work(&self, region: Region) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            if at >= region.tasks {
                return;
            }
            give_way();
            // SAFETY: the caller of the region waits for everyone inside before the borrow ends.
            unsafe { (*region.task)(at) };
        }
    }
}

/// Ends a region when the caller leaves it, also by a panic: no task is drawn any more, nobody may
/// join, everybody inside is waited for.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // Half of the range: drawing on from there never reaches an end by wrapping around.
        self.0.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.state.load(Ordering::Acquire) & JOINED != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_region() {
        let pool = Pool::start(3, false);
        for round in 0..if cfg!(miri) { 20 } else { 3_000 } {
            let tasks = round % 17;
            let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|at| {
                seen[at].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn threads_that_step_back_pause_for_short_passes_and_still_get_on() {
        let _short = ShortPass::begin();
        let watch = crate::base::clock::Stopwatch::start();
        // Their own thread: what has stepped back stays behind.
        let behind = thread::spawn(|| {
            STEPPED_BACK.set(true);
            Pool::start(1, true).run(4, &|_| ());
        });
        behind.join().unwrap();
        assert!(watch.elapsed() >= PAUSE * PAUSES as u32);
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        let pool = Pool::start(1, false);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let first = Mutex::new(None);
            let others = AtomicUsize::new(0);
            // Tasks long enough that a woken helper draws one.
            pool.run(8, &|_| {
                let me = thread::current().id();
                let first = *first.lock().unwrap().get_or_insert(me);
                others.fetch_add(usize::from(first != me), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            });
            assert!(others.load(Ordering::Relaxed) > 0, "one thread did everything");
        }
    }

    #[test]
    fn two_callers_and_nested_regions_all_finish() {
        let pool = Arc::new(Pool::start(1, false));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    let sum = AtomicUsize::new(0);
                    for _ in 0..if cfg!(miri) { 3 } else { 200 } {
                        pool.run(4, &|_| {
                            pool.run(3, &|at| {
                                sum.fetch_add(at, Ordering::Relaxed);
                            });
                        });
                    }
                    sum.into_inner()
                })
            })
            .collect();
        let wanted = if cfg!(miri) { 3 } else { 200 } * 4 * 3;
        assert!(callers.into_iter().all(|c| c.join().unwrap() == wanted));
    }

    #[test]
    fn a_region_in_which_all_panic_leaves_the_next_one_alone() {
        let pool = Pool::start(1, false);
        // Both threads are inside before either panics.
        let both = std::sync::Barrier::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|_| {
                both.wait();
                panic!("as asked");
            });
        }));
        assert!(failed.is_err());
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 4);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_works_on() {
        let pool = Pool::start(1, false);
        for _ in 0..20 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.run(4, &|at| assert_ne!(at, 2, "as asked"));
            }));
            assert!(failed.is_err());
            let count = AtomicUsize::new(0);
            pool.run(4, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 4);
        }
    }
}
