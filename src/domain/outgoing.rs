//! What goes out: something for a customer, where it goes, and the key that makes it go once.

use serde::{Deserialize, Serialize};

/// Where a customer can be reached; with the account's settings it is all that a send needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The platform's id of the customer.
    pub customer: String,
    /// The thread on platforms that have several with one customer: 微信客服's `open_kfid`, Douyin's
    /// `conversation_short_id`.
    #[serde(default)]
    pub thread: Option<String>,
    /// The message that is answered, where the platform wants it named: Douyin's
    /// `server_message_id`.
    #[serde(default)]
    pub message: Option<String>,
    /// What an event brought to answer it with, once and soon: 微信客服's `welcome_code`, `msg_code`.
    #[serde(default)]
    pub code: Option<String>,
}

impl Target {
    pub fn customer(customer: impl Into<String>) -> Self {
        Self { customer: customer.into(), thread: None, message: None, code: None }
    }
}

/// Something that is sent, or done, to a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "body")]
pub enum Outgoing {
    Text(String),
    Menu(Menu),
    /// Shows, or no longer shows, that someone is writing.
    Typing {
        on: bool,
    },
    /// Said by the code of an event (see [`Target::code`]): a welcome, a survey after the end.
    OnEvent {
        code: String,
        menu: Menu,
    },
    /// From now on the platform's own desk has the customer.
    Transfer,
}

impl Outgoing {
    /// What is said, where it is nothing but words.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Menu(menu) if menu.items.is_empty() => Some(&menu.head),
            Self::Menu(_) | Self::Typing { .. } | Self::OnEvent { .. } | Self::Transfer => None,
        }
    }
}

/// A text with choices; the customer's tap comes back with the item's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Menu {
    pub head: String,
    /// Without any, the menu is its head: a text.
    pub items: Vec<MenuItem>,
    pub tail: String,
}

impl Menu {
    pub fn text(head: impl Into<String>) -> Self {
        Self { head: head.into(), items: Vec::new(), tail: String::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MenuItem {
    pub id: String,
    pub text: String,
}

/// Names one send, so that platforms that look at it deliver a repeated one once. At most 32 of
/// `0-9 a-z A-Z _ -`, as 微信客服 wants its `msgid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

/// A key with characters, or of a length, that some platform does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 32 of 0-9 a-z A-Z _ -")]
pub struct BadKey;

impl IdempotencyKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = BadKey;

    fn try_from(key: String) -> Result<Self, BadKey> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=32).contains(&key.len()) && key.bytes().all(allowed) {
            Ok(Self(key))
        } else {
            Err(BadKey)
        }
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::TraceId;

    #[test]
    fn a_key_is_what_every_platform_takes() {
        let key = |text: &str| IdempotencyKey::try_from(text.to_owned());
        assert!(key(TraceId::generate().as_str()).is_ok());
        assert_eq!(key("a_B-9").unwrap().as_str(), "a_B-9");
        for wrong in ["", "a b", "钥匙", "a/b", &"x".repeat(33)] {
            assert_eq!(key(wrong), Err(BadKey), "{wrong}");
        }
        assert!(serde_json::from_str::<IdempotencyKey>("\"a b\"").is_err());
    }

    #[test]
    fn what_was_stored_is_read_again() {
        let item = MenuItem { id: "1".into(), text: "满意".into() };
        let menu = Menu { items: vec![item], ..Menu::text("您满意吗？") };
        assert_eq!(Outgoing::Menu(menu.clone()).words(), None);
        assert_eq!(Outgoing::Menu(Menu::text("您满意吗？")).words(), Some("您满意吗？"));
        for outgoing in [
            Outgoing::Text("你好".into()),
            Outgoing::Menu(menu.clone()),
            Outgoing::Typing { on: true },
            Outgoing::OnEvent { code: "c".into(), menu },
            Outgoing::Transfer,
        ] {
            let stored = serde_json::to_string(&outgoing).unwrap();
            assert_eq!(serde_json::from_str::<Outgoing>(&stored).unwrap(), outgoing);
        }
        let bare: Target = serde_json::from_str(r#"{"customer":"o1"}"#).unwrap();
        assert_eq!(bare, Target::customer("o1"));
    }
}
