//! Refused callbacks in the log: why, and no more often than a person can read.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::base::clock::UnixMs;
use crate::channels::PushError;

/// A flood of forgeries must not fill the disk.
const PAUSE_MS: i64 = 10_000;

/// Counts what is refused and tells of it in intervals.
#[derive(Debug)]
pub struct Refusals {
    told_at: AtomicI64,
    untold: AtomicU64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { told_at: AtomicI64::new(UnixMs::MIN), untold: AtomicU64::new(0) }
    }
}

impl Refusals {
    /// Remembers a refusal; the first of each interval is logged with how many came before it.
    pub(super) fn note(&self, account: &str, error: &PushError, now: UnixMs) {
        if let Some(untold) = self.due(now) {
            let code = error.code();
            tracing::warn!(account, code, %error, untold, "a callback was refused");
        }
    }

    /// How many refusals went untold, if it is time to tell of this one.
    fn due(&self, now: UnixMs) -> Option<u64> {
        let told_at = self.told_at.load(Ordering::Relaxed);
        // A clock that was put back silences nothing for long.
        let waits = (told_at..told_at.saturating_add(PAUSE_MS)).contains(&now);
        let ours = !waits
            && self
                .told_at
                .compare_exchange(told_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            return Some(self.untold.swap(0, Ordering::Relaxed));
        }
        self.untold.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_in_intervals_and_counted() {
        let refusals = Refusals::default();
        let told = [0, 1, 9_999, 10_000, 10_001, 25_000, 3].map(|at| refusals.due(at));
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1), Some(0)]);
    }
}
