//! The only place that reads time, so that a test can stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMs = i64;

/// Wall-clock time; clones share a frozen clock's hands.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    Frozen(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `at` until [`Clock::advance`] moves it.
    pub fn frozen(at: UnixMs) -> Self {
        Self::Frozen(Arc::new(AtomicI64::new(at)))
    }

    pub fn now(&self) -> UnixMs {
        match self {
            Self::System => jiff::Timestamp::now().as_millisecond(),
            Self::Frozen(at) => at.load(Ordering::SeqCst),
        }
    }

    /// Moves a frozen clock; the system clock cannot be moved and ignores it.
    pub fn advance(&self, by: Duration) {
        if let Self::Frozen(at) = self {
            let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            at.fetch_add(ms, Ordering::SeqCst);
        }
    }
}

/// `2026-11-22T06:30:00Z` for people; not a wire format.
pub fn format_utc(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at)
        .map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| format!("{at} ms"))
}

/// `2026-11-22 14:30:00` in China's time, which knows no summer time; Alipay's wire format.
pub fn format_beijing(at: UnixMs) -> String {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(8));
    jiff::Timestamp::from_millisecond(at)
        .map(|t| t.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

/// For people at this machine: its own time zone, with the offset.
pub fn format_local(at: UnixMs) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::from_millisecond(at)
        .map(|t| t.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %:z").to_string())
        .unwrap_or_else(|_| format!("{at} ms"))
}

/// Measures how long something took; monotonic.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    pub fn ms(&self) -> f64 {
        self.elapsed().as_secs_f64() * 1e3
    }
}

/// A moment by which work must be done; copied along with the work.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// Time left; zero when the deadline has passed.
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn remaining(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// An earlier deadline that keeps `reserve` back for what comes after; never in the past
    /// of the clock's origin.
    pub fn sooner_by(&self, reserve: Duration) -> Self {
        Self(self.0.checked_sub(reserve).unwrap_or(self.0))
    }

    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }
}
