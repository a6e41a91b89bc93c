//! Reads a JSON push body: the same fields as the XML one, with the same bounds.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fields::{Field, Fields, MAX_FIELDS};
use crate::channels::PushError;

/// The members of the outer object. Numbers become their decimal text; members that are objects,
/// arrays, booleans or null count as absent; they are skipped without recursion, however deep.
pub(super) fn parse(text: &str) -> Result<Fields, PushError> {
    const NOT_JSON: PushError = PushError::Malformed("body is not the JSON of a push");
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json.deserialize_map(FieldsVisitor).map_err(|_| NOT_JSON)?;
    json.end().map_err(|_| NOT_JSON)?;
    Ok(fields)
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        let mut members = 0;
        while let Some(name) = map.next_key::<String>()? {
            members += 1;
            if members > MAX_FIELDS {
                return Err(de::Error::custom("too many members"));
            }
            let Some(field) = Field::parse(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Scalar(Some(value)) = map.next_value()? {
                fields.insert(field, value).map_err(de::Error::custom)?;
            }
        }
        Ok(fields)
    }
}

/// A string or number as text; anything else as `None`.
struct Scalar(Option<String>);

impl<'de> de::Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar(Some(value.to_owned())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(Some(value.to_string())))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(Some(value.to_string())))
    }

    /// Integers past 64 bits arrive here rounded: two different message ids could become one.
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
        const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;
        if value.abs() >= EXACT_INTEGERS {
            return Err(E::custom("a number is out of range"));
        }
        Ok(Scalar(Some(value.to_string())))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, field: Field) -> Option<String> {
        parse(text).unwrap().get(field).map(str::to_owned)
    }

    #[test]
    fn scalars_become_text() {
        let body = r#"{"MsgId": 18446744073709551615, "CreateTime": 1714112445,
            "Content": "你\n好\u597d", "Location_X": 23.5, "Event": {"a": [1]}, "Other": [[]]}"#;
        assert_eq!(value(body, Field::MsgId).as_deref(), Some("18446744073709551615"));
        assert_eq!(value(body, Field::CreateTime).as_deref(), Some("1714112445"));
        assert_eq!(value(body, Field::Content).as_deref(), Some("你\n好好"));
        assert_eq!(value(body, Field::LocationX).as_deref(), Some("23.5"));
        assert_eq!(value(body, Field::Event), None);
    }

    #[test]
    fn deep_nesting_is_skipped() {
        let (open, close) = ("[".repeat(400_000), "]".repeat(400_000));
        let body = format!("{{\"a\":{open}{close},\"Label\":{open}{close},\"Content\":\"x\"}}");
        assert_eq!(value(&body, Field::Content).as_deref(), Some("x"));
        assert_eq!(value(&body, Field::Label), None);
    }

    #[test]
    fn broken_ambiguous_and_unbounded_bodies_are_refused() {
        let wide: String = (0..=MAX_FIELDS).map(|i| format!("\"f{i}\":0,")).collect();
        for body in [
            r#"{"Content":"a","Content":"a"}"#,
            r#"{"MsgId":18446744073709551616}"#,
            r#"{"Content":"a"} x"#,
            r#"{"Content":"a""#,
            r#"{"Content":"\ud800"}"#,
            "[]",
            "{",
            &format!("{{{wide}\"z\":0}}"),
        ] {
            assert!(matches!(parse(body), Err(PushError::Malformed(_))), "{body}");
        }
    }
}
