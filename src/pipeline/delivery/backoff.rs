//! When a failed send is tried again, and when no more.

use std::time::Duration;

use crate::base::clock::UnixMs;
use crate::base::random::SplitMix64;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(120);
/// About ten minutes with the pauses between.
const ATTEMPTS: u32 = 10;

/// The moment of the next attempt after so many; `None` when it is enough. Between half of the pause
/// and all of it, so that sends which failed together do not come back together; `salt` decides.
pub fn next(attempts: u32, now: UnixMs, salt: u64) -> Option<UnixMs> {
    if attempts >= ATTEMPTS {
        return None;
    }
    let pause = FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST);
    let share = 0.5 + 0.5 * SplitMix64::new(salt ^ u64::from(attempts)).unit();
    let pause = i64::try_from(pause.mul_f32(share).as_millis()).unwrap_or(i64::MAX);
    Some(now.saturating_add(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_spread_and_end() {
        let pauses: Vec<i64> = (1..ATTEMPTS).map(|n| next(n, 0, 7).unwrap()).collect();
        assert!((250..=500).contains(&pauses[0]), "{pauses:?}");
        assert!((60_000..=120_000).contains(&pauses[8]), "{pauses:?}");
        let spread: std::collections::BTreeSet<_> = (0..20).map(|salt| next(3, 0, salt)).collect();
        assert!(spread.len() > 10, "{spread:?}");
        assert_eq!(next(ATTEMPTS, 0, 7), None);
    }
}
