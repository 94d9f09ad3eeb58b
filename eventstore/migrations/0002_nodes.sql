-- The servers that share the log. `beats` grows as long as one is there; `seen` is when it last did, for people.
CREATE TABLE node (
    name     text COLLATE "C" PRIMARY KEY,
    identity text NOT NULL,       -- of its data directory
    beats    bigint NOT NULL DEFAULT 1,
    seen     timestamptz NOT NULL DEFAULT clock_timestamp(),
    url      text NOT NULL,
    program  text NOT NULL        -- its version
);

-- What the servers sign with what they ask of each other: 244 random bits that are nowhere else.
CREATE TABLE secret (key bytea NOT NULL);
INSERT INTO secret VALUES (
    decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
);

-- The process of the database that serves the leader, who has this lock; null when nobody leads.
CREATE FUNCTION leaders_process(lock bigint) RETURNS int LANGUAGE sql AS $$
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint = lock
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
