//! API tokens: one refresher per account, ahead of time, shared by all senders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::api::{Api, NoAnswer};
use crate::base::clock::Stopwatch;
use crate::channels::{ApiFailure, Channel, FailureClass, Refresh, Token};
use crate::domain::message::AccountName;

/// A token is renewed when less than this share of its time is left.
const AHEAD: f64 = 0.1;
/// Platforms want so much between two forced renewals (WeChat: 30 s, 20 a day).
const FORCED_APART: Duration = Duration::from_secs(31);

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Refused(#[from] ApiFailure),
}

impl NoToken {
    /// Whether another try may help: without a token nothing was sent.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused(failure) => failure.class != FailureClass::GiveUp,
        }
    }
}

struct Held {
    token: Token,
    since: Stopwatch,
}

#[derive(Default)]
struct Account {
    held: Option<Held>,
    forced: Option<Stopwatch>,
}

#[derive(Default)]
pub struct Tokens {
    accounts: Mutex<HashMap<AccountName, Arc<Mutex<Account>>>>,
}

impl Tokens {
    /// A token that is good for now; `None` where the platform has none.
    pub fn get(&self, channel: &dyn Channel, api: &Api) -> Result<Option<Token>, NoToken> {
        let account = self.account(channel);
        let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &account.held {
            let (age, lifetime) = (held.since.elapsed(), held.token.lifetime);
            if age < lifetime.mul_f64(1.0 - AHEAD) {
                return Ok(Some(held.token.clone()));
            }
            let good = age < lifetime;
            let still = good.then(|| held.token.clone());
            // The old one serves on while the platform has trouble giving another.
            return match (account.fetch(channel, api, Refresh::Usual), still) {
                (Ok(token), _) => Ok(token),
                (Err(_), Some(token)) => Ok(Some(token)),
                (Err(error), None) => Err(error),
            };
        }
        account.fetch(channel, api, Refresh::Usual)
    }

    /// Another token after the platform refused this one. Whoever comes second gets what the first
    /// fetched.
    pub fn renew(
        &self,
        channel: &dyn Channel,
        api: &Api,
        refused: &Token,
    ) -> Result<Option<Token>, NoToken> {
        let account = self.account(channel);
        let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = account.held.as_ref().filter(|held| !same(&held.token, refused)) {
            return Ok(Some(held.token.clone()));
        }
        let usual = account.fetch(channel, api, Refresh::Usual)?;
        let unchanged = usual.as_ref().is_some_and(|token| same(token, refused));
        let allowed = account.forced.is_none_or(|at| at.elapsed() >= FORCED_APART);
        if unchanged && allowed {
            account.forced = Some(Stopwatch::start());
            return account.fetch(channel, api, Refresh::Forced);
        }
        Ok(usual)
    }

    fn account(&self, channel: &dyn Channel) -> Arc<Mutex<Account>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(channel.account().clone()).or_default().clone()
    }
}

impl Account {
    fn fetch(
        &mut self,
        channel: &dyn Channel,
        api: &Api,
        how: Refresh,
    ) -> Result<Option<Token>, NoToken> {
        let Some(request) = channel.token_request(how) else { return Ok(None) };
        let since = Stopwatch::start();
        let token = channel.read_token(&api.call(&request)?)?;
        tracing::info!(account = %channel.account(), "token renewed");
        self.held = Some(Held { token: token.clone(), since });
        Ok(Some(token))
    }
}

fn same(one: &Token, other: &Token) -> bool {
    one.value.expose_secret() == other.value.expose_secret()
}
