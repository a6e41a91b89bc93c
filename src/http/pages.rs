//! Pages and their assets, compiled in: no network and no build step beside cargo.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use minijinja::{Environment, Value, context};

use crate::domain::texts::{Lang, Text};

const TEMPLATES: [(&str, &str); 6] = [
    ("base.html", include_str!("pages/base.html")),
    ("chat.html", include_str!("pages/chat.html")),
    ("traces.html", include_str!("pages/traces.html")),
    ("trace.html", include_str!("pages/trace.html")),
    ("queue.html", include_str!("pages/queue.html")),
    ("case.html", include_str!("pages/case.html")),
];

/// Nothing is loaded from elsewhere and no inline script runs.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub struct Pages {
    templates: Environment<'static>,
}

impl Pages {
    /// Parses the templates.
    pub fn new() -> Result<Self, minijinja::Error> {
        let mut templates = Environment::new();
        for (name, source) in TEMPLATES {
            templates.add_template(name, source)?;
        }
        Ok(Self { templates })
    }

    /// `path` is where the language switch leads back to.
    pub(super) fn render(&self, name: &str, lang: Lang, path: &str, data: Value) -> Response {
        let texts = Value::from_pairs(Text::ALL.iter().map(|t| (t.name(), t.get(lang))));
        let other = match lang {
            Lang::Zh => Lang::En,
            Lang::En => Lang::Zh,
        };
        let page =
            context! { t => texts, lang => lang.as_str(), other => other.as_str(), path, ..data };
        let rendered = self.templates.get_template(name).and_then(|t| t.render(page));
        match rendered {
            Ok(html) => {
                let headers = [
                    (header::CONTENT_SECURITY_POLICY, POLICY),
                    // `no-referrer` would make browsers post this page's own forms with `Origin: null`.
                    (header::REFERRER_POLICY, "same-origin"),
                    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                    (header::CACHE_CONTROL, "no-store"),
                ];
                (headers, Html(html)).into_response()
            }
            Err(error) => {
                tracing::error!(name, %error, "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal_error").into_response()
            }
        }
    }
}

/// `?lang=` wins, then the cookie it left, then the browser's wish; Chinese otherwise.
pub(super) fn lang_of(headers: &HeaderMap, uri: &Uri) -> Lang {
    let asked = uri.query().unwrap_or_default().split('&').find_map(|p| p.strip_prefix("lang="));
    let wished = || headers.get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok());
    Lang::from_tag(asked.or_else(|| cookie(headers, LANG_COOKIE)).or_else(wished).unwrap_or("zh"))
}

pub(super) const LANG_COOKIE: &str = "huida_lang";

pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get_all(header::COOKIE).iter().find_map(|line| {
        let mut pairs = line.to_str().ok()?.split(';').filter_map(|p| p.trim().split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    })
}

/// The style sheet and the pages' scripts.
pub(super) async fn asset(Path(file): Path<String>) -> Response {
    let (kind, body) = match file.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("pages/style.css")),
        "chat.js" => ("text/javascript; charset=utf-8", include_str!("pages/chat.js")),
        "live.js" => ("text/javascript; charset=utf-8", include_str!("pages/live.js")),
        _ => return (StatusCode::NOT_FOUND, "not found").into_response(),
    };
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], body).into_response()
}

pub(super) async fn not_found(headers: HeaderMap, uri: Uri) -> Response {
    (StatusCode::NOT_FOUND, Text::NotFound.get(lang_of(&headers, &uri))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_by_query_cookie_and_wish() {
        let uri: Uri = "/chat?lang=en".parse().unwrap();
        assert_eq!(lang_of(&HeaderMap::new(), &uri), Lang::En);
        let plain: Uri = "/chat".parse().unwrap();
        assert_eq!(lang_of(&HeaderMap::new(), &plain), Lang::Zh);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, "en-GB,en;q=0.9".parse().unwrap());
        assert_eq!(lang_of(&headers, &plain), Lang::En);
        headers.insert(header::COOKIE, "a=b; huida_lang=zh".parse().unwrap());
        assert_eq!(lang_of(&headers, &plain), Lang::Zh);
    }
}
