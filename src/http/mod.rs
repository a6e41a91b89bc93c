//! Floor 5: the service on a socket. Routes, who may call them, and a clean end.

mod chat;
mod console;
mod guard;
mod health;
mod limit;
mod observe;
mod pages;
mod people;
mod personal;
mod refusals;
mod server;
mod state;
mod view;
mod webhook;

pub use pages::Pages;
pub use state::{HandoffRules, HttpState, OperatorAccess};

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Redirect;
use axum::routing::{get, post, put};
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;

/// All routes. `/channels/…` is what a proxy forwards to the platforms; the rest is for people.
pub fn router(state: HttpState) -> Router {
    let operator = Router::new()
        .route("/traces", get(console::traces))
        .route("/traces/{id}", get(console::trace))
        .route("/queue", get(console::queue))
        .route("/queue/{id}", get(console::case))
        .route("/queue/{id}/personal", post(console::personal))
        .route("/queue/{id}/{doing}", post(console::act))
        .route("/api/queue", get(people::queue))
        .route("/api/cases/{id}", get(people::case))
        .route("/api/cases/{id}/personal", get(personal::personal))
        .route("/api/cases/{id}/{doing}", post(people::act))
        .route("/api/conversations/{id}/audience", put(people::set_audience))
        .route("/api/outbox/undelivered", get(people::undelivered))
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn_with_state(state.clone(), guard::operators_only));
    let public = Router::new()
        .route("/channels/{platform}/{account}", get(webhook::verify).post(webhook::receive))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready));
    let chat = Router::new()
        .route("/", get(|| async { Redirect::to("/chat") }))
        .route("/chat", get(chat::page))
        .route("/chat/messages", post(chat::send))
        .route("/assets/{file}", get(pages::asset))
        .route_layer(from_fn_with_state(state.clone(), guard::operators_only));
    Router::new()
        .merge(public)
        .merge(chat)
        .merge(operator)
        .fallback(pages::not_found)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn(limit::bounded_body))
        .layer(from_fn(observe::log_and_count))
        .with_state(state)
}

/// Serves until `shutdown` resolves, then lets requests in work end within `grace`.
pub async fn run(
    listener: TcpListener,
    state: HttpState,
    shutdown: impl Future<Output = ()> + Send,
    grace: Duration,
) {
    server::serve(listener, router(state), shutdown, grace).await;
}
