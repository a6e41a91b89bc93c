//! Operator pages: what was decided, why, and what waits for a person.

use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;

use crate::base::id::{CaseId, OutboxKey, TraceId};
use crate::domain::texts::{Lang, Text};
use crate::http::pages::{cookie, lang_of};
use crate::http::people::{self, ByWhom, Doing, Failed};
use crate::http::personal::{PersonalView, personal_of};
use crate::http::state::HttpState;
use crate::http::view::trace_view;
use crate::store::{Store, StoreError};

/// Rows on one page.
const ROWS: u32 = 100;

pub(super) async fn traces(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    list(&state, lang_of(&headers, &uri), "traces", |store, lang| {
        let found = store.recent_traces(ROWS)?;
        Ok(found.iter().map(|t| trace_view(t, lang)).collect::<Vec<_>>())
    })
    .await
}

/// Reads rows and shows them on the page of the same name, under that name.
async fn list<T: Serialize + Send + 'static>(
    state: &HttpState,
    lang: Lang,
    name: &'static str,
    read: impl FnOnce(&dyn Store, Lang) -> Result<Vec<T>, StoreError> + Send + 'static,
) -> Response {
    let store = state.store.clone();
    match blocking(move || read(store.as_ref(), lang)).await {
        Ok(rows) => {
            let rows = Value::from_pairs([(name, Value::from(Serde(rows)))]);
            state.pages.render(&format!("{name}.html"), lang, &format!("/{name}"), rows)
        }
        Err(refusal) => refusal,
    }
}

pub(super) async fn trace(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let store = state.store.clone();
    let id = TraceId::from_text(id);
    match blocking(move || store.trace(&id)).await {
        Ok(Some(trace)) => {
            let data = context! { trace => Value::from(Serde(trace_view(&trace, lang))) };
            state.pages.render("trace.html", lang, uri.path(), data)
        }
        Ok(None) => (StatusCode::NOT_FOUND, Text::NotFound.get(lang)).into_response(),
        Err(refusal) => refusal,
    }
}

/// Cases by priority, and what did not reach its customer.
pub(super) async fn queue(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let reading = state.clone();
    let read = move || Ok((people::queue_of(&reading, lang)?, people::undelivered_of(&reading)?));
    match people::blocking(read).await {
        Ok((cases, undelivered)) => {
            let data = context! {
                cases => Value::from(Serde(cases)),
                undelivered => Value::from(Serde(undelivered)),
                operator => operator(&headers),
            };
            state.pages.render("queue.html", lang, "/queue", data)
        }
        Err(failed) => (failed.status(), failed.text().get(lang)).into_response(),
    }
}

/// One case with all that the person who takes over needs.
pub(super) async fn case(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    show(&state, &id, lang, operator(&headers), Ok(None)).await
}

/// `asked`: what was asked for besides, or why that was not done.
async fn show(
    state: &HttpState,
    id: &str,
    lang: Lang,
    operator: String,
    asked: Result<Option<PersonalView>, Failed>,
) -> Response {
    let (personal, failed) = match asked {
        Ok(personal) => (personal, None),
        Err(failed) => (None, Some(failed)),
    };
    let reading = state.clone();
    let case = CaseId::from_text(id);
    match people::blocking(move || Ok(people::package_of(&reading, &case, lang)?)).await {
        Ok(package) => {
            let data = context! {
                package => Value::from(Serde(package)),
                operator,
                // One for each showing: clicked twice, a reply goes out once.
                key => OutboxKey::generate().as_str(),
                personal => Value::from(Serde(personal)),
                failed => failed.as_ref().map(|failed| failed.text().get(lang)),
            };
            let mut page = state.pages.render("case.html", lang, &format!("/queue/{id}"), data);
            if let Some(failed) = failed {
                *page.status_mut() = failed.status();
            }
            page
        }
        Err(failed) => (failed.status(), failed.text().get(lang)).into_response(),
    }
}

/// A form of the case's page; the name is kept for the next one.
pub(super) async fn act(
    State(state): State<HttpState>,
    Path((id, doing)): Path<(String, Doing)>,
    headers: HeaderMap,
    uri: Uri,
    Form(by): Form<ByWhom>,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let name = by.operator.trim().to_owned();
    let (acting, case) = (state.clone(), CaseId::from_text(&id));
    let done = people::blocking(move || people::perform(&acting, &case, doing, &by)).await;
    let mut response = match done {
        Ok(_) if doing == Doing::Resolve => Redirect::to("/queue").into_response(),
        Ok(_) => Redirect::to(&format!("/queue/{id}")).into_response(),
        Err(failed) => show(&state, &id, lang, name.clone(), Err(failed)).await,
    };
    remember(&mut response, &name);
    response
}

/// The case's page with what was masked.
pub(super) async fn personal(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    Form(by): Form<ByWhom>,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let name = by.operator.trim().to_owned();
    let (reading, case) = (state.clone(), CaseId::from_text(&id));
    let asked = people::blocking(move || personal_of(&reading, &case, &by)).await;
    let mut response = show(&state, &id, lang, name.clone(), asked.map(Some)).await;
    remember(&mut response, &name);
    response
}

/// Puts the name into the next form.
fn remember(response: &mut Response, name: &str) {
    let encoded: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let cookie = format!("{NAME_COOKIE}={encoded}; HttpOnly; SameSite=Strict; Path=/queue");
    if let Ok(value) = cookie.parse() {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// The name under which this browser last did something, in hexadecimal: it may be Chinese.
fn operator(headers: &HeaderMap) -> String {
    let hex = cookie(headers, NAME_COOKIE).unwrap_or_default().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = hex.chunks(2).map(byte).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

const NAME_COOKIE: &str = "huida_name";

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Response> {
    let refusal = |status: StatusCode, code: &'static str| (status, code).into_response();
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::error!(%error, "the store could not be read");
            Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"))
        }
        Err(_) => Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")),
    }
}
