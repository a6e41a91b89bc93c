//! Dates as people write them and spreadsheets show them.

use jiff::civil::{Date, DateTime, Time};

use crate::base::clock::UnixMs;

/// Times without a zone are those of the people who wrote them.
const ZONE: &str = "Asia/Shanghai";
/// A bare number in this range is a day as spreadsheets count them, from 1954 to 2119.
const SERIAL_DAYS: std::ops::Range<i32> = 20_000..80_000;

/// What a fault says that such a text should look like.
pub(super) const FORMS: &str = "2026-01-31, 2026/1/31, 2026年1月31日 or 2026-01-31T08:00:00Z";

/// An instant from `2026-01-31`, `2026/1/31 8:00`, `2026年1月31日` or RFC 3339. Year first only:
/// 1/2/2026 is two different days.
pub(super) fn instant(text: &str) -> Option<UnixMs> {
    let text = text.trim();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let at = serial(text).or_else(|| written(text))?;
    Some(at.in_tz(ZONE).ok()?.timestamp().as_millisecond())
}

/// A day, milliseconds; this zone no longer changes its clocks.
pub const DAY_MS: UnixMs = 24 * 3_600_000;
/// How far [`ZONE`] is ahead of UTC, milliseconds.
const ZONE_AHEAD: UnixMs = 8 * 3_600_000;

/// Where a day begins: a date of [`instant`] without a time.
pub fn day(text: &str) -> Option<UnixMs> {
    instant(text).filter(|at| (at + ZONE_AHEAD).rem_euclid(DAY_MS) == 0)
}

/// The day of an instant, as `2026-01-31`.
pub fn day_text(at: UnixMs) -> String {
    let here = jiff::Timestamp::from_millisecond(at).and_then(|t| t.in_tz(ZONE));
    here.map(|here| here.date().to_string()).unwrap_or_default()
}

fn serial(text: &str) -> Option<DateTime> {
    let days = text.parse::<i32>().ok().filter(|days| SERIAL_DAYS.contains(days))?;
    let day_zero: Date = jiff::civil::date(1899, 12, 30);
    Some(day_zero.checked_add(jiff::Span::new().days(days)).ok()?.to_datetime(Time::midnight()))
}

fn written(text: &str) -> Option<DateTime> {
    let (date, time) = match text.split_once([' ', 'T', '日']) {
        Some((date, time)) => (date, time.trim()),
        None => (text, ""),
    };
    let parts = numbers(date, &['-', '/', '.', '年', '月'])?;
    let &[year, month, day] = parts.as_slice() else { return None };
    if !(1_900..10_000).contains(&year) {
        return None;
    }
    let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let mut clock = [0_i8; 3];
    if !time.is_empty() {
        let parts = numbers(time, &[':', '：', '时', '分'])?;
        if parts.len() < 2 || parts.len() > 3 {
            return None;
        }
        for (place, part) in clock.iter_mut().zip(parts) {
            *place = i8::try_from(part).ok()?;
        }
    }
    let [hour, minute, second] = clock;
    Some(date.to_datetime(Time::new(hour, minute, second, 0).ok()?))
}

fn numbers(text: &str, marks: &[char]) -> Option<Vec<i16>> {
    let is_number = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    text.trim_end_matches(['秒', '分'])
        .split(marks)
        .map(|part| Some(part.trim()).filter(is_number)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_no_time_and_reads_back() {
        let at = day("2026年1月31日").unwrap();
        assert_eq!(day_text(at), "2026-01-31");
        assert_eq!(day_text(at + DAY_MS - 1), "2026-01-31");
        assert_eq!(day("2026-02-01"), Some(at + DAY_MS));
        assert_eq!((day("2026-01-31 08:00"), day("soon")), (None, None));
    }

    #[test]
    fn every_common_form_is_the_same_day() {
        let day = instant("2026-01-31").unwrap();
        for text in
            ["2026/1/31", "2026.01.31", "2026年1月31日", "2026/1/31 0:00", "46053", " 2026-1-31 "]
        {
            assert_eq!(instant(text), Some(day), "{text}");
        }
        let eight = instant("2026-01-31T00:00:00Z").unwrap();
        for text in [
            "2026/1/31 8:00",
            "2026-01-31 08:00:00",
            "2026年1月31日 8时00分",
            "2026-01-31T08:00:00",
        ] {
            assert_eq!(instant(text), Some(eight), "{text}");
        }
        for text in ["1/31/2026", "soon", "2026-02-30", "31", "2026/1", "2026/1/31 25:00", ""] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
