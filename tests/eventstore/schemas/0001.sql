


SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;


CREATE SCHEMA uwsd;



CREATE FUNCTION uwsd.append(now bigint, numbers integer[], terms bigint[], streams text[], expected bigint[], ids text[], types text[], metadata bytea[], salts bytea[], data bytea[], digests bytea[], OUT passed boolean, OUT known boolean, OUT tip bigint, OUT "time" bigint, OUT first bigint, OUT hashes bytea[]) RETURNS SETOF record
    LANGUAGE plpgsql
    AS $$
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



CREATE FUNCTION uwsd.has_passed(sent bigint) RETURNS boolean
    LANGUAGE sql
    AS $$
    SELECT sent < number FROM term
$$;



CREATE FUNCTION uwsd.lead(called text) RETURNS bigint
    LANGUAGE plpgsql
    SET lock_timeout TO '5s'
    AS $$
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



CREATE FUNCTION uwsd.leaders_process() RETURNS integer
    LANGUAGE sql
    AS $$
    SELECT process FROM term WHERE process IN (
        SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::bigint << 32) + objid::bigint = 8603146279045310003
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
$$;



CREATE FUNCTION uwsd.link(previous bytea, "position" bigint, stream text, version bigint, id text, type text, "time" bigint, digest bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT sha256(
        int8send(32) || previous || int8send(8) || int8send("position") || int8send(8) || int8send(version)
        || int8send(8) || int8send("time") || int8send(32) || digest
        || int8send(octet_length(convert_to(stream, 'UTF8'))) || convert_to(stream, 'UTF8')
        || int8send(octet_length(convert_to(id, 'UTF8'))) || convert_to(id, 'UTF8')
        || int8send(octet_length(convert_to(type, 'UTF8'))) || convert_to(type, 'UTF8')
    )
$$;



CREATE FUNCTION uwsd.take_turn() RETURNS void
    LANGUAGE sql
    AS $$
    SELECT pg_advisory_xact_lock(8603146279045310001)
$$;





CREATE TABLE uwsd.anchor (
    "position" bigint NOT NULL,
    hash bytea NOT NULL
);



CREATE TABLE uwsd.event (
    "position" bigint NOT NULL,
    stream text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    type text NOT NULL COLLATE pg_catalog."C",
    "time" bigint NOT NULL,
    metadata bytea NOT NULL,
    salt bytea NOT NULL,
    data bytea NOT NULL,
    digest bytea NOT NULL,
    hash bytea NOT NULL
);



CREATE TABLE uwsd.migration (
    number integer NOT NULL
);



CREATE TABLE uwsd.node (
    name text NOT NULL COLLATE pg_catalog."C",
    identity text NOT NULL,
    beats bigint DEFAULT 1 NOT NULL,
    seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    url text NOT NULL,
    program text NOT NULL
);



CREATE TABLE uwsd.secret (
    key bytea NOT NULL
);



CREATE TABLE uwsd.term (
    number bigint NOT NULL,
    node text NOT NULL COLLATE pg_catalog."C",
    process integer NOT NULL
);



INSERT INTO uwsd.anchor VALUES (4, '\x5b0776d0f47a0fb8a88b752c1b56a95512204087be51a6dd6b03f57cf6b8ee6f');



INSERT INTO uwsd.event VALUES (1, 'kept', 1, '01a22453ec40535897e8a9b76e5ba80e', 'Said', 1795905809492325, '\x7b7d', '\x0405c6976072903081f937ffbfc736b3', '\x6669727374', '\xedf648e968625f3f3593f4639b22c6cf07cac5ce7e71cc44e38e79340109e3c6', '\x66029396b41460f9c0e3b0cb7d5257f630dffa26f71252eee9939f4777790fd3');
INSERT INTO uwsd.event VALUES (2, 'kept', 2, '01a22453ec40b63717dcd77ba7b4cdeb', 'Said', 1795905809492325, '\x7b7d', '\x3d822c90e062462239906ee17e14e269', '\x7365636f6e64', '\xea62f926b3cb8e1db2dd63d969b23e04ecd98bfe7aa73076266f0c1f2c4fd86b', '\x8ed1e00469423200c0ff0311734296c86eafadad216cb4c19b060a62af8f3de4');
INSERT INTO uwsd.event VALUES (5, 'erased', 1, '01a22453ec6a0b59e795f0d1bd85a19c', 'Said', 1795905809514840, '\x', '\x', '\x', '\x712b9f309acea4b02c52c6ed652045b1de713b95c4c11572a8f04426d5239416', '\x90267348eaab13c236a5514f94a3fb6b4a942cd83f7f5c298e63aa9bb90a59d6');
INSERT INTO uwsd.event VALUES (6, 'erased', 2, '01a22453ec6ea891fd864ec8e87a9652', '$erased', 1795905809518852, '\x7b7d', '\x9b6ae20094ee2d42199d909f55c6f4d9', '\x7b22726561736f6e223a22612074657374222c227468726f756768223a317d', '\xc0e5c700c3a69816d3125f9cb37750ca3fcf20ed259061012f7e72de19f4d90c', '\x145efa2d247a069005359068f5220322f046b38cbf734295b7798ebed5904c89');
INSERT INTO uwsd.event VALUES (7, '$log', 1, '01a22453ec78b640418e6c4f64357cb6', '$pruned', 1795905809528153, '\x7b7d', '\xb2809c7654b4650240a9d41484bbde6a', '\x7b227468726f756768223a342c2268617368223a2235623037373664306634376130666238613838623735326331623536613935353132323034303837626535316136646436623033663537636636623865653666222c2267617073223a2230656536326265323264396134353239323434356662666461636236346634366331363363663434303634646332643239316362396161613266386630323939222c22726561736f6e223a22612074657374222c22636865636b706f696e74223a22227d', '\x99b875fe22db0b452f053e3eb325615c0c9ba41cdffc60a9624811e1b378ab93', '\x11e2117098700df4c09c08e4d8289dddb7e102a112c351a3a407c1d7c3d5ce22');



INSERT INTO uwsd.migration VALUES (1);






INSERT INTO uwsd.secret VALUES ('\x8f974cf0ad724ecc9f7c0ed70ea0f3bbe7b8ce336877420dbd94fdce19639837');



INSERT INTO uwsd.term VALUES (0, '', 0);



ALTER TABLE ONLY uwsd.anchor
    ADD CONSTRAINT anchor_pkey PRIMARY KEY ("position");



ALTER TABLE ONLY uwsd.event
    ADD CONSTRAINT event_id_key UNIQUE (id);



ALTER TABLE ONLY uwsd.event
    ADD CONSTRAINT event_pkey PRIMARY KEY ("position");



ALTER TABLE ONLY uwsd.event
    ADD CONSTRAINT event_stream_version_key UNIQUE (stream, version);



ALTER TABLE ONLY uwsd.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);



ALTER TABLE ONLY uwsd.node
    ADD CONSTRAINT node_pkey PRIMARY KEY (name);




