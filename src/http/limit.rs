//! Request bodies are bounded in size and time before any handler sees them.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;

use crate::base::limits::BODY_BYTES;

/// Read and thrown away beyond the limit: a connection cut in the middle of a body shows its
/// sender a broken pipe instead of the 413.
const DRAINED_BYTES: usize = 16 * BODY_BYTES;
/// A body that takes longer is not sent by a platform.
const BODY_TIME: Duration = Duration::from_secs(5);

pub(super) async fn bounded_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIME, read(body)).await {
        Ok(Ok(Some(bytes))) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Ok(None)) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").into_response(),
        Ok(Err(_)) => (StatusCode::BAD_REQUEST, "body_unreadable").into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "body_too_slow").into_response(),
    }
}

/// `None` for a body over the limit.
async fn read(body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut chunks = body.into_data_stream();
    let mut kept = Vec::new();
    let mut total = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        total += chunk.len();
        if total > DRAINED_BYTES {
            break;
        }
        if total <= BODY_BYTES {
            kept.extend_from_slice(&chunk);
        }
    }
    Ok((total <= BODY_BYTES).then_some(kept))
}
