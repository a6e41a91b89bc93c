//! The family's API: tokens, and the codes with which it refuses.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::channels::{ApiFailure, ApiRequest, ApiResponse, FailureClass, Refresh, Token, form};

/// What a code means where the platforms agree; each adds its own.
pub(in crate::channels) fn class(code: i64) -> FailureClass {
    match code {
        // Busy; too frequent; too many at once.
        -1 | 45_011 | 45_033 => FailureClass::Retry,
        // The token is wrong, missing or expired.
        40_001 | 40_014 | 41_001 | 42_001 => FailureClass::RefreshToken,
        // More than 48 hours, or 30 seconds for typing, since the customer's last act.
        45_015 | 45_080 | 95_002 => FailureClass::WindowClosed,
        // As many as the window allows were sent; the day's calls are used up.
        45_047 | 45_009 | 95_001 => FailureClass::QuotaUsed,
        // The session has ended; its state does not allow this.
        95_013 | 95_018 => FailureClass::WrongState,
        _ => FailureClass::GiveUp,
    }
}

/// The same for 企业微信, whose 45009 counts calls per minute.
pub(in crate::channels) fn corp_class(code: i64) -> FailureClass {
    if code == 45_009 { FailureClass::Retry } else { class(code) }
}

/// The object of an answer whose `errcode` is 0 or absent; else the failure.
pub(in crate::channels) fn read(response: &ApiResponse) -> Result<Value, ApiFailure> {
    read_with(response, class)
}

pub(in crate::channels) fn read_with(
    response: &ApiResponse,
    class: fn(i64) -> FailureClass,
) -> Result<Value, ApiFailure> {
    let answer = response.json()?;
    match answer.get("errcode") {
        None => Ok(answer),
        Some(code) => match code.as_i64() {
            Some(0) => Ok(answer),
            Some(code) => Err(ApiFailure { class: class(code), code }),
            None => Err(ApiFailure::BROKEN),
        },
    }
}

/// `stable_token`: asking again neither kills the present token nor gives another one, unless it
/// is forced.
pub(in crate::channels) fn stable_token_request(
    api_base: &str,
    app_id: &str,
    app_secret: &SecretString,
    how: Refresh,
) -> ApiRequest {
    let body = json!({
        "grant_type": "client_credential",
        "appid": app_id,
        "secret": app_secret.expose_secret(),
        "force_refresh": how == Refresh::Forced,
    });
    ApiRequest::post_json(format!("{api_base}/cgi-bin/stable_token"), &body)
}

/// 企业微信's token, which is the same one until it expires.
pub(in crate::channels) fn corp_token_request(
    api_base: &str,
    corp_id: &str,
    secret: &SecretString,
) -> ApiRequest {
    let query = form::encode([("corpid", corp_id), ("corpsecret", secret.expose_secret())]);
    ApiRequest::get(format!("{api_base}/cgi-bin/gettoken?{query}"))
}

/// `{access_token, expires_in}`.
pub(in crate::channels) fn read_token(response: &ApiResponse) -> Result<Token, ApiFailure> {
    let answer = read(response)?;
    let value = answer.get("access_token").and_then(Value::as_str).filter(|v| !v.is_empty());
    let seconds = answer.get("expires_in").and_then(Value::as_u64);
    match (value, seconds) {
        (Some(value), Some(seconds)) => Ok(Token::new(value, seconds)),
        _ => Err(ApiFailure::BROKEN),
    }
}

/// An address of the API with the token in its query.
pub(in crate::channels) fn url(api_base: &str, path: &str, token: &Token) -> String {
    format!("{api_base}{path}?{}", form::encode([("access_token", token.expose())]))
}

/// A temporary media file by its id.
pub(in crate::channels) fn media_request(
    api_base: &str,
    media_id: &str,
    token: &Token,
) -> ApiRequest {
    let query = form::encode([("access_token", token.expose()), ("media_id", media_id)]);
    ApiRequest::get(format!("{api_base}/cgi-bin/media/get?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> ApiResponse {
        ApiResponse { status: 200, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn codes_say_what_to_do() {
        use FailureClass::{GiveUp, QuotaUsed, RefreshToken, Retry, WindowClosed, WrongState};
        for (code, expected) in [
            (-1, Retry),
            (40_001, RefreshToken),
            (40_003, GiveUp),
            (40_013, GiveUp),
            (40_014, RefreshToken),
            (40_164, GiveUp),
            (41_001, RefreshToken),
            (42_001, RefreshToken),
            (43_004, GiveUp),
            (43_019, GiveUp),
            (44_004, GiveUp),
            (45_002, GiveUp),
            (45_009, QuotaUsed),
            (45_011, Retry),
            (45_015, WindowClosed),
            (45_047, QuotaUsed),
            (45_072, GiveUp),
            (45_080, WindowClosed),
            (45_081, GiveUp),
            (47_001, GiveUp),
            (48_001, GiveUp),
            (48_002, GiveUp),
            (48_004, GiveUp),
            (50_002, GiveUp),
            (61_451, GiveUp),
            (65_400, GiveUp),
            (87_014, GiveUp),
            (95_000, GiveUp),
            (95_001, QuotaUsed),
            (95_002, WindowClosed),
            (95_013, WrongState),
            (95_018, WrongState),
            (40_201, GiveUp),
        ] {
            let response = answer(&format!("{{\"errcode\":{code},\"errmsg\":\"x\"}}"));
            assert_eq!(read(&response), Err(ApiFailure { class: expected, code }));
        }
        assert!(read(&answer("{\"errcode\":0}")).is_ok());
        assert_eq!(read(&answer("{\"errcode\":\"0\"}")), Err(ApiFailure::BROKEN));
    }

    #[test]
    fn tokens_are_asked_for_and_read() {
        let secret = SecretString::from("s");
        let request = stable_token_request("https://a", "wx1", &secret, Refresh::Forced);
        assert_eq!(request.url, "https://a/cgi-bin/stable_token");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            body,
            json!({
                "grant_type": "client_credential", "appid": "wx1", "secret": "s", "force_refresh": true
            })
        );
        let request = corp_token_request("https://a", "ww 1", &secret);
        assert_eq!(request.url, "https://a/cgi-bin/gettoken?corpid=ww%201&corpsecret=s");

        let token = read_token(&answer("{\"access_token\":\"T\",\"expires_in\":7200}")).unwrap();
        assert_eq!((token.expose(), token.lifetime.as_secs()), ("T", 7_200));
        for broken in ["{}", "{\"access_token\":\"\",\"expires_in\":1}", "{\"access_token\":\"T\"}"]
        {
            assert_eq!(read_token(&answer(broken)).unwrap_err(), ApiFailure::BROKEN);
        }
        assert_eq!(url("https://a", "/x", &token), "https://a/x?access_token=T");
    }
}
