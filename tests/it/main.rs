//! The one integration binary: the service as a whole, against real weights, sockets and SQLite.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod architecture;
mod command;
mod service;
mod support;
