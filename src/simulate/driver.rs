//! Sends a customer's messages as the platform does: three tries of five seconds, the same id.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};

use super::ledger::{Ledger, Taken};
use super::{Answer, Call, Said, Seen, Side, SimulateError};
use crate::base::clock::{Clock, Stopwatch};

/// The platforms cut the connection then, and ask again.
pub const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken on, and what the answer showed.
    Accepted(Seen),
    /// Refused or unanswered to the end: the last status, or what kept an answer from coming.
    NotAccepted(String),
}

/// One account of a platform, and the service it calls.
pub struct Driver {
    pub side: Arc<dyn Side>,
    pub ledger: Arc<Ledger>,
    pub clock: Clock,
    client: Client,
    callback: Url,
}

impl Driver {
    /// `service` as in `http://127.0.0.1:8788`; of this machine, since the customers are made up.
    ///
    /// # Errors
    /// When it is no address of this machine.
    pub fn new(
        side: Arc<dyn Side>,
        ledger: Arc<Ledger>,
        clock: Clock,
        (service, account): (&str, &str),
    ) -> Result<Self, SimulateError> {
        let callback = own_machine(service)?
            .join(&format!("/channels/{}/{account}", side.word()))
            .map_err(|e| SimulateError::Input(format!("{service}: {e}")))?;
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { side, ledger, clock, client, callback })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn callback(&self) -> &Url {
        &self.callback
    }

    /// Sends it until it is taken on, at most three times; writes all of it into the ledger.
    pub async fn tell(&self, said: &Said) -> Outcome {
        let line = self.ledger.sent(&said.customer, said.id);
        let mut last = String::new();
        for left in (0..TRIES).rev() {
            let (watch, begun_ms) = (Stopwatch::start(), self.ledger.now_ms());
            self.ledger.tried(line);
            match self.once(said).await {
                Ok(answer) => {
                    let taken = Taken { begun_ms, answered_ms: self.ledger.now_ms() };
                    self.ledger.accepted(line, taken);
                    return Outcome::Accepted(self.saw(said, &answer));
                }
                Err(reason) => last = reason,
            }
            if left > 0 {
                tokio::time::sleep(PATIENCE.saturating_sub(watch.elapsed())).await;
            }
        }
        Outcome::NotAccepted(last)
    }

    /// One try; the 200, or why there was none.
    async fn once(&self, said: &Said) -> Result<Answer, String> {
        let call = self.side.call(said, self.clock.now() / 1_000).map_err(|e| e.to_string())?;
        let response = self.post(call).await.map_err(|e| e.to_string())?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|e| e.to_string())?.to_vec();
        if status.is_success() { Ok(Answer { headers, body }) } else { Err(status.to_string()) }
    }

    pub async fn post(&self, call: Call) -> reqwest::Result<reqwest::Response> {
        let mut url = self.callback.clone();
        url.set_query(Some(&call.query).filter(|query| !query.is_empty()).map(String::as_str));
        let mut request = self.client.post(url).header("content-type", call.content_type);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        request.body(call.body).send().await
    }

    fn saw(&self, said: &Said, answer: &Answer) -> Seen {
        match self.side.open(said, answer) {
            Ok(seen) => {
                if let Seen::Text(text) = &seen {
                    self.ledger.seen(&said.customer, text);
                }
                seen
            }
            Err(fault) => {
                self.ledger.fault(fault.0);
                Seen::Nothing
            }
        }
    }
}

/// Messages of made-up customers must not reach a machine that is not ours.
///
/// # Errors
/// When the address is no address, or not one of this machine.
pub fn own_machine(service: &str) -> Result<Url, SimulateError> {
    let bad = |reason: &str| SimulateError::Input(format!("{service}: {reason}"));
    let url = Url::parse(service).map_err(|e| bad(&e.to_string()))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if host == "localhost" || here {
        return Ok(url);
    }
    Err(bad("is not this machine: the simulator talks to loopback addresses only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called() {
        for here in ["http://127.0.0.1:8788", "http://localhost:1", "http://[::1]:2"] {
            assert!(own_machine(here).is_ok(), "{here}");
        }
        for there in ["http://192.0.2.1", "http://localhost.example.com", "nothing"] {
            assert!(own_machine(there).is_err(), "{there}");
        }
    }
}
