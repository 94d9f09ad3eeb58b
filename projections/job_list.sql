-- The job list. Times are microseconds since 1970, UTC.
CREATE TABLE job (
    position    INTEGER PRIMARY KEY,     -- of the job's first event: breaks ties between creation times
    id          TEXT    NOT NULL UNIQUE,
    service     TEXT    NOT NULL,
    owner       TEXT,
    run_id      TEXT,
    phase       TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    destruction INTEGER,
    destroyed   INTEGER NOT NULL,
    last        INTEGER NOT NULL         -- position of the job's last event
) STRICT;

-- Where the log last told something of any job of a list, if that was after the cut below, and when.
CREATE TABLE changed (
    service  TEXT    NOT NULL,
    owner    TEXT,
    position INTEGER NOT NULL,
    time     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX changed_by_owner ON changed (service, owner);

-- Where the log last said that something was erased or pruned.
CREATE TABLE cut (position INTEGER NOT NULL) STRICT;
INSERT INTO cut VALUES (0);
