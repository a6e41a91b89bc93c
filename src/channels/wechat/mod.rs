//! What the WeChat family shares: signatures, encryption, the push's envelope, the API's errors.
//!
//! Protocol: developers.weixin.qq.com, "message push" and "message encryption";
//! developer.work.weixin.qq.com, "callback configuration" (path 91144).

pub(super) mod account;
pub(super) mod api;
mod credentials;
pub mod crypto;
pub(super) mod custom;
pub(super) mod envelope;
pub(super) mod fields;
#[cfg(test)]
pub(super) mod fixture;
pub(super) mod inbound;
mod json;
pub(super) mod push;
mod query;
pub mod signature;
mod xml;

pub use account::PushConfig;
pub(super) use credentials::{Credentials, Secrets};
pub use query::PushQuery;
