-- The jobs that have not ended. Times are microseconds since 1970, UTC.
CREATE TABLE active (
    position INTEGER PRIMARY KEY,     -- of the job's first event
    id       TEXT    NOT NULL UNIQUE,
    service  TEXT    NOT NULL,
    owner    TEXT,
    phase    TEXT    NOT NULL,
    queued   INTEGER,
    last     INTEGER NOT NULL         -- position of the job's last event
) STRICT;
