"""`make bench-pages`: what it costs the server to make a page, beside the XML that the page is made of.

The forms of a resource take turns, so that what else the machine does weighs on all alike. A figure is the
processor time of the server's process alone, which a busy machine does not blur as it does the time of an
answer; it is the median of the rounds.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer

from benchmarks.execution import own_seconds
from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show

ROUNDS = 5
ITEMS = 20
"""Parameters of a job, and results of it."""
ENTRIES = 50
"""Jobs of a list."""
DECLARATION = """
[services.many]
title = "Many parameters, many results"
command = ["sh", "-c", 'for i in $(seq {items}); do echo $i > "$0/$i.txt"; done', "{{results}}"]
max_running = 4

[services.many.parameters]
""" + "\n".join(f'p{number} = {{{{ type = "float", default = {number} }}}}' for number in range(ITEMS))
FORMS = {"XML": "text/xml", "page": "text/html"}
ADDED = "added"

app = new_app()


@app.command()
def main(
    requests: Annotated[int, typer.Option(min=1, help="How often each form is asked for in a round.")] = 500,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None, typer.Option(help="Write pages.txt and pages.json to this directory, too.")
    ] = None,
) -> None:
    """Measure what a page costs; the exit status is 1 when a target is missed."""
    console, figures = new_console(), Figures(dict)
    with ended_in_order(), ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=directory)))
        file = scratch / "uwsd.toml"
        file.write_text(DECLARATION.format(items=ITEMS))
        server = stack.enter_context(serving(uwsd(file, scratch / "data"), scratch / "log"))
        job = _prepare(server)
        pages = {
            f"job of {ITEMS} parameters and {ITEMS} results": job,
            f"list of {ENTRIES} jobs": f"/many/async?LIMIT={ENTRIES}",
            "service": "/many",
        }
        lines = [Line(name, "ms", most=3 if path is job else None) for name, path in pages.items()]
        for name, path in pages.items():
            figures[name] = _measure(server, path, requests)
    heads = f"{os.cpu_count()} cores, processor time of an answer"
    reached = show(console, heads, "median of the rounds", lines, [*FORMS, ADDED], figures, compared=False)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "pages.txt").write_text(console.export_text())
        (output / "pages.json").write_bytes(msgspec.json.encode(figures))
    if not reached:
        raise typer.Exit(1)


def _prepare(server: Server) -> str:
    """Make jobs, and return the path of one that has ended."""
    values = "&".join(f"p{number}={number}" for number in range(ITEMS))
    for _ in range(ENTRIES):
        job = server.post("/many/async", f"{values}&PHASE=RUN")
    server.get(f"{job}?WAIT=-1&PHASE=QUEUED")
    server.get(f"{job}?WAIT=-1")
    if (found := server.count(job, b"<uws:result ")) != ITEMS:
        raise RuntimeError(f"{job} has {found} results")
    return job


def _measure(server: Server, path: str, requests: int) -> dict[str, float]:
    """Return the ms of each form, and those that the page has more than the XML."""
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for form, media_type in FORMS.items():
            server.get(path, Accept=media_type)
            used = own_seconds(server.pid)
            for _ in range(requests):
                server.get(path, Accept=media_type)
            taken[form].append((own_seconds(server.pid) - used) / requests * 1000)
    measured = {form: median(times) for form, times in taken.items()}
    return {**measured, ADDED: measured["page"] - measured["XML"]}


if __name__ == "__main__":
    app()
