//! The chat page: a web visitor's conversation, with every decision beside it as it is made.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use minijinja::context;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::base::clock::Deadline;
use crate::base::id::SessionId;
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::texts::Lang;
use crate::http::pages::{LANG_COOKIE, cookie, lang_of};
use crate::http::state::HttpState;
use crate::http::view::{step_text, trace_view};
use crate::model::Control;
use crate::pipeline::desk::Progress;

const SESSION_COOKIE: &str = "huida_visitor";
/// The account under which web conversations are kept.
const ACCOUNT: &str = "web";
/// A page shows every step as it ends, so its visitor can wait longer than WeChat does; this leaves
/// room to compose.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ids are 32 hex digits or a browser's 36-character UUID.
const ID_CHARS: usize = 36;

pub(super) async fn page(State(state): State<HttpState>, headers: HeaderMap, uri: Uri) -> Response {
    let lang = lang_of(&headers, &uri);
    let serving = state.generations.current();
    let promise = serving.generation.promise();
    let data = context! {
        promised => promise.promised,
        changed => serving.knowledge.changed(),
        labelled => promise.labelled,
        made_up => promise.made_up > 0,
        tightened => state.generations.tightened().is_some(),
        alpha => format!("{:.1}%", promise.alpha * 100.0),
    };
    let mut response = state.pages.render("chat.html", lang, "/chat", data);
    let mut cookies = vec![format!("{LANG_COOKIE}={}; SameSite=Strict; Path=/", lang.as_str())];
    if visitor(&headers).is_none() {
        let id = SessionId::generate();
        cookies.push(format!("{SESSION_COOKIE}={id}; HttpOnly; SameSite=Strict; Path=/"));
    }
    for value in cookies.iter().filter_map(|c| c.parse().ok()) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

#[derive(Deserialize)]
pub(super) struct Said {
    text: String,
    /// Made by the page, so that a send that is tried again is still one message.
    id: String,
}

/// Answers with an event stream: `step` as each step ends, then `reply` or `failed`.
pub(super) async fn send(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
    Json(said): Json<Said>,
) -> Response {
    let Some(visitor) = visitor(&headers) else {
        return (StatusCode::BAD_REQUEST, "no_session").into_response();
    };
    if !is_id(&said.id) {
        return (StatusCode::BAD_REQUEST, "bad_id").into_response();
    }
    let inbound = Inbound {
        platform: Platform::Web,
        account: AccountName(ACCOUNT.into()),
        sender: visitor.to_owned(),
        dedupe_key: format!("msg:{}", said.id),
        sent_at: state.clock.now(),
        content: Content::Text(said.text),
    };
    let lang = lang_of(&headers, &uri);
    let (events, stream) = channel(32);
    let composing = Control::default();
    let stream = shown(stream, Page(composing.clone()));
    tokio::task::spawn_blocking(move || answer(&state, &inbound, lang, &composing, &events));
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

type Shown = Result<Event, Infallible>;
type Events = Sender<Shown>;

/// A page that waits for its reply; once it is closed nothing is composed for it.
struct Page(Control);

impl Drop for Page {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What the page is sent. The page is dropped with the stream, which is dropped with the connection.
fn shown(events: Receiver<Shown>, page: Page) -> impl Stream<Item = Shown> + use<> {
    ReceiverStream::new(events).map(move |event| {
        let _ = &page;
        event
    })
}

fn answer(state: &HttpState, inbound: &Inbound, lang: Lang, composing: &Control, events: &Events) {
    let emit = |name: &str, data: serde_json::Value| {
        // The visitor may have closed the page; the turn is recorded all the same.
        let _ = events.blocking_send(Ok(Event::default().event(name).data(data.to_string())));
    };
    let deadline = Deadline::after(state.deadline.max(PATIENCE));
    let mut observe = |progress: &Progress| {
        let step = step_text(progress.step, lang).unwrap_or(progress.step);
        emit("step", json!({ "step": step, "ms": progress.ms }));
    };
    let handled = state.desk.handle_while(inbound, deadline, composing, &mut observe);
    let trace = handled.and_then(|outcome| Ok((outcome.reply, state.store.trace(&outcome.trace)?)));
    match trace {
        Ok((reply, Some(trace))) => {
            emit("reply", json!({ "text": reply, "trace": trace_view(&trace, lang) }));
        }
        Ok((_, None)) => emit("failed", json!({})),
        Err(error) => {
            tracing::error!(%error, "a chat message could not be handled");
            emit("failed", json!({}));
        }
    }
}

fn visitor(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, SESSION_COOKIE).filter(|id| is_id(id))
}

fn is_id(text: &str) -> bool {
    (16..=ID_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_page_ends_its_composing() {
        let composing = Control::default();
        let (_events, stream) = channel(1);
        let stream = shown(stream, Page(composing.clone()));
        assert!(composing.check().is_ok());
        drop(stream);
        assert!(composing.check().is_err());
    }
}
