"""What operators type where several servers share a log."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from eventstore._database import connect
from eventstore.opening import copy_log
from tests.daemon import PATIENCE, serving, uwsd, uwsd_on_terminal
from tests.databases import needs_postgres

pytestmark = needs_postgres
SERVICE = """
[services.echo]
title = "Echo"
command = ["echo", "hello"]
results = [{ id = "text", path = "-" }]
"""


@pytest.fixture
def secret(url: str) -> str:
    """The same database, with a password that it does not ask for and nobody is to be told."""
    return url.replace("postgres@", "postgres:secret@")


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    file = tmp_path / "alone.toml"
    file.write_text('data = "var"\n' + SERVICE)
    return file


@pytest.fixture
def shared(tmp_path: Path, secret: str) -> Path:
    """The same in several servers: two lines more."""
    file = tmp_path / "shared.toml"
    file.write_text(f'data = "var"\nstore = "{secret}"\njobs = "var/jobs"\n' + SERVICE)
    return file


async def test_a_log_moves_to_a_database_and_back_and_its_server_with_it(
    tmp_path: Path, alone: Path, shared: Path, secret: str
) -> None:
    async with serving(alone) as server:
        job = await server.run("echo")
        await server.ended(job)
    told = await uwsd("store", "copy", tmp_path / "var", secret)
    assert (told.status, told.out) == (0, "5 events up to position 5, 0 erased, 0 pruned: the chain holds\n")
    async with serving(shared) as server:
        assert await server.phase(f"{server.url}/{job.split('/', 3)[3]}") == "COMPLETED"
        again = await server.run("echo")
        await server.ended(again)
        first = await server.get(f"{server.url}/{job.split('/', 3)[3]}/results/text")
        assert first.body == b"hello\n"
    back = await uwsd("store", "copy", secret, tmp_path / "back.db")
    assert back.status == 0
    verified = await uwsd("audit", "verify", "--config", shared)
    assert verified.status == 0
    assert "secret" not in "".join((told.out, told.err, back.out, back.err, verified.out, verified.err))


async def test_a_copy_to_a_place_that_holds_something_else_is_refused_without_telling_the_password(
    tmp_path: Path, alone: Path, secret: str
) -> None:
    for name in ("one", "two"):
        async with serving(alone, "--data", tmp_path / name) as server:
            await server.create("echo")
    assert (await uwsd("store", "copy", tmp_path / "one", secret)).status == 0
    refused = await uwsd("store", "copy", tmp_path / "two", secret)
    assert refused.status == 2
    assert "holds another log" in refused.err
    assert "secret" not in refused.err
    unknown = await uwsd("store", "copy", "mysql://somewhere", secret)
    assert (unknown.status, "expected a data directory" in unknown.err) == (2, True)
    nothing = await uwsd("store", "copy", tmp_path / "nothing", secret)
    assert (nothing.status, "there is no log" in nothing.err) == (2, True)


async def begin_copy(source: Path | str, target: Path | str, patch: pytest.MonkeyPatch) -> None:
    """Copy three events, and go no further."""

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with patch.context() as patched:
        patched.setattr("eventstore.copying._PAGE", 3)
        with pytest.raises(InterruptedError):
            await copy_log(source, target, stop)


async def test_nobody_takes_a_log_for_whole_that_is_being_copied_to_and_the_copy_can_be_gone_on_with(
    tmp_path: Path, alone: Path, shared: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(alone) as server:
        await server.ended(await server.run("echo"))
    new = tmp_path / "new"
    for source, target, at in (
        (tmp_path / "var/events.db", secret, ("--config", shared)),
        (secret, new / "events.db", ("--data", new)),
    ):
        await begin_copy(source, target, monkeypatch)
        serve = (shared,) if target == secret else (alone, "--data", new)
        for command in (
            ("serve", *serve, "--port", "0"),
            ("audit", "verify", *at),
            ("audit", "log", *at),
            ("jobs", "list", *at),
            ("store", "copy", target, tmp_path / "third"),
        ):
            refused = await uwsd(*map(str, command))
            assert refused.status == 2, command
            assert "a copy to here was begun, and this is not all of it: repeat the same" in refused.err
            assert "secret" not in refused.err
        assert not (tmp_path / "third").exists()
        gone_on_with = await uwsd("store", "copy", str(source), str(target))
        assert gone_on_with.out == "5 events up to position 5, 0 erased, 0 pruned: the chain holds\n"
        assert (await uwsd("audit", "verify", *at)).status == 0
    async with serving(shared) as server:
        await server.create("echo")


async def test_a_copy_to_where_there_is_nothing_makes_a_data_directory(
    tmp_path: Path, alone: Path, secret: str
) -> None:
    async with serving(alone) as server:
        await server.create("echo")
    assert (await uwsd("store", "copy", tmp_path / "var", secret)).status == 0
    assert (await uwsd("store", "copy", secret, tmp_path / "back")).status == 0
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700
    assert (await uwsd("audit", "verify", "--data", tmp_path / "back")).status == 0


async def test_a_copy_to_a_log_that_has_more_says_so(tmp_path: Path, alone: Path, secret: str) -> None:
    async with serving(alone) as server:
        await server.create("echo")
    assert (await uwsd("store", "copy", tmp_path / "var", secret)).status == 0
    async with serving(alone) as server:
        await server.create("echo")
        await server.create("echo")
    ahead = await uwsd("store", "copy", secret, tmp_path / "var")
    assert ahead.status == 2
    assert "has all of postgresql://postgres@" in ahead.err
    assert "and what came later, 2 more up to position 4: there is nothing to copy" in ahead.err


async def test_migrating_tells_what_was_done_and_a_program_that_is_too_old_or_new_refuses(
    shared: Path, alone: Path, url: str
) -> None:
    assert (await uwsd("migrate", "--config", shared)).out.splitlines()[-1] == "migration 2: applied"
    done = await uwsd("migrate", "--config", shared)
    assert (done.status, done.out) == (0, "nothing to do: the schema is this program's\n")
    await in_database(url, "INSERT INTO migration VALUES (1000)")
    for command in (("migrate", "--config"), ("serve",)):
        refused = await uwsd(*command, shared)
        assert refused.status == 2
        assert "schema 1000, of a newer program" in refused.err
        assert "secret" not in refused.err
    of_one = await uwsd("migrate", "--config", alone)
    assert (of_one.status, "for several, set store in the file" in of_one.err) == (2, True)


@pytest.mark.parametrize("table", ["event (a int)", "migration (a int)"])
async def test_a_schema_of_somebody_else_is_left_alone(shared: Path, url: str, table: str) -> None:
    connection = await connect(url)
    try:
        await connection.execute(f"CREATE SCHEMA uwsd; CREATE TABLE uwsd.{table}")
    finally:
        await connection.close()
    for command in (("migrate", "--config"), ("serve",)):
        refused = await uwsd(*command, shared)
        assert refused.status == 2
        assert "the schema uwsd of this database has tables that are no log's" in refused.err


async def test_who_shares_a_log_is_told(shared: Path) -> None:
    async with serving(shared) as server:
        await server.create("echo")
        told = await uwsd("nodes", "--config", shared, "--json")
        (node,) = json.loads(told.out)
        assert node["name"]
        assert node["leads"] is True
        assert node["name"] in (await uwsd("nodes", "--config", shared)).out
    (node,) = json.loads((await uwsd("nodes", "--config", shared, "--json")).out)
    assert node["leads"] is False


async def test_where_a_node_is_reached_can_be_copied_and_what_is_read_by_a_program_has_a_line_for_each(
    shared: Path, url: str
) -> None:
    where = f"https://a-machine-with-a-long-name.{'example.' * 12}org:8443/jobs"
    async with serving(shared) as server:
        await server.create("echo")
    await in_database(url, f"UPDATE node SET url = '{where}'")
    (node,) = json.loads((await uwsd("nodes", "--config", shared, "--json")).out)
    piped = (await uwsd("nodes", "--config", shared)).out
    assert [where in line and node["name"] in line for line in piped.splitlines()].count(True) == 1
    assert len(piped.splitlines()) == 5
    assert where in (await uwsd_on_terminal("nodes", "--config", shared, shows="out")).out


async def test_a_server_whose_name_was_taken_ends_and_says_so(shared: Path, url: str) -> None:
    async with serving(shared) as server:
        await in_database(url, "UPDATE node SET identity = 'of another', seen = clock_timestamp()")
        async with asyncio.timeout(PATIENCE):
            assert await server.process.wait() == 2
        assert server.err.splitlines()[-1].startswith("another server is node ")
        assert server.err.splitlines()[-1].endswith("give this one another name")


async def test_a_node_that_will_not_come_back_can_be_forgotten_and_no_other(shared: Path, url: str) -> None:
    async with serving(shared):
        told = await uwsd("nodes", "--config", shared, "--json")
        name = json.loads(told.out)[0]["name"]
        refused = await uwsd("nodes", "forget", name, "--config", shared)
        assert refused.status == 2
        assert refused.err.startswith(f"node {name} was there ")
        assert refused.err.endswith("wait until it is gone, 60 s after it was heard of last\n")
    unknown = await uwsd("nodes", "forget", "nobody", "--config", shared)
    assert (unknown.status, unknown.err) == (2, "there is no node nobody of this log\n")
    # As it is when the server was killed.
    await in_database(
        url, "UPDATE node SET stopped = false, seen = seen - interval '61 s', gone_after = interval '90 s'"
    )
    other = await uwsd("nodes", "forget", name, "--config", shared)
    assert other.err.endswith("wait until it is gone, 90 s after it was heard of last\n")
    await in_database(url, "UPDATE node SET gone_after = NULL")  # as an older program leaves it
    done = await uwsd("nodes", "forget", name, "--config", shared)
    assert (done.status, done.out) == (0, f"{name} is no node of this log any more\n")
    assert json.loads((await uwsd("nodes", "--config", shared, "--json")).out) == []


async def test_a_node_that_has_stopped_is_told_as_that_and_can_be_forgotten_at_once(shared: Path) -> None:
    async with serving(shared) as server:
        await server.create("echo")
    (node,) = json.loads((await uwsd("nodes", "--config", shared, "--json")).out)
    assert node["stopped"] is True
    assert re.search(r"stopped \d+ s ago", (await uwsd("nodes", "--config", shared)).out)
    assert (await uwsd("nodes", "forget", node["name"], "--config", shared)).status == 0


async def in_database(url: str, statement: str) -> None:
    connection = await connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_new_node_takes_over_the_read_models_of_another(tmp_path: Path, shared: Path) -> None:
    packed, new = tmp_path / "packed.tar", tmp_path / "new"
    async with serving(shared) as server:
        job = await server.run("echo")
        await server.ended(job)
        assert (await uwsd("projections", "pack", packed, "--config", shared)).status == 0
        in_use = await uwsd("projections", "fetch", packed, "--config", shared)
        assert (in_use.status, "is in use by process" in in_use.err) == (2, True)
    fetched = await uwsd("projections", "fetch", packed, "--config", shared, "--data", new)
    assert fetched.status == 0
    told = await uwsd("projections", "status", "--config", shared, "--data", new, "--json")
    assert {(model["name"], model["position"] > 0) for model in json.loads(told.out)} == {
        (name, True) for name in ("documents", "job_list", "queue", "services", "trail", "usage")
    }
    other = tmp_path / "other.toml"
    other.write_text(shared.read_text() + '[node]\nname = "other"\n')
    async with serving(other, "--data", new) as server:
        assert await server.phase(f"{server.url}/{job.split('/', 3)[3]}") == "COMPLETED"
    verified = await uwsd("projections", "verify", "--config", shared, "--data", new)
    assert verified.status == 0


async def test_what_was_packed_of_another_log_is_made_anew(tmp_path: Path, shared: Path, alone: Path) -> None:
    packed = tmp_path / "packed.tar"
    async with serving(alone, "--data", tmp_path / "other") as server:
        await server.ended(await server.run("echo"))
    assert (await uwsd("projections", "pack", packed, "--data", tmp_path / "other")).status == 0
    assert (await uwsd("projections", "fetch", packed, "--config", shared)).status == 0
    async with serving(shared) as server:
        job = await server.create("echo")
        assert await server.phase(job) == "PENDING"
    assert (await uwsd("projections", "verify", "--config", shared)).status == 0


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240])
async def test_what_are_no_copies_of_read_models_is_refused_in_words(
    tmp_path: Path, alone: Path, content: bytes
) -> None:
    (tmp_path / "packed.tar").write_bytes(content)
    refused = await uwsd("projections", "fetch", tmp_path / "packed.tar", "--config", alone)
    assert refused.status == 2
    assert refused.err.startswith("these are no copies of read models")


async def test_nodes_that_would_each_make_a_key_are_warned_of(
    shared: Path, alone: Path, tmp_path: Path
) -> None:
    checked = await uwsd("check", shared)
    assert checked.status == 0
    assert f"warning: audit.key: each node makes a key of its own, as {tmp_path}/var/audit.key" in checked.err
    async with serving(shared):
        logged = shared.with_name(f"{shared.name}.stderr").read_text()
    assert "audit.key: each node makes a key of its own" in logged
    common = tmp_path / "common.toml"
    common.write_text(shared.read_text() + f'[audit]\nkey = "{tmp_path}/common/audit.key"\n')
    for declaration in (common, alone):
        assert "audit.key" not in (await uwsd("check", declaration)).err
