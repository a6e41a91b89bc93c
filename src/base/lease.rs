//! The processor is leased to work in the background only while nobody waits for a reply.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long work in the background steps aside at a time. It then does one small piece even if
/// replies never cease, so that it comes to an end.
const ASIDE: Duration = Duration::from_millis(20);

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

/// Called by work in the background before each piece of at most a millisecond.
pub fn give_way() {
    if REPLIES.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(ASIDE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Stopwatch;

    #[test]
    fn a_reply_makes_the_background_wait() {
        let _reply = Reply::begin();
        let watch = Stopwatch::start();
        give_way();
        assert!(watch.elapsed() >= ASIDE);
    }
}
