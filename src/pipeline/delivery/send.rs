//! One send: token, request, answer, and what that means for the outbox.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::api::NoAnswer;
use super::tokens::NoToken;
use super::{Parcel, Shared, backoff};
use crate::base::fault::Fault;
use crate::channels::{
    ApiFailure, ApiRequest, Channel, FailureClass, Sending, SessionState, Token,
};
use crate::domain::decision::Reason;
use crate::domain::message::AccountName;
use crate::domain::outgoing::{IdempotencyKey, Outgoing, Target};
use crate::store::StoreError;
use crate::store::outbox::Settled;

/// An event's code is good for this long.
const CODE_MS: i64 = 20_000;

/// The pause before what became of a send is written again grows by this, up to so many times.
const WRITE_PAUSE: Duration = Duration::from_millis(300);
const MOST_PAUSES: u32 = 10;

/// Why a send did not succeed.
enum Failure {
    /// Nothing left, or the platform said that it was not done.
    NotDone(&'static str),
    /// It may have been done.
    Unclear,
    Final(Reason, &'static str),
}

impl Shared {
    pub(super) fn send(&self, parcel: &Parcel) -> Result<(), StoreError> {
        let store = &self.parts.store;
        let Some(channel) = self.parts.accounts.get(&parcel.first.account) else { return Ok(()) };
        if !store.begin_send(&parcel.rows, self.now())? {
            return Ok(());
        }
        Fault::BegunUnsent.passes();
        let attempted = catch_unwind(AssertUnwindSafe(|| self.attempt(channel.as_ref(), parcel)));
        let attempted = attempted.unwrap_or_else(|_| {
            metrics::counter!("huida_panics_total").increment(1);
            Err(Failure::Unclear)
        });
        let settled = match attempted {
            Ok(()) => Settled::Delivered,
            Err(failure) => self.after(channel.as_ref(), parcel, &failure),
        };
        Fault::SentUnrecorded.passes();
        let (class, note) = match settled {
            Settled::Delivered => ("delivered", ""),
            Settled::Again { note, .. } => ("again", note),
            Settled::Handed { note, .. } => ("handed", note),
            Settled::Dropped { note } => ("dropped", note),
        };
        metrics::counter!("huida_sends_total", "class" => class, "note" => note).increment(1);
        let (account, attempts) = (&parcel.first.account, parcel.first.attempts + 1);
        tracing::info!(%account, class, note, attempts, "send");
        let mut tries = 0;
        while let Err(error) = self.write_down(parcel, settled) {
            // Until it is written nothing else of the conversation can leave.
            tracing::error!(%error, "what became of a send is written again");
            if self.stopped() {
                return Err(error);
            }
            tries = (tries + 1).min(MOST_PAUSES);
            std::thread::sleep(WRITE_PAUSE * tries);
        }
        Ok(())
    }

    fn write_down(&self, parcel: &Parcel, settled: Settled) -> Result<(), StoreError> {
        let store = &self.parts.store;
        if settled == Settled::Delivered && parcel.payload == Outgoing::Transfer {
            let session = i64::try_from(self.parts.session.as_millis()).unwrap_or(i64::MAX);
            store.transferred(&parcel.first.conversation, self.now().saturating_add(session))?;
        }
        store.settle(&parcel.rows, settled, self.now())
    }

    fn attempt(&self, channel: &dyn Channel, parcel: &Parcel) -> Result<(), Failure> {
        let token = self.tokens.get(channel, &self.api).map_err(no_token)?;
        match self.call(channel, parcel, token.as_ref()) {
            Err(Called::Refused(failure)) => match (failure.class, token) {
                (FailureClass::RefreshToken, Some(refused)) => {
                    let renewed = self.tokens.renew(channel, &self.api, &refused);
                    let token = renewed.map_err(no_token)?;
                    self.call(channel, parcel, token.as_ref()).map_err(failed)
                }
                (FailureClass::WrongState, Some(token)) => {
                    self.take_back(channel, &parcel.first.target, &token)?;
                    self.call(channel, parcel, Some(&token)).map_err(failed)
                }
                (_, _) => Err(failed(Called::Refused(failure))),
            },
            other => other.map_err(failed),
        }
    }

    fn call(
        &self,
        channel: &dyn Channel,
        parcel: &Parcel,
        token: Option<&Token>,
    ) -> Result<(), Called> {
        let target = &parcel.first.target;
        if let (Outgoing::Transfer, Some(sessions), Some(token)) =
            (&parcel.payload, channel.sessions(), token)
        {
            let request = sessions.transition(target, SessionState::Waiting, None, token)?;
            return sessions
                .read_transition(&self.ask(&request)?)
                .map(drop)
                .map_err(Called::Refused);
        }
        let key = IdempotencyKey::try_from(parcel.first.key.clone())
            .map_err(|_| Called::Impossible("a key that no platform takes"))?;
        let with = Sending { key: &key, token, now: self.now() };
        let request = channel.send(target, &parcel.payload, &with)?;
        channel.read_sent(&self.ask(&request)?).map_err(Called::Refused)
    }

    fn ask(&self, request: &ApiRequest) -> Result<crate::channels::ApiResponse, Called> {
        self.api.call(request).map_err(Called::NoAnswer)
    }

    /// Asks who has the conversation on the platform's side, and takes it where nobody does.
    fn take_back(
        &self,
        channel: &dyn Channel,
        target: &Target,
        token: &Token,
    ) -> Result<(), Failure> {
        let impossible = |_| Failure::Final(Reason::SendFailed, "wrong_state");
        let sessions =
            channel.sessions().ok_or(Failure::Final(Reason::SendFailed, "wrong_state"))?;
        let request = sessions.state_request(target, token).map_err(impossible)?;
        let answer = self.ask(&request).map_err(failed)?;
        let session = sessions.read_state(&answer).map_err(|e| failed(Called::Refused(e)))?;
        match session.state {
            SessionState::Unhandled => {
                let request = sessions
                    .transition(target, SessionState::Assistant, None, token)
                    .map_err(impossible)?;
                let answer = self.ask(&request).map_err(failed)?;
                let moved = sessions.read_transition(&answer);
                moved.map(drop).map_err(|e| failed(Called::Refused(e)))
            }
            // It changed while we asked.
            SessionState::Assistant => Ok(()),
            SessionState::Waiting | SessionState::Person => {
                Err(Failure::Final(Reason::PersonOwns, "at_the_platforms_desk"))
            }
            SessionState::Ended => Err(Failure::Final(Reason::WindowClosed, "session_ended")),
        }
    }

    /// What the outbox does about a failure.
    fn after(&self, channel: &dyn Channel, parcel: &Parcel, failure: &Failure) -> Settled {
        let now = self.now();
        let first = &parcel.first;
        let over =
            matches!(parcel.payload, Outgoing::OnEvent { .. }) && now > first.created_at + CODE_MS;
        if over {
            return Settled::Dropped { note: "code_expired" };
        }
        let mut salt = DefaultHasher::new();
        first.key.hash(&mut salt);
        let again = |note, unclear| match backoff::next(first.attempts + 1, now, salt.finish()) {
            Some(at) => Settled::Again { at, note, unclear },
            None => Settled::Handed { why: Reason::SendFailed, note },
        };
        match failure {
            // What an earlier attempt may have done, a later one that was not does not undo.
            Failure::NotDone(note) => again(note, first.left_with.is_some()),
            Failure::Unclear if channel.abilities().idempotent => again("unclear", true),
            Failure::Unclear => Settled::Handed { why: Reason::DeliveryUnknown, note: "unclear" },
            Failure::Final(why, note) => Settled::Handed { why: *why, note },
        }
    }

    /// A courtesy: nothing is made of a failure.
    pub(super) fn show_typing(&self, account: &AccountName, target: &Target) {
        let Some(channel) = self.parts.accounts.get(account) else { return };
        if !channel.abilities().typing {
            return;
        }
        let Ok(token) = self.tokens.get(channel.as_ref(), &self.api) else { return };
        // No platform looks at the key of a typing sign.
        let Ok(key) = IdempotencyKey::try_from("typing".to_owned()) else { return };
        let with = Sending { key: &key, token: token.as_ref(), now: self.now() };
        let sent = channel.send(target, &Outgoing::Typing { on: true }, &with).map(|request| {
            let answer = self.api.call(&request).ok()?;
            channel.read_sent(&answer).ok()
        });
        let shown = matches!(sent, Ok(Some(())));
        tracing::debug!(%account, shown, "typing");
    }
}

/// What came of one request.
enum Called {
    NoAnswer(NoAnswer),
    Refused(ApiFailure),
    Impossible(&'static str),
}

impl From<crate::channels::Unsupported> for Called {
    fn from(unsupported: crate::channels::Unsupported) -> Self {
        Self::Impossible(unsupported.0)
    }
}

fn no_token(none: NoToken) -> Failure {
    if none.may_pass() {
        Failure::NotDone("no_token")
    } else {
        Failure::Final(Reason::SendFailed, "no_token")
    }
}

fn failed(called: Called) -> Failure {
    match called {
        Called::NoAnswer(NoAnswer::Unsent) => Failure::NotDone("unreachable"),
        Called::NoAnswer(NoAnswer::Unclear) => Failure::Unclear,
        Called::Impossible(reason) => {
            tracing::error!(reason, "a reply cannot be sent on this account");
            Failure::Final(Reason::SendFailed, "unsupported")
        }
        Called::Refused(failure) => {
            tracing::warn!(%failure, "a send was refused");
            match failure.class {
                FailureClass::Retry => Failure::NotDone("busy"),
                FailureClass::Unclear => Failure::Unclear,
                // Already renewed once.
                FailureClass::RefreshToken => Failure::NotDone("token_refused"),
                FailureClass::WindowClosed => Failure::Final(Reason::WindowClosed, "window_closed"),
                FailureClass::QuotaUsed => Failure::Final(Reason::QuotaUsed, "quota_used"),
                FailureClass::WrongState => Failure::Final(Reason::SendFailed, "wrong_state"),
                FailureClass::GiveUp => Failure::Final(Reason::SendFailed, "refused"),
            }
        }
    }
}
