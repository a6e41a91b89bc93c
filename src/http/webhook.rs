//! Callbacks of platforms: verify, decrypt, store, and answer within the platform's five seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;

use crate::base::clock::Deadline;
use crate::base::fault::Fault;
use crate::channels::{Callback, CallbackAnswer, Channel, Item, Push, PushError, Received, Stamp};
use crate::http::state::HttpState;
use crate::pipeline::delivery::drain::{arrival, sort};
use crate::pipeline::desk::{Answer, Carried};
use crate::store::StoreError;

/// The console's URL check: the echo string when the signature is right.
pub(super) async fn verify(
    State(state): State<HttpState>,
    Path((platform, account)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(channel) = state.accounts.on(&platform, &account) else { return unknown_account() };
    let query = query.unwrap_or_default();
    let headers = readable(&headers);
    let received_at = state.clock.now();
    match channel.check_url(&Callback { query: &query, headers: &headers, body: b"", received_at })
    {
        Ok(answer) => answered(answer),
        Err(error) => refused(&state, &account, &error),
    }
}

/// One callback. What it brings is stored before it is answered; the reply is the same for every
/// retry of the same message.
pub(super) async fn receive(
    State(state): State<HttpState>,
    Path((platform, account)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let deadline = Deadline::after(state.deadline);
    let Some(channel) = state.accounts.on(&platform, &account).cloned() else {
        return unknown_account();
    };
    let query = query.unwrap_or_default();
    let headers = readable(&headers);
    let received_at = state.clock.now();
    let callback = Callback { query: &query, headers: &headers, body: &body, received_at };
    let received = match channel.receive(&callback) {
        Ok(Received::Answer(answer)) => return answered(answer),
        Ok(received) => received,
        Err(error) => return refused(&state, &account, &error),
    };
    let taking = state.clone();
    let taken = tokio::task::spawn_blocking(move || take(&taking, channel, received, deadline));
    match taken.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            // Not stored, so not ours yet: an error makes the platform try again.
            tracing::error!(account, %error, "a callback could not be taken");
            (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable").into_response()
        }
        Err(_) => internal_error(),
    }
}

fn take(
    state: &HttpState,
    channel: Arc<dyn Channel>,
    received: Received,
    deadline: Deadline,
) -> Result<Response, StoreError> {
    let items = match received {
        Received::Items(items) => items,
        Received::Answer(answer) => return Ok(answered(answer)),
        Received::Ready(ready) => {
            let permit = ready.permit.unwrap_or_default();
            state.store.want_fetch(channel.account(), &ready.thread, &permit)?;
            return Ok(answered(channel.acknowledgement()));
        }
    };
    let (pushes, others): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| matches!(item, Item::Push(_)));
    if !others.is_empty() {
        let sorted = sort(channel.as_ref(), others, state.handoff.claim, state.clock.now());
        state.store.take_page(channel.account(), "", &sorted.page, state.clock.now())?;
    }
    let mut response = None;
    for item in pushes {
        let Item::Push(push) = item else { continue };
        if let Some(replied) = reply(state, channel.as_ref(), push, deadline)? {
            response = Some(replied);
        }
    }
    Ok(response.unwrap_or_else(|| answered(channel.acknowledgement())))
}

/// What the callback of one push is answered with, if it is more than that it was received.
fn reply(
    state: &HttpState,
    channel: &dyn Channel,
    push: Push,
    deadline: Deadline,
) -> Result<Option<Response>, StoreError> {
    let address = push.reply_address.clone();
    let until = address.as_ref().filter(|_| state.desk.answers_callbacks(channel));
    let until = until.map(|_| deadline);
    let answer = state.desk.receive(&arrival(channel, push), until)?;
    let Some(address) = address else { return Ok(None) };
    let (payload, key, offered) = match &answer {
        Answer::Reply(offered) => {
            (&offered.queued.payload, offered.queued.key.as_str(), Some(offered))
        }
        Answer::Show(payload) => (payload, "link", None),
        Answer::Received => return Ok(None),
    };
    let stamp = Stamp { seconds: state.clock.now() / 1000, nonce: key };
    match (channel.passive(&address, payload, stamp), offered) {
        (Ok(answer), Some(offered)) => {
            let carried = Some(Arc::clone(&offered.carried));
            Ok(Some(with_receipt(answer, Leaving { carried, taken: false.into() })))
        }
        (Ok(answer), None) => Ok(Some(answered(answer))),
        (Err(error), offered) => {
            tracing::error!(account = %channel.account(), %error, "a reply could not be encoded");
            if let Some(offered) = offered {
                state.store.retract(offered.queued.seq, state.clock.now())?;
                state.bell.ring();
            }
            Ok(None)
        }
    }
}

/// A reply that stands in an answer; when the answer is gone, what carries it is told whether it left.
struct Leaving {
    /// There until it is dropped.
    carried: Option<Arc<Carried>>,
    taken: AtomicBool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let (carried, taken) = (self.carried.take(), self.taken.load(Ordering::SeqCst));
        // Waits for the store, also where it is only let go.
        let tell = move || {
            if let Some(carried) = carried.filter(|_| taken) {
                Fault::RepliedUnconfirmed.passes();
                carried.brought();
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(tell)),
            Err(_) => tell(),
        }
    }
}

/// The answer, and word to the outbox once the socket has taken it.
fn with_receipt(answer: CallbackAnswer, leaving: Leaving) -> Response {
    let CallbackAnswer { body, content_type, headers } = answer;
    let length = body.len();
    let stream = tokio_stream::once(Bytes::from(body)).map(move |bytes| {
        leaving.taken.store(true, Ordering::SeqCst);
        Ok::<_, std::convert::Infallible>(bytes)
    });
    let mut response = answered(CallbackAnswer { body: Vec::new(), content_type, headers });
    *response.body_mut() = Body::from_stream(stream);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// Headers that are text.
fn readable(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
}

fn refused(state: &HttpState, account: &str, error: &PushError) -> Response {
    state.refusals.note(account, error, state.clock.now());
    metrics::counter!("huida_pushes_refused_total", "code" => error.code()).increment(1);
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, error.code()).into_response()
}

fn unknown_account() -> Response {
    (StatusCode::NOT_FOUND, "unknown_account").into_response()
}

fn internal_error() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response()
}

fn answered(answer: CallbackAnswer) -> Response {
    let mut response = ([(header::CONTENT_TYPE, answer.content_type)], answer.body).into_response();
    for (name, value) in answer.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
