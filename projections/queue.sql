-- The jobs that have not ended. Times are microseconds since 1970, UTC.
CREATE TABLE active (
    position INTEGER PRIMARY KEY,     -- of the job's first event
    id       TEXT    NOT NULL UNIQUE,
    service  TEXT    NOT NULL,
    owner    TEXT,
    phase    TEXT    NOT NULL,        -- SUBMITTED is QUEUED, in a batch system
    queued   INTEGER,
    started  INTEGER,
    quotas   TEXT    NOT NULL,        -- the tables of quotas it was made under, as JSON; empty for none
    node     TEXT,                    -- where its program was started last; /slurm is in Slurm
    files    TEXT    NOT NULL,        -- the nodes that have what was sent, by parameter, as JSON; empty for none
    reason   TEXT    NOT NULL,        -- what it waits for in a batch system; empty for nothing that is known
    last     INTEGER NOT NULL         -- position of the job's last event
) STRICT;

-- The nodes that take jobs.
CREATE TABLE node (
    name     TEXT    PRIMARY KEY,
    since    INTEGER NOT NULL,
    position INTEGER NOT NULL         -- of the event that says so
) STRICT;

-- What is paused.
CREATE TABLE paused (
    service  TEXT    PRIMARY KEY,     -- empty for the whole queue
    since    INTEGER NOT NULL,
    position INTEGER NOT NULL         -- of the event that says so
) STRICT;
