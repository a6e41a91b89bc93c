//! Alive, ready, and the numbers.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::base::clock::Deadline;
use crate::http::state::HttpState;
use crate::model::Control;

/// The process answers.
pub(super) async fn alive() -> &'static str {
    "ok"
}

/// A real forward of the embedder and a real read of the store, within the reply deadline.
pub(super) async fn ready(State(state): State<HttpState>) -> Response {
    let deadline = Deadline::after(state.deadline);
    let checked = tokio::task::spawn_blocking(move || {
        let control = Control::with_deadline(deadline);
        state.embedder.embed_one("就绪检查", &control).map_err(|e| e.to_string())?;
        state.store.outbox_counts().map_err(|e| e.to_string())?;
        Ok::<_, String>(state.generations.current().id())
    })
    .await;
    match checked {
        Ok(Ok(generation)) => (StatusCode::OK, format!("ready {generation}")).into_response(),
        Ok(Err(reason)) => {
            tracing::warn!(reason, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response(),
    }
}

/// Prometheus text format.
pub(super) async fn metrics(State(state): State<HttpState>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, state.metrics.render()).into_response()
}
