//! Members of JSON objects that platforms send: as text, bounded, never guessed.

use serde_json::Value;

/// Longest value that becomes part of a key, bytes.
const ID_BYTES: usize = 128;

/// A member that is text.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// The text at the end of a path of members.
pub(super) fn text_at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    let mut value = object;
    for name in path {
        value = value.get(name)?;
    }
    value.as_str()
}

/// A member that names something: text or an integer, neither empty nor long nor with control
/// characters. Integers past 64 bits are read rounded, so that they are none.
pub(super) fn id(object: &Value, name: &str) -> Option<String> {
    let text = match object.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return None;
        }
    };
    let usable = (1..=ID_BYTES).contains(&text.len()) && !text.contains(char::is_control);
    usable.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_or_whole_numbers() {
        let read = |json: &str| id(&serde_json::from_str(json).unwrap(), "a");
        assert_eq!(read(r#"{"a":" x1 "}"#).as_deref(), Some("x1"));
        assert_eq!(read(r#"{"a":18446744073709551615}"#).as_deref(), Some("18446744073709551615"));
        assert_eq!(read(r#"{"a":-7}"#).as_deref(), Some("-7"));
        for none in [
            r#"{"a":18446744073709551616}"#,
            r#"{"a":1.5}"#,
            r#"{"a":""}"#,
            r#"{"a":"x\ny"}"#,
            r#"{"a":null}"#,
            r#"{"a":["x"]}"#,
            r#"{}"#,
            &format!(r#"{{"a":"{}"}}"#, "x".repeat(129)),
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
