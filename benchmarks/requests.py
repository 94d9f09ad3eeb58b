"""`make bench-requests`: what frequent requests cost, beside a bare handler that returns the same bytes.

The servers run side by side and take turns, so that what else the machine does weighs on both alike; clients
are wrk's, which cost little themselves. Who asks says who he is by a token, as clients of a real server do.
The processor time of the server's process for a request, unlike its time, is not blurred by a busy machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
import uvloop

from benchmarks import scale
from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from benchmarks.servers import UWSD, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show

CLIENTS = 16
ROUNDS = 3
SECONDS = 3
"""Of each round, for each request to each server."""
PATIENCE = 60
"""Seconds within which each is answered, however busy the machine is."""
DECLARATION = f"""
[auth]
users = "users.json"
tokens = true
allow_anonymous = true
{scale.DECLARATION}"""
ENTRIES = 20
FORM = "processors=8&requested_time=60"
POST = f"""
wrk.method = "POST"
wrk.body = "{FORM}"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
"""
BARE, SERVER = "bare handler", "server"
DOCUMENT, PHASE, RECENT, CREATE = "job document", "phase", "job list, LAST=20", "create a job"
RATES = (
    Line(DOCUMENT, "1/s", share=0.8),
    Line(PHASE, "1/s", share=0.8),
    Line(RECENT, "1/s", share=0.5),
    Line(CREATE, "1/s", share=0.4),
)
COSTS = tuple(Line(line.name, "µs") for line in RATES)

app = new_app()


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=1, help="How many the server has.")] = 1_000,
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None, typer.Option(help="Write requests.txt and requests.json to this directory, too.")
    ] = None,
) -> None:
    """Measure requests to both; the exit status is 1 when a target is missed. Needs wrk."""
    if shutil.which("wrk") is None:
        raise typer.BadParameter("wrk is not installed: on Debian, apt install wrk")
    console = new_console()
    with ended_in_order(), ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=directory)))
        size = prepared(scratch, trace, jobs)
        server = stack.enter_context(serving(uwsd(size.file, size.data), scratch / "server.log"))
        authorization = f"Bearer {token(size)}"
        paths = _paths(server, Authorization=authorization)
        saved = _saved(server, paths, scratch / "saved", Authorization=authorization)
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.bare", scratch / "saved"]
        bare = stack.enter_context(serving(command, scratch / "bare.log"))
        servers = {BARE: (bare, saved), SERVER: (server, paths)}
        rates, costs = _measured(servers, f"Authorization: {authorization}", scratch / "post.lua")
    heads = f"{os.cpu_count()} cores, {CLIENTS} clients, {jobs:,} jobs"
    reached = show(console, heads, "requests", RATES, [BARE, SERVER], rates)
    show(console, "processor time of the server's process", "one request", COSTS, [BARE, SERVER], costs)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "requests.txt").write_text(console.export_text())
        (output / "requests.json").write_bytes(msgspec.json.encode({"rates": rates, "costs": costs}))
    if not reached:
        raise typer.Exit(1)


def prepared(scratch: Path, trace: Path, jobs: int) -> scale.Size:
    """Make a data directory with so many jobs."""
    file, data = scratch / "uwsd.toml", scratch / "data"
    file.write_text(DECLARATION)
    data.mkdir()
    if not trace.exists():
        trace = scratch / "made-up.swf"
        scale.make_up(trace)
    return uvloop.run(scale.fill(file, data, trace, jobs))


def token(size: scale.Size) -> str:
    """Make a user, and return a token of his."""

    def uwsd(*words: str, reads: str = "") -> str:
        command: list[str | Path] = [UWSD, *words, "--config", size.file, "--data", size.data]
        ended = subprocess.run(command, input=reads, capture_output=True, text=True, check=True)
        return ended.stdout

    uwsd("user", "add", "ada", reads="a password of ada's\n")
    return uwsd("token", "create", "--user", "ada").split()[0]


def _paths(server: Server, **headers: str) -> dict[str, str]:
    """Make some jobs of the user's, and return what is asked for by the names of lines."""
    for _ in range(ENTRIES):
        job = server.post(scale.LIST, FORM, **headers)
    return {DOCUMENT: job, PHASE: f"{job}/phase", RECENT: f"{scale.LIST}?LAST={ENTRIES}", CREATE: scale.LIST}


def _saved(server: Server, paths: Mapping[str, str], directory: Path, **headers: str) -> dict[str, str]:
    """Write what the server answers to files for the bare handler, and return its paths."""
    directory.mkdir()
    bare = {CREATE: "/"}
    for number, (name, path) in enumerate(paths.items()):
        if name != CREATE:
            (directory / str(number)).write_bytes(server.read(path, **headers))
            bare[name] = f"/{number}"
    return bare


def _measured(
    servers: Mapping[str, tuple[Server, Mapping[str, str]]], header: str, post: Path
) -> tuple[Figures, Figures]:
    """Return the requests a second and the processor time of one, each the median of the rounds."""
    post.write_text(POST)
    rates, costs = (
        defaultdict[tuple[str, str], list[float]](list),
        defaultdict[tuple[str, str], list[float]](list),
    )
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", flush=True)
        for line in RATES:
            for column, (server, paths) in servers.items():
                used = server.processor()
                done, seconds = asked(
                    server.url + paths[line.name],
                    [header],
                    CLIENTS,
                    SECONDS,
                    post if line.name == CREATE else None,
                )
                rates[line.name, column].append(done / seconds)
                costs[line.name, column].append((server.processor() - used) / done * 1e6)
    return _medians(rates), _medians(costs)


def asked(
    url: str, headers: Iterable[str], clients: int, seconds: int, script: Path | None = None
) -> tuple[int, float]:
    """Have wrk ask, and return how many answers there were in how many seconds. Raises `RuntimeError`."""
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{PATIENCE}s"]
    options = [word for header in headers for word in ("--header", header)]
    options += ["--script", str(script)] if script else []
    said = subprocess.run([*command, *options, url], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{url}: {said}")
    return int(found[1]), float(found[2])


def _medians(samples: Mapping[tuple[str, str], list[float]]) -> Figures:
    figures = Figures(dict)
    for (name, column), those in samples.items():
        figures[name][column] = median(those)
    return figures


if __name__ == "__main__":
    app()
