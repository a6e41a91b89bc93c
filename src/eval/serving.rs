//! `bench serve`: questions to a running service as its chat page sends them, each from a new visitor,
//! timed from sending to the reply.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;

use crate::base::clock::Stopwatch;
use crate::base::id::SessionId;
use crate::eval::{EvalError, percentile};

/// Longer than a chat page waits for a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Visitors at a time; more would measure the threads here.
const MOST_VISITORS: usize = 64;

/// What is asked of which service.
pub struct ServeBench<'a> {
    /// Of this machine: load is never put on others.
    pub url: &'a str,
    pub texts: &'a [String],
    /// Visitors that wait for their reply at the same time.
    pub visitors: usize,
    /// Presented where it is not empty, as a service that asks for it wants it.
    pub token: &'a SecretString,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServeReport {
    pub sent: usize,
    pub answered: usize,
    /// Messages without a reply: refused, broken off, or not handled.
    pub lost: usize,
    /// Messages with more than one.
    pub duplicated: usize,
    pub per_s: f64,
    pub ms_p50: f64,
    pub ms_p95: f64,
    pub ms_p99: f64,
}

/// Asks every text once.
///
/// # Errors
/// [`EvalError::Input`] when there is nothing to ask, or the service is not of this machine or does
/// not answer at all.
pub fn serve(
    bench: &ServeBench<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ServeReport, EvalError> {
    let door = Door::open(bench)?;
    let texts = bench.texts;
    let [first, ..] = texts else {
        return Err(EvalError::Input("no texts: nothing to ask".into()));
    };
    // The first message opens connections and caches; it is nobody's latency.
    door.ask(first).map_err(|reason| EvalError::Input(format!("{}: {reason}", bench.url)))?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let asked = Mutex::new(Vec::with_capacity(texts.len()));
    let watch = Stopwatch::start();
    thread::scope(|scope| {
        for _ in 0..bench.visitors.clamp(1, MOST_VISITORS) {
            scope.spawn(|| {
                while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let watch = Stopwatch::start();
                    let replies = door.ask(text).unwrap_or(0);
                    let ms = watch.ms();
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push((replies, ms));
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, texts.len());
                }
            });
        }
    });
    let seconds = watch.elapsed().as_secs_f64();
    let asked = asked.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(summary(&asked, seconds))
}

/// Number of replies and milliseconds of each message.
fn summary(asked: &[(usize, f64)], seconds: f64) -> ServeReport {
    let times: Vec<f64> = asked.iter().filter(|(n, _)| *n > 0).map(|(_, ms)| *ms).collect();
    ServeReport {
        sent: asked.len(),
        answered: times.len(),
        lost: asked.len() - times.len(),
        duplicated: asked.iter().filter(|(n, _)| *n > 1).count(),
        per_s: times.len() as f64 / seconds,
        ms_p50: percentile(&times, 0.5),
        ms_p95: percentile(&times, 0.95),
        ms_p99: percentile(&times, 0.99),
    }
}

/// Where messages go in.
struct Door {
    client: Client,
    messages: Url,
    token: SecretString,
}

impl Door {
    fn open(bench: &ServeBench<'_>) -> Result<Self, EvalError> {
        let bad = |reason: &str| EvalError::Input(format!("{}: {reason}", bench.url));
        let url = Url::parse(bench.url).map_err(|e| bad(&e.to_string()))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        if host != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
            return Err(bad("not on this machine: load is only put on a service beside it"));
        }
        let messages = url.join("/chat/messages").map_err(|e| bad(&e.to_string()))?;
        let client = Client::builder().timeout(PATIENCE).no_proxy().build();
        let client = client.map_err(|e| bad(&e.to_string()))?;
        Ok(Self { client, messages, token: bench.token.clone() })
    }

    /// Sends one message as a visitor of its own; how many replies came.
    fn ask(&self, text: &str) -> Result<usize, String> {
        let message = json!({ "text": text, "id": SessionId::generate().as_str() });
        let visitor = format!("huida_visitor={}", SessionId::generate());
        let mut request = self.client.post(self.messages.clone()).header(COOKIE, visitor);
        if !self.token.expose_secret().is_empty() {
            request =
                request.header(AUTHORIZATION, format!("Bearer {}", self.token.expose_secret()));
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(message.to_string());
        let response = request.send().and_then(Response::error_for_status);
        let events = response.and_then(Response::text).map_err(|error| error.to_string())?;
        Ok(events.lines().filter(|line| line.trim_end() == "event: reply").count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_in_no_latency_and_what_came_twice_is_told() {
        let asked: Vec<(usize, f64)> = vec![(1, 2.0), (0, 900.0), (2, 4.0), (1, 3.0)];
        let report = summary(&asked, 2.0);
        assert_eq!((report.sent, report.answered, report.lost, report.duplicated), (4, 3, 1, 1));
        assert!((report.per_s - 1.5).abs() < 1e-9 && (report.ms_p99 - 4.0).abs() < 1e-9);
    }

    #[test]
    fn only_this_machine_is_put_under_load() {
        let token = SecretString::default();
        for url in ["http://192.0.2.1:8080", "http://example.com", "http://localhost.example.com"] {
            let texts = &["在吗".to_owned()];
            let bench = ServeBench { url, texts, visitors: 1, token: &token };
            let error = serve(&bench, &|_, _| ()).unwrap_err();
            assert!(error.to_string().contains("not on this machine"), "{url}: {error}");
        }
    }
}
