//! A run stretch by stretch: whether latency, memory and open files stay level.

use std::time::Duration;

use serde::Serialize;

use super::child::resident_mb;
use super::ledger::{Book, Ledger};
use crate::eval::percentile;

/// Stretches of a run, a minute each in an hour.
const STRETCHES: u32 = 60;
/// A shorter stretch has too few messages for a percentile.
const SHORTEST: Duration = Duration::from_secs(5);

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub at_ms: f64,
    pub rss_mb: f64,
    pub open_files: usize,
}

/// One stretch; keys are what scripts read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// Its end, since the run began.
    pub until_s: f64,
    /// Messages that were sent in it and taken on.
    pub accepted: usize,
    /// Between the callback and its answer, which brings most replies.
    pub ack_ms_p50: f64,
    pub ack_ms_p99: f64,
    /// At its end.
    pub rss_mb: f64,
    pub open_files: usize,
}

/// How long the stretches of a run are.
pub fn stretch(lasting: Duration) -> Duration {
    (lasting / STRETCHES).max(SHORTEST)
}

/// Looks at a process at the end of every stretch, until it is dropped.
pub async fn watch(ledger: &Ledger, pid: Option<u32>, stretch: Duration, held: &mut Vec<Held>) {
    loop {
        tokio::time::sleep(stretch).await;
        let seen = pid.and_then(|pid| Some((resident_mb(pid)?, open_files(pid)?)));
        if let Some((rss_mb, open_files)) = seen {
            held.push(Held { at_ms: ledger.now_ms(), rss_mb, open_files });
        }
    }
}

/// What was held, with the latencies of the messages since the moment before.
pub fn series(book: &Book, begun_ms: f64, held: &[Held]) -> Vec<Stretch> {
    let mut lines = book.lines.iter().peekable();
    let stretch = |held: &Held| {
        let mut times = Vec::new();
        while let Some(line) = lines.next_if(|line| line.sent_ms < held.at_ms) {
            times.extend(line.accepted.map(|taken| taken.answered_ms - taken.begun_ms));
        }
        Stretch {
            until_s: (held.at_ms - begun_ms) / 1e3,
            accepted: times.len(),
            ack_ms_p50: percentile(&times, 0.5),
            ack_ms_p99: percentile(&times, 0.99),
            rss_mb: held.rss_mb,
            open_files: held.open_files,
        }
    };
    held.iter().map(stretch).collect()
}

/// Of files, sockets and pipes; `None` when there is no such process.
fn open_files(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::ledger::{Line, Taken};

    #[test]
    fn every_message_falls_into_the_stretch_in_which_it_was_sent() {
        let line = |sent_ms: f64, took: f64| Line {
            customer: "anna".into(),
            id: 1,
            sent_ms,
            tries: 1,
            accepted: Some(Taken { begun_ms: sent_ms, answered_ms: sent_ms + took }),
        };
        let lines = vec![line(10.0, 3.0), line(90.0, 5.0), line(110.0, 40.0)];
        let book = Book { lines, ..Book::default() };
        let held = [100.0, 200.0].map(|at_ms| Held { at_ms, rss_mb: at_ms, open_files: 7 });
        let [first, second] = &series(&book, 0.0, &held)[..] else { panic!("two stretches") };
        assert_eq!((first.accepted, first.ack_ms_p99, first.rss_mb), (2, 5.0, 100.0));
        assert_eq!((second.accepted, second.ack_ms_p50, second.until_s), (1, 40.0, 0.2));
    }

    #[tokio::test]
    async fn a_process_is_looked_at_and_none_gives_nothing() {
        let ledger = Ledger::default();
        for (pid, any) in [(Some(std::process::id()), true), (Some(u32::MAX), false)] {
            let mut held = Vec::new();
            let looking = watch(&ledger, pid, Duration::from_millis(5), &mut held);
            let _ = tokio::time::timeout(Duration::from_millis(100), looking).await;
            assert_eq!(held.first().is_some_and(|held| held.open_files > 2), any);
        }
    }
}
