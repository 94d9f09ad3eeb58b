-- What each job has used. Times are microseconds since 1970, UTC.
CREATE TABLE used (
    id           TEXT    PRIMARY KEY,
    position     INTEGER NOT NULL,        -- of the job's first event
    service      TEXT    NOT NULL,
    owner        TEXT,
    phase        TEXT    NOT NULL,        -- DESTROYED for a job that is gone for its clients
    created      INTEGER NOT NULL,
    started      INTEGER,
    ended        INTEGER,
    microseconds INTEGER NOT NULL,        -- that its programs ran
    results      INTEGER NOT NULL,        -- bytes
    uploads      TEXT    NOT NULL,        -- bytes by parameter, as JSON; empty for none
    last         INTEGER NOT NULL         -- position of the job's last event
) STRICT, WITHOUT ROWID;

-- The sums over all jobs.
CREATE TABLE usage (
    service      TEXT    NOT NULL,
    owner        TEXT,
    phase        TEXT    NOT NULL,
    jobs         INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    bytes        INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX usage_by_owner ON usage (service, owner, phase);

-- What jobs that have ended ran for, by the hour in which they did. An hour is counted since 1970, UTC.
CREATE TABLE lately (
    owner        TEXT,
    hour         INTEGER NOT NULL,
    jobs         INTEGER NOT NULL,
    microseconds INTEGER NOT NULL         -- of each job one second at least
) STRICT;
CREATE UNIQUE INDEX lately_by_owner ON lately (owner, hour);
