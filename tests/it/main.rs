//! The one integration binary: the service as a whole, against real weights, sockets and SQLite.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod architecture;
mod attack;
mod command;
mod delivery;
mod documents;
mod failures;
mod governance;
// Release builds have no moments to be killed at.
#[cfg(debug_assertions)]
mod killed;
mod knowledge;
mod learning;
mod platforms;
mod remote;
mod service;
mod support;
mod upkeep;
mod vault;
mod vectors;
