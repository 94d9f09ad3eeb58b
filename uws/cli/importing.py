"""``uwsd import``: take over histories that were recorded elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uws.admin import ImportTrace
from uws.model.units import format_time

from .common import CONFIG, Config, Data, carried_out, reported, settings_of
from .output import Rate, out

importing: typer.Typer = typer.Typer(
    help="Take over histories that were recorded elsewhere.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@importing.callback()
def _import() -> None:
    """Let the format be a command, though there is but one."""


@importing.command()
def swf(
    trace: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace in Standard Workload Format, gzipped or not.")
    ],
    service: Annotated[str, typer.Option(metavar="NAME", help="The service whose jobs they become.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many; the trace is repeated until there are.")
    ] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Without owners.")] = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Record the jobs of a trace as jobs of a service that have ended; nothing is run.

    The same import again adds nothing, and one that was interrupted goes on.
    """
    with reported():
        operation = ImportTrace(str(trace.absolute()), service, jobs, anonymous)
        interrupted = "interrupted: what was imported is kept, and the same import goes on there"
        done = carried_out(
            settings_of(config, data), operation, "importing", Rate("jobs"), interrupted=interrupted
        )
    out.print(f"{done.jobs} jobs imported, {done.events} events")
    if done.known:
        out.print(f"{done.known} jobs were there already")
    if done.skipped:
        out.print(f"{done.skipped} left out: parts of jobs that have records of their own")
    counted = "" if done.dated else ", counted from 1970: the trace does not say when it began"
    out.print(f"from {format_time(done.first)} to {format_time(done.last)}{counted}", soft_wrap=True)
