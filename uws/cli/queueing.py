"""``uwsd queue``: which jobs wait and why; pausing and resuming."""

from __future__ import annotations

from typing import Annotated

import typer

from uws.admin import PauseQueue, ResumeQueue, ShowQueue
from uws.model import UsageError
from uws.model.units import format_time

from .common import CONFIG, AsJson, Config, Data, carried_out, reported, settings_of
from .naming import service_names
from .output import out, print_json, print_whole, table

queueing: typer.Typer = typer.Typer(
    help="Show which jobs wait and why, pause the queue, resume it.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
LIMIT = 1000
Service = Annotated[
    str | None,
    typer.Argument(metavar="SERVICE", help="Only the queue of this service.", autocompletion=service_names),
]


@queueing.callback()
def queue(
    context: typer.Context,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Show so many jobs at most.")] = LIMIT,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Show which jobs wait and why, pause the queue, resume it."""
    with reported():
        if command := context.invoked_subcommand:
            if (as_json, limit, config, data) != (False, LIMIT, CONFIG, None):
                raise UsageError(f"options go behind the command: uwsd queue {command} --config FILE")
            return
        found = carried_out(settings_of(config, data), ShowQueue(limit), "asking")
    if as_json:
        print_json(found, indent=2)
        return
    for service, since in found.paused:
        out.print(f"{_queue_of(service)} is paused since {format_time(since)}", soft_wrap=True)
    out.print(f"{found.running} running, {len(found.waiting)}{' and more' * found.more} waiting")
    if not found.waiting:
        return
    rows = table("service", "place", "job", "owner", "since", "why it waits")
    for waiting in found.waiting:
        job = waiting.job
        rows.add_row(
            job.service,
            str(waiting.place or ""),
            job.job_id,
            job.owner or "",
            format_time(job.queued) if job.queued else "",
            waiting.reason,
        )
    print_whole(rows, "job")


@queueing.command()
def pause(service: Service = None, config: Config = CONFIG, data: Data = None) -> None:
    """Start no job, or none of a service, until that is resumed. What runs goes on."""
    with reported():
        new = carried_out(settings_of(config, data), PauseQueue(service), "pausing")
    out.print(f"{_queue_of(service)} {'is paused' if new else 'was paused already'}", soft_wrap=True)


@queueing.command()
def resume(service: Service = None, config: Config = CONFIG, data: Data = None) -> None:
    """Take back a pause: that of the whole queue, or that of a service."""
    with reported():
        new = carried_out(settings_of(config, data), ResumeQueue(service), "resuming")
    out.print(f"{_queue_of(service)} {'goes on' if new else 'was not paused'}", soft_wrap=True)


def _queue_of(service: str | None) -> str:
    return f"the queue of {service}" if service else "the queue"
