"""Read models of another version, and such that fail or wait where tests want them to.

They stand here alone so that processes which make them have little to import.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

from msgspec.structs import replace

from projections import Batch, Documents, Event, JobList, Queue, ReadModel, Services, Trail, Usage
from uws.model.job import Job

GATE = "UWSD_TEST_GATE"
"""Names, in the environment, the process of the test, and the directory in which a `Gated` model meets it."""
BAD = "bad"
"""The run id that a `Broken` model cannot fold."""
STOP = "stop"
"""The run id at which a `Gated` model waits."""


class NextDocuments(Documents):
    """Shows by its notes that it was folded as the next version."""

    version = Documents.version + 1

    def apply(self, row: Job | None, events: Sequence[Event]) -> Job | None:
        job = super().apply(row, events)
        return job and replace(job, note="the next version")


class NextJobList(JobList):
    version = JobList.version + 1


class NextQueue(Queue):
    version = Queue.version + 1


class NextServices(Services):
    version = Services.version + 1


class NextTrail(Trail):
    version = Trail.version + 1


class NextUsage(Usage):
    version = Usage.version + 1


NEXT: tuple[ReadModel[Any], ...] = (
    NextDocuments(), NextJobList(), NextQueue(), NextServices(), NextTrail(), NextUsage(),
)  # fmt: skip


class OtherShape(Documents):
    """Its table is not as it was."""

    version = Documents.version + 1
    tables = Documents.tables.replace("id        TEXT ", "id ANY ")


def bad(event: Event) -> bool:
    return getattr(event.payload, "run_id", None) == BAD


class BrokenDocuments(Documents):
    """Cannot fold an event that sets the run id `BAD`, unless it is mended."""

    mended = False

    def apply(self, row: Job | None, events: Sequence[Event]) -> Job | None:
        if any(map(bad, events)) and not self.mended:
            raise RuntimeError("a bug")
        return super().apply(row, events)


class NextBrokenDocuments(BrokenDocuments):
    version = BrokenDocuments.version + 1


class BrokenUsage(Usage):
    """As `BrokenDocuments`, but only when its tables were changed already."""

    mended = False

    def fold(self, connection: Any, batch: Batch) -> None:
        super().fold(connection, batch)
        if any(bad(event) for events in batch.jobs.values() for event in events) and not self.mended:
            raise RuntimeError("a bug")


class _Waits(ReadModel[Any]):
    """Folds nothing before it may."""

    def __init__(self) -> None:
        self.began, self.may = Flag(), Flag()

    def fold(self, connection: Any, batch: Batch) -> None:
        self.began.set()
        self.may.wait()
        super().fold(connection, batch)


class Slow(_Waits, Documents):
    """Documents that have to wait."""


class SlowJobList(_Waits, JobList):
    """A list of jobs that has to wait."""


class GatedDocuments(NextDocuments):
    """In other processes waits before the event that sets the run id `STOP`, all before it in the tables."""

    tried = False

    def apply(self, row: Job | None, events: Sequence[Event]) -> Job | None:
        test, _, directory = os.environ.get(GATE, "").partition(" ")
        stops = any(getattr(event.payload, "run_id", None) == STOP for event in events)
        if directory and int(test) != os.getpid() and stops:
            if not self.tried:
                self.tried = True
                raise RuntimeError("what is before this event is folded first")
            Path(directory, "reached").write_text(str(os.getpid()))
            Path(directory, "released").read_bytes()
        return super().apply(row, events)
