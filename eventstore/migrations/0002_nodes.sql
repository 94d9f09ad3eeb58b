-- The servers that share the log. `beats` grows as long as one is there; `seen` is when it last did, for people.
CREATE TABLE node (
    name     text COLLATE "C" PRIMARY KEY,
    identity text NOT NULL,       -- of its data directory
    beats    bigint NOT NULL DEFAULT 1,
    seen     timestamptz NOT NULL DEFAULT clock_timestamp(),
    url      text NOT NULL,
    program  text NOT NULL        -- its version
);
