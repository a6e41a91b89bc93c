-- A message's work: there from its acceptance until its decision, in the same two transactions.
CREATE TABLE work (
    message_id INTEGER PRIMARY KEY REFERENCES messages (id)
) STRICT;
INSERT INTO work SELECT id FROM messages m
WHERE NOT EXISTS (SELECT 1 FROM decisions d WHERE d.message_id = m.id);

-- Where a reply to the message is sent.
ALTER TABLE messages ADD COLUMN target TEXT;

-- Who speaks with the customer; past `owned_until` it is the bot again.
ALTER TABLE conversations ADD COLUMN owner TEXT NOT NULL DEFAULT 'bot';
ALTER TABLE conversations ADD COLUMN operator TEXT;
ALTER TABLE conversations ADD COLUMN owned_until INTEGER;

-- As operators set it; nothing else tells it.
ALTER TABLE customers ADD COLUMN audience TEXT NOT NULL DEFAULT 'normal';

-- When the customer last gave an occasion to send, by kind: what platforms count quotas from.
CREATE TABLE occasions (
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    occasion        TEXT NOT NULL,
    at              INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, occasion)
) STRICT;

-- What goes out, in the order of `seq` within a conversation. `key` is given to the platform, so
-- that what is sent again is known there. `joined` names the row that was sent for this one.
CREATE TABLE outbox (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    key             TEXT    NOT NULL UNIQUE,
    conversation_id TEXT    NOT NULL REFERENCES conversations (id),
    trace_id        TEXT    REFERENCES decisions (trace_id),
    account         TEXT    NOT NULL,
    author          TEXT    NOT NULL,
    target          TEXT    NOT NULL,
    payload         TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    passive         INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at          INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    sent_at         INTEGER,
    joined          INTEGER REFERENCES outbox (seq),
    note            TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX outbox_by_conversation ON outbox (conversation_id, seq);
CREATE INDEX outbox_open ON outbox (due_at)
    WHERE state IN ('pending', 'offered', 'kept', 'sending');
CREATE INDEX outbox_by_trace ON outbox (trace_id);
CREATE INDEX outbox_sent ON outbox (conversation_id, sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX outbox_undelivered ON outbox (seq) WHERE state IN ('handed', 'dropped');

-- Why a case waits beyond what its decision says, and who took it.
ALTER TABLE cases ADD COLUMN note TEXT;
ALTER TABLE cases ADD COLUMN taken_at INTEGER;
ALTER TABLE cases ADD COLUMN operator TEXT;
-- When another desk was told of it, where one is configured.
ALTER TABLE cases ADD COLUMN announced_at INTEGER;
CREATE INDEX cases_closed ON cases (closed_at) WHERE closed_at IS NOT NULL;

-- How far an account's messages were fetched, where a callback only says that there are some.
-- `wanted` counts callbacks; what was fetched up to then is in `fetched`.
CREATE TABLE cursors (
    account TEXT    NOT NULL,
    thread  TEXT    NOT NULL,
    cursor  TEXT    NOT NULL DEFAULT '',
    token   TEXT    NOT NULL DEFAULT '',
    wanted  INTEGER NOT NULL DEFAULT 0,
    fetched INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, thread)
) STRICT;

-- What customers said about how it was.
CREATE TABLE ratings (
    case_id    TEXT PRIMARY KEY REFERENCES cases (id),
    score      INTEGER NOT NULL,
    operator   TEXT,
    created_at INTEGER NOT NULL
) STRICT;
