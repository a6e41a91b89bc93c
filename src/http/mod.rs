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
use axum::serve::ListenerExt;
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
    shutdown: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> std::io::Result<()> {
    let (told, mut heard) = tokio::sync::watch::channel(false);
    let service = router(state).into_make_service_with_connect_info::<std::net::SocketAddr>();
    // A step of a reply is a small packet: held back until the last one is acknowledged, it would come
    // 40 ms late.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small packets are held back");
        }
    });
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver lives in this function; it cannot be gone.
        let _ = told.send(true);
    });
    let overtime = async {
        let stopping = heard.wait_for(|stop| *stop).await.is_ok();
        if stopping {
            tokio::time::sleep(grace).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = overtime => {
            tracing::warn!("requests were still in work after the grace period; ending anyway");
            Ok(())
        }
    }
}
