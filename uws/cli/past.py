"""``uwsd audit log``, ``replay`` and ``state``: what happened, and how a job or all of them were."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import typer

from eventstore import RecordedEvent
from projections import Sought
from uws.audit import Entry, JobThen, NotThere, Past, State, check_time, entry_of
from uws.config import Settings, load
from uws.model import UsageError
from uws.model.units import format_time
from uws.node import looking_back

from .audit import audit
from .common import (
    CONFIG,
    INTERRUPTED,
    AsJson,
    Config,
    Data,
    faults,
    is_declared,
    microseconds_of,
    reading,
    reported,
    settings_of,
    time_of,
)
from .naming import JobId, job_ids, service_names
from .output import err, out, print_exactly, print_json, print_line, print_whole, table

R = TypeVar("R")
_PAUSE = 0.2
"""Seconds between two looks at a log that is followed."""
_SHOWN = 50

SomeJob = Annotated[
    str | None, typer.Argument(metavar="JOB", help="Of this job alone.", autocompletion=job_ids)
]
Owner = Annotated[str | None, typer.Option(metavar="NAME", help="About jobs of this owner.")]
OfService = Annotated[
    str | None,
    typer.Option("--service", metavar="NAME", help="About this service.", autocompletion=service_names),
]
Actor = Annotated[str | None, typer.Option(metavar="NAME", help="Caused by this user; the server is uwsd.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Of this type, such as JobAborted.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="That happened at this UTC time or later.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="That happened before this UTC time.")]
Follow = Annotated[bool, typer.Option("--follow", help="Then go on with what comes, until Ctrl-C.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="As it was at this UTC time.")]
AtVersion = Annotated[
    int | None, typer.Option("--at-version", metavar="N", help="As it was right after its N-th event.")
]


@audit.command()
def log(
    job: SomeJob = None,
    owner: Owner = None,
    service: OfService = None,
    actor: Actor = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="No more than so many.")] = None,
    follow: Follow = False,
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print events: those of a job, or all that every option lets through, in the order of the log."""
    with reported():
        sought = Sought(
            owner, service, actor, type_, microseconds_of("--since", since), microseconds_of("--until", until)
        )
        printed = _Printed(as_json, limit)
        _run(_log(settings_of(config, data), job, sought, follow, printed))


class _Printed:
    """Prints events as they come, as a table or as lines of JSON, until there were enough."""

    def __init__(self, as_json: bool, limit: int | None) -> None:
        self._as_json, self.left = as_json, limit
        self._begun = False

    def __call__(self, recorded: RecordedEvent) -> None:
        if self.enough:
            return
        entry = entry_of(recorded)
        if self._as_json:
            print_json(entry)
        else:
            if not self._begun:
                print_line(_LINE.format("position", "time", "stream", "version", "type", "actor", "what"))
            print_line(_told(entry))
        self._begun = True
        if self.left is not None:
            self.left -= 1

    @property
    def enough(self) -> bool:
        return self.left is not None and self.left <= 0


_LINE = "{:>8}  {:<24}  {:<36}  {:>7}  {:<15}  {:<8}  {}"


def _told(entry: Entry) -> str:
    text = f"{entry.text} (recorded {entry.recorded})" if entry.recorded else entry.text
    facts = entry.position, entry.time, entry.stream, entry.version, entry.type, entry.actor or "-"
    return _LINE.format(*facts, text)


async def _log(settings: Settings, job: str | None, sought: Sought, follow: bool, printed: _Printed) -> None:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(reading(settings))
        # Read before all else: what is printed first reaches up to here at least, so nothing is left out.
        head = (await log.head()).position
        # A job's stream is enough for what is asked of it alone.
        past = Past(log) if job is not None else await stack.enter_async_context(looking_back(settings))
        await past.check(sought)
        found = past.events(sought, limit=printed.left) if job is None else past.events_of(job, sought)
        async for event in found:
            printed(event)
            head = max(head, event.position)
        while follow and not printed.enough:
            sys.stdout.flush()
            new, reached = await past.new_events(sought, after=head, job_id=job)
            for event in new:
                printed(event)
            if reached == head:
                await asyncio.sleep(_PAUSE)
            head = reached


@audit.command()
def replay(
    job: JobId,
    at: At = None,
    at_version: AtVersion = None,
    as_xml: Annotated[
        bool, typer.Option("--xml", help="As XML, which is what is printed else, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    url: Annotated[
        str | None, typer.Option(metavar="BASE", help="Where clients reached the server, if not base_url.")
    ] = None,
    steps: Annotated[bool, typer.Option("--steps", help="Print what each event up to then changed.")] = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print a job's document exactly as its owner would have seen it then; as it is now by default."""
    with reported():
        if at is not None and at_version is not None:
            raise UsageError("expected either --at or --at-version")
        if as_xml and as_json:
            raise UsageError("expected either --xml or --json")
        time = None if at is None else _past_time(at)
        settings, base_url = settings_of(config, data), _base_url(config, url)
        if _run(_replay(settings, job, time, at_version, _Form(as_json, base_url), steps)):
            _say_if_undeclared(config)


class _Form(NamedTuple):
    """In which form documents are printed, and where clients reached the server."""

    as_json: bool
    base_url: str

    def document(self, then: JobThen) -> bytes:
        """Return the document as it was sent."""
        from uws.web.past import document_then  # what other commands need not wait for

        return document_then(then, self.base_url, as_json=self.as_json)

    def lines(self, then: JobThen) -> list[str]:
        """Return the document line by line, for people."""
        document = self.document(then)
        return (msgspec.json.format(document) if self.as_json else document).decode().splitlines()


async def _replay(
    settings: Settings, job: str, time: datetime | None, version: int | None, form: _Form, steps: bool
) -> bool:
    """Print what was asked for, and return whether a place in the queue was told."""
    async with looking_back(settings) as past:
        if steps:
            return await _print_steps(past, job, time, version, form)
        if time is not None:
            then = await past.job_at(job, time)
        else:
            then = await past.job_at_version(
                job, len(await past.history(job)) if version is None else version
            )
    print_exactly(form.document(then))
    return then.standing is not None


async def _print_steps(past: Past, job: str, time: datetime | None, version: int | None, form: _Form) -> bool:
    """Print each event, and how the document was changed between the last one and it."""
    if time is not None:
        version = (await past.job_at(job, time)).event.version
    recorded = await past.history(job)
    if version is not None:
        await past.job_at_version(job, version)  # which there has to be
        recorded = recorded[:version]
    before: list[str] = []
    waited = False
    for event in recorded:
        print_line(_step(entry_of(event)))
        try:
            then = await past.job_at_version(job, event.version)
        except NotThere as error:
            print_line(f"  {error}")
            continue
        waited = waited or then.standing is not None
        after = form.lines(then)
        changed = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
        for line in changed or ["the document stays the same"]:
            if not line.startswith("@@"):
                print_line(f"  {line}")
        before = after
    return waited


def _step(entry: Entry) -> str:
    whose = f" by {entry.actor}" if entry.actor else ""
    return f"{entry.version}  {entry.time}  {entry.type}{whose}: {entry.text}"


@audit.command("state")
def state_(
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="At this UTC time.")],
    service: OfService = None,
    owner: Owner = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many jobs of each kind.")] = _SHOWN,
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print how many jobs there were in each phase, which ran, and who waited for whom."""
    with reported():
        time = _past_time(at)
        if _run(_state(settings_of(config, data), time, service, owner, None if as_json else limit)):
            _say_if_undeclared(config)


async def _state(
    settings: Settings, time: datetime, service: str | None, owner: str | None, limit: int | None
) -> bool:
    """Print what was asked for, and return whether a place in the queue was told."""
    async with looking_back(settings) as past:
        if limit is not None:
            state = await past.state(time, service=service, owner=owner)
            _print_state(state, limit)
            return bool(state.waiting)
        waited = False
        async for each in past.jobs_waiting(time, service=service, owner=owner):
            waited = waited or each.waits_for is not None
            print_json(each)
        return waited


def _print_state(state: State, limit: int) -> None:
    total = sum(state.counts.values())
    gone = f", and {state.destroyed:,} that had been destroyed" if state.destroyed else ""
    out.print(f"{total:,} jobs at {format_time(state.time)}{gone}", soft_wrap=True)
    for service, since in state.paused.items():
        which = "the queue" if service is None else f"the queue of {service}"
        out.print(f"{which} was paused since {format_time(since)}", soft_wrap=True)
    counts = table("service", "phase", "jobs")
    for (service, phase), jobs in state.counts.items():
        counts.add_row(service, phase, f"{jobs:,}")
    if state.counts:
        out.print(counts)
    if state.running:
        out.print(f"{len(state.running):,} running")
        rows = table("service", "job", "owner", "since")
        for job in state.running[:limit]:
            rows.add_row(job.service, job.job_id, job.owner or "", format_time(job.started))
        print_whole(rows, "job")
        _print_more(len(state.running) - limit)
    if state.waiting:
        out.print(f"{len(state.waiting):,} waiting")
        rows = table("service", "place", "job", "owner", "since", "why it waited")
        for waited in state.waiting[:limit]:
            one = waited.job
            since_ = format_time(one.queued) if one.queued else ""
            place = str(waited.place or "")
            rows.add_row(one.service, place, one.job_id, one.owner or "", since_, waited.reason)
        print_whole(rows, "job")
        _print_more(len(state.waiting) - limit)


def _print_more(more: int) -> None:
    if more > 0:
        out.print(f"and {more:,} more: --limit shows them, --json all jobs")


# Small


def _say_if_undeclared(config: Path) -> None:
    if not is_declared(config):
        err.print(
            "note: no declaration was read, so places and reasons are those without any [queue] or [quotas]; "
            "name one with --config",
            soft_wrap=True,
        )


def _run(command: Coroutine[Any, Any, R]) -> R:
    """Run to the end; Ctrl-C ends with status 130. Raises `DoesNotHold` for what was tampered with."""
    try:
        with faults():
            return asyncio.run(command)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _past_time(text: str) -> datetime:
    time = time_of("--at", text)
    check_time("--at", time, datetime.now(UTC))
    return time


def _base_url(config: Path, url: str | None) -> str:
    """Return where clients reached the server. Raises `UsageError` when nobody says."""
    if url is not None:
        return url
    if is_declared(config):
        server = load(config).server
        return server.url
    raise UsageError("--url: say where clients reached the server, such as --url https://example.org/uws")
