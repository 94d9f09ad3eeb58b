"""`uwsd doctor`: what is wrong with an installation is found, with what to do; nothing is changed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from eventstore import NewEvent, open_store
from tests.daemon import Ended, serving, uwsd

SERVICE = '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'


class Finding(msgspec.Struct):
    subject: str
    state: str
    found: str
    advice: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A declaration of a server that nobody has started yet, on a port that nobody has."""
    path = tmp_path / "uwsd.toml"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        path.write_text(f"[server]\nport = {probe.getsockname()[1]}\n{SERVICE}")
    return path


async def examined(file: Path) -> dict[str, Finding]:
    """Return what is found by its subject: of several, the worst."""
    done = await uwsd("doctor", "--json", "--config", file)
    found = msgspec.json.decode(done.out, type=list[Finding])
    assert done.status == any(finding.state == "fault" for finding in found)
    assert all(finding.advice for finding in found if finding.state != "well")
    order = ["well", "doubt", "fault"]
    return {finding.subject: finding for finding in sorted(found, key=lambda f: order.index(f.state))}


async def test_nothing_is_wrong_with_a_server_that_can_be_started_and_nothing_is_made(file: Path) -> None:
    done = await uwsd("doctor", "--config", file)
    assert (done.status, done.err) == (0, "")
    assert "FAULT" not in done.out
    found = await examined(file)
    assert found["data directory"].found.endswith(f"is not there yet: it is made in {file.parent}")
    assert found["program"].found.endswith("/true")
    assert found["server"].found.startswith("none answers at http://127.0.0.1:")
    assert [path.name for path in file.parent.iterdir()] == ["uwsd.toml"]


async def test_a_server_that_runs_is_looked_at_and_its_log_counted(file: Path) -> None:
    async with serving(file, port=None) as server:
        await server.post("/nothing/async", {})
        found = await examined(file)
        assert (found["server"].state, found["server"].found) == ("well", f"{server.url} answers")
        assert found["log"].found.endswith("events.db, 2 events")
        assert found["key"].state == "well"
        assert not any(finding.state == "fault" for finding in found.values())


def nowhere(file: Path) -> None:
    file.write_text(file.read_text() + '[services.other]\ntitle = "Other"\ncommand = ["no-such-program"]\n')


def anybody_writes(file: Path) -> None:
    data(file).mkdir()
    data(file).chmod(0o777)


def known_key(file: Path) -> None:
    data(file).mkdir()
    (data(file) / "audit.key").write_text("a secret")
    (data(file) / "audit.key").chmod(0o644)


def broken_users(file: Path) -> None:
    file.write_text('[auth]\nusers = "users.json"\n' + file.read_text())
    data(file).mkdir()
    (data(file) / "users.json").write_text("[]")
    (data(file) / "users.json").chmod(0o600)


def no_log(file: Path) -> None:
    data(file).mkdir()
    (data(file) / "events.db").write_text("this is no database")


def no_database(file: Path) -> None:
    file.write_text('store = "postgresql://nobody@127.0.0.1:1/none"\n' + file.read_text())


def a_file_in_its_place(file: Path) -> None:
    data(file).touch()


def a_pipe_for_a_key(file: Path) -> None:
    data(file).mkdir()
    os.mkfifo(data(file) / "audit.key")


def everybody(file: Path) -> None:
    file.write_text(file.read_text().replace("[server]", '[server]\nhost = "0.0.0.0"'))


def a_circle(file: Path) -> None:
    data(file).symlink_to(data(file))


def no_host(file: Path) -> None:
    host = f"{'a' * 70}.example"
    file.write_text(file.read_text().replace("[server]", f'[server]\nhost = "{host}"'))
    file.write_text("[auth]\nallow_anonymous = true\n" + file.read_text())


def data(file: Path) -> Path:
    return file.parent / "var"


@pytest.mark.parametrize(
    ("breaks", "subject", "says"),
    [
        (nowhere, "program", "services.other.command: no-such-program is not a program, or not in PATH"),
        (anybody_writes, "data directory", "others may write it"),
        (known_key, "key", "audit.key"),
        (broken_users, "users file", "users.json"),
        (no_log, "log", "events.db"),
        (no_database, "log", "127.0.0.1"),
        (a_file_in_its_place, "data directory", "is no directory"),
        (a_pipe_for_a_key, "key", "is no regular file"),
        (a_circle, "data directory", "Too many levels of symbolic links"),
        (no_host, "server", "does not answer"),
        (everybody, "declaration", "0.0.0.0 is reached by others"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_wrong_is_a_fault_that_says_where(
    file: Path, breaks: Callable[[Path], None], subject: str, says: str
) -> None:
    breaks(file)
    found = await examined(file)
    assert found[subject].state == "fault"
    assert says in found[subject].found
    others = {name for name, finding in found.items() if finding.state == "fault"} - {subject}
    assert others <= ({"key", "log"} if breaks in (a_file_in_its_place, a_circle) else set())


async def test_a_clock_that_is_behind_the_log_is_a_fault(file: Path) -> None:
    data(file).mkdir()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    store = await open_store(data(file) / "events.db", now=lambda: tomorrow)
    await store.append("service/nothing", [NewEvent(type="Something", data=b"{}")], expected=0)
    await store.close()
    assert "the last event is of" in (await examined(file))["clock"].found


@pytest.mark.parametrize(
    ("program", "declared", "subject"),
    [("bwrap", "sandbox = true", "sandbox"), ("squeue", 'executor = "slurm"', "Slurm")],
)
async def test_what_services_ask_for_is_tried(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, declared: str, subject: str
) -> None:
    (tmp_path / "bin").mkdir()
    for name in (program, "sbatch"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho it may not >&2\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    file.write_text(file.read_text() + declared)
    found = (await examined(file))[subject]
    assert (found.state, found.found) == ("fault", f"{program}: it may not")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may give files away")
async def test_who_looks_as_another_user_is_told_as_whom_to(file: Path) -> None:
    data(file).mkdir()
    os.chown(data(file), 1234, -1)
    found = (await examined(file))["data directory"]
    assert (found.state, found.found) == ("fault", f"{data(file)} belongs to user 1234, and this is user 0")
    assert "sudo -u '#1234' uwsd doctor" in found.advice


async def test_a_users_file_that_nobody_has_made_yet_is_no_fault(file: Path) -> None:
    file.write_text('[auth]\nusers = "users.json"\n' + file.read_text())
    found = (await examined(file))["users file"]
    assert (found.state, found.advice) == ("doubt", "uwsd user add NAME")


async def test_a_sandbox_that_does_not_end_is_given_up(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bwrap").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "bin/bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    file.write_text(file.read_text() + "sandbox = true")
    assert (await examined(file))["sandbox"].found == "bwrap: it does not end"


async def test_a_port_of_something_that_speaks_no_http_is_a_fault(file: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-something\r\n")
        writer.close()

    port = int(file.read_text().split()[3])
    async with await asyncio.start_server(greet, "127.0.0.1", port):
        found = (await examined(file))["server"]
    assert (found.state, found.advice) == ("fault", "stop what has this port, or pick another")


async def test_a_port_that_something_else_has_is_a_fault(file: Path) -> None:
    async def other(request: web.Request) -> web.Response:
        return web.Response(text="Something else")

    app = web.Application()
    app.router.add_get("/{any:.*}", other)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(file.read_text().split()[3])).start()
    try:
        found = await examined(file)
    finally:
        await runner.cleanup()
    assert found["server"].state == "fault"
    assert found["server"].found.endswith("is answered by something else")


async def test_a_base_url_that_leads_nowhere_is_a_fault_while_the_server_runs(file: Path) -> None:
    text = file.read_text().replace("[server]", '[server]\nbase_url = "http://127.0.0.1:1/uws"')
    file.write_text("[auth]\nallow_anonymous = true\n" + text)
    assert "base_url" not in await examined(file)
    async with serving(file, port=None):
        found = await examined(file)
    assert found["base_url"].state == "fault"
    assert "http://127.0.0.1:1/uws is not reached from here" in found["base_url"].found


async def test_a_wrong_declaration_is_told_as_by_check(file: Path) -> None:
    file.write_text(file.read_text() + "comand = 1\n")
    done: list[Ended] = [await uwsd("doctor", "--config", file), await uwsd("check", file)]
    assert done[0] == done[1]
    assert done[0].status == 2
