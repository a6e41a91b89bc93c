-- The promise that `train` was last asked for; without a row, the configuration's.
CREATE TABLE promise (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    alpha      REAL    NOT NULL,
    confidence REAL    NOT NULL,
    asked_at   INTEGER NOT NULL
) STRICT;
