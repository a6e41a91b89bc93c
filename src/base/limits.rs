//! Bounds on everything that comes from outside, in one place so that they can be reviewed together.

/// Largest HTTP request body, bytes; larger ones get 413.
pub const BODY_BYTES: usize = 1 << 20;
/// Longest customer message that is read as a question, characters; the rest is cut for matching.
pub const QUESTION_CHARS: usize = 500;
/// Messages that are fetched at once where callbacks only say that some lie ready; 微信客服 allows 1,000.
pub const PAGE_MESSAGES: usize = 100;
/// Longest passive text reply, UTF-8 bytes. Source: WECHAT practice, 2048 minus room for the ellipsis.
pub const PASSIVE_REPLY_BYTES: usize = 2_000;
/// Longest line of an imported JSONL or CSV file, bytes.
pub const IMPORT_LINE_BYTES: usize = 1 << 20;
/// Most of a message's personal data that the vault keeps, bytes before sealing; the rest is lost as
/// all of it is without a vault.
pub const PERSONAL_BYTES: usize = 8 << 10;
/// Most earlier utterances that are carried into a turn.
pub const CONTEXT_TURNS: usize = 8;
