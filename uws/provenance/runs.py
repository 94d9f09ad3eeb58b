"""What the log has of one job and of the run of its program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from eventstore import Erased, RecordedEvent, from_microseconds
from uws.model import Job, ProgramFile, Service, Upload, UWSError, Values, fold
from uws.model import events as e


@dataclass(frozen=True)
class Step:
    """An event of a job: what happened, when, and by whom, None for nobody in particular."""

    event: e.JobEvent
    time: datetime
    actor: str | None


@dataclass(frozen=True)
class Run:
    """A job as it ended, or is as long as it has not, whatever was deleted since.

    ``declaration`` is the text of the one that is pinned, ``service`` the same read; None where the log has
    none that can be read. ``steps`` are the job's events, but for those that were erased. ``gone`` is when
    its files were deleted, None as long as they are there; ``imported`` says who brought it here that ran
    elsewhere, and from what; ``erased`` who took it out of the log: then nothing else is known.
    """

    job: Job
    steps: tuple[Step, ...]
    declaration: str | None = None
    service: Service | None = None
    program: tuple[ProgramFile, ...] = ()
    gone: datetime | None = None
    imported: Recorded | None = None
    erased: Recorded | None = None

    @property
    def parameters(self) -> dict[str, Values]:
        """The values that counted: those that were given, and else the declared defaults."""
        declared = self.service.parameters if self.service else {}
        defaults = {name: one.defaults for name, one in declared.items() if one.defaults}
        return {**defaults, **self.job.parameters}

    @property
    def was_started(self) -> bool:
        """Whether a program was started, or tried to be."""
        return any(isinstance(step.event, e.JobStarted) for step in self.steps)


@dataclass(frozen=True)
class Recorded:
    """Who brought a job into the log, or took what it held out of it, when, and from what or why."""

    time: datetime
    actor: str | None
    reason: str


def run_of(recorded: Sequence[RecordedEvent], declared: Iterable[RecordedEvent]) -> Run:
    """Return what the events of a job, of which there is one at least, and of its service tell of it."""
    steps = tuple(_step(each) for each in recorded if not each.erased and each.type != Erased.type)
    endings = (e.JobArchived.__name__, e.JobDestroyed.__name__)
    gone = next((n for n, each in enumerate(recorded) if each.type in endings), len(recorded))
    erasure = next((_erasure(each) for each in recorded if each.type == Erased.type), None)
    job = fold(recorded if erasure else recorded[:gone])
    assert job, "there is an event"
    text = next(
        (each.declaration for each in map(e.decode_declaration, declared) if each.digest == job.declaration),
        None,
    )
    starts = [step.event for step in steps if isinstance(step.event, e.JobStarted)]
    return Run(
        job=job,
        steps=steps,
        declaration=text,
        service=_service(text),
        program=starts[-1].program if starts else (),
        gone=_time(recorded[gone]) if gone < len(recorded) else None,
        imported=_importing(recorded[0]),
        erased=erasure,
    )


def told(value: str | Upload) -> str:
    """Put a value into words; a file is called by its own name."""
    if isinstance(value, Upload):
        return f"{value.filename}, {value.size} bytes, SHA-256 {value.sha256}"
    return value


def _step(recorded: RecordedEvent) -> Step:
    return Step(e.decode(recorded), _time(recorded), recorded.about.actor)


def _time(recorded: RecordedEvent) -> datetime:
    return from_microseconds(e.time_of(recorded))


def _importing(first: RecordedEvent) -> Recorded | None:
    source = first.about.source
    return Recorded(first.recorded_at, first.about.actor, source) if source else None


def _erasure(recorded: RecordedEvent) -> Recorded:
    reason = msgspec.json.decode(recorded.data, type=Erased).reason
    return Recorded(_time(recorded), recorded.about.actor, reason)


def _service(text: str | None) -> Service | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=Service)
    except (msgspec.MsgspecError, UWSError):  # of a version that took other declarations
        return None
