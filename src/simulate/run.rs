//! A whole run: load, and beside it kills or a flood; in the end the ledger against the store.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::audit::{Findings, compare};
use super::child::{Child, Kills, kill_at_random, resident_mb};
use super::driver::Driver;
use super::flood::{self, Flooded};
use super::load::{self, Load};
use super::questions::Questions;
use super::series::{self, Stretch};
use super::{SimulateError, ledger::Book};
use crate::base::clock::Deadline;
use crate::eval::percentile;
use crate::store::{Fate, StoreError};

/// What is under way when the last message was taken on must have ended by then.
const SETTLING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);
/// A send that is tried again needlessly is seen within this time.
const QUIET: Duration = Duration::from_secs(5);
/// Share of the load after which memory is first read: until then models are still being opened.
const WARM: f64 = 0.2;

/// What happens beside the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disturbance {
    None,
    /// So many SIGKILLs at random moments.
    Chaos(usize),
    /// So many bad callbacks a second, in the second half.
    Flood(f64),
}

pub struct Run<'a> {
    pub driver: &'a Arc<Driver>,
    pub load: Load,
    pub questions: &'a Questions,
    pub disturbance: Disturbance,
    /// The service, where it is ours.
    pub child: Option<&'a mut Child>,
    /// Its process, where it is not.
    pub pid: Option<u32>,
    /// What the store holds by now.
    pub fates: &'a (dyn Fn() -> Result<Vec<Fate>, StoreError> + Sync),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub findings: Findings,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_start_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_end_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chaos: Option<Chaos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<Flood>,
    /// Of a service that is not killed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Stretch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Chaos {
    pub kills: usize,
    pub away_ms_max: f64,
}

/// How good traffic fared in the quiet half and in the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Flood {
    #[serde(flatten)]
    pub bad: Flooded,
    pub good_ms_p99_alone: f64,
    pub good_ms_p99_flooded: f64,
}

/// Runs it to the end.
///
/// # Errors
/// When the service cannot be started again or the store cannot be read.
pub async fn run(run: Run<'_>) -> Result<Report, SimulateError> {
    let Run { driver, load, questions, disturbance, mut child, pid, fates } = run;
    let pid = |child: &Option<&mut Child>| child.as_ref().map(|c| c.pid()).or(pid);
    let before = pid(&child);
    let begun_ms = driver.ledger.now_ms();
    let busy = AtomicBool::new(matches!(disturbance, Disturbance::Chaos(_)));
    let rss_start = Mutex::new(None);
    let weighed = async {
        tokio::time::sleep(load.lasting.mul_f64(WARM)).await;
        *rss_start.lock().unwrap_or_else(PoisonError::into_inner) = before.and_then(resident_mb);
    };
    let loaded = async {
        tokio::join!(load::run(driver, &load, questions, &busy), weighed);
    };
    let half = load.lasting / 2;
    let (mut chaos, mut flooded) = (None, None);
    let mut held = Vec::new();
    match disturbance {
        Disturbance::None => {
            let stretch = series::stretch(load.lasting);
            tokio::select! {
                () = loaded => {}
                () = series::watch(&driver.ledger, before, stretch, &mut held) => {}
            }
        }
        Disturbance::Chaos(count) => {
            let child = child.as_deref_mut().ok_or_else(|| {
                SimulateError::Input("only a service that was started here is killed".into())
            })?;
            let killed = kill_at_random(child, (count, load.lasting, load.seed), &busy);
            let ((), killed) = tokio::join!(loaded, killed);
            let Kills { count, away_ms_max } = killed?;
            chaos = Some(Chaos { kills: count, away_ms_max });
        }
        Disturbance::Flood(rate) => {
            let flood = async {
                tokio::time::sleep(half).await;
                flood::run(driver, rate, half).await
            };
            let ((), bad) = tokio::join!(loaded, flood);
            flooded = Some(bad);
        }
    }
    let seconds = (driver.ledger.now_ms() - begun_ms) / 1e3;
    let (findings, book) = settled(driver, fates).await?;
    let flood = flooded.map(|bad| flood_figures(bad, &book, begun_ms + half.as_secs_f64() * 1e3));
    let rss_end_mb = pid(&child).and_then(resident_mb);
    let rss_start_mb = rss_start.into_inner().unwrap_or_else(PoisonError::into_inner);
    let series = series::series(&book, begun_ms, &held);
    Ok(Report { findings, seconds, rss_start_mb, rss_end_mb, chaos, flood, series })
}

/// The comparison once nothing is missing any more, and a while after, or when the time for that is
/// over: what is said twice may be so late.
async fn settled(
    driver: &Driver,
    fates: &(dyn Fn() -> Result<Vec<Fate>, StoreError> + Sync),
) -> Result<(Findings, Book), SimulateError> {
    let deadline = Deadline::after(SETTLING);
    let mut quiet = None;
    loop {
        let stored = tokio::task::block_in_place(fates)?;
        let book = driver.ledger.snapshot();
        let findings = compare(&book, &stored);
        let complete = findings.lost == 0;
        if deadline.passed() || quiet.is_some_and(|until: Deadline| complete && until.passed()) {
            return Ok((findings, book));
        }
        quiet = complete.then(|| quiet.unwrap_or_else(|| Deadline::after(QUIET)));
        tokio::time::sleep(LOOK).await;
    }
}

/// `split`: when the flood began.
fn flood_figures(bad: Flooded, book: &Book, split: f64) -> Flood {
    let taken = book.lines.iter().filter_map(|line| Some((line, line.accepted?)));
    let (quiet, flooded): (Vec<_>, Vec<_>) = taken.partition(|(line, _)| line.sent_ms < split);
    let p99 = |lines: Vec<(_, super::ledger::Taken)>| {
        let times: Vec<f64> = lines.iter().map(|(_, t)| t.answered_ms - t.begun_ms).collect();
        percentile(&times, 0.99)
    };
    Flood { bad, good_ms_p99_alone: p99(quiet), good_ms_p99_flooded: p99(flooded) }
}
