//! Each request leaves one log line and one count, by route template and never by its text.

use std::any::Any;

use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::base::clock::Stopwatch;

pub(super) async fn log_and_count(request: Request, next: Next) -> Response {
    let watch = Stopwatch::start();
    let method = request.method().clone();
    // The template, not the address: addresses carry signatures and unbounded names.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "<unmatched>".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let ms = watch.ms();
    tracing::info!(%method, route, status, ms, "request");
    metrics::counter!("huida_http_requests_total", "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("huida_http_request_seconds", "route" => route).record(ms / 1e3);
    response
}

/// A panic ends one request. Its text may hold a customer's words, so only its size is logged.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let chars = panic
        .downcast_ref::<String>()
        .map(String::len)
        .or_else(|| panic.downcast_ref::<&str>().map(|s| s.len()));
    tracing::error!(?chars, "a request panicked");
    metrics::counter!("huida_panics_total").increment(1);
    (StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response()
}
