//! The one integration binary: the service as a whole, against real weights, sockets and SQLite.

mod architecture;
mod command;
mod service;
mod support;
