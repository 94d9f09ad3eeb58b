"""`uwsd doctor`: what is wrong with an installation is found, with what to do; nothing is changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from eventstore import NewEvent, open_store
from tests.daemon import UWSD, run, serving, uwsd
from tests.disks import mounted, remote

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


def in_a_jobs_own_directory(file: Path) -> None:
    (file.parent / "my.sh").write_text("#!/bin/sh\n")
    (file.parent / "my.sh").chmod(0o755)
    file.write_text(file.read_text().replace('"true"', '"./my.sh"'))


def not_executable(file: Path) -> None:
    file.write_text(file.read_text().replace('"true"', '"/etc/passwd"'))


def a_wrong_key(file: Path) -> None:
    file.write_text(file.read_text() + "comand = 1\n")


def no_declaration(file: Path) -> None:
    file.unlink()


def no_file_system(file: Path) -> None:
    file.write_text('data = "/proc/uws"\n' + file.read_text())


async def lost_log(file: Path) -> None:
    async with serving(file) as server:
        await server.post("/nothing/async", {})
    (data(file) / "events.db").unlink()


async def emptied_log(file: Path) -> None:
    await lost_log(file)
    (data(file) / "events.db").touch()


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
        (lost_log, "log", "but one has left in"),
        (emptied_log, "log", "events.db: the file is empty, but one has left in"),
        (
            in_a_jobs_own_directory,
            "program",
            "./my.sh is looked for in a job's own directory, which is empty",
        ),
        (not_executable, "program", "/etc/passwd is no file that can be executed"),
        (a_wrong_key, "declaration", "comand"),
        (no_declaration, "declaration", "there is no such file"),
        (
            no_file_system,
            "data directory",
            "/proc/uws is not there, and cannot be made in /proc: proc has no room",
        ),
        (a_circle, "data directory", "Too many levels of symbolic links"),
        (no_host, "server", "leads nowhere"),
        (everybody, "declaration", "0.0.0.0 is reached by others"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_wrong_is_a_fault_that_says_where(
    file: Path, breaks: Callable[[Path], Awaitable[None] | None], subject: str, says: str
) -> None:
    if broken := breaks(file):
        await broken
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
    says = f"{data(file)} belongs to user 1234, and this is user 0 (root)"
    assert (found.state, found.found) == ("fault", says)
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


async def test_what_needs_no_declaration_is_looked_at_where_it_is_wrong(file: Path) -> None:
    a_wrong_key(file)
    file.write_text(file.read_text() + '[services.other]\ntitle = "Other"\ncommand = []\n')
    for more in ((), ("--data", data(file))):
        done = await uwsd("doctor", "--config", file, *more)
        assert (done.status, done.err) == (1, "")
        told = (await uwsd("check", file)).err.splitlines()
        assert len(told) == 2
        for line in told:
            assert f"FAULT declaration: {line}\n" in done.out
        assert all(f" {subject}: " in done.out for subject in ("versions", "SQLite", "clock", "stylesheets"))
        assert ("ok    data directory: " in done.out) == bool(more)


async def test_a_declaration_is_named_as_for_other_commands_or_by_its_option(file: Path) -> None:
    by_name, by_option = await uwsd("doctor", file), await uwsd("doctor", "-c", file)
    assert "ok    program: services.nothing.command: " in by_name.out
    assert [line[:20] for line in by_name.out.splitlines()] == [
        line[:20] for line in by_option.out.splitlines()
    ]
    two = await uwsd("doctor", file, "-c", "another.toml")
    assert (two.status, two.out) == (2, "")
    assert f"two declarations are named, {file} and another.toml" in two.err


async def test_who_has_no_declaration_yet_is_told_how_to_make_one(file: Path, tmp_path: Path) -> None:
    file.unlink()
    for arguments in ((), ("nope.toml",), ("-c", "nope.toml")):
        done = await uwsd("doctor", *arguments, cwd=tmp_path)
        assert done.status == 1
        assert (
            f"FAULT declaration: {arguments[-1] if arguments else 'uwsd.toml'}: there is no such" in done.out
        )
        assert "`uwsd init DIRECTORY`" in done.out


async def test_of_a_data_directory_that_is_a_file_nothing_else_is_said(file: Path) -> None:
    done = await uwsd("doctor", "--data", file)
    assert f"FAULT data directory: {file} is no directory\n" in done.out
    assert " log: " not in done.out


# A log that is lost


@pytest.mark.parametrize("breaks", [lost_log, emptied_log])
async def test_no_log_is_begun_beside_what_another_has_left(
    file: Path, tmp_path: Path, breaks: Callable[[Path], Awaitable[None]]
) -> None:
    await breaks(file)
    before = [path.name for path in data(file).glob("events.db")]
    for command in (("serve", file), ("user", "add", "ann", "-c", file)):
        refused = await uwsd(*command, reads="ann's password\n")
        assert refused.status == 2
        assert refused.err.startswith(f"{data(file)}/events.db: ")
        assert "; bring back a copy (docs/operating.md), or move these away" in refused.err
    assert [path.name for path in data(file).glob("events.db") if not path.stat().st_size] == before


@pytest.mark.parametrize("left", ["jobs/0123", "checkpoints/1", "archives/2026-01.gz", "events.db-wal"])
async def test_what_only_a_log_leaves_is_known_by_itself(file: Path, left: str) -> None:
    (data(file) / left).parent.mkdir(parents=True)
    (data(file) / left).write_text("something")
    found = (await examined(file))["log"]
    assert (found.state, found.found.rpartition(": ")[2].strip("/")) == ("fault", left.partition("/")[0])
    assert (await uwsd("serve", file)).status == 2
    assert not (data(file) / "events.db").exists()


async def test_what_is_there_before_the_first_start_keeps_no_log_from_beginning(file: Path) -> None:
    file.write_text('[auth]\nusers = "users.json"\n' + file.read_text())
    for name in ("jobs", "checkpoints", "archives"):
        (data(file) / name).mkdir(parents=True)
    assert (await uwsd("user", "add", "ann", "-c", file, reads="ann's password\n")).status == 0
    async with serving(file):
        pass
    assert (await examined(file))["log"].state == "well"


async def test_a_log_is_served_again_when_it_was_brought_back_alone_or_with_all(file: Path) -> None:
    async with serving(file) as server:
        job = (await server.post("/nothing/async", {})).headers["Location"].rpartition("/")[2]
    copy = file.parent / "backup.db"
    with closing(sqlite3.connect(data(file) / "events.db")) as log:
        log.execute("VACUUM INTO ?", (str(copy),))
    for keeps in (True, False):
        if keeps:
            (data(file) / "events.db").unlink()
        else:
            shutil.rmtree(data(file))
            data(file).mkdir(mode=0o700)
        shutil.copy(copy, data(file) / "events.db")
        async with serving(file) as server:
            assert (await server.get(f"/nothing/async/{job}/phase")).text == "PENDING"


async def test_an_empty_file_is_told_as_one(file: Path) -> None:
    data(file).mkdir()
    (data(file) / "events.db").touch()
    found = (await examined(file))["log"]
    assert (found.state, found.found) == (
        "doubt",
        f"{data(file)}/events.db: the file is empty, and the next start begins a log in it",
    )
    verified = await uwsd("audit", "verify", "--data", data(file))
    assert (verified.status, verified.err) == (
        2,
        f"{data(file)}/events.db: there is no log: the file is empty\n",
    )


# Whose server it is


async def test_the_server_of_another_data_directory_is_not_taken_for_ours(file: Path, tmp_path: Path) -> None:
    port = file.read_text().split()[3]
    async with serving(file, "--data", tmp_path / "other", port=None) as other:
        found = (await examined(file))["server"]
        assert found.state == "fault"
        assert found.found == f"another server answers at {other.url}: none runs on {data(file)}"
        async with serving(file) as ours:
            found = (await examined(file))["server"]
            assert found.found.endswith(f": {data(file)} is in use by process {ours.process.pid}")
    async with serving(file) as ours:
        found = (await examined(file))["server"]
    assert found.state == "doubt"
    says = f"process {ours.process.pid} has {data(file)}, and does not listen at http://127.0.0.1:{port}"
    assert found.found == says


async def test_a_server_of_ours_that_does_not_answer_is_known_as_ours(file: Path) -> None:
    async with serving(file, port=None) as server:
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            found = (await examined(file))["server"]
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
    assert found.state == "fault"
    assert found.found.startswith(f"process {server.process.pid}, which has {data(file)}, does not answer at")
    assert f"kill -CONT {server.process.pid}" in found.advice


async def test_where_any_port_will_do_no_server_is_looked_for(file: Path) -> None:
    file.write_text(f"[server]\nport = 0\n{SERVICE}")
    assert (await examined(file))["server"].found.startswith("port = 0: ")


# Disks


@pytest.mark.parametrize(
    ("leaves", "state"), [(2_000_000_000, "well"), (900_000_000, "doubt"), (15_000_000, "fault")]
)
async def test_little_room_is_a_doubt_and_hardly_any_a_fault(
    file: Path, tmp_path: Path, leaves: int, state: str
) -> None:
    with mounted(tmp_path / "disk", leaves) as disk:
        done = await uwsd("doctor", "--json", "--data", disk.path / "var")
    (found,) = [each for each in msgspec.json.decode(done.out, type=list[Finding]) if each.subject == "disk"]
    assert (found.state, found.found.endswith(f" are free at {disk.path}")) == (state, True)


async def test_a_log_on_a_disk_of_another_machine_is_a_doubt(file: Path, tmp_path: Path) -> None:
    with remote(tmp_path / "far", "fuse.sshfs") as far:
        file.write_text(f'data = "{far}"\n' + file.read_text())
        found = await examined(file)
        assert found["file system"].state == "doubt"
        assert f"{far} is on fuse.sshfs, whose locks" in found["file system"].found
        assert found["log"].state == "well"
        file.write_text('store = "postgresql://nobody@127.0.0.1:1/none"\n' + file.read_text())
        assert "file system" not in await examined(file)


async def test_a_disk_that_does_not_answer_keeps_nobody_waiting(file: Path, tmp_path: Path) -> None:
    with remote(tmp_path / "far", "fuse.sshfs", dead="events.db") as far:
        file.write_text(f'data = "{far}"\n' + file.read_text())
        found = await examined(file)
    assert (found["log"].state, found["log"].found) == ("fault", "no answer for 10 s")
    assert (found["server"].state, found["server"].found) == ("fault", "no answer for 10 s")
    assert found["program"].state == "well"


# Services


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no Slurm to hand jobs to")
async def test_every_service_is_told_of(file: Path) -> None:
    file.write_text(
        file.read_text()
        + '[services.inner]\ntitle = "Inner"\nfunction = "os.path:basename"\n'
        + '[services.far]\ntitle = "Far"\ncommand = ["imcopy"]\nexecutor = "slurm"\n'
    )
    (file.parent / "inner.py").write_text('def half(x: float) -> float:\n    """Half."""\n    return x / 2\n')
    file.write_text(file.read_text().replace("os.path:basename", "inner:half"))
    out = (await uwsd("doctor", file)).out
    assert "ok    function: services.inner.function: inner:half was imported to read the declaration\n" in out
    assert "ok    program: services.far.command: imcopy is looked for on the nodes of Slurm\n" in out


# Other users


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_who_is_another_user_is_told_whose_it_is_and_how_to_become_that_one() -> None:
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "uwsd.toml"
        file.write_text(SERVICE)
        Path(made).chmod(0o755)
        async with serving(file):
            pass
        told = (
            f": {data(file)} belongs to user 0 (root), and this is user 65534 (nobody): sudo -u root uwsd …\n"
        )
        for command in (
            ("serve", file, "--port", "0"),
            *((*words, "-c", file) for words in (("jobs", "list"), ("audit", "verify"), ("audit", "usage"),
                                                 ("projections", "status"), ("queue", "pause"))),
        ):  # fmt: skip
            done = await run("setpriv", "--reuid=65534", "--clear-groups", UWSD, *command)
            assert (done.status, done.out) == (2, "")
            # Who measures coverage says below it that nobody may write what was measured.
            assert done.err.splitlines(keepends=True)[0].endswith(told), command
        data(file).chmod(0o711)
        done = await run("setpriv", "--reuid=65534", "--clear-groups", UWSD, "audit", "log", "-c", file)
        assert (done.status, done.err) == (2, done.err)
        assert "events.db belongs to user 0 (root)" in done.err
