-- What was masked in a message, sealed: only who has the vault's key, which is not here, can read it.
-- It goes with its message. Longest: 8 KiB and what sealing adds.
CREATE TABLE vault (
    message_id INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    sealed     BLOB    NOT NULL CHECK (length(sealed) <= 8220)
) STRICT;
