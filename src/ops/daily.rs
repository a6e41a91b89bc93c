//! The daily training: at its hour a command runs as a process of its own, which is told to step back
//! behind everything else on the machine ([`step_back`]). What it learns is published by itself.

use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::clock::{Clock, TimeOfDay};

/// How often the clock is looked at: it may be set, and the machine may have slept.
const LOOK: Duration = Duration::from_secs(1);
/// Last characters of what a failed training said that are logged.
const MOST_SAID: usize = 500;

/// Runs until it is dropped; what it then has in work is ended.
pub struct Daily {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daily {
    /// `command` makes the command anew for each day.
    pub fn start(
        at: TimeOfDay,
        clock: Clock,
        command: impl Fn() -> io::Result<Command> + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let mut due = at.next_after(clock.now());
        let thread = std::thread::Builder::new().name("daily".into()).spawn(move || {
            while !is_stopped(&stopped) {
                if clock.now() < due {
                    continue;
                }
                // Before it runs: however long that takes, the next day has its turn.
                due = at.next_after(clock.now());
                match command().and_then(|mut command| run(&mut command, &stopped)) {
                    Ok(Some(outcome)) => tracing::info!(outcome, "daily training"),
                    Ok(None) => return,
                    Err(error) => tracing::error!(%error, "daily training failed"),
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Daily {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing left to report.
            let _ = thread.join();
        }
    }
}

/// Waits for one look at the clock.
fn is_stopped(stopped: &Receiver<()>) -> bool {
    stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout)
}

/// What the command said, if it was not stopped.
fn run(command: &mut Command, stopped: &Receiver<()>) -> io::Result<Option<String>> {
    // Files hold whatever is said, so that nobody waits for a reader.
    let (mut said, mut complained) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let child = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(complained.try_clone()?)
        .spawn()?;
    let Some(status) = wait(child, stopped)? else { return Ok(None) };
    let text = |file: &mut std::fs::File| -> io::Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    if status.success() {
        return text(&mut said).map(Some);
    }
    let complaint = text(&mut complained)?;
    let skipped = complaint.chars().count().saturating_sub(MOST_SAID);
    let end: String = complaint.chars().skip(skipped).collect();
    Err(io::Error::other(format!("{status}: {end}")))
}

/// `None` when it was stopped.
fn wait(mut child: Child, stopped: &Receiver<()>) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if is_stopped(stopped) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
}

/// From here on this process and the threads that it starts work only while nobody else wants to.
pub fn step_back() {
    // Without the right to do so it works as fast as the others.
    let _ = rustix::process::nice(19);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Stopwatch;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn shell(script: String) -> impl Fn() -> io::Result<Command> + Send + 'static {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            Ok(command)
        }
    }

    fn comes_true(what: impl Fn() -> bool) -> bool {
        let watch = Stopwatch::start();
        while !what() {
            if watch.elapsed() > 20 * LOOK {
                return false;
            }
            std::thread::sleep(LOOK / 20);
        }
        true
    }

    #[test]
    fn runs_once_a_day_and_goes_on_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let ran = dir.path().join("ran");
        let runs = || std::fs::read_to_string(&ran).unwrap_or_default().len();
        let clock = Clock::frozen(1_700_000_000_000);
        let script = format!("printf x >> {}; exit 1", ran.display());
        let at = TimeOfDay::parse("03:00").unwrap();
        let _daily = Daily::start(at, clock.clone(), shell(script)).unwrap();
        std::thread::sleep(2 * LOOK);
        assert_eq!(runs(), 0, "its hour has not come");
        for day in 1..=2 {
            clock.advance(DAY);
            assert!(comes_true(|| runs() == day));
        }
    }

    #[test]
    fn what_is_in_work_ends_with_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        let clock = Clock::frozen(1_700_000_000_000);
        let script = format!("touch {}; exec sleep 600", begun.display());
        let at = TimeOfDay::parse("03:00").unwrap();
        let daily = Daily::start(at, clock.clone(), shell(script)).unwrap();
        clock.advance(DAY);
        assert!(comes_true(|| begun.exists()));
        let watch = Stopwatch::start();
        drop(daily);
        assert!(watch.elapsed() < 10 * LOOK);
    }

    #[test]
    fn says_what_was_said() {
        let (_stop, stopped) = channel();
        let run = |script: &str| run(&mut shell(script.to_owned())().unwrap(), &stopped);
        assert_eq!(run("echo fine").unwrap().unwrap(), "fine");
        let error = run("echo broken >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("3") && error.contains("broken"), "{error}");
    }
}
