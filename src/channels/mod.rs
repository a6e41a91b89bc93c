//! Platform protocols as pure functions over bytes: no sockets, no clock, no storage.
//!
//! One trait, [`Channel`], for every platform. What a platform sends comes in as a [`Callback`] and
//! goes out as a [`CallbackAnswer`]; what is asked of its API goes out as an [`ApiRequest`] and comes
//! back as an [`ApiResponse`]. Whoever calls owns the sockets, the tokens and what is remembered.

pub mod alipay;
mod api;
mod callback;
pub mod douyin;
mod form;
mod json;
#[cfg(test)]
mod testing;
mod text;
pub mod webhook;
pub mod wechat;
pub mod wechat_kf;
pub mod wechat_mini;
pub mod wechat_mp;
pub mod wechat_shop;
pub mod wecom;
mod xml;

use std::time::Duration;

use secrecy::SecretString;

use api::base_url;
pub use api::{ApiFailure, ApiRequest, ApiResponse, FailureClass, Method, Token};
pub use callback::{Callback, CallbackAnswer, PushError};
pub use text::TextLimit;

use crate::base::clock::UnixMs;
use crate::domain::knowledge::words;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::{IdempotencyKey, Outgoing, Target};

/// One bound account of a platform.
pub trait Channel: Send + Sync {
    fn platform(&self) -> Platform;

    fn account(&self) -> &AccountName;

    fn abilities(&self) -> &Abilities;

    /// Which of the platform's quotas a message or event of a customer opens; `None` where it opens
    /// none, so that nothing may be sent on it.
    fn scene(&self, content: &Content) -> Option<Scene>;

    /// Answers the platform's check of a new callback address (a GET).
    fn check_url(&self, callback: &Callback<'_>) -> Result<CallbackAnswer, PushError>;

    /// Verifies, decrypts and parses a callback (a POST).
    fn receive(&self, callback: &Callback<'_>) -> Result<Received, PushError>;

    /// "Received, nothing to say": stops the platform's retries.
    fn acknowledgement(&self) -> CallbackAnswer;

    /// The answer to a callback that says or does `what`, in the callback's format and mode. Texts
    /// are cut to the platform's limit; one with nothing to show becomes the acknowledgement. Most
    /// platforms take nothing there.
    fn passive(
        &self,
        _to: &ReplyAddress,
        _what: &Outgoing,
        _stamp: Stamp<'_>,
    ) -> Result<CallbackAnswer, ReplyError> {
        Err(Unsupported("not in an answer").into())
    }

    /// How to get a token; `None` where the account has no secret for it or the platform no tokens.
    fn token_request(&self, how: Refresh) -> Option<ApiRequest>;

    fn read_token(&self, response: &ApiResponse) -> Result<Token, ApiFailure>;

    /// The request that sends or does `what`. Texts are cut to the platform's limit.
    fn send(
        &self,
        to: &Target,
        what: &Outgoing,
        with: &Sending<'_>,
    ) -> Result<ApiRequest, Unsupported>;

    fn read_sent(&self, response: &ApiResponse) -> Result<(), ApiFailure>;

    /// The request for an attachment's bytes by its reference.
    fn media(&self, reference: &str, token: Option<&Token>) -> Result<ApiRequest, Unsupported>;

    /// For platforms whose tokens are got with another token that ends as well.
    fn renewal(&self) -> Option<&dyn Renewal> {
        None
    }

    /// For platforms that only tell that something lies ready.
    fn pull(&self) -> Option<&dyn Pull> {
        None
    }

    /// For platforms whose own desk takes part in conversations.
    fn sessions(&self) -> Option<&dyn Sessions> {
        None
    }
}

/// A long-lived token that gets the tokens, and can be renewed before it ends.
pub trait Renewal {
    /// As the operator configured it.
    fn configured(&self) -> &SecretString;

    /// As [`Channel::token_request`], with what it was renewed to.
    fn token_request_with(&self, long_lived: &SecretString) -> ApiRequest;

    /// How long the long-lived one is good for, as the answer to that request says.
    fn lifetime(&self, response: &ApiResponse) -> Option<Duration>;

    fn renew(&self, long_lived: &SecretString) -> ApiRequest;

    /// The one that takes its place.
    fn read_renewed(&self, response: &ApiResponse) -> Result<SecretString, ApiFailure>;
}

/// Messages that are fetched page by page.
pub trait Pull {
    /// `cursor`: where the last page ended, empty for the oldest that the platform still has.
    fn fetch(&self, ready: &Ready, cursor: &str, token: &Token) -> ApiRequest;

    /// Failures are refused, so that nothing is skipped: a page counts as a whole.
    fn read_page(&self, response: &ApiResponse) -> Result<Page, ApiFailure>;
}

/// Who has a conversation on the platform's side.
pub trait Sessions {
    fn state_request(&self, of: &Target, token: &Token) -> Result<ApiRequest, Unsupported>;

    fn read_state(&self, response: &ApiResponse) -> Result<Session, ApiFailure>;

    /// `servicer`: the person who takes it, where `to` is [`SessionState::Person`].
    fn transition(
        &self,
        of: &Target,
        to: SessionState,
        servicer: Option<&str>,
        token: &Token,
    ) -> Result<ApiRequest, Unsupported>;

    /// The code that the customer may be told with ([`Outgoing::OnEvent`]), if one came.
    fn read_transition(&self, response: &ApiResponse) -> Result<Option<String>, ApiFailure>;
}

/// What an account can do, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// A text can be said in the answer to the callback.
    pub passive_text: bool,
    /// The customer can be given to the platform's desk in the answer to the callback.
    pub passive_transfer: bool,
    /// A menu can be said there.
    pub passive_menu: bool,
    /// A callback without an answer is repeated after five seconds, twice, so that a later attempt
    /// may still bring the reply.
    pub asks_again: bool,
    /// Messages can be sent at other times.
    pub send: bool,
    /// A repeated send with the same key is delivered once.
    pub idempotent: bool,
    pub typing: bool,
    pub menu: bool,
    /// Attachments can be fetched.
    pub media: bool,
    /// The longest text of one message.
    pub text: TextLimit,
    /// How much may be sent after what; none listed: no limit is known.
    pub quotas: Vec<Quota>,
}

words!(
    /// What a customer did, as far as quotas tell it apart.
    Scene { Message = "message", Menu = "menu", Enter = "enter" }
);

/// `count` messages may be sent within `window` of the customer's last act of that kind. Quotas of
/// different scenes do not add up: the largest that is open holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub scene: Scene,
    pub count: u32,
    pub window: Duration,
}

/// What a genuine callback holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// To be stored before the callback is answered.
    Items(Vec<Item>),
    /// Something lies ready; fetch it with [`Channel::pull`].
    Ready(Ready),
    /// Nothing to store; the platform waits for exactly this.
    Answer(CallbackAnswer),
}

/// Something that happened on an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Push(Push),
    /// A send that was accepted did not reach the customer after all.
    Undelivered(Undelivered),
    Session(SessionChange),
    /// A person answered at the platform's own desk.
    Colleague(Colleague),
    /// Concerns no customer; for the log.
    Notice(String),
}

/// A customer's message or event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub inbound: Inbound,
    pub target: Target,
    /// `None` where the platform takes no reply in the answer to the callback.
    pub reply_address: Option<ReplyAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The key of the send.
    pub key: String,
    pub target: Target,
    /// With the platform's own reason as its code.
    pub failure: ApiFailure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionChange {
    /// What makes a repeated report recognisable, as [`Inbound::dedupe_key`].
    pub dedupe_key: String,
    pub at: UnixMs,
    pub target: Target,
    pub now: SessionState,
    /// Who has it now, as the platform names people.
    pub servicer: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colleague {
    /// What makes a repeated report recognisable, as [`Inbound::dedupe_key`].
    pub dedupe_key: String,
    pub at: UnixMs,
    pub target: Target,
    pub servicer: Option<String>,
    pub content: Content,
}

words!(
    /// Who has a conversation, as 微信客服 tells it (`service_state` 0 to 4).
    SessionState {
        Unhandled = "unhandled",
        Assistant = "assistant",
        Waiting = "waiting",
        Person = "person",
        Ended = "ended",
    }
);

impl SessionState {
    /// As 微信客服 numbers the states.
    pub fn number(self) -> u8 {
        match self {
            Self::Unhandled => 0,
            Self::Assistant => 1,
            Self::Waiting => 2,
            Self::Person => 3,
            Self::Ended => 4,
        }
    }

    pub fn of_number(number: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| u64::from(state.number()) == number)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub state: SessionState,
    pub servicer: Option<String>,
}

/// Messages lie ready at the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whose: 微信客服's `open_kfid`.
    pub thread: String,
    /// Lifts the platform's strict rate limit for ten minutes; `None`: fetched without being told.
    pub permit: Option<String>,
}

/// Messages in the platform's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<Item>,
    pub next_cursor: String,
    /// A page may be empty and still have more behind it.
    pub has_more: bool,
}

/// Where a passive reply goes and what it must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyAddress {
    /// The platform's id of the customer.
    pub customer: String,
    /// Our own id on the platform (`gh_…`); empty where replies do not name it.
    pub us: String,
    pub format: BodyFormat,
    /// The key to encrypt with; `None` where the push was plain.
    pub key: Option<wechat::crypto::KeySlot>,
}

words!(
    /// Wire format of a push, chosen in the platform's console; the reply comes in the same one.
    BodyFormat { Xml = "xml", Json = "json" }
);

/// What changes from answer to answer.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Seconds since the epoch.
    pub seconds: i64,
    pub nonce: &'a str,
}

/// What a send needs besides target and content.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    pub key: &'a IdempotencyKey,
    /// `None` where the platform has no tokens.
    pub token: Option<&'a Token>,
    pub now: UnixMs,
}

/// How urgently a token is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The present one if it is still good.
    Usual,
    /// Another one: the present one was refused. Platforms count these (WeChat: 20 a day).
    Forced,
}

/// Why a passive reply could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The key that opened the push has been taken out of the configuration meanwhile.
    #[error("the key that opened the push is no longer configured")]
    KeyGone,
    #[error("no random bytes from the operating system: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// The platform, or the account as it is configured, cannot do this; choose another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not possible on this account: {0}")]
pub struct Unsupported(pub &'static str);

/// A setting that cannot work; fix the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    pub field: &'static str,
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_its_number() {
        for state in SessionState::ALL {
            assert_eq!(SessionState::of_number(state.number().into()), Some(*state));
        }
        assert_eq!(SessionState::of_number(5), None);
    }
}
