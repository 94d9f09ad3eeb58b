"""``uwsd jobs``: list, show, abort, destroy and purge jobs, and watch one."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from msgspec.structs import asdict, replace
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from uws.admin import (
    ABORTABLE,
    AbortJobs,
    DestroyJobs,
    Entry,
    ListJobs,
    Outcome,
    PurgeJobs,
    ShowJob,
    Wanted,
    WatchJob,
    is_over,
)
from uws.config import Settings
from uws.model import Job, Phase, Upload, UsageError
from uws.model.units import format_duration, format_size, format_time
from uws.node import administer

from .common import (
    CONFIG,
    FAILED,
    INTERRUPTED,
    USAGE,
    AsJson,
    Config,
    Data,
    carried_out,
    duration_of,
    reported,
    settings_of,
)
from .naming import JobId, job_ids, service_names
from .output import err, json_line, out, print_json, print_line

jobs: typer.Typer = typer.Typer(
    help="List, show, abort, destroy and purge jobs, and watch one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Named = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB", help="Ids of jobs, in place of the filters.", autocompletion=job_ids),
]
Phases = Annotated[
    list[Phase] | None,
    typer.Option("--phase", case_sensitive=False, help="In this phase; may be repeated."),
]
OfService = Annotated[
    str | None,
    typer.Option("--service", metavar="NAME", help="Of this service.", autocompletion=service_names),
]
Owner = Annotated[str | None, typer.Option(metavar="NAME", help="Of this owner.")]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Without an owner.")]
OlderThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Created longer ago than that, such as 12h or 7d.")
]
NewerThan = Annotated[str | None, typer.Option(metavar="AGE", help="Created since then.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]

_ROW = "{:<32}  {:<9}  {:<24}  {:<16}  {:<16}  {}"


@jobs.command("list")
def list_(
    phase: Phases = None,
    service: OfService = None,
    owner: Owner = None,
    anonymous: Anonymous = False,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print jobs by service, owner and phase, the newest of each first; all but ARCHIVED ones."""
    with reported():
        wanted = _wanted(phase, service, owner, anonymous, older_than, newer_than)
        found = _listed(settings_of(config, data), wanted)
        if as_json:
            _print_json(found)
            return
        for number, entry in enumerate(found):
            if not number:
                print_line(_ROW.format("job", "phase", "created", "service", "owner", "run id"))
            who, name = entry.owner or "-", entry.run_id or "-"
            print_line(_ROW.format(entry.id, entry.phase, entry.created, entry.service, who, name))


@jobs.command()
def show(job: JobId, as_json: AsJson = False, config: Config = CONFIG, data: Data = None) -> None:
    """Print all that is known of a job, a destroyed one included."""
    with reported():
        found = carried_out(settings_of(config, data), ShowJob(job), "asking")
    if as_json:
        print_json(found, indent=2)
        return
    facts = asdict(found) | {"execution_duration": format_duration(found.execution_duration)}
    for nested in ("parameters", "results", "failure"):
        del facts[nested]
    for name, fact in facts.items():
        if fact not in (None, "", 0, ()):
            print_line(
                f"{name.replace('_', ' ')}: {format_time(fact) if isinstance(fact, datetime) else fact}"
            )
    for name, values in found.parameters.items():
        for value in values:
            print_line(f"parameter {name}: {_file(value) if isinstance(value, Upload) else value}")
    for result in found.results:
        print_line(f"result {result.id}: {result.path}, {result.media_type}, {format_size(result.size)}")
    if failure := found.failure:
        print_line(f"error ({failure.type}): {failure.message}")


@jobs.command()
def abort(
    job: Named = None,
    phase: Phases = None,
    service: OfService = None,
    owner: Owner = None,
    anonymous: Anonymous = False,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    dry_run: DryRun = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Abort jobs: those that are named, or those that have not ended and meet all filters."""
    with reported():
        wanted = _wanted(phase, service, owner, anonymous, older_than, newer_than)
        _check_meant(job, wanted)
        chosen = wanted if job else replace(wanted, phases=wanted.phases or ABORTABLE)
        _change(
            settings_of(config, data), AbortJobs(chosen, tuple(job or ()), dry_run=dry_run), doing="aborting"
        )


@jobs.command()
def destroy(
    job: Named = None,
    phase: Phases = None,
    service: OfService = None,
    owner: Owner = None,
    anonymous: Anonymous = False,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    dry_run: DryRun = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Destroy jobs with their files: those that are named, or all that meet all filters.

    Those of a service with `archive = true` are archived.
    """
    with reported():
        wanted = _wanted(phase, service, owner, anonymous, older_than, newer_than)
        _check_meant(job, wanted)
        operation = DestroyJobs(wanted, tuple(job or ()), dry_run=dry_run)
        _change(settings_of(config, data), operation, doing="destroying")


@jobs.command()
def purge(
    failed: Annotated[bool, typer.Option("--include-failed", help="Also those in ERROR or ABORTED.")] = False,
    completed: Annotated[bool, typer.Option("--include-completed", help="Also those COMPLETED.")] = False,
    forgotten: Annotated[
        bool, typer.Option("--include-forgotten", help="Also those PENDING, with --older-than.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Of what is included, only what was created longer ago than that."),
    ] = None,
    service: OfService = None,
    owner: Owner = None,
    anonymous: Anonymous = False,
    dry_run: DryRun = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Destroy the jobs whose destruction time has come, and those that are included."""
    with reported():
        phases = (Phase.ERROR, Phase.ABORTED) * failed + (Phase.COMPLETED,) * completed
        phases += (Phase.PENDING,) * forgotten
        if forgotten and older_than is None:
            raise UsageError(
                "--include-forgotten: say with --older-than when a job counts as forgotten, such as 7d"
            )
        if older_than is not None and not phases:
            raise UsageError(
                "--older-than: it is for what is included with --include-failed, --include-completed "
                "or --include-forgotten"
            )
        settings = settings_of(config, data)
        expired = _wanted(None, service, owner, anonymous, None, None)
        operations = [PurgeJobs(expired, dry_run=dry_run)]
        if phases:
            included = _wanted(list(phases), service, owner, anonymous, older_than, None)
            operations.append(PurgeJobs(included, dry_run=dry_run))
        _change(settings, *operations, doing="purging")


@jobs.command()
def watch(job: JobId, config: Config = CONFIG, data: Data = None) -> None:
    """Show how a job goes on until it has ended; exit 0 when it COMPLETED, else 1."""
    with reported():
        try:
            last = _shown(watched(settings_of(config, data), job))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    print_line(f"{last.phase}: {last.failure.message}" if last.failure else last.phase)
    raise typer.Exit(0 if last.phase is Phase.COMPLETED else FAILED)


def watched(settings: Settings, job_id: str) -> Iterator[Job]:
    """Yield a job as it is, and as it is after each event, until it has ended."""
    version = 0
    while True:
        found = asyncio.run(administer(settings, WatchJob(job_id, version), lambda done, of: None))
        yield found
        if is_over(found):
            return
        version = found.version


def _shown(states: Iterator[Job]) -> Job:
    """Show what a job is going through, as a bar on a terminal and else as lines; return the last of it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(_DOING, markup=False),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=None, doing="")
        before = ""
        for job in states:
            total = None if job.progress is None else 1.0
            progress.update(
                task, description=job.phase, total=total, completed=job.progress or 0, doing=job.doing
            )
            percent = f"{job.progress:.0%}" if job.progress is not None else ""
            line = " ".join(filter(None, (job.phase, percent, job.doing)))
            if not out.is_terminal and not is_over(job) and line != before:
                print_line(line)
                sys.stdout.flush()
            before = line
    return job


_DOING = "{task.fields[doing]}"


def _wanted(
    phase: list[Phase] | None, service: str | None, owner: str | None, anonymous: bool,
    older_than: str | None, newer_than: str | None,
) -> Wanted:  # fmt: skip
    return Wanted(
        service=service,
        owner=owner,
        anonymous=anonymous,
        phases=tuple(phase or ()),
        older_than=_age("--older-than", older_than),
        newer_than=_age("--newer-than", newer_than),
    )


def _age(option: str, text: str | None) -> int | None:
    return None if text is None else duration_of(option, text)


def _check_meant(named: list[str] | None, wanted: Wanted) -> None:
    if bool(named) == (wanted != Wanted()):
        raise UsageError("expected either ids of jobs, or filters such as --service and --older-than")


def _listed(settings: Settings, wanted: Wanted) -> Iterator[Entry]:
    """Yield jobs page by page."""
    operation = ListJobs(wanted)
    while True:
        page = carried_out(settings, operation, "asking")
        yield from page.jobs
        if page.next is None:
            return
        operation = replace(operation, after=page.next)


def _change(settings: Settings, *operations: AbortJobs | DestroyJobs | PurgeJobs, doing: str) -> None:
    """Carry out operations page by page, and tell what was done to each job; exit 2 when one is refused."""
    counted: Counter[str] = Counter()
    for operation in operations:
        for outcome in _outcomes(settings, operation, doing):
            counted[outcome.done] += 1
            _print_outcome(outcome, operation.dry_run)
    dry_run = operations[0].dry_run
    told = [f"{number} {_SUMS[done]}" for done, number in sorted(counted.items())]
    print_line(("dry run, nothing is changed: " if dry_run else "") + (", ".join(told) or "no job"))
    if counted["refused"]:
        raise typer.Exit(USAGE)


def _outcomes(
    settings: Settings, operation: AbortJobs | DestroyJobs | PurgeJobs, doing: str
) -> Iterator[Outcome]:
    """Carry out an operation page by page, and yield what was done."""
    while True:
        page = carried_out(settings, operation, doing)
        yield from page.jobs
        if page.next is None:
            return
        operation = replace(operation, after=page.next)


_SUMS = {
    "aborted": "aborted",
    "destroyed": "destroyed",
    "archived": "archived",
    "stopping": "to be stopped",
    "refused": "refused",
}


def _print_outcome(outcome: Outcome, dry_run: bool) -> None:
    if outcome.done == "refused":
        err.print(outcome.reason, style="red", soft_wrap=True)
    elif outcome.done == "stopping":
        print_line(
            f"job {outcome.id}: its program {'would be' if dry_run else 'is'} to be stopped, "
            "by the server that runs or the next one"
        )
    else:
        print_line(f"job {outcome.id}: {outcome.phase}, {'would be' if dry_run else 'is'} {outcome.done}")


def _print_json(entries: Iterator[Entry]) -> None:
    """Print a list as it comes, an entry a line."""
    separator = "[\n"
    for entry in entries:
        sys.stdout.write(separator + json_line(msgspec.json.encode(entry).decode()))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def _file(upload: Upload) -> str:
    return f"{upload.filename}, {upload.media_type}, {format_size(upload.size)}"
