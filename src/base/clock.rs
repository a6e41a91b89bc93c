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
        self.turn(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// The same backwards, as machines do whose time was wrong.
    pub fn put_back(&self, by: Duration) {
        self.turn(-i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    fn turn(&self, ms: i64) {
        if let Self::Frozen(at) = self {
            at.fetch_add(ms, Ordering::SeqCst);
        }
    }
}

/// A minute of the day by this machine's clock and in its time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    hour: i8,
    minute: i8,
}

impl TimeOfDay {
    /// `03:00`; `None` for anything else than two digits, a colon and two digits.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str, most: i8| {
            let is_plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number| is_plain && *number <= most)
        };
        let (hour, minute) = text.split_once(':')?;
        Some(Self { hour: number(hour, 23)?, minute: number(minute, 59)? })
    }

    /// The first moment after `now` at which it is so late.
    pub fn next_after(self, now: UnixMs) -> UnixMs {
        self.next_in(now, jiff::tz::TimeZone::system())
    }

    fn next_in(self, now: UnixMs, zone: jiff::tz::TimeZone) -> UnixMs {
        let on = |day: &jiff::Zoned| {
            let begun = day.with().hour(self.hour).minute(self.minute).second(0);
            begun.subsec_nanosecond(0).build().map(|at| at.timestamp().as_millisecond())
        };
        let next = || {
            let here = jiff::Timestamp::from_millisecond(now)?.to_zoned(zone);
            let today = on(&here)?;
            if today > now { Ok(today) } else { on(&here.tomorrow()?) }
        };
        // Only at the end of the calendar is there no such moment.
        next().unwrap_or_else(|_: jiff::Error| now.saturating_add(24 * 3_600_000))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_three_oclock_is_today_or_tomorrow() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let zone = || jiff::tz::TimeZone::fixed(jiff::tz::offset(8));
        let three = TimeOfDay::parse("03:00").unwrap();
        for (now, next) in [
            ("2026-11-22T18:59:59.999Z", "2026-11-22T19:00:00Z"),
            ("2026-11-22T19:00:00Z", "2026-11-23T19:00:00Z"),
            ("2026-12-31T20:00:00Z", "2027-01-01T19:00:00Z"),
        ] {
            assert_eq!(three.next_in(at(now), zone()), at(next), "{now}");
        }
        for bad in ["", "3:00", "24:00", "03:60", "03:00:00", "+3:00", "03"] {
            assert_eq!(TimeOfDay::parse(bad), None, "{bad}");
        }
    }
}
