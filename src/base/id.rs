//! The only place that makes new ids: time-ordered UUIDs (version 7) as 32 hex digits.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().simple().to_string())
            }

            /// Takes an id that came from outside or from the store.
            pub fn from_text(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// One turn's stored record.
    TraceId
);
id!(
    /// A customer's thread on one account.
    ConversationId
);
id!(
    /// An item in the human queue.
    CaseId
);
id!(
    /// What a platform knows a sent reply by; 32 characters, which is as long as kf allows.
    OutboxKey
);
id!(
    /// An anonymous visitor of the web chat, or a console session.
    SessionId
);
