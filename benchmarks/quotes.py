"""`make bench-quotes`: a recorded workload is replayed, and expected run times are held against true ones.

A job is asked for at its start, by read models that know what had happened until then and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import TRACE, Trace, new_app
from eventstore import MemoryEventStore, RecordedEvent
from projections import Batch, Documents, Usage
from projections.usage import experience
from uws.importing import import_swf
from uws.model import IntParameter, Job, Service, fold
from uws.model import events as e

FACTOR, TARGET = 2, 0.5
"""Expected run times are to be within this factor for this share of the jobs."""
app = new_app()
SERVICE = Service(
    name="trace",
    title="Jobs of another machine",
    command=["false"],
    parameters={"processors": IntParameter(), "executable": IntParameter()},
)


async def share_of_good_quotes(trace: Path, *, anonymous: bool = False, jobs: int | None = None) -> float:
    """Return for how many of all jobs of a trace, or its first, the run time was within a factor of two."""
    store = MemoryEventStore()
    await import_swf(store, [SERVICE], trace, service=SERVICE.name, anonymous=anonymous, jobs=jobs)
    events = await store.read_all(limit=1 << 30)
    await store.close()
    return _replay(events)


def _replay(events: Sequence[RecordedEvent]) -> float:
    streams: dict[str, list[RecordedEvent]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    jobs = {stream: job for stream, recorded in streams.items() if (job := fold(recorded))}
    models = Usage(), Documents()
    good = asked = 0
    with closing(sqlite3.connect(":memory:")) as connection:
        for model in models:
            connection.executescript(model.tables + model.indexes)
        past: list[RecordedEvent] = []
        in_time = sorted(
            ((e.time_of(event), event.position, event) for event in events), key=itemgetter(0, 1)
        )
        for _, _, event in in_time:
            if event.type == e.JobStarted.__name__:
                for model in models:
                    model.fold(connection, Batch(past))
                past = []
                asked += 1
                good += _is_good(connection, jobs[event.stream])
            past.append(event)
    return good / asked


def _is_good(connection: sqlite3.Connection, job: Job) -> bool:
    assert job.started
    assert job.ended
    expected = experience(connection, job.service, job.owner)[0].duration_of_like(job.parameters)
    took = (job.ended - job.started).total_seconds()
    return expected is not None and took <= FACTOR * expected and expected <= FACTOR * took


@app.command()
def main(
    trace: Trace = TRACE,
    jobs: Annotated[int | None, typer.Option(help="Take so many of its jobs.")] = None,
) -> None:
    """Print for how many jobs the expected run time was right; exit 1 when it was for less than half."""
    shares = [asyncio.run(share_of_good_quotes(trace, anonymous=each, jobs=jobs)) for each in (False, True)]
    for whose, share in zip(("jobs of owners", "jobs of nobody"), shares, strict=True):
        typer.echo(f"{whose}: {share:.1%} within a factor of {FACTOR}")
    raise typer.Exit(min(shares) < TARGET)


if __name__ == "__main__":
    app()
