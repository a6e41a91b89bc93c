//! Operator pages: what was decided, why, and what waits for a person.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;

use crate::base::clock::format_utc;
use crate::base::id::{CaseId, TraceId};
use crate::domain::texts::{Lang, Text};
use crate::http::pages::lang_of;
use crate::http::state::HttpState;
use crate::http::view::{TraceView, priority_text, trace_view};
use crate::store::{OpenCase, StoreError};

/// Rows on one page.
const ROWS: u32 = 100;

pub(super) async fn traces(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let store = state.store.clone();
    match blocking(move || store.recent_traces(ROWS)).await {
        Ok(found) => {
            let traces: Vec<TraceView> = found.iter().map(|t| trace_view(t, lang)).collect();
            state.pages.render(
                "traces.html",
                lang,
                "/traces",
                context! { traces => Value::from(Serde(traces)) },
            )
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

#[derive(Serialize)]
struct CaseView {
    id: String,
    opened: String,
    priority: &'static str,
    priority_text: &'static str,
    trace: TraceView,
}

pub(super) async fn queue(
    State(state): State<HttpState>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let lang = lang_of(&headers, &uri);
    let store = state.store.clone();
    match blocking(move || store.open_cases(ROWS)).await {
        Ok(open) => {
            let cases: Vec<CaseView> = open.iter().map(|case| case_view(case, lang)).collect();
            state.pages.render(
                "queue.html",
                lang,
                "/queue",
                context! { cases => Value::from(Serde(cases)) },
            )
        }
        Err(refusal) => refusal,
    }
}

fn case_view(case: &OpenCase, lang: Lang) -> CaseView {
    CaseView {
        id: case.id.to_string(),
        opened: format_utc(case.opened_at),
        priority: case.priority.as_str(),
        priority_text: priority_text(case.priority).get(lang),
        trace: trace_view(&case.trace, lang),
    }
}

/// Closing twice is closing once.
pub(super) async fn close_case(State(state): State<HttpState>, Path(id): Path<String>) -> Response {
    let (store, now) = (state.store.clone(), state.clock.now());
    let id = CaseId::from_text(id);
    match blocking(move || store.close_case(&id, now)).await {
        Ok(_) => Redirect::to("/queue").into_response(),
        Err(refusal) => refusal,
    }
}

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
