//! The processor is leased to work in the background only while nobody waits for a reply.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::clock::Stopwatch;

/// How long work in the background steps aside at a time.
const ASIDE: Duration = Duration::from_millis(20);
/// How long it then works even if replies never cease, so that it comes to an end: an eleventh of
/// the time is always its own.
const SLICE: Duration = Duration::from_millis(2);

/// How much lower the priority of work is that has stepped back.
#[cfg(target_os = "linux")]
const BACK: i32 = 10;

static REPLIES: AtomicUsize = AtomicUsize::new(0);

/// Held while a reply is being made.
#[derive(Debug)]
pub struct Reply(());

impl Reply {
    pub fn begin() -> Self {
        REPLIES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        REPLIES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From here on this thread, and those that it starts, get a processor after everybody else.
pub fn step_back() {
    // Only there does it mean this thread and not the whole process.
    #[cfg(target_os = "linux")]
    // Without the right to do so it works as fast as the others.
    let _ = rustix::process::nice(BACK);
}

/// A thread's work in the background, done in pieces of at most a millisecond.
#[derive(Debug, Default)]
pub struct Background {
    /// Since it last stepped aside; `None` when it never did.
    slice: Option<Stopwatch>,
}

impl Background {
    /// To be called before each piece: waits while replies are being made, unless it just did.
    pub fn give_way(&mut self) {
        let has_waited = self.slice.is_some_and(|slice| slice.elapsed() < SLICE);
        if !has_waited && REPLIES.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(ASIDE);
            self.slice = Some(Stopwatch::start());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_make_the_background_wait_and_never_starve_it() {
        let mut background = Background::default();
        background.give_way();
        assert!(background.slice.is_none(), "nobody waits for a reply");
        let reply = Reply::begin();
        let watch = Stopwatch::start();
        background.give_way();
        assert!(watch.elapsed() >= ASIDE);
        let watch = Stopwatch::start();
        (0..100).for_each(|_| background.give_way());
        assert!(watch.elapsed() < 50 * ASIDE, "it does more than a piece at a time");
        while background.slice.is_some_and(|slice| slice.elapsed() < SLICE) {}
        let watch = Stopwatch::start();
        background.give_way();
        assert!(watch.elapsed() >= ASIDE, "the slice is used up");
        drop(reply);
    }
}
