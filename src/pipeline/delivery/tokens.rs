//! API tokens: one refresher per account, ahead of time, shared by all senders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::api::{Api, NoAnswer};
use super::renewals::Renewals;
use crate::base::clock::Stopwatch;
use crate::channels::{ApiFailure, Channel, FailureClass, Refresh, Renewal, Token};
use crate::domain::message::AccountName;

/// A token is renewed when less than this share of its time is left.
const AHEAD: f64 = 0.1;
/// Platforms want so much between two forced renewals (WeChat: 30 s, 20 a day).
const FORCED_APART: Duration = Duration::from_secs(31);

/// A long-lived token that is good for less is renewed when a token is fetched, which is every two weeks
/// where it matters (Douyin: 15 days of 30).
const RENEWED_BELOW: Duration = Duration::from_secs(16 * 24 * 3_600);

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

/// Why the long-lived token is still the old one.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Refused(#[from] ApiFailure),
    #[error("the renewed one could not be kept: {0}")]
    Lost(#[from] std::io::Error),
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

pub struct Tokens {
    accounts: Mutex<HashMap<AccountName, Arc<Mutex<Account>>>>,
    renewals: Renewals,
}

impl Tokens {
    pub fn new(renewals: Renewals) -> Self {
        Self { accounts: Mutex::default(), renewals }
    }

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
            return match (account.fetch(channel, self.with(api), Refresh::Usual), still) {
                (Ok(token), _) => Ok(token),
                (Err(_), Some(token)) => Ok(Some(token)),
                (Err(error), None) => Err(error),
            };
        }
        account.fetch(channel, self.with(api), Refresh::Usual)
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
        let usual = account.fetch(channel, self.with(api), Refresh::Usual)?;
        let unchanged = usual.as_ref().is_some_and(|token| same(token, refused));
        let allowed = account.forced.is_none_or(|at| at.elapsed() >= FORCED_APART);
        if unchanged && allowed {
            account.forced = Some(Stopwatch::start());
            return account.fetch(channel, self.with(api), Refresh::Forced);
        }
        Ok(usual)
    }

    fn with<'a>(&'a self, api: &'a Api) -> Fetching<'a> {
        Fetching { api, renewals: &self.renewals }
    }

    fn account(&self, channel: &dyn Channel) -> Arc<Mutex<Account>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(channel.account().clone()).or_default().clone()
    }
}

/// What fetching a token takes.
#[derive(Clone, Copy)]
struct Fetching<'a> {
    api: &'a Api,
    renewals: &'a Renewals,
}

impl Account {
    fn fetch(
        &mut self,
        channel: &dyn Channel,
        with: Fetching<'_>,
        how: Refresh,
    ) -> Result<Option<Token>, NoToken> {
        let long_lived = channel
            .renewal()
            .map(|own| (own, with.renewals.current(channel.account(), own.configured())));
        let request = match &long_lived {
            Some((renewal, current)) => Some(renewal.token_request_with(current)),
            None => channel.token_request(how),
        };
        let Some(request) = request else { return Ok(None) };
        let since = Stopwatch::start();
        let response = with.api.call(&request)?;
        let token = channel.read_token(&response)?;
        if let Some((renewal, current)) = long_lived
            && renewal.lifetime(&response).is_some_and(|left| left < RENEWED_BELOW)
            && let Err(error) = with.renew(channel.account(), renewal, &current)
        {
            let account = channel.account();
            tracing::error!(%account, %error, "the account has to be authorised again soon");
        }
        tracing::info!(account = %channel.account(), "token renewed");
        self.held = Some(Held { token: token.clone(), since });
        Ok(Some(token))
    }
}

impl Fetching<'_> {
    fn renew(
        &self,
        account: &AccountName,
        renewal: &dyn Renewal,
        current: &SecretString,
    ) -> Result<(), NotRenewed> {
        let renewed = renewal.read_renewed(&self.api.call(&renewal.renew(current))?)?;
        self.renewals.keep(account, renewal.configured(), &renewed)?;
        tracing::info!(%account, "the long-lived token was renewed");
        Ok(())
    }
}

fn same(one: &Token, other: &Token) -> bool {
    one.value.expose_secret() == other.value.expose_secret()
}
