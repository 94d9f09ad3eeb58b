-- The log. Positions are given by the one writer, never by SQLite, so that they are never used twice.
-- Columns stand in the order of RecordedEvent's fields. Zeros in place of salt, metadata and data: erased.
CREATE TABLE event (
    position INTEGER PRIMARY KEY,
    stream   TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    id       TEXT    NOT NULL UNIQUE,
    type     TEXT    NOT NULL,
    time     INTEGER NOT NULL,  -- microseconds since 1970, UTC
    metadata BLOB    NOT NULL,  -- JSON
    salt     BLOB    NOT NULL,
    data     BLOB    NOT NULL,
    digest   BLOB    NOT NULL,  -- SHA-256 of salt, metadata and data
    hash     BLOB    NOT NULL,  -- SHA-256 over this event and the hash before it
    UNIQUE (stream, version)
) STRICT;

-- The hashes of pruned events that stand before an event which is still there.
CREATE TABLE anchor (
    position INTEGER PRIMARY KEY,
    hash     BLOB    NOT NULL
) STRICT;
