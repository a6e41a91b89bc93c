//! The query parameters with which the WeChat family signs its callbacks.

use serde::{Deserialize, Serialize};

use crate::channels::{PushError, form};

/// Query parameters of a callback, as the platform names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushQuery {
    pub signature: Option<String>,
    pub msg_signature: Option<String>,
    pub timestamp: Option<String>,
    pub nonce: Option<String>,
    pub encrypt_type: Option<String>,
    pub echostr: Option<String>,
}

impl PushQuery {
    /// Reads what stands after the `?`. A parameter that comes twice is refused rather than chosen
    /// from; others than these are passed over.
    pub fn parse(query: &str) -> Result<Self, PushError> {
        let mut parsed = Self::default();
        for (name, value) in form::decode(query.as_bytes()) {
            let parameter = match name.as_slice() {
                b"signature" => &mut parsed.signature,
                b"msg_signature" => &mut parsed.msg_signature,
                b"timestamp" => &mut parsed.timestamp,
                b"nonce" => &mut parsed.nonce,
                b"encrypt_type" => &mut parsed.encrypt_type,
                b"echostr" => &mut parsed.echostr,
                _ => continue,
            };
            let value = String::from_utf8(value)
                .map_err(|_| PushError::Malformed("a parameter is not UTF-8"))?;
            if parameter.replace(value).is_some() {
                return Err(PushError::Malformed("a parameter comes twice"));
            }
        }
        Ok(parsed)
    }

    /// The query as it stands after the `?`, percent-encoded.
    pub fn to_query_string(&self) -> String {
        let parameters = [
            ("signature", &self.signature),
            ("echostr", &self.echostr),
            ("timestamp", &self.timestamp),
            ("nonce", &self.nonce),
            ("encrypt_type", &self.encrypt_type),
            ("msg_signature", &self.msg_signature),
        ];
        form::encode(
            parameters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let query = PushQuery {
            signature: Some("a1".into()),
            timestamp: Some("1".into()),
            echostr: Some("a+/= 你".into()),
            ..PushQuery::default()
        };
        assert_eq!(PushQuery::parse(&query.to_query_string()), Ok(query));
        assert_eq!(PushQuery::parse("openid=o1&x"), Ok(PushQuery::default()));
        let twice = PushQuery::parse("nonce=1&nonce=2");
        assert_eq!(twice, Err(PushError::Malformed("a parameter comes twice")));
        let latin = PushQuery::parse("nonce=%FF");
        assert_eq!(latin, Err(PushError::Malformed("a parameter is not UTF-8")));
    }
}
