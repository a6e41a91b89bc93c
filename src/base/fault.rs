//! Named moments at which a test can kill the process; release builds have none. What was written
//! by then is kept by the kernel, so that this is not the test of a power cut.

/// A moment between two writes. What lies on disk then must be the old state or the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entries of an import are written, their audit line is not.
    ImportHalfWritten,
    /// An earlier version is written as the newest, its audit line is not.
    RolledBackHalf,
    /// A group of writes is about to be committed.
    StoreUncommitted,
    /// A group of writes is committed; nobody has been told.
    StoreCommitted,
    /// A message is written; its work is not.
    AcceptedHalf,
    /// A message and its work are committed; nobody has begun.
    AcceptedUndecided,
    /// A decision and its case are written; the work is still open and the reply is not there.
    DecidedHalf,
    /// Decision and reply are committed; nothing has left.
    DecidedUnsent,
    /// A reply stood in the answer to a callback; the outbox does not know that it left.
    RepliedUnconfirmed,
    /// A reply is marked as being sent; that is not committed.
    SendUncommitted,
    /// That is committed; nothing has left.
    BegunUnsent,
    /// The platform was asked to deliver a reply; its answer is not recorded.
    SentUnrecorded,
    /// A fetched page's messages are written; its cursor is not.
    PageHalf,
    /// What a person did is written with its audit line; nothing is committed.
    ActUncommitted,
    BuiltPhrasingVectors,
    BuiltPhrasingText,
    BuiltAnswerVectors,
    BuiltAnswerText,
    BuiltEntries,
    BuiltIndex,
    BuiltHead,
    BuiltGate,
    BuiltSeal,
    /// The generation lies complete under its working name.
    PublishUnnamed,
    /// It has its own name; `CURRENT` still names the previous one.
    PublishUnnoticed,
    /// `CURRENT` names it; old generations are not pruned yet.
    PublishSwitched,
}

/// Names the moment at which to end, as [`Fault`] writes itself with `{:?}`.
pub const VARIABLE: &str = "HUIDA_FAULT";

impl Fault {
    pub const IMPORT: [Self; 3] =
        [Self::ImportHalfWritten, Self::StoreUncommitted, Self::StoreCommitted];

    pub const ROLL_BACK: [Self; 3] =
        [Self::RolledBackHalf, Self::StoreUncommitted, Self::StoreCommitted];

    /// From a message's acceptance to its reply's arrival, where replies are sent.
    pub const DELIVER: [Self; 7] = [
        Self::AcceptedHalf,
        Self::AcceptedUndecided,
        Self::DecidedHalf,
        Self::DecidedUnsent,
        Self::SendUncommitted,
        Self::BegunUnsent,
        Self::SentUnrecorded,
    ];

    /// The same where they stand in the answer to the callback.
    pub const ANSWER: [Self; 5] = [
        Self::AcceptedHalf,
        Self::AcceptedUndecided,
        Self::DecidedHalf,
        Self::DecidedUnsent,
        Self::RepliedUnconfirmed,
    ];

    /// The same where messages are fetched.
    pub const FETCH: [Self; 3] = [Self::PageHalf, Self::BegunUnsent, Self::SentUnrecorded];

    /// In the order in which a build passes them.
    pub const BUILD: [Self; 12] = [
        Self::BuiltPhrasingVectors,
        Self::BuiltPhrasingText,
        Self::BuiltAnswerVectors,
        Self::BuiltAnswerText,
        Self::BuiltEntries,
        Self::BuiltIndex,
        Self::BuiltHead,
        Self::BuiltGate,
        Self::BuiltSeal,
        Self::PublishUnnamed,
        Self::PublishUnnoticed,
        Self::PublishSwitched,
    ];

    /// Ends the process here if a test asked for it.
    #[cfg(debug_assertions)]
    pub fn passes(self) {
        if std::env::var(VARIABLE).is_ok_and(|name| name == format!("{self:?}")) {
            std::process::abort();
        }
    }

    /// Nothing can be asked of a release build.
    #[cfg(not(debug_assertions))]
    pub fn passes(self) {}
}
