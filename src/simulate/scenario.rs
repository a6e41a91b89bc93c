//! Scripted conversations: who does what, what the API answers, and what must come of it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{Api, Mishap};
use super::audit::{Findings, compare};
use super::driver::{Driver, Outcome};
use super::{Said, SimulateError, What};
use crate::base::clock::Deadline;
use crate::store::{Fate, StoreError};

const LOOK: Duration = Duration::from_millis(20);

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub step: Vec<Step>,
}

/// What happens next, and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// A customer writes; the service must take it on.
    Say {
        customer: String,
        text: String,
    },
    /// A customer sends a picture.
    Image {
        customer: String,
    },
    /// Something in the platform's own word (`subscribe`, `enter_session`).
    Event {
        customer: String,
        name: String,
    },
    /// The customer's last callback once more, as a retry.
    Again {
        customer: String,
    },
    /// As `say`, with a signature that is wrong; the service must refuse it.
    Forge {
        customer: String,
        text: String,
    },
    /// The next sends meet these, one each.
    Api {
        meets: Vec<Mishap>,
    },
    Wait {
        ms: u64,
    },
    /// The next thing that the customer sees has this in it.
    Sees {
        customer: String,
        #[serde(default)]
        text: String,
        #[serde(default = "patience")]
        within_ms: u64,
    },
    /// The customer sees nothing more.
    Silence {
        customer: String,
        ms: u64,
    },
    /// So many of the customer's messages have a case for a person.
    Queued {
        customer: String,
        count: usize,
        #[serde(default = "patience")]
        within_ms: u64,
    },
}

fn patience() -> u64 {
    10_000
}

/// What a scenario showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Played {
    pub steps: usize,
    /// Expectations that did not hold, by the step's number.
    pub failed: Vec<String>,
    #[serde(flatten)]
    pub findings: Findings,
}

impl Played {
    pub fn clean(&self) -> bool {
        self.failed.is_empty() && self.findings.clean()
    }
}

impl Scenario {
    /// # Errors
    /// Names the file and what in it cannot be read.
    pub fn read(file: &Path) -> Result<Self, SimulateError> {
        let bad = |reason: String| SimulateError::Input(format!("{}: {reason}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|e| bad(e.to_string()))?;
        toml::from_str(&text).map_err(|e| bad(e.to_string()))
    }
}

/// Those who play together.
pub struct Stage<'a> {
    pub driver: &'a Driver,
    pub api: &'a Api,
    pub fates: &'a (dyn Fn() -> Result<Vec<Fate>, StoreError> + Sync),
}

impl Stage<'_> {
    /// Plays all steps; one that fails does not keep the others from being tried.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn play(&self, scenario: &Scenario) -> Result<Played, SimulateError> {
        let mut people = People::new(self.driver.clock.now());
        let mut failed = Vec::new();
        for (step, number) in scenario.step.iter().zip(1..) {
            if let Some(reason) = self.step(step, &mut people).await? {
                failed.push(format!("step {number}: {reason}"));
            }
        }
        let fates = tokio::task::block_in_place(self.fates)?;
        let findings = compare(&self.driver.ledger.snapshot(), &fates);
        Ok(Played { steps: scenario.step.len(), failed, findings })
    }

    /// What did not hold.
    async fn step(
        &self,
        step: &Step,
        people: &mut People,
    ) -> Result<Option<String>, SimulateError> {
        Ok(match step {
            Step::Say { customer, text } => {
                self.tell(people.says(customer, What::Text(text.clone()))).await
            }
            Step::Image { customer } => self.tell(people.says(customer, What::Image)).await,
            Step::Event { customer, name } => {
                self.tell(people.says(customer, What::Event(name.clone()))).await
            }
            Step::Again { customer } => match people.last.get(customer).cloned() {
                Some(said) => self.tell_again(&said).await,
                None => Some(format!("{customer} has said nothing yet")),
            },
            Step::Forge { customer, text } => {
                self.forge(&people.says(customer, What::Text(text.clone()))).await
            }
            Step::Api { meets } => {
                self.api.prepare(meets.iter().copied());
                None
            }
            Step::Wait { ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                None
            }
            Step::Sees { customer, text, within_ms } => {
                self.sees(people, customer, text, *within_ms).await
            }
            Step::Silence { customer, ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                let more =
                    self.driver.ledger.seen_after(&people.name(customer), people.read(customer));
                more.first().map(|text| format!("{customer} saw {text:?}"))
            }
            Step::Queued { customer, count, within_ms } => {
                self.queued(&people.name(customer), *count, *within_ms).await?
            }
        })
    }

    async fn tell(&self, said: Said) -> Option<String> {
        match self.driver.tell(&said).await {
            Outcome::Accepted(_) => None,
            Outcome::NotAccepted(reason) => Some(format!("not taken on: {reason}")),
        }
    }

    /// A retry is no message of its own: it gets no line in the ledger.
    async fn tell_again(&self, said: &Said) -> Option<String> {
        let call = match self.driver.side.call(said, self.driver.clock.now() / 1_000) {
            Ok(call) => call,
            Err(fault) => return Some(fault.0),
        };
        match self.driver.post(call).await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("a retry was answered with {}", answer.status())),
            Err(error) => Some(error.to_string()),
        }
    }

    async fn forge(&self, said: &Said) -> Option<String> {
        let call = match self.driver.side.call(said, self.driver.clock.now() / 1_000) {
            Ok(call) => call.forged(),
            Err(fault) => return Some(fault.0),
        };
        match self.driver.post(call).await {
            Ok(answer) if answer.status().is_client_error() => None,
            Ok(answer) => Some(format!("a forged callback was answered with {}", answer.status())),
            Err(error) => Some(error.to_string()),
        }
    }

    async fn sees(
        &self,
        people: &mut People,
        customer: &str,
        text: &str,
        within_ms: u64,
    ) -> Option<String> {
        let deadline = Deadline::after(Duration::from_millis(within_ms));
        loop {
            let after = people.read(customer);
            let new = self.driver.ledger.seen_after(&people.name(customer), after);
            match new.first() {
                Some(seen) => {
                    people.read_one(customer);
                    let right = seen.contains(text);
                    return (!right).then(|| format!("{customer} saw {seen:?}, not {text:?}"));
                }
                None if deadline.passed() => {
                    return Some(format!("{customer} saw nothing within {within_ms} ms"));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn queued(
        &self,
        customer: &str,
        count: usize,
        within_ms: u64,
    ) -> Result<Option<String>, SimulateError> {
        let deadline = Deadline::after(Duration::from_millis(within_ms));
        let for_person = |fate: &&Fate| fate.decided.as_ref().is_some_and(|d| d.for_person);
        loop {
            let fates = tokio::task::block_in_place(self.fates)?;
            let theirs = fates.iter().filter(|fate| fate.sender == customer);
            let found = theirs.filter(for_person).count();
            if found == count {
                return Ok(None);
            }
            if deadline.passed() {
                return Ok(Some(format!("{found} of {customer} wait for a person, not {count}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Customers with names that no earlier run used, and how much of what they saw was asked about.
struct People {
    run: i64,
    next_id: u64,
    last: HashMap<String, Said>,
    read: HashMap<String, usize>,
}

impl People {
    fn new(now: i64) -> Self {
        let next_id = now.unsigned_abs() << 20;
        Self { run: now, next_id, last: HashMap::new(), read: HashMap::new() }
    }

    fn name(&self, customer: &str) -> String {
        format!("{customer}-{}", self.run)
    }

    fn says(&mut self, customer: &str, what: What) -> Said {
        self.next_id += 1;
        let created = self.run / 1_000;
        let said = Said { customer: self.name(customer), id: self.next_id, created, what };
        self.last.insert(customer.to_owned(), said.clone());
        said
    }

    fn read(&self, customer: &str) -> usize {
        self.read.get(customer).copied().unwrap_or_default()
    }

    fn read_one(&mut self, customer: &str) {
        *self.read.entry(customer.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read_and_a_mistake_named() {
        let good = "[[step]]\ndo = \"say\"\ncustomer = \"a\"\ntext = \"b\"\n\
                    [[step]]\ndo = \"api\"\nmeets = [\"busy\", \"done_and_garbled\"]\n\
                    [[step]]\ndo = \"sees\"\ncustomer = \"a\"\n";
        let scenario: Scenario = toml::from_str(good).unwrap();
        assert_eq!(scenario.step.len(), 3);
        for (bad, word) in [("\"say\"", "\"shout\""), ("text =", "words =")] {
            let error = toml::from_str::<Scenario>(&good.replacen(bad, word, 1)).unwrap_err();
            assert!(error.to_string().contains(&word.replace(['"', '=', ' '], "")), "{error}");
        }
    }
}
