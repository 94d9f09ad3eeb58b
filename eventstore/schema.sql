-- The log. Positions are given by the one writer, never by SQLite, so that they stay dense and are
-- never used twice. Columns stand in the order of RecordedEvent's fields.
CREATE TABLE IF NOT EXISTS event (
    position INTEGER PRIMARY KEY,
    stream   TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    id       TEXT    NOT NULL UNIQUE,
    type     TEXT    NOT NULL,
    time     INTEGER NOT NULL,  -- microseconds since 1970, UTC
    metadata BLOB    NOT NULL,  -- JSON
    salt     BLOB    NOT NULL,
    data     BLOB    NOT NULL,
    digest   BLOB    NOT NULL,  -- SHA-256 of salt and data
    hash     BLOB    NOT NULL,  -- SHA-256 over this event and the hash before it
    UNIQUE (stream, version)
) STRICT;
