//! Tells another desk of every case, until it says that it has it.
//!
//! A signed POST (as `channels::webhook`) of
//! `{"event": "case", "id", "conversation", "account", "customer", "priority", "reasons", "opened_at",
//! "message", "draft", "evidence": [{"id", "question", "answer"}], "history": [{"who", "text", "at"}]}`.
//! The same id is the same case: after a broken answer it may come twice.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{Shared, backoff};
use crate::channels::webhook::signed_post;
use crate::domain::draft::Draft;
use crate::model::remote;
use crate::store::StoreError;
use crate::store::queue::{OpenCase, Speaker};

/// Cases told in one look, and lines of the conversation that come with each.
const CASES: u32 = 20;
const LINES: u32 = 50;
const LOOK: Duration = Duration::from_millis(500);
/// Shorter secrets can be guessed.
const SECRET_CHARS: usize = 16;

/// Where cases are told, and with what they are signed.
#[derive(Clone, Debug)]
pub struct OtherDesk {
    url: String,
    secret: SecretString,
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum BadDesk {
    #[error("webhook_{0}")]
    Url(String),
    #[error("webhook_secret must have at least {SECRET_CHARS} characters")]
    Secret,
}

impl OtherDesk {
    /// # Errors
    /// Says which setting to correct.
    pub fn new(url: &str, secret: &SecretString) -> Result<Self, BadDesk> {
        // Customers' words leave this machine: never unencrypted.
        remote::check_url(url, true).map_err(BadDesk::Url)?;
        if secret.expose_secret().len() < SECRET_CHARS {
            return Err(BadDesk::Secret);
        }
        Ok(Self { url: url.to_owned(), secret: secret.clone() })
    }
}

impl Shared {
    /// Until delivery is stopped.
    pub(super) fn announce(&self, desk: &OtherDesk) {
        let mut failures = 0;
        let mut next = 0;
        while !self.stopped() {
            std::thread::sleep(LOOK);
            if self.now() < next {
                continue;
            }
            match self.tell_all(desk) {
                Ok(true) => failures = 0,
                Ok(false) => {
                    failures += 1;
                    let pause = backoff::next(u32::min(failures, 9), self.now(), failures.into());
                    next = pause.unwrap_or_default();
                    tracing::warn!(failures, "the other desk cannot be told");
                }
                Err(error) => tracing::error!(%error, "cases cannot be read for the other desk"),
            }
        }
    }

    /// False when the other desk did not take one.
    fn tell_all(&self, desk: &OtherDesk) -> Result<bool, StoreError> {
        let store = &self.parts.store;
        for case in store.unannounced(CASES, self.now())? {
            let body = self.told(&case)?;
            let request = signed_post(&desk.url, &desk.secret, self.now() / 1000, &body);
            if !self.api.call(&request).is_ok_and(|answer| answer.status < 300) {
                return Ok(false);
            }
            store.announced(&case.id, self.now())?;
        }
        Ok(true)
    }

    fn told(&self, case: &OpenCase) -> Result<Value, StoreError> {
        let trace = &case.trace;
        let spoken = self.parts.store.spoken(&case.conversation, LINES)?;
        let history = spoken.into_iter().map(|line| {
            let who = match line.speaker {
                Speaker::Customer => "customer",
                Speaker::Us(author) => author.as_str(),
            };
            json!({ "who": who, "text": line.text, "at": line.at })
        });
        let evidence = trace.evidence.iter().map(
            |found| json!({ "id": found.id, "question": found.question, "answer": found.answer }),
        );
        let reasons = case.note.iter().chain(&trace.decision.reasons);
        Ok(json!({
            "event": "case",
            "id": case.id,
            "conversation": case.conversation,
            "account": trace.account,
            "customer": case.target.as_ref().map(|target| &target.customer),
            "priority": case.priority,
            "reasons": reasons.map(|reason| reason.as_str()).collect::<Vec<_>>(),
            "opened_at": case.opened_at,
            "message": trace.message,
            "draft": trace.draft.as_ref().map(Draft::text),
            "evidence": evidence.collect::<Vec<_>>(),
            "history": history.collect::<Vec<_>>(),
        }))
    }
}
