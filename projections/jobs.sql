-- The job list and the job documents. Times are microseconds since 1970, UTC.
DROP TABLE IF EXISTS job;
CREATE TABLE job (
    id          TEXT    PRIMARY KEY,
    service     TEXT    NOT NULL,
    owner       TEXT,
    run_id      TEXT,
    phase       TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    position    INTEGER NOT NULL,  -- of the job's first event: breaks ties between creation times
    last        INTEGER NOT NULL,  -- position of the job's last event
    queued      INTEGER,
    started     INTEGER,
    ended       INTEGER,
    destruction INTEGER,
    destroyed   INTEGER,
    document    BLOB    NOT NULL   -- the job, as JSON
) STRICT;
CREATE INDEX job_list ON job (service, owner, created DESC, position DESC) WHERE destroyed IS NULL;
CREATE INDEX job_list_by_phase ON job (service, owner, phase, created DESC, position DESC) WHERE destroyed IS NULL;
CREATE INDEX job_unended ON job (phase, service, owner, queued) WHERE ended IS NULL;
CREATE INDEX job_destruction ON job (destruction) WHERE destroyed IS NULL AND phase <> 'ARCHIVED';
CREATE INDEX job_durations ON job (service, ended DESC) WHERE phase = 'COMPLETED';
