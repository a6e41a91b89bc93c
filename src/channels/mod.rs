//! Platform protocols as pure functions over bytes: no sockets, no clock, no storage.

pub mod wechat_mp;
