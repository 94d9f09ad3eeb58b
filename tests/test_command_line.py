"""`uwsd check` and `uwsd serve`, in processes of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.daemon import PATIENCE, UWSD, Daemon, announcements, has_ended, run, serving, uwsd
from tests.harness import NIL, text

TRUE = '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
CUTOUT = r"""
[services.cutout]
title = "Image cutout [/b]"
description = "A square :warning: around a [position]."
command = ["python", "-m", "cutout", "{image}", "--ra={ra}", ["--band={band}"]]
max_running = 2
execution_duration = { default = 60, max = 3600 }
archive = true
results = [{ id = "cutout", path = "cutout.fits", mime = "application/fits" },
           { id = "preview", path = "*.png", optional = true }]

[services.cutout.parameters]
image = { type = "file", required = true, max_size = "200MB", description = "A FITS image, small or large" }
ra    = { type = "float", min = 0, max = 360, default = 266.5, unit = "deg" }
band  = { type = "str", pattern = "[a-z]+", max_length = 8, values = ["j", "h"], multiple = true }
"""

# Says its own process and one that it has started, and ends after so many seconds.
SLEEPER = """
[server]
jobs_end_with_server = %s

[services.sleeper]
title = "Sleeper"
command = ["sh", "-c", 'sleep "$1" & echo $$ $! > "$FIFO"; wait', "sleeper", "{seconds}"]
environment = { FIFO = "%s" }
[services.sleeper.parameters]
seconds = { type = "int", required = true }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A right declaration."""
    path = tmp_path / "uwsd.toml"
    path.write_text(TRUE)
    return path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    return tmp_path / "fifo"


@pytest.fixture
def sleeper(tmp_path: Path, fifo: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(SLEEPER % ("true", fifo))
    return path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


# check


async def test_check_prints_what_is_declared_as_tables(tmp_path: Path) -> None:
    (tmp_path / "uwsd.toml").write_text(CUTOUT)
    checked = await uwsd("check", cwd=tmp_path)
    assert (checked.status, checked.err) == (0, "")
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in checked.out.splitlines()
        if line.startswith("│")
    ]
    first = {row[0]: row[1:] for row in rows if row[0]}
    assert first["image"][:2] == ["file", "yes"]
    assert first["ra"][:3] == ["float", "", "266.5"]
    assert first["ra"][4] == "deg"
    assert first["cutout"] == ["cutout.fits", "application/fits"]
    assert first["preview"] == ["*.png (optional)", ""]
    assert "runs python -m cutout {image} --ra={ra} [--band={band}]" in checked.out
    printed = " ".join(checked.out.split())
    assert "at most 2 at a time, 1min each (at most 1h), kept 7d (at most 30d), then archived" in printed
    assert "uwsd.toml is right: 1 service(s) on http://127.0.0.1:8080, data in " in printed
    assert printed.endswith("var")
    assert not (tmp_path / "var").exists()


async def test_who_reads_no_further_is_told_nothing(file: Path, tmp_path: Path) -> None:
    done = await run("sh", "-c", '"$0" check "$1" | :', UWSD, file, cwd=tmp_path)
    assert (done.status, done.out, done.err) == (0, "", "")


async def test_check_prints_the_terms_on_which_programs_run(file: Path, tmp_path: Path) -> None:
    terms = (
        'limits = { memory = "2GB", processes = 4 }\nnice = 3\npriority = 2\nmax_running_per_owner = 1\n'
        'max_queued_per_owner = 3\nwhen_full = "hold"\non_lost = "requeue"\nrequeues = 2\n'
    )
    file.write_text(f'[services.a]\ntitle = "A"\ncommand = ["true"]\n{terms}')
    told = " ".join((await uwsd("check", cwd=tmp_path)).out.split())
    assert (
        "memory ≤ 2GB, processes ≤ 4, nice 3, at most 1 of one owner at a time, "
        "at most 3 of one owner queued, others held, priority 2, started again when lost, at most 2 times"
    ) in told
    file.write_text('[services.a]\ntitle = "A"\ncommand = ["true"]\n')
    assert "≤" not in (await uwsd("check", cwd=tmp_path)).out


async def test_check_warns_of_a_free_text_that_a_program_can_take_for_an_option(
    file: Path, tmp_path: Path
) -> None:
    file.write_text(
        '[services.a]\ntitle = "A"\n'
        'command = ["echo", "{free}", "{n}", "{kept}", "--x={free}", "--", "{free}"]\n'
        '[services.a.parameters]\nfree = { type = "str", required = true }\n'
        'n = { type = "int", required = true }\n'
        'kept = { type = "str", required = true, pattern = "(?!-).+" }\n'
    )
    checked = await uwsd("check", cwd=tmp_path)
    assert checked.status == 0, "it may be meant"
    assert "uwsd.toml is right" in checked.out
    assert checked.err == (
        "warning: services.a.command[1]: a value of free that begins with '-' can be taken for an option: "
        'put "--" before it, write it as "--option={free}", or give free a pattern that begins with (?!-)\n'
    )


async def test_check_warns_of_a_program_that_is_not_there(file: Path, tmp_path: Path) -> None:
    file.write_text(TRUE.replace('"true"', '"no-such-program"'))
    checked = await uwsd("check", cwd=tmp_path)
    assert checked.status == 0, "it may be there when the server starts"
    assert checked.err.startswith(
        "warning: services.nothing.command: no-such-program is not a program, or not in PATH"
    )


async def test_check_prints_what_operators_wrote_as_they_wrote_it_and_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "uwsd.toml").write_text(CUTOUT)
    printed = " ".join((await uwsd("check", cwd=tmp_path)).out.replace("│", " ").split())
    for written in ("Image cutout [/b]", "A square :warning: around a [position].", "[a-z]+"):
        assert written in printed
    for word in ("FITS", "image,", "small", "or", "large"):
        assert word in printed
    assert "…" not in printed


EXAMPLES = """
[services.head]
title = "First lines"
command = ["head", "--lines={lines}", "{text}"]
results = [{ id = "lines", path = "-" }]
[services.head.parameters]
text  = { type = "file", required = true }
lines = { type = "int", default = 10 }
[[services.head.examples]]
title = "This file"
parameters = { text = "uwsd.toml", lines = 2 }

[services.picky]
title = "Picky"
command = ["sh", "-c", 'echo "I do not like $1" >&2; test "$1" = b', "picky", "{x}"]
parameters = { x = { type = "str", required = true, pattern = "[ab].*" } }
examples = [{ title = "Liked", parameters = { x = "b" } }%s]
"""
DISLIKED = ', { title = "Not liked", id = "bad", parameters = { x = "a [b]" } }'


@pytest.mark.parametrize("more", ["", DISLIKED])
async def test_examples_are_run_when_asked_for_and_a_failure_is_status_1(tmp_path: Path, more: str) -> None:
    (tmp_path / "uwsd.toml").write_text(EXAMPLES % more)
    checked = await run(
        UWSD, "check", "--run-examples", cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in checked.out.splitlines()]
    ran = [row[:3] + row[4:] for row in rows if len(row) == 5]
    assert ran == [
        ["head", "this-file", "COMPLETED", "lines, 17 B"],
        ["picky", "liked", "COMPLETED", ""],
        *[["picky", "bad", "ERROR", ""]] * bool(more),
    ]
    assert checked.err == "picky, bad: I do not like a [b]\n" * bool(more)
    assert checked.status == (1 if more else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["uwsd.toml"], "nothing is left"


async def test_examples_are_named_by_check_and_not_run_unless_asked_for(tmp_path: Path, file: Path) -> None:
    (tmp_path / "uwsd.toml").write_text(EXAMPLES % DISLIKED)
    checked = await uwsd("check", cwd=tmp_path)
    assert (checked.status, checked.err) == (0, "")
    assert "examples: liked, bad" in checked.out.splitlines()
    file.write_text(TRUE)
    none = await uwsd("check", "--run-examples", cwd=tmp_path)
    assert (none.status, none.out.splitlines()[-1]) == (0, "there are no examples")


async def test_running_examples_can_be_interrupted_and_leaves_no_program(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "uwsd.toml").write_text(
        SLEEPER % ("false", fifo)
        + "[[services.sleeper.examples]]\ntitle = 'Long'\nparameters = { seconds = 1000 }\n"
    )
    async with announcements(fifo) as heard:
        process = await asyncio.create_subprocess_exec(
            UWSD, "check", "--run-examples", cwd=tmp_path, stdout=PIPE, stderr=PIPE
        )
        pids = [int(pid) for pid in await heard()]
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
        assert (process.returncode, err.decode()) == (130, "interrupted\n")
        for pid in pids:
            await has_ended(pid)


async def test_an_example_that_runs_for_too_long_is_stopped_and_named(tmp_path: Path, fifo: Path) -> None:
    example = "[[services.sleeper.examples]]\ntitle = '%s'\nparameters = { seconds = %d }\n"
    (tmp_path / "uwsd.toml").write_text(
        SLEEPER % ("false", fifo) + example % ("Long", 1000) + example % ("Short", 0)
    )
    async with announcements(fifo) as heard:
        checking = asyncio.ensure_future(
            run(UWSD, "check", "--run-examples", "--longest", "2s", cwd=tmp_path)
        )
        pids = [int(pid) for pid in await heard()]
        checked = await checking
        assert checked.status == 1
        assert checked.err == "sleeper, long: the execution duration of 2 s (2s) was exceeded\n"
        rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in checked.out.splitlines()]
        assert [row[1:3] for row in rows if len(row) == 5] == [["long", "ABORTED"], ["short", "COMPLETED"]]
        for pid in pids:
            await has_ended(pid)


@pytest.mark.parametrize("longest", ["0", "soon", "-1"])
async def test_what_is_no_time_for_examples_is_refused(tmp_path: Path, longest: str) -> None:
    (tmp_path / "uwsd.toml").write_text(EXAMPLES % "")
    refused = await uwsd("check", "--run-examples", "--longest", longest, cwd=tmp_path)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("--longest: expected ")


@pytest.mark.parametrize("command", ["check", "serve"])
async def test_mistakes_are_printed_one_a_line_with_their_places_and_end_with_status_2(
    tmp_path: Path, command: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(
        'prot = 80\n[services.cutout]\ntitle = "Cutout"\ncommand = ["ls", "{ra}"]\nmax_runing = 2\n'
        '[services.cutout.parameters]\nra = { type = "float", min = "0" }\n'
    )
    refused = await uwsd(command, file)
    assert refused.status == 2
    assert refused.out == ""
    assert refused.err.splitlines() == [
        "prot: unknown key; known are audit, auth, data, jobs, limits, node, queue, quotas, retention, "
        "server, services, slurm, store, uploads",
        "services.cutout.max_runing: unknown key (did you mean max_running?)",
        "services.cutout.parameters.ra.min: expected float, got str",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.toml"], "nothing was touched"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[services\n", "Expected ']' at the end of a table declaration (at line 1, column 10)"),
        (b"title = '\xff'\n", "not UTF-8 text"),
        (None, "No such file or directory"),
    ],
    ids=["not TOML", "not text", "not there"],
)
async def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "uwsd.toml").write_bytes(content)
    for command in ("check", "serve"):
        refused = await uwsd(command, cwd=tmp_path)
        assert (refused.status, refused.out, refused.err) == (2, "", f"uwsd.toml: {problem}\n")


# serve: options, and what stands in the way


async def test_options_win_over_the_file(tmp_path: Path, file: Path, taken_port: int) -> None:
    file.write_text(f'data = "of-the-file"\n[server]\nhost = "127.0.0.1"\nport = {taken_port}\n{TRUE}')
    async with serving(file, "--host", "127.0.0.2", "--data", "of-the-option", cwd=tmp_path) as server:
        assert server.url.startswith("http://127.0.0.2:")
        assert not server.url.endswith(f":{taken_port}")
        assert (await server.get("/nothing/async")).status == 200
    assert (tmp_path / "of-the-option" / "events.db").exists()
    assert not (tmp_path / "of-the-file").exists()


async def test_the_file_counts_where_there_is_no_option(tmp_path: Path, file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    file.write_text(f'data = "of-the-file"\n[server]\nport = {port}\n{TRUE}')
    async with serving(file, port=None) as server:
        assert server.url == f"http://127.0.0.1:{port}"
    assert (tmp_path / "of-the-file" / "events.db").exists()


async def test_an_option_that_cannot_be_is_refused_by_its_name(file: Path) -> None:
    refused = await uwsd("serve", file, "--port", "80800")
    assert (refused.status, refused.err) == (2, "--port: 80800 is not between 0 and 65535\n")


@pytest.mark.parametrize(
    ("store", "name", "says"),
    [
        (
            "postgresql://db.example/uwsd",
            "a b",
            "expected up to 64 letters, digits, dots and dashes, got 'a b'",
        ),
        (
            "postgresql://db.example/uwsd",
            "",
            "expected up to 64 letters, digits, dots and dashes, got ''",
        ),
        (None, "a", "only servers that share a log are nodes: add store to the file"),
    ],
)
async def test_the_name_of_a_node_that_cannot_be_is_refused_by_its_option(
    file: Path, store: str | None, name: str, says: str
) -> None:
    file.write_text((f'store = "{store}"\njobs = "jobs"\n' if store else "") + TRUE)
    refused = await uwsd("serve", file, "--node", name)
    assert (refused.status, refused.err) == (2, f"--node: {says}\n")


async def test_a_port_that_is_taken_is_an_error_that_names_the_option_and_touches_nothing(
    tmp_path: Path, file: Path, taken_port: int
) -> None:
    refused = await uwsd("serve", file, "--port", str(taken_port))
    assert refused.status == 2
    assert refused.err == (
        f"cannot listen on 127.0.0.1 port {taken_port}: Address already in use; choose another with --port\n"
    )
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("a..b", "encoding with 'idna' codec failed (UnicodeError: label empty or too long)"),
    ],
)
async def test_an_address_that_cannot_be_had_is_refused_without_blaming_the_port(
    file: Path, host: str, problem: str
) -> None:
    file.write_text(f"[auth]\nallow_anonymous = true\n{TRUE}")
    refused = await uwsd("serve", file, "--host", host, "--port", "0")
    assert refused.status == 2
    assert refused.err == f"cannot listen on {host} port 0: {problem}; choose another with --host\n"


async def test_a_second_server_on_the_same_data_is_refused_and_told_the_process_of_the_first(
    tmp_path: Path, file: Path
) -> None:
    async with serving(file) as server:
        refused = await uwsd("serve", file, "--port", "0")
        assert refused.status == 2
        assert refused.out == ""
        assert len(refused.err.splitlines()) == 1
        assert f"{tmp_path / 'var'}" in refused.err
        assert str(server.process.pid) in refused.err
        job = await server.run("nothing")
        assert text(await server.ended(job), "phase") == "COMPLETED", "the first one is none the worse"


async def test_a_data_directory_that_cannot_be_made_is_an_error_that_names_it(
    tmp_path: Path, file: Path
) -> None:
    refused = await uwsd("serve", file, "--port", "0", "--data", file)
    assert (refused.status, refused.err) == (2, f"{file}: File exists\n")


async def test_a_log_that_is_none_is_left_alone_and_refused_in_one_line(tmp_path: Path, file: Path) -> None:
    (tmp_path / "var").mkdir()
    log = tmp_path / "var" / "events.db"
    log.write_bytes(b"no database " * 1000)
    refused = await uwsd("serve", file, "--port", "0")
    assert refused.status == 2
    assert len(refused.err.splitlines()) == 1
    assert "events.db" in refused.err
    assert log.read_bytes() == b"no database " * 1000


# serve: the end, and what comes after it


async def test_sigint_ends_it_with_status_0(file: Path) -> None:
    async with serving(file) as server:
        assert await server.stop(signal.SIGINT) == 0


async def test_sigterm_ends_a_start_that_still_makes_read_models(tmp_path: Path, file: Path) -> None:
    trace = tmp_path / "many.swf"
    trace.write_text("1 0 0 5 4 -1 -1 4 60 -1 1 7 1 1 1 -1 -1 -1\n")
    many = "--jobs", "10000"
    imported = await uwsd("import", "swf", trace, "--service", "nothing", *many, "--config", file)
    assert imported.status == 0, imported.err
    process = await asyncio.create_subprocess_exec(
        UWSD, "serve", file, "--port", "0", stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE):
        assert process.stderr
        async for line in process.stderr:
            if b"read models are made" in line:
                break
        os.kill(process.pid, signal.SIGTERM)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b""), "it has never served"
    async with serving(file) as server:
        assert (await server.get("/nothing/async?LAST=1")).status == 200


async def test_a_waiting_client_is_answered_when_the_server_is_stopped(sleeper: Path, fifo: Path) -> None:
    async with announcements(fifo) as heard, serving(sleeper) as server:
        job = await server.run("sleeper", seconds=600)
        await heard()
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        path = job.removeprefix(server.url)
        writer.write(f"GET {path}?WAIT=60&PHASE=EXECUTING HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()
        await server.get(job)  # when this is answered, the one before it has been read
        assert await server.stop() == 0
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert b" 200 " in head.splitlines()[0]
        assert text(etree.fromstring(body), "phase") == "EXECUTING"


async def test_where_jobs_end_with_the_server_sigterm_stops_them_and_leaves_the_queue_to_the_next_one(
    sleeper: Path, fifo: Path
) -> None:
    async with announcements(fifo) as heard:
        async with serving(sleeper) as server:
            running = await server.run("sleeper", seconds=600)
            pids = [int(pid) for pid in await heard()]
            second = await server.run("sleeper", seconds=600)
            third = await server.run("sleeper", seconds=0)
            assert await server.phase(running) == "EXECUTING"
            assert [await server.phase(job) for job in (second, third)] == ["QUEUED", "QUEUED"]
            assert await server.stop() == 0
            for pid in pids:
                await has_ended(pid)

        async with serving(sleeper, port=port_of(server)) as server:
            await assert_interrupted(server, running)
            await heard()
            assert await server.phase(second) == "EXECUTING"
            assert await server.phase(third) == "QUEUED", "there is one slot"
            await server.post(f"{second}/phase", {"PHASE": "ABORT"})
            assert text(await server.ended(third), "phase") == "COMPLETED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_programs_outlive_their_server_and_are_the_next_ones(
    sleeper: Path, fifo: Path, number: signal.Signals
) -> None:
    sleeper.write_text(SLEEPER % ("false", fifo))
    async with announcements(fifo) as heard:
        async with serving(sleeper) as server:
            running = await server.run("sleeper", seconds=600)
            pids = [int(pid) for pid in await heard()]
            queued = await server.run("sleeper", seconds=0)
            assert await server.stop(number) == (0 if number is signal.SIGTERM else -number)
            for pid in pids:
                os.kill(pid, 0)  # it survives its server

        async with serving(sleeper, port=port_of(server)) as server:
            assert await server.phase(running) == "EXECUTING"
            assert await server.phase(queued) == "QUEUED", "there is one slot"
            await server.post(f"{running}/phase", {"PHASE": "ABORT"})
            assert text(await server.ended(running), "phase") == "ABORTED"
            for pid in pids:
                await has_ended(pid)
            assert text(await server.ended(queued), "phase") == "COMPLETED"


def port_of(server: Daemon) -> int:
    return int(server.url.rpartition(":")[2])


async def assert_interrupted(server: Daemon, job: str) -> None:
    document = await server.document(job)
    assert text(document, "phase") == "ERROR"
    summary = document.find("{*}errorSummary")
    assert summary is not None
    assert summary.get("type") == "transient"
    assert text(document, "message") == "the server was stopped while the job ran"
    end = document.find("{*}endTime")
    assert end is not None
    assert end.get(NIL) is None


STORY = """
[server]
base_url = "https://jobs.example.org/vo"
[auth]
allow_anonymous = true

[services.copy]
title = "Copy"
command = ["sh", "-c", 'cat "$1"; echo gone wrong >&2; exit "$2"', "copy", "{text}", "{status}"]
results = [{ id = "out", path = "-", mime = "text/plain" }]
archive = true
[services.copy.parameters]
text = { type = "file", required = true }
status = { type = "int", default = 0 }
note = { type = "str", multiple = true }
"""


async def test_without_its_read_models_the_next_server_serves_the_same_documents_byte_for_byte(
    tmp_path: Path,
) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(STORY)
    async with serving(file) as server:
        jobs = await tell_a_story(server)
        before = await everything(server, jobs)
    assert len(set(before.values())) > 20
    (tmp_path / "var" / "projections.db").unlink()
    shutil.rmtree(tmp_path / "var" / "projections")
    async with serving(file) as server:
        assert await everything(server, jobs) == before


async def test_read_models_that_cannot_be_read_are_made_anew_and_that_is_told(tmp_path: Path) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(STORY)
    async with serving(file) as server:
        jobs = await tell_a_story(server)
        before = await everything(server, jobs)
    for path in (tmp_path / "var").glob("projections*/*.db"):
        path.write_bytes(b"no database " * 1000)
    async with serving(file) as server:
        assert await everything(server, jobs) == before
    registry = tmp_path / "var" / "projections.db"
    registry.write_bytes(b"no database " * 1000)
    async with serving(file) as server:
        assert await everything(server, jobs) == before
        assert f"{registry}: " in server.err
        assert "the read models are made anew" in server.err


async def tell_a_story(server: Daemon) -> list[str]:
    """Make jobs in many phases, and return their paths."""

    async def create(**fields: object) -> str:
        return (await server.create("copy", **fields)).removeprefix("https://jobs.example.org/vo")

    done = await create(text=b"\xc3\xa4\n", note=["one", "two & <three>"], RUNID="a run", PHASE="RUN")
    failed = await create(text=b"x", status=75, PHASE="RUN")
    for job in (done, failed):
        await server.ended(job)
    pending = await create(DESTRUCTION="2100-01-01", EXECUTIONDURATION=17)
    aborted = await create(text=b"x")
    await server.post(f"{aborted}/phase", {"PHASE": "ABORT"})
    archived = await create(text=b"x", PHASE="RUN")
    await server.ended(archived)
    await server.request("DELETE", archived)
    return [done, failed, pending, aborted, archived]


async def everything(server: Daemon, jobs: list[str]) -> dict[str, tuple[int, bytes]]:
    """Return all that the server says of jobs and lists."""
    paths = [
        "/copy/async",
        "/copy/async?PHASE=ARCHIVED",
        "/copy/async?PHASE=ERROR&PHASE=PENDING",
        "/copy/async?LAST=2",
    ]
    for job in jobs:
        paths += [job, *(f"{job}/{name}" for name in RESOURCES)]
    answers = {path: await server.get(path) for path in paths}
    return {path: (answer.status, answer.body) for path, answer in answers.items()}


RESOURCES = (
    "phase", "executionduration", "destruction", "quote", "error", "owner", "parameters", "results",
    "parameters/text", "parameters/note", "results/out",
)  # fmt: skip


async def test_a_program_sees_the_time_zone_that_its_server_was_started_in(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    file.write_text(
        '[services.zone]\ntitle = "Zone"\ncommand = ["sh", "-c", \'printf %s "$TZ" > zone\']\n'
        'results = [{ id = "zone", path = "zone" }]\n'
    )
    async with serving(file) as server:
        answer = await server.post("/zone/sync", {})
        while answer.status == 303:
            answer = await server.get(answer.location)
    assert answer.text == "Pacific/Chatham"
