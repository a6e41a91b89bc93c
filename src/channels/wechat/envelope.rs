//! What an encrypted reply is wrapped in, and how text stands in XML.

use serde_json::json;

use crate::channels::BodyFormat;

pub(in crate::channels) struct Envelope {
    pub(in crate::channels) encrypted: String,
    pub(in crate::channels) signature: String,
    /// Seconds since the epoch.
    pub(in crate::channels) timestamp: i64,
    pub(in crate::channels) nonce: String,
}

impl Envelope {
    pub(in crate::channels) fn render(&self, format: BodyFormat) -> String {
        match format {
            BodyFormat::Xml => format!(
                "<xml><Encrypt>{}</Encrypt><MsgSignature>{}</MsgSignature>\
                 <TimeStamp>{}</TimeStamp><Nonce>{}</Nonce></xml>",
                cdata(&self.encrypted),
                cdata(&self.signature),
                self.timestamp,
                cdata(&self.nonce),
            ),
            BodyFormat::Json => json!({
                "Encrypt": self.encrypted,
                "MsgSignature": self.signature,
                "TimeStamp": self.timestamp,
                "Nonce": self.nonce,
            })
            .to_string(),
        }
    }

    /// As 企业微信's bots want it.
    pub(in crate::channels) fn render_for_bot(&self) -> String {
        json!({
            "encrypt": self.encrypted,
            "msgsignature": self.signature,
            "timestamp": self.timestamp,
            "nonce": self.nonce,
        })
        .to_string()
    }
}

/// A CDATA section that holds exactly `text`: `]]>` is split over two sections.
pub(in crate::channels) fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cdata_cannot_be_closed_from_inside() {
        assert_eq!(cdata("a]]>b"), "<![CDATA[a]]]]><![CDATA[>b]]>");
        assert_eq!(cdata("]]"), "<![CDATA[]]]]>");
    }
}
