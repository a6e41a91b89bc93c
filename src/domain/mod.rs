//! Floor 1: the words of the business as types. No IO, no models, no wire formats.

pub mod decision;
pub mod delivery;
pub mod draft;
pub mod evidence;
pub mod knowledge;
pub mod label;
pub mod message;
pub mod outgoing;
pub mod ownership;
pub mod qualification;
pub mod release;
pub mod texts;
pub mod trace;
pub mod variables;
