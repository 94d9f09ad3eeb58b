-- The services as they were declared last. Times are microseconds since 1970, UTC.
CREATE TABLE service (
    name        TEXT    PRIMARY KEY,
    digest      TEXT    NOT NULL,     -- SHA-256 of the declaration
    declaration TEXT    NOT NULL,     -- JSON
    declared    INTEGER NOT NULL,
    versions    INTEGER NOT NULL,     -- how often it was declared
    last        INTEGER NOT NULL      -- position of the last declaration
) STRICT;
