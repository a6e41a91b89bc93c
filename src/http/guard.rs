//! Operator pages show customers' words: only operators get in.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use crate::domain::texts::{Lang, Text};
use crate::http::pages::lang_of;
use crate::http::state::{HttpState, OperatorAccess};

/// What proxies add; a browser on this machine sends none of them.
const PROXY_HEADERS: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
];
const TOKEN_COOKIE: &str = "huida_operator";

pub(super) async fn operators_only(
    State(state): State<HttpState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if request.method() != Method::GET && !same_origin(headers) {
        return refuse(lang_of(headers, request.uri()));
    }
    match state.operators.as_ref() {
        OperatorAccess::LoopbackOnly => {
            // A proxy that adds no header still gives itself away by the old protocol version.
            let proxied = request.version() < Version::HTTP_11;
            if proxied || !is_local(peer, headers) {
                return refuse(lang_of(headers, request.uri()));
            }
            next.run(request).await
        }
        OperatorAccess::Token(expected) => {
            let expected = expected.expose_secret();
            let by_link = query_token(request.uri());
            let presented = by_link.or_else(|| bearer(headers)).or_else(|| cookie(headers));
            // An operator opens ?token=… once; the cookie carries the session from there.
            let cookie =
                by_link.map(|t| format!("{TOKEN_COOKIE}={t}; HttpOnly; SameSite=Strict; Path=/"));
            let equal =
                presented.is_some_and(|p| bool::from(p.as_bytes().ct_eq(expected.as_bytes())));
            if !equal {
                return refuse(lang_of(headers, request.uri()));
            }
            let mut response = next.run(request).await;
            if let Some(value) = cookie.and_then(|c| c.parse().ok()) {
                response.headers_mut().append(header::SET_COOKIE, value);
            }
            response
        }
    }
}

/// Someone sitting at this machine, as far as a request can tell: a rebound DNS name has a foreign
/// Host, and most proxies say that they are one. Whoever forwards more than `/channels/` to the
/// world sets `server.operator_token`.
fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    if !peer.ip().is_loopback() || PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
    });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// Browsers name the page that posts; a foreign page must not act for the operator.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let host = text(header::HOST).unwrap_or_default();
            origin.split_once("://").is_some_and(|(_, from)| from == host)
        }
    }
}

fn query_token(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    super::pages::cookie(headers, TOKEN_COOKIE)
}

fn refuse(lang: Lang) -> Response {
    (StatusCode::FORBIDDEN, Text::OperatorOnly.get(lang)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn only_a_loopback_caller_under_a_loopback_name_is_local() {
        let here: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let there: SocketAddr = "192.0.2.7:5000".parse().unwrap();
        assert!(is_local(here, &headers(&[("host", "127.0.0.1:8788")])));
        assert!(is_local(here, &headers(&[("host", "localhost")])));
        assert!(is_local(here, &headers(&[("host", "[::1]:8788")])));
        assert!(!is_local(there, &headers(&[("host", "127.0.0.1:8788")])));
        assert!(!is_local(here, &headers(&[("host", "rebound.example:8788")])));
        assert!(!is_local(
            here,
            &headers(&[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")])
        ));
        assert!(!is_local(here, &HeaderMap::new()));
    }

    #[test]
    fn a_foreign_page_cannot_post() {
        assert!(same_origin(&headers(&[("host", "localhost:1")])));
        assert!(same_origin(&headers(&[
            ("host", "localhost:1"),
            ("origin", "http://localhost:1")
        ])));
        assert!(!same_origin(&headers(&[
            ("host", "localhost:1"),
            ("origin", "http://evil.example")
        ])));
        assert!(!same_origin(&headers(&[("host", "localhost:1"), ("origin", "null")])));
    }
}
