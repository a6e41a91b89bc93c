-- Who consented to which version of a marketing text; two different people publish it.
CREATE TABLE consents (
    entry_id TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    role     TEXT    NOT NULL,
    person   TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    given_at INTEGER NOT NULL,
    PRIMARY KEY (entry_id, version, role)
) STRICT;

-- Licences and registrations that entries cite; from `valid_from` until `valid_until`, which is no
-- longer part of it.
CREATE TABLE qualifications (
    id          TEXT PRIMARY KEY,
    name        TEXT    NOT NULL,
    valid_from  INTEGER,
    valid_until INTEGER,
    filed_by    TEXT    NOT NULL,
    filed_at    INTEGER NOT NULL
) STRICT;
