//! Logs to stderr and metrics for a scraper; neither ever holds a message's text.

use std::io::{self, IsTerminal, Write};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Seconds; the promise to the customer is made around 4.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Starts logging; a second call leaves the first in place.
pub fn logs(filter: &str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log(io::stderr()))
        .with_ansi(io::stderr().is_terminal());
    // The default hook prints a panic's text, which may hold a customer's words.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic");
    }));
    // An error says that logging already runs, which is what was asked for.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

/// Standard error, for as long as somebody reads it: a line that cannot be written is lost, and the
/// request that it tells of is not.
struct Log(io::Stderr);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Installs the process-wide recorder and returns what renders it.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // A second service in one process (tests) keeps the first recorder; its own page stays empty.
    let _ = metrics::set_global_recorder(recorder);
    Ok(handle)
}
