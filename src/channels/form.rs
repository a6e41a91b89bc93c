//! `name=value&…` as browsers and platforms write it, in queries and form bodies.

/// Decoded pairs in their order. Bytes, not text: a form may be in another charset than UTF-8.
pub(super) fn decode(form: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |pair: &[u8]| match pair.iter().position(|&b| b == b'=') {
        Some(at) => (unescape(&pair[..at]), unescape(&pair[at + 1..])),
        None => (unescape(pair), Vec::new()),
    };
    form.split(|&b| b == b'&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// Pairs as they stand in a body or after a `?`.
pub(super) fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let encoded = pairs.into_iter().map(|(name, value)| format!("{name}={}", escape(value)));
    encoded.collect::<Vec<_>>().join("&")
}

/// RFC 3986: everything but its unreserved characters as `%XX`.
pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// `+` is a space; a `%` without two digits stands for itself, as in the WHATWG URL standard.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (byte, rest.split_first().map_or(&[][..], |(_, after)| after)),
            },
            (b'+', after) => (b' ', after),
            (byte, after) => (byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(form: &str) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        decode(form.as_bytes()).into_iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn decodes_as_browsers_encode() {
        let owned = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            pairs("a=1&&b=x+y%2B%e4%BD%A0&c"),
            [owned("a", "1"), owned("b", "x y+你"), owned("c", ""),]
        );
        assert_eq!(
            pairs("a=100%&b=%zz&c==&%"),
            [owned("a", "100%"), owned("b", "%zz"), owned("c", "="), owned("%", ""),]
        );
        assert_eq!(pairs(""), []);
        assert_eq!(decode(b"a=%C4%E3"), [(b"a".to_vec(), vec![0xC4, 0xE3])]);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(value in "\\PC{0,40}") {
            let encoded = encode([("n", value.as_str())]);
            prop_assert!(encoded.is_ascii());
            prop_assert_eq!(pairs(&encoded), [("n".to_owned(), value)]);
        }

        #[test]
        fn never_panics(form in proptest::collection::vec(any::<u8>(), 0..80)) {
            decode(&form);
        }
    }
}
