//! What comes in: a message of a customer on an account of a platform.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::clock::UnixMs;
use crate::domain::knowledge::words;

words!(
    /// Where a message came in; the words are part of callback addresses and of the configuration.
    Platform {
        /// 公众号.
        WechatMp = "wechat-mp",
        /// 小程序客服.
        WechatMini = "wechat-mini",
        /// An app or a bot of 企业微信.
        Wecom = "wecom",
        /// 微信客服.
        WechatKf = "wechat-kf",
        /// 视频号 and 微信小店客服.
        WechatShop = "wechat-shop",
        /// 支付宝生活号.
        Alipay = "alipay",
        /// 抖音.
        Douyin = "douyin",
        /// Anything else that speaks our own signed JSON.
        Webhook = "webhook",
        Web = "web",
        Cli = "cli",
    }
);
words!(
    /// Who said something.
    Role { Customer = "customer", Agent = "agent" }
);

/// The operator's name for one bound channel account (`mp-main`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountName(pub String);

impl AccountName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing said in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Utterance {
    pub role: Role,
    pub text: String,
}

/// What a message carries, as far as a reply needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "body")]
pub enum Content {
    Text(String),
    /// An item of a menu that was sent earlier was tapped; `text` is what it said.
    Choice {
        id: String,
        text: String,
    },
    /// Speech with the platform's own transcript.
    Voice {
        transcript: Option<String>,
    },
    /// An attachment that only a person can judge: `image`, `video`, `location`, `link`, `file`.
    Attachment {
        what: String,
        reference: Option<String>,
    },
    /// The platform tells of something: `subscribe`, `unsubscribe`, `CLICK` …
    Event {
        name: String,
        key: Option<String>,
    },
    /// A type that this build does not know; kept and handed over.
    Unknown {
        what: String,
    },
}

impl Content {
    /// The name of what the platform tells of; `None` for everything that a customer says.
    pub fn event(&self) -> Option<&str> {
        match self {
            Self::Event { name, .. } => Some(name),
            Self::Text(_)
            | Self::Choice { .. }
            | Self::Voice { .. }
            | Self::Attachment { .. }
            | Self::Unknown { .. } => None,
        }
    }
}

/// A verified, decrypted, parsed message, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    pub platform: Platform,
    pub account: AccountName,
    /// The platform's id of the customer (OpenID, chat session).
    pub sender: String,
    /// What makes a retry recognisable together with account and sender:
    /// `msg:<MsgId>`, or `event:<CreateTime>:<name>` where the platform gives no id.
    pub dedupe_key: String,
    /// Time stated by the platform.
    pub sent_at: UnixMs,
    pub content: Content,
}
