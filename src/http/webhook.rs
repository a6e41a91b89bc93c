//! 公众号 callbacks: verify, decrypt, answer within the platform's five seconds.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::base::clock::Deadline;
use crate::channels::wechat_mp::{PassiveReply, PushError, PushQuery};
use crate::http::state::HttpState;

/// The console's URL check: the echo string when the signature is right.
pub(super) async fn verify(
    State(state): State<HttpState>,
    Path(account): Path<String>,
    Query(query): Query<PushQuery>,
) -> Response {
    let Some(channel) = state.wechat_mp.get(&account) else { return unknown_account() };
    match channel.verify_url(&query) {
        Ok(echo) => echo.into_response(),
        Err(error) => refused(&error),
    }
}

/// One push. The reply is the same for every retry of the same message.
pub(super) async fn receive(
    State(state): State<HttpState>,
    Path(account): Path<String>,
    Query(query): Query<PushQuery>,
    body: Bytes,
) -> Response {
    let deadline = Deadline::after(state.deadline);
    let Some(channel) = state.wechat_mp.get(&account) else { return unknown_account() };
    let push = match channel.receive(&query, &body) {
        Ok(push) => push,
        Err(error) => return refused(&error),
    };
    let desk = state.desk.clone();
    let inbound = push.inbound;
    let handled =
        tokio::task::spawn_blocking(move || desk.handle(&inbound, deadline, &mut |_| ())).await;
    let outcome = match handled {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            // Not stored, so not ours yet: an error makes the platform try again.
            tracing::error!(account, %error, "a message could not be accepted");
            return (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable").into_response();
        }
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response(),
    };
    let Some(text) = outcome.reply else { return passive(PassiveReply::acknowledgement()) };
    let seconds = state.clock.now() / 1000;
    let nonce = outcome.trace.as_str();
    match channel.passive_text_reply(&push.reply_address, &text, seconds, nonce) {
        Ok(reply) => passive(reply),
        Err(error) => {
            tracing::error!(account, %error, "a reply could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response()
        }
    }
}

fn refused(error: &PushError) -> Response {
    metrics::counter!("huida_pushes_refused_total", "code" => error.code()).increment(1);
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, error.code()).into_response()
}

fn unknown_account() -> Response {
    (StatusCode::NOT_FOUND, "unknown_account").into_response()
}

fn passive(reply: PassiveReply) -> Response {
    ([(header::CONTENT_TYPE, reply.content_type)], reply.body).into_response()
}
