


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
    program text NOT NULL,
    gone_after interval,
    ahead interval DEFAULT '00:00:00'::interval NOT NULL,
    stopped boolean DEFAULT false NOT NULL
);



CREATE TABLE uwsd.secret (
    key bytea NOT NULL
);



CREATE TABLE uwsd.term (
    number bigint NOT NULL,
    node text NOT NULL COLLATE pg_catalog."C",
    process integer NOT NULL
);



INSERT INTO uwsd.anchor VALUES (4, '\xbb61d49dd8566c5644565bda4cf6094da4dd35b9eeb13d1bfd6258efa4c28af8');



INSERT INTO uwsd.event VALUES (1, 'kept', 1, '01a22554fce340b84dd70f7367fefb34', 'Said', 1795922656489059, '\x7b7d', '\x20fc2046d9602a078ab325e527835b97', '\x6669727374', '\xf8d250b297c988077674380284f1a0176993b30dbd28375421aa5ae0789a9766', '\x47a16a21849c785be0dbaeedfc632d3c279bcd32bb0dcb6608dcd0bd190909ab');
INSERT INTO uwsd.event VALUES (2, 'kept', 2, '01a22554fce38038b8064df089d35444', 'Said', 1795922656489059, '\x7b7d', '\xca999fdb75ac5377a87dfa20b1a10fe6', '\x7365636f6e64', '\xae23fd490cde8b6d1a8a28901874e135c697921fa7e75a92bce0cd7d5c2aa661', '\xfa2022290aa687d975f6b6f7c5a39a54286a42159bc5043f93f02793c816a161');
INSERT INTO uwsd.event VALUES (5, 'erased', 1, '01a22554fcf9d8f03f562d825e4c8ed3', 'Said', 1795922656505079, '\x', '\x', '\x', '\x83d2a5323b0efe0d7b8abfaec64f8256a163670357b1dd92b32607cf742ed43a', '\x88593317eb4513c23a804d87ca4fc85347167fd71b7815cfc93cdf9763183207');
INSERT INTO uwsd.event VALUES (6, 'erased', 2, '01a22554fcfb5b01c9b5b20878f33cb1', '$erased', 1795922656507723, '\x7b7d', '\xac17a492dfdf33539ecb84a340c3f415', '\x7b22726561736f6e223a22612074657374222c227468726f756768223a317d', '\x3fd7e8763b952d9d9f31d3befa413a9cc1d942a97626e45374c80764f24a8a0a', '\xcf3adf8d0dd8b8aa48cbf87787ffb3c58fa9541daa4ba893c093d1e78434b6ac');
INSERT INTO uwsd.event VALUES (7, '$log', 1, '01a22554fd0062cbb870dd85def98fe6', '$pruned', 1795922656512862, '\x7b7d', '\x154e244b78fad2e9b5bdc69153941073', '\x7b227468726f756768223a342c2268617368223a2262623631643439646438353636633536343435363562646134636636303934646134646433356239656562313364316266643632353865666134633238616638222c2267617073223a2230656536326265323264396134353239323434356662666461636236346634366331363363663434303634646332643239316362396161613266386630323939222c22726561736f6e223a22612074657374222c22636865636b706f696e74223a22227d', '\xb75afae2b7f091218391038ca2b8afb921f74afc3939c2edacf3eb15225bc2bf', '\x881addf0f291531a2b0d726384e7010be09e3499bda86dc4b1e663e8cf38740d');



INSERT INTO uwsd.migration VALUES (1);
INSERT INTO uwsd.migration VALUES (2);






INSERT INTO uwsd.secret VALUES ('\x653028fc69c4481191f6bd4f23fba6848f703798d4054328befdcfc0e1a43acd');



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




