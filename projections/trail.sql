-- What the log tells, by what it is about. Times are microseconds since 1970, UTC, and of when things happened.
CREATE TABLE occurrence (
    position INTEGER PRIMARY KEY,
    job      INTEGER,                 -- position of the job's row
    stream   TEXT,                    -- where it is not a job's
    service  TEXT,
    owner    TEXT,
    type     TEXT    NOT NULL,
    actor    TEXT,
    time     INTEGER NOT NULL
) STRICT;

-- The jobs, and of each what tells when it counts.
CREATE TABLE course (
    position INTEGER PRIMARY KEY,     -- of the job's first event
    id       TEXT    NOT NULL UNIQUE,
    service  TEXT    NOT NULL,
    owner    TEXT,
    quotas   TEXT    NOT NULL,        -- the tables of quotas it was made under, as JSON; empty for none
    phase    TEXT    NOT NULL,        -- DESTROYED for a job that is gone for its clients
    created  INTEGER NOT NULL,
    started  INTEGER,
    ran      INTEGER NOT NULL,        -- microseconds that its programs ran
    ended    INTEGER,                 -- when it was over
    over     INTEGER,                 -- position of the event that says so
    last     INTEGER NOT NULL         -- position of the job's last event
) STRICT;
