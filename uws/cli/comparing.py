"""``uwsd audit diff``, ``rerun`` and ``provenance``: runs are compared, repeated and explained."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from uws.admin import RerunJob
from uws.audit import Past
from uws.config import Settings
from uws.model import UsageError
from uws.provenance import Comparison, Difference, Run, compare

from .audit import audit
from .common import (
    CONFIG,
    FAILED,
    INTERRUPTED,
    AsJson,
    Config,
    Data,
    carried_out,
    faults,
    reading,
    reported,
    settings_of,
)
from .jobs import watched
from .naming import JobId, job_ids
from .output import print_exactly, print_json, print_line

Other = Annotated[
    str,
    typer.Argument(metavar="JOB", help="The id of the job that it is held against.", autocompletion=job_ids),
]


@audit.command()
def diff(
    job: JobId,
    other: Other,
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print what differs between two jobs, destroyed ones included; exit 0 when nothing does, else 1."""
    with reported():
        compared = _compared(settings_of(config, data), job, other)
        if as_json:
            print_json(compared, indent=2)
        else:
            _print_comparison(compared)
    raise typer.Exit(0 if compared.is_same else FAILED)


@audit.command()
def rerun(
    job: JobId,
    with_current_declaration: Annotated[
        bool,
        typer.Option(
            "--with-current-declaration",
            help="Run it under the present declaration, though the first one's is in force no longer.",
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end; exit 1 when its results are not the same.")
    ] = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Make a new job from the inputs of another one, for the same owner, and run it.

    It runs under the declaration that the first one had, and only while that
    is in force: programs are started under no other. Else it is refused, with
    what differs, unless --with-current-declaration is given.
    """
    with reported():
        settings = settings_of(config, data)
        made = carried_out(settings, RerunJob(job, with_current_declaration), "copying")
        print_line(f"job {made.job} is made from what job {job} was given, and is to run")
        if made.declaration:
            print_line("it runs under another declaration:")
            _print_lines(made.declaration)
        if not wait:
            return
        sys.stdout.flush()
        try:
            for _ in watched(settings, made.job):
                pass
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        compared = _compared(settings, job, made.job)
        _print_comparison(compared)
        for held in compared.results:
            print_line(f"result {held.id}: {'identical' if held.identical else 'not identical'}")
        print_line("the results are identical" if compared.reproduced else "the results are not identical")
    raise typer.Exit(0 if compared.reproduced else FAILED)


@audit.command()
def provenance(
    job: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="As PROV-JSON, which is the default.")] = False,
    as_provn: Annotated[bool, typer.Option("--provn", help="As PROV-N.")] = False,
    as_svg: Annotated[bool, typer.Option("--svg", help="As a drawing; needs Graphviz.")] = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print where a job came from and what came of it, as W3C PROV; of a destroyed one, too."""
    with reported():
        if as_json + as_provn + as_svg > 1:
            raise UsageError("--json, --provn, --svg: expected one of them")
        (run,) = asyncio.run(_read(settings_of(config, data), job))
        print_exactly(_written(run, provn=as_provn, svg=as_svg))


def _written(run: Run, *, provn: bool, svg: bool) -> bytes:
    # Imported for who asks: other commands start without.
    from uws.provenance import document as to
    from uws.provenance.drawing import draw
    from uws.provenance.graph import dot_of

    document = to.document_of(run)
    if svg:
        return asyncio.run(draw(dot_of(document), f"Provenance of job {run.job.id}"))
    return to.as_provn(document) if provn else to.as_json(document)


def _compared(settings: Settings, job: str, other: str) -> Comparison:
    return compare(*asyncio.run(_read(settings, job, other)))


async def _read(settings: Settings, *job_ids: str) -> list[Run]:
    async with reading(settings) as log:
        with faults():
            return [await Past(log).run(job_id) for job_id in job_ids]


def _print_comparison(compared: Comparison) -> None:
    print_line(f"--- job {compared.first}")
    print_line(f"+++ job {compared.second}")
    for found in compared.differences:
        print_line(found.what)
        _print_both(found)
        _print_lines(found.lines)
    for unknown in compared.unknown:
        print_line(unknown)
    if compared.is_same:
        print_line(
            "nothing differs: service, parameters, declaration, program, outcome and results are the same"
        )
    for found in compared.measures:
        print_line(f"{found.what}, which does not count")
        _print_both(found)


def _print_both(found: Difference) -> None:
    for sign, value in (("-", found.first), ("+", found.second)):
        if value is not None:
            print_line(f"{sign} {value}")


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(f"    {line}")
