//! Floor 4: the message's way, one step a file. Blocking; async callers use a blocking thread.
//!
//! [`desk`] takes a message in and remembers it, [`responder`] walks the steps, [`generations`]
//! holds the knowledge that answers, [`delivery`] sends what the desk decided.

pub mod accounts;
pub mod adapt;
pub mod ask;
pub mod challenge;
pub mod delivery;
pub mod desk;
pub mod draft;
pub mod embedding;
pub mod fit;
pub mod follower;
pub mod gaps;
pub mod generation;
pub mod generations;
pub mod health;
pub mod observe;
pub mod personal;
pub mod propose;
pub mod ranking;
pub mod responder;
pub mod retrieve;
mod seal;
pub mod to_label;
pub mod turns;
pub mod waiting;
pub mod watch;
