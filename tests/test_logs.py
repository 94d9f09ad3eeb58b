"""The server's log: one record, one line, with the request or the job that it is about."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.daemon import PATIENCE, UWSD, Client, serving, uwsd
from tests.harness import BasicUsers, ManualClock, job_id, running
from tests.web.support import ECHO, GATE, MULTIPART, gate, multipart, raw
from tests.web.test_availability import broken
from uws.cli.logs import log_handler

TRUE = '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A right declaration."""
    path = tmp_path / "uwsd.toml"
    path.write_text(TRUE)
    return path


def records(text: str) -> list[dict[str, Any]]:
    """Return what the lines of a log say."""
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def logged(*, is_json: bool = True) -> Iterator[StringIO]:
    """Give what the server would write of all that is logged in this process."""
    written, root = StringIO(), logging.getLogger()
    handler, level = log_handler(written, is_json=is_json), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


# What uwsd serve writes


async def test_where_there_is_no_terminal_each_request_is_a_line_of_json(file: Path) -> None:
    async with serving(file) as server:
        answer = await server.get("/nothing/async?TEXT=secret", headers={"User-Agent": "TOPCAT/5"})
        gone = await server.get("/nothing/async/00/phase")
        for probe in ("/healthz", "/readyz", "/metrics"):
            assert (await server.get(probe)).status == 200
        first, second = records(server.err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.pop("time"))
    assert 0 < first.pop("seconds") < PATIENCE
    assert first == {
        "level": "info",
        "logger": "uws.access",
        "event": "GET /nothing/async 200",
        "status": 200,
        "request_id": answer.headers["X-Request-ID"],
        "user_agent": "TOPCAT/5",
    }
    assert (second["event"], second["job_id"]) == ("GET /nothing/async/00/phase 404", "00")
    assert second["request_id"] == gone.headers["X-Request-ID"]


async def test_lines_of_requests_can_be_left_out(file: Path) -> None:
    file.write_text("[server]\naccess_log = false\n" + TRUE)
    async with serving(file) as server:
        await server.get("/nothing/async")
        assert server.err == ""


async def test_what_is_no_http_is_a_line_without_a_traceback(file: Path) -> None:
    async with serving(file) as server:
        answer = await raw(server, "GET", "/nothing/async", Accept=b"text/html\x0bq=1")
        assert answer.status == 400
        (line,) = records(server.err)
    assert (line["logger"], line["level"]) == ("aiohttp.server", "info")
    assert line["event"] == "Error handling request from 127.0.0.1: Invalid header value char:"
    assert "exception" not in line


async def test_what_is_wrong_with_a_part_is_told_to_the_client_alone(file: Path) -> None:
    bad = [b"Content-Disposition: form-data; name*=utf-8''%FF\r\n\r\nx", b"Content-Disposition: =\r\n\r\nx"]
    async with serving(file) as server:
        for part in bad:
            answer = await raw(server, "POST", "/nothing/async", multipart(part), Content_Type=MULTIPART)
            assert (answer.status, answer.text) == (
                400,
                "UsageFault: multipart/form-data: every part needs a name and holds one value\n",
            )
        assert [line["event"] for line in records(server.err)] == ["POST /nothing/async 400"] * len(bad)


async def test_text_is_what_is_written_where_it_is_asked_for(file: Path) -> None:
    file.write_text('[server]\nlog = "text"\n' + TRUE)
    async with serving(file) as server:
        answer = await server.get("/nothing/async", headers={"User-Agent": "me"})
        (line,) = server.err.splitlines()
    assert re.search(r"^\S+Z \[info +\] GET /nothing/async 200 +\[uws\.access\]", line)
    assert f"request_id={answer.headers['X-Request-ID']}" in line
    assert "user_agent=me" in line


@pytest.mark.parametrize(("log", "is_json"), [("", False), ('log = "json"', True)])
async def test_on_a_terminal_it_is_text_unless_json_is_asked_for(file: Path, log: str, is_json: bool) -> None:
    file.write_text(f"[server]\n{log}\n" + TRUE)
    terminal, theirs = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            UWSD,
            "serve",
            file,
            "--port",
            "0",
            stdout=PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        try:
            assert process.stdout
            async with asyncio.timeout(PATIENCE):
                url = (await process.stdout.readline()).decode().removeprefix("serving on ").strip()
                async with aiohttp.ClientSession() as session:
                    await Client(url, session).get("/nothing/async")
                line = (await asyncio.to_thread(os.read, terminal, 1 << 16)).decode()
        finally:
            process.terminate()
            await process.communicate()
    finally:
        os.close(terminal)
    assert "GET /nothing/async 200" in line
    assert line.startswith("{") is is_json
    assert ("\x1b[" in line) is not is_json, "it has colours"


# What a record is about


async def test_who_asked_is_told_with_what_was_asked(tmp_path: Path) -> None:
    with logged() as written:
        async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
            await site.get("/echo/async", user="ada")
            await site.get("/echo/async", headers={"Authorization": "Basic nonsense"})
            first, second = records(written.getvalue())
    assert (first["status"], first["user"]) == (200, "ada")
    assert second["status"] == 401
    assert "user" not in second


async def test_a_failure_is_one_line_with_its_traceback_and_the_request_that_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> str:
        raise RuntimeError('a bug\n{"level": "info", "event": "all is well"}\nof two lines')

    monkeypatch.setattr("uws.jobs.UserUWS.list_state", fail)
    with logged() as written:
        async with running(tmp_path, ECHO) as site:
            answer = await site.get("/echo/async")
            failure, request = records(written.getvalue())
    assert failure["level"] == "error"
    assert failure["request_id"] == request["request_id"] == answer.headers["X-Request-ID"]
    assert failure["exception"].startswith("Traceback (most recent call last)")
    assert failure["exception"].endswith("of two lines")


async def test_an_admin_command_has_an_id_that_is_told_with_what_it_does(file: Path) -> None:
    async with serving(file) as server:
        done = await uwsd("queue", "pause", "--config", file)
        assert done.status == 0, done.err
        (record,) = records(server.err)
    assert "asks for queue pause" in record["event"]
    assert record["request_id"] in record["event"]


async def test_what_happens_in_the_run_of_a_job_is_told_with_the_job(
    tmp_path: Path, clock: ManualClock
) -> None:
    with gate(tmp_path / "gate") as door, logged() as written:
        async with running(tmp_path / "data", GATE, ECHO, clock=clock) as site:
            await site.ended(await site.run("echo"))
            job = await site.run("gate", gate=str(door.path))
            await site.executing(job)
            writer = site.node.backend.store._writer  # type: ignore[attr-defined]
            await writer.execute("PRAGMA query_only = ON")
            door.let_through()
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            await writer.execute("PRAGMA query_only = OFF")
            clock.advance(seconds=1)
            await site.ended(job)
    (record,) = [each for each in records(written.getvalue()) if each["level"] == "warning"]
    assert record["job_id"] == job_id(job)
    assert record["event"].endswith(
        "the log cannot be written: attempt to write a readonly database; trying again"
    )
    assert "request_id" not in record


async def test_what_is_done_for_all_is_told_without_the_request_that_happened_to_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logged() as written:
        async with (
            running(tmp_path, ECHO) as site,
            site.session.get(f"{site.list_url('echo')}/events") as stream,
        ):
            await stream.content.readuntil(b"event: reset")
            monkeypatch.setattr("uws.feed.apply", broken)
            async with asyncio.timeout(PATIENCE):
                await site.create("echo")
                while "uws.feed" not in written.getvalue():
                    await asyncio.sleep(0)
    (record,) = [each for each in records(written.getvalue()) if each["logger"] == "uws.feed"]
    assert "request_id" not in record


# Nothing that is logged can pass for something else

HOSTILE = "innocent\n2026-01-01T00:00:00Z [info] all is well\r\x1b[2J\x1b]0;title\x07\x85\u2028\u202e\udcff"


def written_of(*, is_json: bool) -> str:
    """Return what is written of a hostile record: text, values and traceback."""
    written = StringIO()
    log = logging.Logger("hostile")  # nobody else's: not all could bear it
    log.addHandler(log_handler(written, is_json=is_json))
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        log.exception("failed: %s", HOSTILE, extra={"user": HOSTILE})
    return written.getvalue()


def test_a_record_is_one_line_of_json_whatever_it_holds() -> None:
    text = written_of(is_json=True)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    (record,) = records(text)
    assert record["user"] == HOSTILE
    assert record["event"] == f"failed: {HOSTILE}"
    assert HOSTILE in record["exception"]


def test_no_record_of_text_passes_for_another_or_tells_the_terminal_what_to_do() -> None:
    first, *rest = written_of(is_json=False).splitlines()
    assert "failed: innocent\\n2026" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in [first, *rest])


def test_values_of_variables_are_not_told() -> None:
    password = "hunter2"
    for is_json in (True, False):
        with logged(is_json=is_json) as written:
            try:
                int("x" if password else "y")
            except ValueError:
                logging.getLogger("uws.test").exception("failed")
        assert password not in written.getvalue()
