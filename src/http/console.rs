//! Operator pages: what was decided, why, and what waits for a person.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;

use crate::base::clock::format_local;
use crate::base::id::{CaseId, TraceId};
use crate::domain::texts::{Lang, Text};
use crate::http::pages::lang_of;
use crate::http::state::HttpState;
use crate::http::view::{TraceView, priority_text, trace_view};
use crate::store::queue::{Act, OpenCase};
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
    let now = state.clock.now();
    list(&state, lang_of(&headers, &uri), "queue", move |store, lang| {
        let open = store.open_cases(ROWS, now)?;
        Ok(open.iter().map(|case| case_view(case, lang)).collect::<Vec<_>>())
    })
    .await
}

fn case_view(case: &OpenCase, lang: Lang) -> CaseView {
    CaseView {
        id: case.id.to_string(),
        opened: format_local(case.opened_at),
        priority: case.priority.as_str(),
        priority_text: priority_text(case.priority).get(lang),
        trace: trace_view(&case.trace, lang),
    }
}

/// Closing twice is closing once.
pub(super) async fn close_case(State(state): State<HttpState>, Path(id): Path<String>) -> Response {
    let (store, now) = (state.store.clone(), state.clock.now());
    let id = CaseId::from_text(id);
    match blocking(move || {
        store.act(&id, &Act::Resolve { operator: "operator".into(), survey: None }, now)
    })
    .await
    {
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
