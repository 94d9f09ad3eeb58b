-- The log. Columns stand in the order of RecordedEvent's fields. Empty salt, metadata and data: erased.
CREATE TABLE event (
    position bigint PRIMARY KEY,
    stream   text COLLATE "C" NOT NULL,
    version  bigint NOT NULL,
    id       text COLLATE "C" NOT NULL UNIQUE,
    type     text COLLATE "C" NOT NULL,
    time     bigint NOT NULL,  -- microseconds since 1970, UTC
    metadata bytea  NOT NULL,  -- JSON
    salt     bytea  NOT NULL,
    data     bytea  NOT NULL,
    digest   bytea  NOT NULL,  -- SHA-256 of salt, metadata and data
    hash     bytea  NOT NULL,  -- SHA-256 over this event and the hash before it
    UNIQUE (stream, version)
);

-- The hashes of pruned events that stand before an event which is still there.
CREATE TABLE anchor (
    position bigint PRIMARY KEY,
    hash     bytea  NOT NULL
);

-- The hash of an event: see eventstore/_chain.py.
CREATE FUNCTION link(
    previous bytea, "position" bigint, stream text, version bigint, id text, type text, "time" bigint, digest bytea
) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(
        int8send(32) || previous || int8send(8) || int8send("position") || int8send(8) || int8send(version)
        || int8send(8) || int8send("time") || int8send(32) || digest
        || int8send(octet_length(convert_to(stream, 'UTF8'))) || convert_to(stream, 'UTF8')
        || int8send(octet_length(convert_to(id, 'UTF8'))) || convert_to(id, 'UTF8')
        || int8send(octet_length(convert_to(type, 'UTF8'))) || convert_to(type, 'UTF8')
    )
$$;

-- Only one transaction at a time appends, erases or prunes.
CREATE FUNCTION take_turn() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(8603146279045310001)
$$;

-- Which node does what only one does, and by which process of the database: `number` is the how manieth since there is a log.
CREATE TABLE term (
    number  bigint NOT NULL,
    node    text COLLATE "C" NOT NULL,
    process int NOT NULL
);
INSERT INTO term VALUES (0, '', 0);

-- Whether what is to be written under a term comes too late.
CREATE FUNCTION has_passed(sent bigint) RETURNS bool LANGUAGE sql AS $$
    SELECT sent < number FROM term
$$;

-- Begin the next term, for as long as this connection lasts, and return its number; null while another node leads,
-- or somebody writes for longer than that.
CREATE FUNCTION lead(called text) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    began bigint;
BEGIN
    IF pg_try_advisory_xact_lock(8603146279045310003) THEN
        PERFORM take_turn();  -- nothing of an earlier term comes after this
        UPDATE term SET number = number + 1, node = called, process = pg_backend_pid() RETURNING number INTO began;
        PERFORM pg_advisory_lock(8603146279045310003);
    END IF;
    RETURN began;
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END
$$;

-- The process of the database that serves the leader; null when nobody leads.
CREATE FUNCTION leaders_process() RETURNS int LANGUAGE sql AS $$
    SELECT process FROM term WHERE process IN (
        SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::bigint << 32) + objid::bigint = 8603146279045310003
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
$$;

-- Append a batch, in which no id stands twice: event by event, `number` counts the appends that they belong to.
-- Returns for each append whether its term has passed or its ids were known, then nothing of it was written; the version of its stream
-- before; and, unless that is not the expected one, the place of its first event and the hashes of all.
CREATE FUNCTION append(
    now bigint, numbers int[], terms bigint[], streams text[], expected bigint[],
    ids text[], types text[], metadata bytea[], salts bytea[], data bytea[], digests bytea[],
    OUT passed bool, OUT known bool, OUT tip bigint, OUT "time" bigint, OUT first bigint, OUT hashes bytea[]
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    began bigint;
    previous bytea;
    repeated int[];
    written bool;
    new record;
BEGIN
    PERFORM take_turn();  -- what is read after this is what the one before has left
    SELECT e.position, e.hash INTO head, previous FROM event e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    previous := coalesce(previous, decode(repeat('00', 32), 'hex'));
    began := head;
    repeated := ARRAY(SELECT sent.number FROM unnest(numbers, ids) AS sent (number, id) JOIN event e ON e.id = sent.id);
    FOR new IN
        SELECT sent.*, lag(number) OVER () IS DISTINCT FROM number AS begins, lead(number) OVER () IS DISTINCT FROM number AS ends
        FROM unnest(numbers, terms, streams, expected, ids, types, metadata, salts, data, digests)
            AS sent (number, term, stream, expected, id, type, metadata, salt, data, digest)
    LOOP
        IF new.begins THEN
            SELECT e.version, e.time INTO tip, "time" FROM event e
                WHERE e.stream = new.stream ORDER BY e.version DESC LIMIT 1;
            tip := coalesce(tip, 0);
            "time" := greatest(now, "time");
            first := head + 1;
            hashes := '{}';
            known := new.number = ANY (repeated);
            passed := coalesce(has_passed(new.term), false);
            written := NOT passed AND NOT known AND coalesce(new.expected = tip, true);
        END IF;
        IF written THEN
            head := head + 1;
            previous := link(
                previous, head, new.stream, tip + head - first + 1, new.id, new.type, "time", new.digest
            );
            hashes := hashes || previous;
            INSERT INTO event VALUES (
                head, new.stream, tip + head - first + 1, new.id, new.type, "time",
                new.metadata, new.salt, new.data, new.digest, previous
            );
        END IF;
        IF new.ends THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    IF head > began THEN
        PERFORM pg_notify('uwsd_log', '');
    END IF;
END
$$;

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
