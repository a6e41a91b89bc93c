//! A service of our own: started, watched, killed without warning, started again.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child as Process, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::SimulateError;
use crate::base::clock::{Deadline, Stopwatch};
use crate::base::random::SplitMix64;

/// Opening the weights and packing them for the first time takes longest.
const STARTING: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// How to start it.
#[derive(Clone, Debug)]
pub struct Start {
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    /// Configuration that takes the file's place, as `HUIDA__…` variables.
    pub variables: Vec<(String, String)>,
    /// What it prints goes here, all runs one after another.
    pub log: PathBuf,
}

/// A running service. Dropping it kills it.
pub struct Child {
    command: Start,
    address: SocketAddr,
    process: Process,
}

/// A port of this machine that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Child {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started, or ends, or is silent for two minutes.
    pub async fn start(command: Start) -> Result<Self, SimulateError> {
        let address = free_port()?;
        let process = spawn(&command, address)?;
        let mut child = Self { command, address, process };
        child.until_ready().await?;
        Ok(child)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, and at once a new one on the same state; the time until it answered.
    async fn kill_and_restart(&mut self) -> Result<Duration, SimulateError> {
        self.process.kill()?;
        self.process.wait()?;
        let watch = Stopwatch::start();
        self.process = spawn(&self.command, self.address)?;
        self.until_ready().await?;
        Ok(watch.elapsed())
    }

    async fn until_ready(&mut self) -> Result<(), SimulateError> {
        let (client, deadline) =
            (reqwest::Client::builder().no_proxy().build()?, Deadline::after(STARTING));
        let health = format!("{}/healthz", self.url());
        loop {
            if client.get(&health).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let ended = self.process.try_wait()?;
            if ended.is_some() || deadline.passed() {
                let log = self.command.log.display();
                return Err(SimulateError::Service(format!(
                    "the service did not start: see {log}"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(command: &Start, address: SocketAddr) -> Result<Process, SimulateError> {
    let log = File::options().create(true).append(true).open(&command.log)?;
    let mut process = Command::new(&command.binary);
    process.args(&command.arguments).arg("serve");
    process.envs(command.variables.iter().map(|(name, value)| (name, value)));
    process.env("HUIDA__SERVER__LISTEN", address.to_string());
    process.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(process.spawn()?)
}

/// What the kills took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kills {
    pub count: usize,
    /// Longest time until a new process answered.
    pub away_ms_max: f64,
}

/// Kills it `count` times at random moments within `lasting`, each time one that answers: a moment
/// that falls into a start comes right after it. `busy` is false from the end on.
///
/// # Errors
/// When it does not come back.
pub async fn kill_at_random(
    child: &mut Child,
    (count, lasting, seed): (usize, Duration, u64),
    busy: &AtomicBool,
) -> Result<Kills, SimulateError> {
    let (watch, mut random) = (Stopwatch::start(), SplitMix64::new(seed));
    let mut moments: Vec<f32> = (0..count).map(|_| random.unit()).collect();
    moments.sort_by(f32::total_cmp);
    let mut kills = Kills::default();
    for moment in moments {
        tokio::time::sleep(lasting.mul_f32(moment).saturating_sub(watch.elapsed())).await;
        let away = child.kill_and_restart().await;
        if away.is_err() {
            busy.store(false, Ordering::SeqCst);
        }
        kills.count += 1;
        kills.away_ms_max = kills.away_ms_max.max(away?.as_secs_f64() * 1e3);
    }
    busy.store(false, Ordering::SeqCst);
    Ok(kills)
}

/// Resident memory of a process, megabytes; `None` when there is none of that number.
pub fn resident_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_process_is_read() {
        assert!(resident_mb(std::process::id()).is_some_and(|mb| mb > 1.0));
        assert_eq!(resident_mb(u32::MAX), None);
    }

    #[tokio::test]
    async fn a_service_that_ends_at_once_is_told() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let command = Start {
            binary: "/bin/false".into(),
            arguments: vec![],
            variables: vec![],
            log: dir.path().join("log"),
        };
        let started = Child::start(command).await;
        assert!(matches!(started, Err(SimulateError::Service(_))));
    }
}
