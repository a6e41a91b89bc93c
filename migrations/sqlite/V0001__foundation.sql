-- Times are milliseconds since the Unix epoch, UTC. JSON columns hold the domain's serde form.

-- Knowledge: the current row of an entry, and every version it ever had.
CREATE TABLE entries (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE entry_versions (
    entry_id   TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    body       TEXT    NOT NULL,
    changed_at INTEGER NOT NULL,
    author     TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    PRIMARY KEY (entry_id, version)
) STRICT;

-- Who said what was right. `digest` covers text, context, answer and purpose: importing a file twice adds nothing.
CREATE TABLE labels (
    digest     TEXT PRIMARY KEY,
    purpose    TEXT    NOT NULL,
    text       TEXT    NOT NULL,
    context    TEXT    NOT NULL,
    entry_id   TEXT,
    source     TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Customers and the names the platforms know them by.
CREATE TABLE customers (
    id         INTEGER PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE identities (
    platform    TEXT NOT NULL,
    account     TEXT NOT NULL,
    external_id TEXT NOT NULL,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    PRIMARY KEY (platform, account, external_id)
) STRICT;

CREATE TABLE conversations (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    updated_at  INTEGER NOT NULL,
    UNIQUE (account, customer_id)
) STRICT;

-- Inbound messages, masked of personal data; the unique key is what makes a retry recognisable.
CREATE TABLE messages (
    id              INTEGER PRIMARY KEY,
    conversation_id TEXT    NOT NULL REFERENCES conversations (id),
    account         TEXT    NOT NULL,
    sender          TEXT    NOT NULL,
    dedupe_key      TEXT    NOT NULL,
    inbound         TEXT    NOT NULL,
    received_at     INTEGER NOT NULL,
    UNIQUE (account, sender, dedupe_key)
) STRICT;
CREATE INDEX messages_by_conversation ON messages (conversation_id, id);

-- One decision per message: this key is what lets a message be answered only once.
CREATE TABLE decisions (
    trace_id   TEXT PRIMARY KEY,
    message_id INTEGER NOT NULL UNIQUE REFERENCES messages (id),
    verdict    TEXT    NOT NULL,
    confidence REAL    NOT NULL,
    reply      TEXT    NOT NULL,
    trace      TEXT    NOT NULL,
    decided_at INTEGER NOT NULL
) STRICT;
CREATE INDEX decisions_by_time ON decisions (decided_at);

CREATE TABLE evidence (
    trace_id TEXT    NOT NULL REFERENCES decisions (trace_id),
    rank     INTEGER NOT NULL,
    entry_id TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    score    REAL    NOT NULL,
    PRIMARY KEY (trace_id, rank)
) STRICT;

-- What a person has to look at.
CREATE TABLE cases (
    id        TEXT PRIMARY KEY,
    trace_id  TEXT    NOT NULL UNIQUE REFERENCES decisions (trace_id),
    priority  INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    closed_at INTEGER
) STRICT;
CREATE INDEX cases_open ON cases (priority DESC, opened_at) WHERE closed_at IS NULL;

-- Append-only; each row's hash covers the row before it.
CREATE TABLE audit_log (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    detail    TEXT NOT NULL,
    hash      TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_log_keeps_rows BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_keeps_text BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
