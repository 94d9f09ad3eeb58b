"""``uwsd check --run-examples``: whether the examples of a declaration come to what they should."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from uws.commands import Caller, Changes
from uws.config import ServerSettings, Settings
from uws.files import Spool, Spooled, files_of_example
from uws.jobs import UserUWS
from uws.model import ENDED, Example, Job, Phase, Role
from uws.model.units import format_size
from uws.node import run_node

from .output import bar, err, out, table

_LOOK = 60.0
"""Seconds after which a job is looked at again that has not ended."""


def run_examples(settings: Settings, longest: int) -> bool:
    """Run all examples, one after the other, in a data directory that goes again; print what came of each.

    One that runs for more than ``longest`` seconds is stopped. Returns whether all of them are COMPLETED.
    """
    ended = uvloop.run(_run(settings, longest))
    if not ended:
        out.print("there are no examples")
        return True
    shown = table("service", "example", "phase", "seconds", "results")
    for example, job in ended:
        took = job.ended - job.started if job.started and job.ended else None
        results = [f"{result.id}, {format_size(result.size)}" for result in job.results]
        seconds = "" if took is None else f"{took.total_seconds():.1f}"
        shown.add_row(job.service, example.id, job.phase, seconds, "\n".join(results))
    out.print(shown)
    failed = [(example, job) for example, job in ended if job.phase is not Phase.COMPLETED]
    for example, job in failed:
        why = job.failure.message if job.failure else job.note
        err.print(f"{job.service}, {example.id}: {why}", style="red", soft_wrap=True)
    return not failed


async def _run(settings: Settings, longest: int) -> Sequence[tuple[Example, Job]]:
    total = sum(len(service.examples) for service in settings.services)
    ended: list[tuple[Example, Job]] = []
    async with AsyncExitStack() as stack:
        data = tempfile.TemporaryDirectory(prefix="uwsd-examples-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(data))
        report = stack.enter_context(bar("running examples", total))
        server = ServerSettings(grace=settings.server.grace, jobs_end_with_server=True)
        here = Settings(data=directory, services=settings.services, server=server)
        for uws in (await stack.enter_async_context(run_node(here))).services:
            for example in uws.service.examples:
                ended.append((example, await _ended(uws, example, longest)))
                report(len(ended), total)
    return ended


async def _ended(uws: UserUWS, example: Example, longest: int) -> Job:
    """Run one example, and return its job once it has ended."""
    seconds = min(uws.service.execution_duration.seconds or longest, longest)
    async with uws.backend.files.spool() as spool:
        files = await _received(uws, example, spool)
        values = {name: texts for name, texts in example.values.items() if name not in files}
        changes = Changes(parameters=values, files=files, execution_duration=seconds)
        job = await uws.create_job(changes, Caller(roles=frozenset({Role.ADMIN})), run=True)
    closing, lasting = asyncio.Event(), frozenset(Phase) - ENDED
    while job.phase in lasting:
        job = await uws.wait(job.id, Caller(), seconds=_LOOK, lasting=lasting, closing=closing)
    return job


async def _received(uws: UserUWS, example: Example, spool: Spool) -> dict[str, list[Spooled]]:
    """Take in copies of an example's files, as if a client had sent them."""
    received: dict[str, list[Spooled]] = {}
    for name, files in files_of_example(uws.service, example).items():
        for file in files:
            copy = await spool.receive(
                file.chunks(),
                name=name,
                filename=file.name,
                media_type=file.media_type,
                max_size=sys.maxsize,
            )
            received.setdefault(name, []).append(copy)
    return received
