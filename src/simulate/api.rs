//! What the platforms' APIs have in common: tokens, quotas, mishaps, and a record of what was sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::ledger::Ledger;
use super::{Side, seal};
use crate::base::clock::{Clock, UnixMs};
use crate::base::random::SplitMix64;
use crate::domain::knowledge::words;

words!(
    /// What befalls a call of the API.
    Mishap {
        /// The platform says that it is busy.
        Busy = "busy",
        /// HTTP 500.
        ServerError = "server_error",
        /// Not done, and 200 with half a body.
        Garbled = "garbled",
        /// Done, and then the same: nobody can tell it from the other.
        DoneAndGarbled = "done_and_garbled",
        /// Two seconds late, and then done.
        Slow = "slow",
        /// The token has ended before its time.
        TokenGone = "token_gone",
        WindowClosed = "window_closed",
        QuotaUsed = "quota_used",
        /// Another desk has the conversation.
        WrongState = "wrong_state",
        /// Refused for good.
        Forbidden = "forbidden",
    }
);

/// Those that come by chance; after each of them the same call again may go well.
const PASSING: [Mishap; 6] = [
    Mishap::Busy,
    Mishap::ServerError,
    Mishap::Garbled,
    Mishap::DoneAndGarbled,
    Mishap::Slow,
    Mishap::TokenGone,
];
const SLOW: Duration = Duration::from_secs(2);

/// Why a call is refused; each platform has its own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Busy,
    SecretWrong,
    TokenMissing,
    TokenWrong,
    TokenExpired,
    /// The body is not what the call takes.
    Malformed,
    NoSuchCustomer,
    TextEmpty,
    TextTooLong,
    WindowClosed,
    QuotaUsed,
    TooOften,
    WrongState,
    Forbidden,
    TypingUnknown,
    TypingAlready,
}

/// How the API behaves.
#[derive(Clone, Copy, Debug)]
pub struct Temper {
    /// Share of sends that meet a mishap, 0 to 1.
    pub errors: f32,
    /// How long a token is good for.
    pub token_life: Duration,
    pub seed: u64,
}

impl Default for Temper {
    /// Without errors, and with the platforms' two hours.
    fn default() -> Self {
        Self { errors: 0.0, token_life: Duration::from_secs(7_200), seed: 1 }
    }
}

/// One account's API.
pub struct Api {
    pub ledger: Arc<Ledger>,
    pub clock: Clock,
    temper: Temper,
    tokens: Mutex<Tokens>,
    windows: Mutex<HashMap<String, Window>>,
    chance: Mutex<SplitMix64>,
    script: Mutex<VecDeque<Mishap>>,
}

#[derive(Default)]
struct Tokens {
    current: Option<Token>,
    /// Still good beside the current one.
    previous: Option<Token>,
    forced_at: Option<UnixMs>,
}

#[derive(Clone)]
struct Token {
    value: String,
    ends: UnixMs,
}

#[derive(Clone, Copy)]
struct Window {
    left: u32,
    ends: UnixMs,
}

/// How many sends something that a customer did allows, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub count: u32,
    pub lasting: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(duration: Duration) -> UnixMs {
    UnixMs::try_from(duration.as_millis()).unwrap_or(UnixMs::MAX)
}

impl Api {
    pub fn new(ledger: Arc<Ledger>, clock: Clock, temper: Temper) -> Self {
        let chance = Mutex::new(SplitMix64::new(temper.seed));
        Self {
            ledger,
            clock,
            temper,
            tokens: Mutex::default(),
            windows: Mutex::default(),
            chance,
            script: Mutex::default(),
        }
    }

    /// The next sends meet these, one each.
    pub fn prepare(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        lock(&self.script).extend(mishaps);
    }

    /// A token and the seconds it is good for. A stable one is given again until shortly before its
    /// end, and then with both good for a while; otherwise a new one ends the old one.
    ///
    /// # Errors
    /// [`Refusal::TooOften`] when a renewal is forced twice within thirty seconds.
    pub fn issue_token(&self, stable: bool, force: bool) -> Result<(String, i64), Refusal> {
        let (now, life) = (self.clock.now(), ms(self.temper.token_life));
        let mut tokens = lock(&self.tokens);
        if force {
            if tokens.forced_at.is_some_and(|at| now - at < 30_000) {
                self.ledger.fault("a token was renewed by force twice within 30 s");
                return Err(Refusal::TooOften);
            }
            tokens.forced_at = Some(now);
        }
        let overlap = (life / 6).min(300_000);
        let good = tokens.current.clone().filter(|token| token.ends - overlap > now);
        if let Some(token) = good.filter(|_| stable && !force) {
            return Ok((token.value, (token.ends - now) / 1_000));
        }
        let value = format!("token-{}", seal::nonce(16).map_err(|_| Refusal::Busy)?);
        let token = Token { value: value.clone(), ends: now.saturating_add(life) };
        tokens.previous = tokens.current.replace(token).filter(|_| stable && !force);
        Ok((value, life / 1_000))
    }

    /// # Errors
    /// Why the token is not good.
    pub fn check_token(&self, presented: Option<&str>) -> Result<(), Refusal> {
        let presented = presented.filter(|t| !t.is_empty()).ok_or(Refusal::TokenMissing)?;
        let now = self.clock.now();
        let tokens = lock(&self.tokens);
        let known = [&tokens.current, &tokens.previous].into_iter().flatten();
        match known.into_iter().find(|token| token.value == presented) {
            Some(token) if token.ends > now => Ok(()),
            Some(_) => Err(Refusal::TokenExpired),
            None => Err(Refusal::TokenWrong),
        }
    }

    /// Something a customer did lets the account speak; the more generous window holds.
    pub fn open_window(&self, customer: &str, quota: Quota) {
        let ends = self.clock.now().saturating_add(ms(quota.lasting));
        let new = Window { left: quota.count, ends };
        let mut windows = lock(&self.windows);
        let old = windows.get(customer).filter(|old| old.ends > self.clock.now());
        if old.is_none_or(|old| (old.left, old.ends) < (new.left, new.ends)) {
            windows.insert(customer.to_owned(), new);
        }
    }

    fn spend(&self, customer: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut windows = lock(&self.windows);
        let window = windows.get_mut(customer).ok_or(Refusal::NoSuchCustomer)?;
        if window.ends <= now {
            return Err(Refusal::WindowClosed);
        }
        window.left = window.left.checked_sub(1).ok_or(Refusal::QuotaUsed)?;
        Ok(())
    }

    /// A text that the service sends to a customer, after its token was checked.
    ///
    /// # Errors
    /// Why it is not shown; breaches of the protocol stand in the ledger besides.
    pub fn show(&self, customer: &str, text: &str, most_bytes: usize) -> Result<(), Refusal> {
        let fault = |refusal, what: &str| {
            self.ledger.fault(format!("a send to {customer}: {what}"));
            Err(refusal)
        };
        if text.trim().is_empty() {
            return fault(Refusal::TextEmpty, "the text is empty");
        }
        if text.len() > most_bytes {
            return fault(Refusal::TextTooLong, "the text is too long");
        }
        match self.spend(customer) {
            Ok(()) => {
                self.ledger.seen(customer, text);
                Ok(())
            }
            Err(Refusal::QuotaUsed) => fault(Refusal::QuotaUsed, "more than the window allows"),
            Err(Refusal::NoSuchCustomer) => {
                fault(Refusal::NoSuchCustomer, "nobody of that name wrote")
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// What befalls this send, and how its success is told. Counts the send.
    ///
    /// # Errors
    /// The mishap as a refusal of the platform's or as an answer that nobody can read.
    pub async fn chance(&self) -> Result<Told, Answered> {
        let mishap = lock(&self.script).pop_front().or_else(|| self.draw());
        self.ledger.send(mishap.is_some_and(|mishap| mishap != Mishap::Slow));
        let refusal = match mishap {
            None => return Ok(Told::Clearly),
            Some(Mishap::Slow) => {
                tokio::time::sleep(SLOW).await;
                return Ok(Told::Clearly);
            }
            Some(Mishap::DoneAndGarbled) => return Ok(Told::Garbled),
            Some(Mishap::ServerError) => {
                return Err(Answered::Unreadable(Unreadable::ServerError));
            }
            Some(Mishap::Garbled) => return Err(Answered::Unreadable(Unreadable::HalfABody)),
            Some(Mishap::TokenGone) => {
                let mut tokens = lock(&self.tokens);
                (tokens.current, tokens.previous) = (None, None);
                Refusal::TokenExpired
            }
            Some(Mishap::Busy) => Refusal::Busy,
            Some(Mishap::WindowClosed) => Refusal::WindowClosed,
            Some(Mishap::QuotaUsed) => Refusal::QuotaUsed,
            Some(Mishap::WrongState) => Refusal::WrongState,
            Some(Mishap::Forbidden) => Refusal::Forbidden,
        };
        Err(Answered::Refused(refusal))
    }

    fn draw(&self) -> Option<Mishap> {
        let mut chance = lock(&self.chance);
        if chance.unit() >= self.temper.errors {
            return None;
        }
        let which = (chance.bits() % PASSING.len() as u64) as usize;
        PASSING.get(which).copied()
    }

    /// The JSON object of a call. Chinese is to stand in it as it is: the platforms show `\u` as
    /// that.
    ///
    /// # Errors
    /// When it is none.
    pub fn object(&self, body: &[u8]) -> Result<Value, Refusal> {
        if body.windows(2).any(|pair| pair == b"\\u") {
            self.ledger.fault("a body has \\u escapes, which the platforms show as they stand");
        }
        let object = serde_json::from_slice(body).ok().filter(Value::is_object);
        object.ok_or_else(|| {
            self.ledger.fault("a body of an API call is no JSON object");
            Refusal::Malformed
        })
    }
}

/// How a send that was done is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Clearly,
    Garbled,
}

impl Told {
    /// The members of the answer, where they can be read.
    ///
    /// # Errors
    /// Half an answer.
    pub fn with(self, members: Value) -> Result<Value, Answered> {
        match self {
            Self::Clearly => Ok(members),
            Self::Garbled => Err(Answered::Unreadable(Unreadable::HalfABody)),
        }
    }
}

/// How a call that went wrong is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Refused(Refusal),
    Unreadable(Unreadable),
}

/// An answer that is none of the platform's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    ServerError,
    HalfABody,
}

impl IntoResponse for Unreadable {
    fn into_response(self) -> Response {
        match self {
            Self::ServerError => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::HalfABody => "{\"errcode\":".into_response(),
        }
    }
}

impl From<Refusal> for Answered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Text at a path of an object; empty where there is none.
pub(super) fn text<'v>(object: &'v Value, path: &str) -> &'v str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// An answer of the WeChat family's: what went well with its members, what did not with a number.
/// Source of the numbers: the global return codes of developers.weixin.qq.com and
/// developer.work.weixin.qq.com.
pub(super) fn wechat(result: Result<Value, Answered>) -> Response {
    let refusal = match result {
        Ok(mut members) => {
            if let Some(object) = members.as_object_mut() {
                object.entry("errcode").or_insert(json!(0));
                object.entry("errmsg").or_insert(json!("ok"));
            }
            return axum::Json(members).into_response();
        }
        Err(Answered::Unreadable(answer)) => return answer.into_response(),
        Err(Answered::Refused(refusal)) => refusal,
    };
    let code = match refusal {
        Refusal::Busy => -1,
        Refusal::SecretWrong => 40001,
        Refusal::NoSuchCustomer => 40003,
        Refusal::TokenWrong => 40014,
        Refusal::TokenMissing => 41001,
        Refusal::TokenExpired => 42001,
        Refusal::TextEmpty => 44004,
        Refusal::TextTooLong => 45002,
        Refusal::TooOften => 45009,
        Refusal::WindowClosed => 45015,
        Refusal::QuotaUsed => 45047,
        Refusal::TypingUnknown => 45072,
        Refusal::TypingAlready => 45081,
        Refusal::Malformed => 47001,
        Refusal::Forbidden => 48002,
        Refusal::WrongState => 95018,
    };
    axum::Json(json!({ "errcode": code, "errmsg": format!("{refusal:?}") })).into_response()
}

/// Serves a side's API on `listener` until the task is dropped. A path that the platform does not
/// have is a fault.
pub async fn serve(side: Arc<dyn Side>, api: Arc<Api>, listener: TcpListener) {
    let unknown = Arc::clone(&api.ledger);
    let routes = side.routes().fallback(move |request: Request| {
        unknown.fault(format!("the platform has no {} {}", request.method(), request.uri().path()));
        async { StatusCode::NOT_FOUND }
    });
    if let Err(error) = axum::serve(listener, routes).await {
        api.ledger.fault(format!("the API side ended: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(errors: f32) -> (Api, Clock) {
        let clock = Clock::frozen(1_700_000_000_000);
        let temper = Temper { errors, ..Temper::default() };
        (Api::new(Arc::default(), clock.clone(), temper), clock)
    }

    #[test]
    fn a_stable_token_stays_and_overlaps_its_successor() {
        let (api, clock) = api(0.0);
        let (first, life) = api.issue_token(true, false).unwrap();
        assert_eq!(
            (api.issue_token(true, false).unwrap().0.as_str(), life),
            (first.as_str(), 7_200)
        );
        clock.advance(Duration::from_secs(6_901));
        let (second, _) = api.issue_token(true, false).unwrap();
        assert!(second != first && api.check_token(Some(&first)).is_ok());
        clock.advance(Duration::from_secs(300));
        assert_eq!(api.check_token(Some(&first)), Err(Refusal::TokenExpired));
        let (third, _) = api.issue_token(false, false).unwrap();
        assert_eq!(
            api.check_token(Some(&second)),
            Err(Refusal::TokenWrong),
            "a plain one ends others"
        );
        assert!(api.check_token(Some(&third)).is_ok());
        assert_eq!(api.check_token(None), Err(Refusal::TokenMissing));
    }

    #[test]
    fn windows_close_and_are_used_up() {
        let (api, clock) = api(0.0);
        assert_eq!(api.show("anna", "a", 10), Err(Refusal::NoSuchCustomer));
        let quota = Quota { count: 2, lasting: Duration::from_secs(60) };
        api.open_window("anna", quota);
        assert_eq!(api.show("anna", "more than ten", 10), Err(Refusal::TextTooLong));
        api.show("anna", "a", 10).unwrap();
        api.show("anna", "b", 10).unwrap();
        assert_eq!(api.show("anna", "c", 10), Err(Refusal::QuotaUsed));
        api.open_window("anna", quota);
        clock.advance(Duration::from_secs(61));
        assert_eq!(api.show("anna", "c", 10), Err(Refusal::WindowClosed));
        assert_eq!(api.ledger.snapshot().fault_count, 3, "a closed window is nobody's fault");
    }

    #[tokio::test]
    async fn a_share_of_the_sends_meets_a_mishap() {
        let (api, _) = api(0.5);
        let mut failed = 0;
        for _ in 0..40 {
            // Slow ones would wait two seconds.
            failed += usize::from(api.draw().is_some());
        }
        assert!((10..=30).contains(&failed), "{failed}");
        api.prepare([Mishap::QuotaUsed]);
        let met = api.chance().await;
        assert!(matches!(met, Err(Answered::Refused(Refusal::QuotaUsed))));
    }
}
