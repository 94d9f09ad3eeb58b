-- What the log tells, by what it is about. Times are microseconds since 1970, UTC, and of when things happened.
CREATE TABLE occurrence (
    position INTEGER PRIMARY KEY,
    job      INTEGER,                 -- position of the job's row
    matter   INTEGER NOT NULL,
    time     INTEGER NOT NULL
) STRICT;

-- What events are about, and who caused them: many have the same in common.
CREATE TABLE matter (
    number   INTEGER PRIMARY KEY,
    stream   TEXT,                    -- where it is not a job's
    service  TEXT,
    owner    TEXT,
    type     TEXT    NOT NULL,
    actor    TEXT
) STRICT;
CREATE INDEX matter_by_all ON matter (stream, owner, actor, type, service);

-- The log in stretches of 500 positions: when what is told there happened.
CREATE TABLE stretch (
    number   INTEGER PRIMARY KEY,     -- of its first position, in stretches
    earliest INTEGER NOT NULL,
    latest   INTEGER NOT NULL
) STRICT;

-- In which stretches a service, an owner, an actor or a type is found.
CREATE TABLE found (
    role     TEXT    NOT NULL,        -- the column of the matter
    name     TEXT    NOT NULL,
    stretch  INTEGER NOT NULL,
    PRIMARY KEY (role, name, stretch)
) STRICT, WITHOUT ROWID;

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
    outcome  TEXT,                    -- the phase that it was in then
    gone     INTEGER,                 -- when it was in that phase no longer: archived, or destroyed
    away     INTEGER,                 -- position of the event that says so
    last     INTEGER NOT NULL         -- position of the job's last event
) STRICT;
