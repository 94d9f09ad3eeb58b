-- The job documents, in the order in which the jobs were created.
CREATE TABLE document (
    position  INTEGER PRIMARY KEY,      -- of the job's first event
    id        TEXT    NOT NULL UNIQUE,
    last      INTEGER NOT NULL,         -- position of the job's last event
    destroyed INTEGER NOT NULL,
    document  BLOB    NOT NULL          -- the job, as JSON
) STRICT;
