//! Callbacks of platforms: verify, decrypt, answer within the platform's five seconds.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::base::clock::Deadline;
use crate::channels::{Callback, CallbackAnswer, Channel, Item, Push, PushError, Received, Stamp};
use crate::domain::outgoing::Outgoing;
use crate::http::state::HttpState;

/// The console's URL check: the echo string when the signature is right.
pub(super) async fn verify(
    State(state): State<HttpState>,
    Path((platform, account)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(channel) = channel(&state, &platform, &account) else { return unknown_account() };
    let query = query.unwrap_or_default();
    let headers = readable(&headers);
    let received_at = state.clock.now();
    match channel.check_url(&Callback { query: &query, headers: &headers, body: b"", received_at })
    {
        Ok(answer) => answered(answer),
        Err(error) => refused(&error),
    }
}

/// One push. The reply is the same for every retry of the same message.
pub(super) async fn receive(
    State(state): State<HttpState>,
    Path((platform, account)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let deadline = Deadline::after(state.deadline);
    let Some(channel) = channel(&state, &platform, &account) else { return unknown_account() };
    let query = query.unwrap_or_default();
    let headers = readable(&headers);
    let received_at = state.clock.now();
    let callback = Callback { query: &query, headers: &headers, body: &body, received_at };
    let items = match channel.receive(&callback) {
        Ok(Received::Items(items)) => items,
        Ok(Received::Answer(answer)) => return answered(answer),
        Ok(Received::Ready(_)) => return answered(channel.acknowledgement()),
        Err(error) => return refused(&error),
    };
    let mut answer = channel.acknowledgement();
    for item in items {
        let Item::Push(push) = item else { continue };
        match reply(&state, channel.as_ref(), push, deadline).await {
            Ok(Some(reply)) => answer = reply,
            Ok(None) => {}
            Err(refusal) => return refusal,
        }
    }
    answered(answer)
}

/// The desk's answer to one push, if there is one and the platform takes it here.
async fn reply(
    state: &HttpState,
    channel: &dyn Channel,
    push: Push,
    deadline: Deadline,
) -> Result<Option<CallbackAnswer>, Response> {
    let account = channel.account().clone();
    let desk = state.desk.clone();
    let Push { inbound, reply_address, target: _ } = push;
    let handled =
        tokio::task::spawn_blocking(move || desk.handle(&inbound, deadline, &mut |_| ())).await;
    let outcome = match handled {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            // Not stored, so not ours yet: an error makes the platform try again.
            tracing::error!(%account, %error, "a message could not be accepted");
            return Err((StatusCode::SERVICE_UNAVAILABLE, "store_unavailable").into_response());
        }
        Err(_) => return Err(internal_error()),
    };
    let (Some(text), Some(address)) = (outcome.reply, reply_address) else { return Ok(None) };
    if !channel.abilities().passive_text {
        return Ok(None);
    }
    let stamp = Stamp { seconds: state.clock.now() / 1000, nonce: outcome.trace.as_str() };
    match channel.passive(&address, &Outgoing::Text(text), stamp) {
        Ok(reply) => Ok(Some(reply)),
        Err(error) => {
            tracing::error!(%account, %error, "a reply could not be encoded");
            Err(internal_error())
        }
    }
}

fn channel(state: &HttpState, platform: &str, account: &str) -> Option<Arc<dyn Channel>> {
    let channel = state.channels.get(account)?;
    (channel.platform().as_str() == platform).then(|| Arc::clone(channel))
}

/// Headers that are text.
fn readable(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
}

fn refused(error: &PushError) -> Response {
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
