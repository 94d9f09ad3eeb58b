"""The socket in the data directory: who may use it, and what goes through it."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
import socket
import stat
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from eventstore.checkpoint import SigningKey
from tests.daemon import PATIENCE, UWSD, serving, uwsd
from uws import Caller, Changes, Service, make_uws_application, run_node
from uws.admin import EraseJob, NobodyListens, PruneLog, Refusal, Unreachable
from uws.admin.client import ask
from uws.config import Settings
from uws.node import administer

ECHO = Service(name="echo", title="Echo", command=["true"])
TRUE = '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
ERASE = EraseJob("nobody", "a test")


def nothing(done: int, of: int | None) -> None:
    """Report to nobody."""


@asynccontextmanager
async def connected(data: Path) -> AsyncIterator[Callable[..., Any]]:
    """Give what sends bytes to the socket in ``data``, and returns the answer's status and lines."""
    connector = aiohttp.UnixConnector(str(data / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(body: bytes, method: str = "POST", path: str = "/") -> tuple[int, list[str]]:
            async with session.request(method, f"http://admin{path}", data=body) as response:
                return response.status, (await response.text()).splitlines()

        yield send


@asynccontextmanager
async def being_read(pipe: Path) -> AsyncIterator[None]:
    """Wait until somebody reads from ``pipe``; as long as the context lasts there is nothing to read."""
    async with asyncio.timeout(PATIENCE):
        while (end := _open(pipe)) is None:
            await asyncio.sleep(0)
    try:
        yield
    finally:
        os.close(end)


def _open(pipe: Path) -> int | None:
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody reads
        return None


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """An archive of which nothing comes: whoever reads it is busy until the test lets him go."""
    for data in (tmp_path, tmp_path / "var"):
        data.mkdir(exist_ok=True)
        SigningKey.load_or_create(data / "audit.key", "uwsd")
    path = tmp_path / "slow.gz"
    os.mkfifo(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(TRUE)
    return path


# Who may use it


async def test_the_socket_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with run_node(Settings(data=tmp_path, services=(ECHO,))):
            mode = (tmp_path / "admin.sock").stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_other_users_are_refused_by_the_socket_itself() -> None:
    connect = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setuid(int(sys.argv[2]))\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: sys.exit(13)\n"
    )
    with tempfile.TemporaryDirectory() as made:
        data = Path(made)
        data.chmod(0o755)  # the directory does not keep them out
        async with run_node(Settings(data=data, services=(ECHO,))):
            for user, status in ((65534, 13), (0, 0)):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", connect, data / "admin.sock", str(user)
                )
                assert await process.wait() == status


async def test_who_may_not_use_the_socket_is_told_its_path(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").symlink_to("admin.sock")  # what even root cannot connect to
    with pytest.raises(OSError, match="symbolic links") as refused:
        await ask(tmp_path, ERASE, nothing)
    assert refused.value.filename == str(tmp_path / "admin.sock")


async def test_the_event_says_which_user_of_the_system_asked_and_for_what(tmp_path: Path) -> None:
    async with run_node(Settings(data=tmp_path, services=(ECHO,))) as node:
        job = await node.services[0].create_job(Changes(), Caller("anna"))
        await node.services[0].destroy_job(job.id, Caller("anna"))
        await ask(tmp_path, EraseJob(job.id, "asked for"), nothing)
        about = (await node.backend.store.read_stream(f"job/{job.id}"))[-1].about
    assert about.actor == pwd.getpwuid(os.getuid()).pw_name
    assert about.client == "uwsd audit erase"
    assert about.request_id == about.correlation_id is not None


async def test_operations_are_logged_with_who_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uws.admin")
    async with run_node(Settings(data=tmp_path, services=(ECHO,))):
        with pytest.raises(Refusal):
            await ask(tmp_path, ERASE, nothing)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert f"{user} asks for audit erase: EraseJob(job_id='nobody', reason='a test')" in caplog.text
    assert "audit erase: there is no job nobody" in caplog.text


# Where it is


async def test_an_embedded_server_has_the_socket_too_and_takes_it_away(tmp_path: Path) -> None:
    runner = web.AppRunner(make_uws_application(Settings(data=tmp_path, services=(ECHO,))))
    await runner.setup()
    try:
        with pytest.raises(Refusal, match="there is no job nobody"):
            await ask(tmp_path, ERASE, nothing)
    finally:
        await runner.cleanup()
    assert not (tmp_path / "admin.sock").exists()
    with pytest.raises(NobodyListens):
        await ask(tmp_path, ERASE, nothing)


@pytest.mark.parametrize("leftover", ["socket", "file"])
async def test_what_a_crashed_server_left_is_replaced(tmp_path: Path, leftover: str) -> None:
    if leftover == "socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / "admin.sock"))
    else:
        (tmp_path / "admin.sock").write_text("what is this?")
    async with run_node(Settings(data=tmp_path, services=(ECHO,))):
        with pytest.raises(Refusal, match="there is no job nobody"):
            await ask(tmp_path, ERASE, nothing)
    assert not (tmp_path / "admin.sock").exists()


async def test_after_a_crash_commands_open_the_log_themselves(tmp_path: Path, file: Path) -> None:
    async with serving(file) as server:
        await server.stop(signal.SIGKILL)
    assert (tmp_path / "var" / "admin.sock").exists()
    refused = await uwsd("audit", "erase", "nobody", "--reason", "a test", "--config", file)
    assert (refused.status, refused.err) == (2, "there is no job nobody\n")


async def test_a_data_directory_may_have_a_path_longer_than_addresses_of_sockets(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 40) / ("longer" * 30)
    async with run_node(Settings(data=data, services=(ECHO,))):
        assert (data / "admin.sock").is_socket()
        with pytest.raises(Refusal, match="there is no job nobody"):
            await ask(data, ERASE, nothing)
    assert not (data / "admin.sock").exists()


async def test_a_data_directory_may_be_relative_and_its_server_may_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with run_node(Settings(data=Path("var"), services=(ECHO,))):
        monkeypatch.chdir("/")
        with pytest.raises(Refusal, match="there is no job nobody"):
            await ask(tmp_path / "var", ERASE, nothing)
    assert not (tmp_path / "var" / "admin.sock").exists()


# What goes through it


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"type":"audit forge"}', "Invalid value 'audit forge' - at `$.type`"),
        (b'{"type":"audit erase"}', "Object missing required field `job_id`"),
        (b'{"type":"audit erase","job_id":"x","reason":"y","force":1}', "contains unknown field `force`"),
        (b"erase everything", "JSON is malformed: invalid character (byte 0)"),
        (b"", "Input data was truncated"),
        (b'{"type":"audit \xff"}', "invalid start byte"),
    ],
    ids=["unknown", "incomplete", "too much", "no JSON", "empty", "no text"],
)  # fmt: skip
async def test_what_is_no_operation_is_refused_in_one_line(tmp_path: Path, body: bytes, problem: str) -> None:
    async with run_node(Settings(data=tmp_path, services=(ECHO,))), connected(tmp_path) as send:
        status, (line,) = await send(body)
    assert status == 200
    assert line.startswith('{"type":"failure","problems":["the server that runs does not know this command: ')
    assert problem in line


async def test_operations_are_checked_by_the_server_too(tmp_path: Path) -> None:
    async with run_node(Settings(data=tmp_path, services=(ECHO,))), connected(tmp_path) as send:
        _, erasing = await send(b'{"type":"audit erase","job_id":"x","reason":"two\\nlines"}')
        _, pruning = await send(b'{"type":"audit prune","archive":"log.gz"}')
    reason, path = (
        "--reason: expected a line of text, got 'two\\\\nlines'",
        "log.gz: the path must be absolute",
    )
    assert erasing == [f'{{"type":"failure","problems":["{reason}"],"holds":true}}']
    assert pruning == [f'{{"type":"failure","problems":["{path}"],"holds":true}}']


async def test_nothing_else_is_offered_there_and_nothing_of_it_on_the_network(file: Path) -> None:
    async with serving(file) as server, connected(file.parent / "var") as send:
        assert (await send(b"", "GET"))[0] == 405
        assert (await send(b"", "POST", "/nothing/async"))[0] == 404
        body = b'{"type":"audit erase","job_id":"x","reason":"y"}'
        assert (await server.post("/", body)).status in (404, 405)
        assert (await server.post("/admin.sock", body)).status in (404, 405)


async def test_who_answers_something_else_is_no_server(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(greet, tmp_path / "admin.sock")
    async with server:
        with pytest.raises(Refusal, match="whoever answers there does not know admin commands"):
            await ask(tmp_path, ERASE, nothing)


async def test_a_server_that_is_killed_meanwhile_is_told_of(tmp_path: Path, file: Path, pipe: Path) -> None:
    async with serving(file) as server:
        asking = asyncio.create_task(ask(tmp_path / "var", PruneLog(str(pipe)), nothing))
        async with being_read(pipe):
            await server.stop(signal.SIGKILL)
            with pytest.raises(Refusal, match="the server ended before audit prune was done"):
                await asking


# Interruptions


async def test_a_client_that_goes_away_ends_its_operation(
    tmp_path: Path, pipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uws.admin")
    async with run_node(Settings(data=tmp_path, services=(ECHO,))) as node:
        asking = asyncio.create_task(ask(tmp_path, PruneLog(str(pipe)), nothing))
        async with being_read(pipe):
            asking.cancel()
            await asyncio.wait([asking])
            while any(task.get_name() == "audit prune" for task in asyncio.all_tasks()):
                await asyncio.sleep(0)
        assert "audit prune is given up: its client went away" in caplog.text
        with pytest.raises(Refusal, match="there is no job nobody"):
            await ask(tmp_path, ERASE, nothing)
        assert [event.type for event in await node.backend.store.read_all()] == ["ServiceDeclared"]


async def test_ctrl_c_ends_the_command_and_what_the_server_does_for_it(file: Path, pipe: Path) -> None:
    async with serving(file) as server:
        process = await prune(file, pipe)
        async with being_read(pipe):
            os.kill(process.pid, signal.SIGINT)
            assert await ended(process) == (130, "interrupted\n")
            while "audit prune is given up" not in server.err:
                await server.get("/")


async def test_ctrl_c_ends_the_command_without_a_server_too(file: Path, pipe: Path) -> None:
    async with serving(file):
        pass
    process = await prune(file, pipe)
    async with being_read(pipe):
        os.kill(process.pid, signal.SIGINT)
    assert await ended(process) == (130, "interrupted\n")
    assert (await uwsd("projections", "rebuild", "--config", file)).status == 0, "the log is free"


async def prune(file: Path, pipe: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        UWSD, "audit", "prune", pipe, "--config", file, stderr=asyncio.subprocess.PIPE
    )


async def ended(process: Process) -> tuple[int | None, str]:
    async with asyncio.timeout(PATIENCE):
        _, printed = await process.communicate()
    return process.returncode, printed.decode()


async def test_a_server_that_is_stopped_says_so_to_those_who_wait(file: Path, pipe: Path) -> None:
    async with serving(file) as server:
        pruning = asyncio.create_task(uwsd("audit", "prune", pipe, "--config", file))
        async with being_read(pipe):
            os.kill(server.process.pid, signal.SIGTERM)
            refused = await pruning
        assert await server.process.wait() == 0
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == "the server was stopped before audit prune was done; repeat it\n"


async def test_a_command_waits_for_a_server_that_ends_or_another_command(tmp_path: Path) -> None:
    async with run_node(Settings(data=tmp_path, services=(ECHO,))):
        (tmp_path / "admin.sock").unlink()  # as it is at the very end
        asking = asyncio.create_task(administer(Settings(data=tmp_path), ERASE, nothing))
        await asyncio.sleep(0)
    with pytest.raises(Exception, match="there is no job nobody"):
        await asking


async def test_one_that_has_the_log_and_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.node._ATTEMPTS", 2)
    async with run_node(Settings(data=tmp_path, services=(ECHO,))):
        (tmp_path / "admin.sock").unlink()
        with pytest.raises(Unreachable) as refused:
            await administer(Settings(data=tmp_path), ERASE, nothing)
    assert refused.value.pid == os.getpid()
    assert f"{tmp_path} is in use by process {os.getpid()}, which takes no admin commands now" in str(
        refused.value
    )
